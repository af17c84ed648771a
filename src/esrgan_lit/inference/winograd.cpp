// 3×3 convolutions by Winograd's minimal filtering, F(6×6, 3×3) (Winograd 1980; Lavin and Gray 2016, arXiv:1509.09308).
//
// Images are float32, (height, width, channels), with channels padded by zeros to a multiple of group_size(). An image
// is cut into tiles of TILE × TILE outputs, each of which sees POINTS × POINTS inputs. Transformed, a convolution is one
// small matrix product for each of the POINTS² positions. A dense block's five convolutions share one buffer of
// transformed features: every channel is transformed once, for all the convolutions that read it.
//
// esrgan_lit/winograd.py compiles this file for the processor at hand, and calls run().

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 14;  // two registers of outputs for each of ROWS tiles, of 32 registers
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 6;  // of 16 registers
#elif defined(__ARM_NEON)
constexpr int LANES = 4, ROWS = 12;  // of 32
#else
constexpr int LANES = 4, ROWS = 6;
#endif

constexpr int TILE = 6;
constexpr int POINTS = TILE + 2;
constexpr int POSITIONS = POINTS * POINTS;
constexpr int GROUP = 2 * LANES;
constexpr int MOST_TILES = 64;  // of a block: its products stay in the second-level cache

typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector values) { *reinterpret_cast<Vector*>(to) = values; }

// One dimension of the transformations, for the points 0, ±1, ±2, ±1/2 and ∞.
template <class Get, class Put> inline void transform_input(Get d, Put put) {
    Vector d0 = d(0), d1 = d(1), d2 = d(2), d3 = d(3), d4 = d(4), d5 = d(5), d6 = d(6), d7 = d(7);
    put(0, d0 - d6 + 5.25f * (d4 - d2));
    put(7, d7 - d1 + 5.25f * (d3 - d5));
    Vector even = d2 + d6 - 4.25f * d4, odd = d1 + d5 - 4.25f * d3;
    put(1, even + odd);
    put(2, even - odd);
    even = d6 + 0.25f * d2 - 1.25f * d4, odd = 0.5f * d1 - 2.5f * d3 + 2.0f * d5;
    put(3, even + odd);
    put(4, even - odd);
    even = d6 + 4.0f * d2 - 5.0f * d4, odd = 2.0f * d1 - 2.5f * d3 + 0.5f * d5;
    put(5, even + odd);
    put(6, even - odd);
}
template <class Get, class Put> inline void transform_output(Get m, Put put) {
    Vector m0 = m(0), m1 = m(1), m2 = m(2), m3 = m(3), m4 = m(4), m5 = m(5), m6 = m(6), m7 = m(7);
    Vector a = m1 + m2, b = m1 - m2, c = m3 + m4, d = m3 - m4, e = m5 + m6, f = m5 - m6;
    put(0, m0 + a + c + 32.0f * e);
    put(1, b + 2.0f * d + 16.0f * f);
    put(2, a + 4.0f * c + 8.0f * e);
    put(3, b + 8.0f * d + 4.0f * f);
    put(4, a + 16.0f * c + 2.0f * e);
    put(5, b + 32.0f * d + f + m7);
}

}  // namespace

extern "C" {

// One convolution: output = skip2 + factor2 · (skip1 + factor1 · activation(convolution)); a null skip leaves its line
// out. winograd.py mirrors this.
struct Step {
    const float* input;    // (height / enlarge, width / enlarge, fresh): what this convolution sees first
    float* transformed;    // tiles transformed before and for later, depth channels each; null: not kept
    const float* weights;  // (POSITIONS, outputs / GROUP, seen + fresh, GROUP)
    const float* bias;     // (outputs,)
    const float* skip1;    // (height, width, outputs)
    const float* skip2;
    float* output;  // (height, width, stored)
    float factor1, factor2;
    float slope;  // of the leaky ReLU; 1: none
    int32_t height, width;
    int32_t enlarge;  // repeat each pixel of the input so many times both ways
    int32_t seen;     // channels that earlier steps transformed
    int32_t fresh;    // channels of the input
    int32_t depth;    // channels that `transformed` holds
    int32_t outputs;
    int32_t stored;  // of the outputs, the first so many are kept
};

}  // extern "C"

namespace {

struct Tiling {
    int across, tiles, per_block, blocks;

    Tiling(int height, int width, int threads) {
        across = (width + TILE - 1) / TILE;
        tiles = across * ((height + TILE - 1) / TILE);
        int rounds = (tiles + threads * MOST_TILES - 1) / (threads * MOST_TILES);
        per_block = (tiles + threads * rounds - 1) / (threads * rounds);
        blocks = (tiles + per_block - 1) / per_block;
    }
    int count(int block) const { return std::min(per_block, tiles - block * per_block); }
    // Positions lie a little more than their tiles apart: at powers of two they would compete for the same cache lines.
    size_t stride(int block, int depth) const { return size_t(count(block)) * depth + LANES; }
    size_t start(int block, int depth) const { return block * POSITIONS * (size_t(per_block) * depth + LANES); }
    size_t floats(int depth) const { return start(blocks, depth); }
};

// Transform the channels that are new into `to`: (position, tile, depth), from channel `seen` on.
void transform_inputs(const Step& step, const Tiling& tiling, int block, float* to, int depth, size_t stride) {
    alignas(64) static const float zeros[LANES] = {};
    const int rows = step.height, columns = step.width, fresh = step.fresh, source_width = columns / step.enlarge;
    for (int tile = 0; tile < tiling.count(block); ++tile) {
        const int number = block * tiling.per_block + tile;
        const int top = number / tiling.across * TILE - 1, left = number % tiling.across * TILE - 1;
        const float* pixels[POINTS][POINTS];
        for (int y = 0; y < POINTS; ++y)
            for (int x = 0; x < POINTS; ++x) {
                const int row = top + y, column = left + x;
                const bool inside = row >= 0 && row < rows && column >= 0 && column < columns;
                pixels[y][x] = !inside ? nullptr
                                       : step.input + (size_t(row / step.enlarge) * source_width + column / step.enlarge) * fresh;
            }
        for (int channel = 0; channel < fresh; channel += LANES) {
            Vector half[POINTS][POINTS];
            for (int x = 0; x < POINTS; ++x)
                transform_input(
                    [&](int y) { return load(pixels[y][x] ? pixels[y][x] + channel : zeros); },
                    [&](int y, Vector values) { half[y][x] = values; });
            float* place = to + size_t(tile) * depth + (depth == fresh ? 0 : step.seen) + channel;
            for (int y = 0; y < POINTS; ++y)
                transform_input([&](int x) { return half[y][x]; },
                                [&](int x, Vector values) { store(place + (y * POINTS + x) * stride, values); });
        }
    }
}

// (count tiles, inner) × (inner, GROUP) → (count tiles, GROUP), all of it in registers.
template <int COUNT>
void multiply(const float* tiles, size_t depth, const float* weights, int inner, float* products, size_t outputs) {
    Vector sums[COUNT][2] = {};
    for (int k = 0; k < inner; ++k, weights += GROUP) {
        const Vector first = load(weights), second = load(weights + LANES);
#pragma GCC unroll 16
        for (int tile = 0; tile < COUNT; ++tile) {
            const float value = tiles[tile * depth + k];
            sums[tile][0] += value * first;
            sums[tile][1] += value * second;
        }
    }
#pragma GCC unroll 16
    for (int tile = 0; tile < COUNT; ++tile) {
        store(products + tile * outputs, sums[tile][0]);
        store(products + tile * outputs + LANES, sums[tile][1]);
    }
}

template <int COUNT = ROWS>
void multiply_some(int count, const float* tiles, size_t depth, const float* weights, int inner, float* products, size_t outputs) {
    if (count == COUNT)
        multiply<COUNT>(tiles, depth, weights, inner, products, outputs);
    else if constexpr (COUNT > 1)
        multiply_some<COUNT - 1>(count, tiles, depth, weights, inner, products, outputs);
}

void transform_outputs(const Step& step, const Tiling& tiling, int block, const float* products, size_t stride) {
    const int outputs = step.outputs;
    for (int tile = 0; tile < tiling.count(block); ++tile) {
        const int number = block * tiling.per_block + tile;
        const int top = number / tiling.across * TILE, left = number % tiling.across * TILE;
        const int rows = std::min(TILE, step.height - top), columns = std::min(TILE, step.width - left);
        for (int channel = 0; channel < outputs && channel < step.stored; channel += LANES) {
            const float* place = products + size_t(tile) * outputs + channel;
            const Vector bias = load(step.bias + channel);
            Vector half[TILE][POINTS];
            for (int x = 0; x < POINTS; ++x)
                transform_output([&](int y) { return load(place + (y * POINTS + x) * stride); },
                                 [&](int y, Vector values) { half[y][x] = values; });
            for (int y = 0; y < rows; ++y)
                transform_output(
                    [&](int x) { return half[y][x]; },
                    [&](int x, Vector values) {
                        if (x >= columns) return;
                        const size_t pixel = size_t(top + y) * step.width + left + x;
                        values += bias;
                        values = values > 0.0f ? values : values * step.slope;
                        if (step.skip1) values = load(step.skip1 + pixel * outputs + channel) + step.factor1 * values;
                        if (step.skip2) values = load(step.skip2 + pixel * outputs + channel) + step.factor2 * values;
                        float* to = step.output + pixel * step.stored + channel;
                        if (channel + LANES <= step.stored)
                            store(to, values);
                        else
                            for (int lane = 0; lane < step.stored - channel; ++lane) to[lane] = values[lane];
                    });
        }
    }
}

// Memory of one thread, aligned as its registers are.
class Scratch {
  public:
    float* floats(size_t count) {
        if (count > size_) {
            size_ = 0;
            memory_.reset();
            memory_.reset(new (std::align_val_t{64}) float[count]);
            size_ = count;
        }
        return memory_.get();
    }

  private:
    struct Free {
        void operator()(float* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
    };
    std::unique_ptr<float[], Free> memory_;
    size_t size_ = 0;
};

void compute_block(const Step& step, const Tiling& tiling, int block, Scratch& scratch) {
    const int depth = step.transformed ? step.depth : step.fresh, inner = step.seen + step.fresh, count = tiling.count(block);
    const size_t stride = tiling.stride(block, depth), product_stride = tiling.stride(block, step.outputs);
    float* products = scratch.floats(POSITIONS * (product_stride + (step.transformed ? 0 : stride)));
    float* tiles = step.transformed ? step.transformed + tiling.start(block, depth) : products + POSITIONS * product_stride;
    transform_inputs(step, tiling, block, tiles, depth, stride);
    const int parts = (count + ROWS - 1) / ROWS;
    const float* weights = step.weights;
    for (int position = 0; position < POSITIONS; ++position)
        for (int channel = 0; channel < step.outputs; channel += GROUP, weights += size_t(inner) * GROUP)
            for (int part = 0, first = 0; part < parts; ++part) {
                const int some = (count - first + parts - part - 1) / (parts - part);
                multiply_some(some, tiles + position * stride + size_t(first) * depth, depth, weights, inner,
                              products + position * product_stride + size_t(first) * step.outputs + channel, step.outputs);
                first += some;
            }
    transform_outputs(step, tiling, block, products, product_stride);
}

// Threads meet here after each step: the next one reads what their neighbours wrote. They are awaited awake for some
// microseconds, then asleep: on a busy machine the others need this one's processor.
class Meeting {
  public:
    explicit Meeting(int threads) : threads_(threads) {}
    void wait() {
        const int round = round_.load();
        if (arrived_.fetch_add(1) + 1 == threads_) {
            arrived_.store(0);
            {
                std::lock_guard<std::mutex> lock(mutex_);
                round_.store(round + 1);
            }
            next_.notify_all();
            return;
        }
        for (int turn = 0; turn < 20000; ++turn)
            if (round_.load(std::memory_order_acquire) != round) return;
        std::unique_lock<std::mutex> lock(mutex_);
        next_.wait(lock, [&] { return round_.load() != round; });
    }

  private:
    const int threads_;
    std::atomic<int> arrived_{0}, round_{0};
    std::mutex mutex_;
    std::condition_variable next_;
};

}  // namespace

extern "C" {

int32_t group_size() { return GROUP; }

// Floats that `transformed` of a step must hold.
int64_t transformed_floats(int32_t height, int32_t width, int32_t depth, int32_t threads) {
    return Tiling(height, width, threads).floats(depth);
}

// Compute steps one after the other. Returns 0, or 1 when memory is out.
int32_t run(const Step* steps, int32_t count, int32_t threads) {
    Meeting meeting(threads);
    std::atomic<bool> failed{false};
    auto work = [&](int thread) {
        Scratch scratch;
        for (int number = 0; number < count; ++number) {
            const Step& step = steps[number];
            const Tiling tiling(step.height, step.width, threads);
            const int rounds = (tiling.blocks + threads - 1) / threads;
            try {
                for (int block = thread * rounds; block < std::min((thread + 1) * rounds, tiling.blocks); ++block)
                    compute_block(step, tiling, block, scratch);
            } catch (const std::bad_alloc&) {
                failed = true;
            }
            meeting.wait();
            if (failed) return;
        }
    };
    std::vector<std::thread> others;
    for (int thread = 1; thread < threads; ++thread) others.emplace_back(work, thread);
    work(0);
    for (auto& other : others) other.join();
    return failed;
}

}  // extern "C"
