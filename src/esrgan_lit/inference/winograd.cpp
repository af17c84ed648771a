// 3×3 convolutions by Winograd's minimal filtering, F(6×6, 3×3) (Winograd 1980; Lavin and Gray 2016, arXiv:1509.09308).
//
// Images are float32, (height, width, channels); filters have channels padded by zeros to a multiple of group_size().
// An image is cut into tiles of TILE × TILE outputs, each of which sees POINTS × POINTS inputs. Transformed, a
// convolution is one small matrix product for each of the POINTS² positions. A dense block's five convolutions share
// one buffer of transformed features: every channel is transformed once, for all the convolutions that read it.
//
// Convolutions in a row are computed as a wave. A tile needs the tiles around it of the convolution before, and no
// others: so each convolution is some rows of tiles ahead of the next one, and what lies between them is kept in rings
// of rows that stay in the cache. Wide images are computed in bands of columns, so that rows are short.
//
// winograd.py, beside this file, compiles it for the processor at hand, and calls run().

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

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
constexpr int LINE = 16;          // values that a cache line holds
constexpr int MOST_TILES = 14;    // that a thread computes at once; few, so that a wave moves by a row and rings are short
constexpr int MOST_COLUMNS = 28;  // of tiles in a band: the rings of a dense block stay in the third-level cache
constexpr int AHEAD = 48;         // rows of filters that are fetched before their turn: without it processors wait for them
constexpr int AWAKE = 500000;     // turns that a thread waits for the others before it sleeps: about a millisecond

typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef float Aligned __attribute__((vector_size(LANES * 4)));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector values) { *reinterpret_cast<Vector*>(to) = values; }
// The first lanes, and zeros for the others. Behind the last channel there are none: lanes may be negative.
inline Vector load_some(const float* from, int lanes) {
    if (lanes == LANES) return load(from);
    Vector values = {};
    for (int lane = 0; lane < lanes; ++lane) values[lane] = from[lane];
    return values;
}
inline void store_some(float* to, Vector values, int lanes) {
    if (lanes == LANES) return store(to, values);
    for (int lane = 0; lane < lanes; ++lane) to[lane] = values[lane];
}

// Have values in registers: GCC would read them from memory anew for each use.
template <class... Vectors> inline void keep(Vectors&... values) {
#if defined(__x86_64__)
    (..., [&] { asm("" : "+v"(values)); }());
#elif defined(__aarch64__)
    (..., [&] { asm("" : "+w"(values)); }());
#endif
}

// One dimension of the transformations, for the points 0, ±1, ±2, ±1/2 and ∞.
template <class Get, class Put> inline void transform_input(Get d, Put put) {
    Vector d0 = d(0), d1 = d(1), d2 = d(2), d3 = d(3), d4 = d(4), d5 = d(5), d6 = d(6), d7 = d(7);
    keep(d0, d1, d2, d3, d4, d5, d6, d7);
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
template <class Get, class Put> inline void transform_filter(Get g, Put put) {
    Vector g0 = g(0), g1 = g(1), g2 = g(2);
    put(0, g0);
    put(7, g2);
    Vector even = (-2.0f / 9) * (g0 + g2), odd = (-2.0f / 9) * g1;
    put(1, even + odd);
    put(2, even - odd);
    even = (1.0f / 90) * g0 + (2.0f / 45) * g2, odd = (1.0f / 45) * g1;
    put(3, even + odd);
    put(4, even - odd);
    even = (1.0f / 45) * g0 + (1.0f / 180) * g2, odd = (1.0f / 90) * g1;
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
    const float* input;    // (height / enlarge, width / enlarge, given); null: what the step before computes
    const float* filters;  // (3, 3, outputs / GROUP, seen + fresh, GROUP)
    const float* bias;     // (outputs,)
    const float* skip1;    // (height, width, stored)
    const float* skip2;
    float* output;  // (height, width, stored), which may be the input of the first of several; null: the next step's
    float factor1, factor2;
    float slope;  // of the leaky ReLU; 1: none
    int32_t height, width;
    int32_t enlarge;  // repeat each pixel of the input so many times both ways
    int32_t seen;     // channels that the steps before transformed
    int32_t fresh;    // channels of the input, padded
    int32_t given;    // of them, those that the input has
    int32_t depth;    // channels that are kept transformed from the first step to the last; 0: none
    int32_t outputs;  // padded
    int32_t stored;   // of the outputs, the first so many are kept
    int32_t joined;   // computed in one wave with the step before, whose output it reads

    // Positions lie a little more than their values apart, here and below: at powers of two they would compete for the same cache lines.
    size_t weights_stride() const { return size_t(outputs) * (seen + fresh) + GROUP; }
};

}  // extern "C"

namespace {

// Memory that grows where more is asked for. Large pages spare the processor most of its searches for addresses.
class Memory {
  public:
    Memory() = default;
    Memory(const Memory&) = delete;
    ~Memory() { free(); }
    float* floats(size_t count) {
        const size_t bytes = (std::max<size_t>(count * sizeof(float), 1) + PAGE - 1) / PAGE * PAGE;
        if (bytes > size_) {
            free();
            memory_ = static_cast<float*>(::operator new(bytes, std::align_val_t(PAGE)));
            size_ = bytes;
#if defined(__linux__)
            madvise(memory_, bytes, MADV_HUGEPAGE);
#endif
        }
        return memory_;
    }

  private:
    static constexpr size_t PAGE = size_t(1) << 21;
    float* memory_ = nullptr;
    size_t size_ = 0;

    void free() {
        ::operator delete(memory_, std::align_val_t(PAGE));
        memory_ = nullptr, size_ = 0;
    }
};

// Rows of an image, or a ring of its latest ones: row r is where row r - rows was.
struct Image {
    float* data = nullptr;
    int rows = 0, left = 0, columns = 0, channels = 0;

    float* pixel(int row, int column) const { return data + (size_t(row % rows) * columns + column - left) * channels; }
    size_t floats() const { return size_t(rows) * columns * channels; }
};

// One step in one band: its tiles from column `left` on, row by row.
struct Stage {
    const Step* step;
    float* weights;  // (POSITIONS, outputs / GROUP, seen + fresh, GROUP)
    Image input, output, saved;
    int left, across, down;
    int input_from, input_to, saved_to;  // columns of the input: the rest is zero; those before saved_to are in `saved`
    int output_from, output_to;          // columns of the output that are written
    int64_t done = 0;                    // tiles

    int64_t tiles() const { return int64_t(across) * down; }
    // Rows of the input below which nothing is read any more, and those that its tiles up to `end` read.
    int first_row() const { return std::max(0, int(done / across) * TILE - 1) / step->enlarge; }
    int rows_before(int64_t end) const {
        return std::min(step->height - 1, (int((end - 1) / across) + 1) * TILE) / step->enlarge + 1;
    }
};

// The transformed features of a dense block, (position, tile, depth): a ring of its latest tiles.
struct Ring {
    float* data = nullptr;
    int64_t tiles = 0;
    int depth = 0;

    size_t stride() const { return size_t(tiles) * depth + LANES; }
};

int tiles_along(int length) { return (length + TILE - 1) / TILE; }

// ---- one chunk of tiles ----

// Where a tile's inputs are: pixel (y, x) at rows[source[x]][y] + offset[x]. Outside of the image are zeros.
struct Window {
    enum { INPUT, SAVED, OUTSIDE, SOURCES };
    const float* rows[SOURCES][POINTS];
    int source[POINTS];
    size_t offset[POINTS] = {};

    Window(const Stage& stage, int64_t number, const float* zeros) {
        const int enlarge = stage.step->enlarge;
        const int top = int(number / stage.across) * TILE - 1, left = (stage.left + int(number % stage.across)) * TILE - 1;
        const int first = std::max(left / enlarge, stage.input_from);
        for (int y = 0; y < POINTS; ++y) {
            const bool inside = top + y >= 0 && top + y < stage.step->height;
            const int row = (top + y) / enlarge;
            rows[INPUT][y] = inside ? stage.input.pixel(row, first) : zeros;
            rows[SAVED][y] = inside && first < stage.saved_to ? stage.saved.pixel(row, first) : zeros;
            rows[OUTSIDE][y] = zeros;
        }
        for (int x = 0; x < POINTS; ++x) {
            const int column = (left + x) / enlarge;
            const bool inside = left + x >= 0 && column >= first && column < stage.input_to;
            source[x] = !inside ? OUTSIDE : column < stage.saved_to ? SAVED : INPUT;
            if (inside) offset[x] = size_t(column - first) * stage.input.channels;
        }
    }
};

// Transform the channels that are new of tiles first … last - 1 into `to`: (position, tile, depth), from `seen` on.
void transform_inputs(const Stage& stage, int64_t first, int64_t last, const float* zeros, float* to, int depth, size_t stride) {
    const Step& step = *stage.step;
    for (int64_t number = first; number < last; ++number, to += depth) {
        const Window window(stage, number, zeros);
        for (int channel = 0; channel < step.fresh; channel += LANES) {
            const int lanes = std::min(LANES, step.given - channel);
            float* const place = to + step.seen + channel;
            for (int position = 0; position < POSITIONS; ++position) __builtin_prefetch(place + position * stride, 1);
            Aligned half[POINTS][POINTS];
            for (int x = 0; x < POINTS; ++x) {
                const float* const* const rows = window.rows[window.source[x]];
                const size_t offset = window.offset[x] + channel;
                const auto put = [&](int y, Vector values) { half[y][x] = values; };
                if (lanes == LANES)
                    transform_input([&](int y) { return load(rows[y] + offset); }, put);
                else
                    transform_input([&](int y) { return load_some(rows[y] + offset, lanes); }, put);
            }
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
        for (int value = 0; value < GROUP; value += LINE) __builtin_prefetch(weights + AHEAD * GROUP + value);
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

void transform_outputs(const Stage& stage, int64_t first, int64_t last, const float* products, size_t stride) {
    const Step& step = *stage.step;
    const int outputs = step.outputs;
    for (int64_t number = first; number < last; ++number, products += outputs) {
        const int top = int(number / stage.across) * TILE, left = (stage.left + int(number % stage.across)) * TILE;
        const int rows = std::min(TILE, step.height - top);
        for (int channel = 0; channel < step.stored; channel += LANES) {
            const float* place = products + channel;
            const Vector bias = load(step.bias + channel);
            const int lanes = std::min(LANES, step.stored - channel);
            Aligned half[TILE][POINTS];
            for (int x = 0; x < POINTS; ++x)
                transform_output([&](int y) { return load(place + (y * POINTS + x) * stride); },
                                 [&](int y, Vector values) { half[y][x] = values; });
            for (int y = 0; y < rows; ++y) {
                const size_t start = size_t(top + y) * step.width + left;
                float* const row = stage.output.pixel(top + y, left) + channel;
                transform_output(
                    [&](int x) { return half[y][x]; },
                    [&](int x, Vector values) {
                        if (left + x < stage.output_from || left + x >= stage.output_to) return;
                        const size_t pixel = (start + x) * step.stored + channel;
                        values += bias;
                        values = values > 0.0f ? values : values * step.slope;
                        if (step.skip1) values = load_some(step.skip1 + pixel, lanes) + step.factor1 * values;
                        if (step.skip2) values = load_some(step.skip2 + pixel, lanes) + step.factor2 * values;
                        store_some(row + size_t(x) * step.stored, values, lanes);
                    });
            }
        }
    }
}

void compute_chunk(const Stage& stage, const Ring& ring, int64_t first, int64_t last, Memory& scratch) {
    const Step& step = *stage.step;
    const int inner = step.seen + step.fresh, count = int(last - first);
    const size_t product_stride = size_t(count) * step.outputs + LANES;
    const size_t own_stride = ring.depth ? 0 : size_t(count) * inner + LANES, zeros_size = size_t(POINTS) * step.given;
    float* products = scratch.floats(POSITIONS * (product_stride + own_stride) + zeros_size);
    float* const zeros = products + POSITIONS * (product_stride + own_stride);
    std::fill_n(zeros, zeros_size, 0.0f);
    const Ring own{products + POSITIONS * product_stride, count, inner};  // for this chunk alone
    const Ring& kept = ring.depth ? ring : own;
    const size_t stride = kept.stride();
    const int64_t start = ring.depth ? first % ring.tiles : 0;
    const int64_t before_end = std::min<int64_t>(count, kept.tiles - start);  // the others are at the ring's beginning
    float* spans[] = {kept.data + start * kept.depth, kept.data};
    const int counts[] = {int(before_end), int(count - before_end)};
    transform_inputs(stage, first, first + before_end, zeros, spans[0], kept.depth, stride);
    transform_inputs(stage, first + before_end, last, zeros, spans[1], kept.depth, stride);
    const float* weights = stage.weights;
    for (int position = 0; position < POSITIONS; ++position, weights = stage.weights + position * step.weights_stride())
        for (int channel = 0; channel < step.outputs; channel += GROUP, weights += size_t(inner) * GROUP) {
            float* to = products + position * product_stride + channel;
            for (int span = 0; span < 2; ++span) {
                const float* tiles = spans[span] + position * stride;
                const int parts = (counts[span] + ROWS - 1) / ROWS;
                for (int part = 0, left = counts[span]; part < parts; ++part) {
                    const int some = (left + parts - part - 1) / (parts - part);
                    multiply_some(some, tiles, kept.depth, weights, inner, to, step.outputs);
                    tiles += size_t(some) * kept.depth;
                    to += size_t(some) * step.outputs;
                    left -= some;
                }
            }
        }
    transform_outputs(stage, first, last, products, product_stride);
}

// A thread's part of the step's filters.
void transform_filters(const Step& step, int thread, int threads, float* to) {
    const size_t size = size_t(step.outputs) * (step.seen + step.fresh), vectors = size / LANES, stride = step.weights_stride();
    for (size_t place = vectors * thread / threads * LANES; place < vectors * (thread + 1) / threads * LANES; place += LANES) {
        Vector half[POINTS][3];
        for (int x = 0; x < 3; ++x)
            transform_filter([&](int y) { return load(step.filters + (y * 3 + x) * size + place); },
                             [&](int y, Vector values) { half[y][x] = values; });
        for (int y = 0; y < POINTS; ++y)
            transform_filter([&](int x) { return half[y][x]; },
                             [&](int x, Vector values) { store(to + (y * POINTS + x) * stride + place, values); });
    }
}

// ---- waves ----

// What threads compute with: it is allocated once for all steps, and grows where a chain needs more.
struct Workspace {
    Memory weights, ring, images, saved;
};

// Steps in a row, of which each but the first reads what the one before computes: stages of one band at a time.
class Chain {
  public:
    std::vector<Stage> stages;
    Ring ring;
    int bands;

    Chain(const Step* first, const Step* last, int threads) : first_(first), count_(int(last - first) + 1) {
        const int across = tiles_along(last->width), enlarged = std::max(1, last->height / first->height);
        const bool cut = std::all_of(first, last, [](const Step& step) { return !step.output; });  // else: whole rows
        bands = count_ == 1 || !cut ? 1 : (across + MOST_COLUMNS * enlarged - 1) / (MOST_COLUMNS * enlarged);
        wave_ = count_ == 1 ? int64_t(across) * tiles_along(last->height) : int64_t(threads) * MOST_TILES * enlarged;
    }

    // Lay out the stages of a band. A dense block's share their columns, which are wide enough for the first of them.
    void lay_out(int band) {
        const Step* const last = first_ + count_ - 1;
        const int across = tiles_along(last->width);
        int left = edge(band), right = edge(band + 1);
        const int from = left * TILE, to = std::min(right * TILE, last->width);
        if (first_->depth) {
            const int margin = tiles_along(count_);
            left = std::max(0, left - margin), right = std::min(across, right + margin);
        }
        stages.assign(count_, Stage{});
        ends_.assign(count_, 0);
        for (int k = count_ - 1; k >= 0; --k) {
            const Step& step = first_[k];
            Stage& stage = stages[k];
            stage.step = &step;
            stage.left = left, stage.across = right - left, stage.down = tiles_along(step.height);
            stage.output = {step.output, step.height, 0, step.width, step.stored};
            stage.output_from = 0, stage.output_to = step.width;
            if (k == count_ - 1) stage.output_from = from, stage.output_to = to;
            stage.input = {const_cast<float*>(step.input), step.height / step.enlarge, 0, step.width / step.enlarge, step.given};
            stage.input_from = 0, stage.input_to = stage.input.columns;
            if (k == 0) break;
            if (!first_->depth) {
                const int end = std::min(step.width - 1, right * TILE) / step.enlarge;
                left = std::max(0, left * TILE - 1) / step.enlarge / TILE, right = end / TILE + 1;
            }
            if (first_[k - 1].output) continue;
            stage.input.left = stage.input_from = left * TILE;
            stage.input_to = std::min(stage.input.columns, right * TILE);
            stage.input.columns = (right - left) * TILE;
        }
        for (int k = 0; k + 1 < count_; ++k) {
            if (first_[k].output) continue;
            stages[k].output = stages[k + 1].input;
            stages[k].output_to = stages[k + 1].input_to;
        }
    }

    // Call compute(stage, end) such that all that tiles stage.done … end - 1 of a stage read is there.
    template <class Compute> void wave(Compute compute) {
        for (Stage& stage : stages) stage.done = 0;
        const int64_t rows = std::max<int64_t>(1, wave_ / stages.back().across);
        while (stages.back().done < stages.back().tiles()) {
            ends_.back() = std::min(stages.back().done + rows * stages.back().across, stages.back().tiles());
            for (int k = count_ - 1; k > 0; --k)
                ends_[k - 1] = std::max(stages[k - 1].done, int64_t(stages[k - 1].across) * tiles_along(stages[k].rows_before(ends_[k])));
            for (int k = 0; k < count_; ++k) {
                if (ends_[k] > stages[k].done) compute(k, ends_[k]);
                stages[k].done = ends_[k];
            }
        }
    }

    // Find how much the rings of a band hold at most, by going through it without computing.
    void measure() {
        ring.depth = first_->depth;
        std::vector<int> rows(count_, 0);
        wave([&](int k, int64_t end) {
            ring.tiles = std::max(ring.tiles, (k ? stages[0].done : end) - stages[k].done);
            if (k == 0) return;
            const int written = int((stages[k - 1].done + stages[k - 1].across - 1) / stages[k - 1].across) * TILE;
            rows[k] = std::max(rows[k], std::min(written, first_[k - 1].height) - stages[k].first_row());
        });
        for (int k = 1; k < count_; ++k)
            if (!first_[k - 1].output) stages[k].input.rows = stages[k - 1].output.rows = rows[k];
    }

    void allocate(Workspace& workspace) const {
        workspace.weights.floats(weights_floats());
        workspace.ring.floats(POSITIONS * ring.stride());
        workspace.images.floats(image_floats());
        workspace.saved.floats(2 * saved_floats());
    }

    // Tell the stages where everything is.
    void place(Workspace& workspace) {
        float *weights = workspace.weights.floats(0), *images = workspace.images.floats(0);
        ring.data = workspace.ring.floats(0);
        saved_[0] = workspace.saved.floats(0), saved_[1] = saved_[0] + saved_floats();
        for (int k = 0; k < count_; ++k) {
            stages[k].weights = weights;
            weights += POSITIONS * first_[k].weights_stride();
            if (k == 0 || first_[k - 1].output) continue;
            stages[k].input.data = stages[k - 1].output.data = images;
            images += stages[k].input.floats();
        }
    }

    // Where the last step overwrites the first one's input: keep the columns that the next band will want to read.
    void save(int band, int thread, int threads) {
        if (!overwrites() || bands == 1) return;
        const Image& input = stages[0].input;
        for (const int which : {band, band + 1}) {
            if (which == 0 || which == bands) continue;
            const int to = edge(which) * TILE, from = std::max(0, to - saved_columns());
            const Image saved{saved_[which % 2], input.rows, from, to - from, input.channels};
            if (which == band)
                stages[0].saved = saved, stages[0].saved_to = to;
            else
                for (int row = thread; row < input.rows; row += threads)
                    std::memcpy(saved.pixel(row, from), input.pixel(row, from), sizeof(float) * (to - from) * input.channels);
        }
    }

  private:
    const Step* const first_;
    const int count_;
    float* saved_[2];
    int64_t wave_;
    std::vector<int64_t> ends_;  // of the stages' tiles in this turn of a wave

    bool overwrites() const { return first_->input == first_[count_ - 1].output; }
    int saved_columns() const { return TILE * (first_->depth ? tiles_along(count_) : count_) + 1; }
    size_t saved_floats() const {
        return overwrites() && bands > 1 ? size_t(first_->height) * saved_columns() * first_->given : 0;
    }
    size_t weights_floats() const {
        size_t floats = 0;
        for (int k = 0; k < count_; ++k) floats += POSITIONS * first_[k].weights_stride();
        return floats;
    }
    size_t image_floats() const {
        size_t floats = 0;
        for (int k = 1; k < count_; ++k) floats += first_[k - 1].output ? 0 : stages[k].input.floats();
        return floats;
    }
    int edge(int band) const { return int(int64_t(tiles_along(first_[count_ - 1].width)) * band / bands); }
};

// Threads draw tickets for the chunks of a step, and meet when it is done: the next step reads what their neighbours
// wrote. They are awaited awake, because a sleeping thread takes as long to wake as a chunk takes; but on a busy machine
// the others need this one's processor, so it is offered now and then.
class Team {
  public:
    int threads = 1;
    std::atomic<bool> failing{false};  // memory is out
    bool failed = false;               // the same, when all met last: so all of them go on, or none

    int ticket() { return tickets_.fetch_add(1); }
    void meet() {
        const int round = round_.load();
        if (arrived_.fetch_add(1) + 1 == threads) {
            arrived_.store(0);
            tickets_.store(0);
            failed = failing;
            {
                std::lock_guard<std::mutex> lock(mutex_);
                round_.store(round + 1);
            }
            next_.notify_all();
            return;
        }
        for (int turn = 0; turn < AWAKE; ++turn) {
            if (round_.load(std::memory_order_acquire) != round) return;
            if (turn % 1000 == 999) std::this_thread::yield();
        }
        std::unique_lock<std::mutex> lock(mutex_);
        next_.wait(lock, [&] { return round_.load() != round; });
    }

  private:
    std::atomic<int> arrived_{0}, round_{0}, tickets_{0};
    std::mutex mutex_;
    std::condition_variable next_;
};

// What every thread does for one chain.
void compute_chain(Chain& chain, Team& team, int thread, Workspace& workspace, Memory& scratch) {
    for (int band = 0; band < chain.bands && !team.failed; ++band) {
        try {
            chain.lay_out(band);
            chain.measure();
            if (thread == 0) chain.allocate(workspace);
        } catch (const std::bad_alloc&) {
            team.failing = true;
        }
        team.meet();
        if (team.failed) return;
        chain.place(workspace);
        if (band == 0)
            for (const Stage& stage : chain.stages)
                transform_filters(*stage.step, thread, team.threads, stage.weights);
        chain.save(band, thread, team.threads);
        team.meet();
        chain.wave([&](int k, int64_t end) {
            const Stage& stage = chain.stages[k];
            const int64_t tiles = end - stage.done, most = int64_t(team.threads) * MOST_TILES;
            const int64_t chunks = std::min(tiles, std::max<int64_t>(1, (tiles + most / 2) / most) * team.threads);
            try {
                for (int64_t chunk; (chunk = team.ticket()) < chunks && !team.failing;)
                    compute_chunk(stage, chain.ring, stage.done + tiles * chunk / chunks,
                                  stage.done + tiles * (chunk + 1) / chunks, scratch);
            } catch (const std::bad_alloc&) {
                team.failing = true;
            }
            team.meet();
        });
    }
}

}  // namespace

extern "C" {

int32_t group_size() { return GROUP; }

// Compute steps one after the other. Returns 0, or 1 when memory is out.
int32_t run(const Step* steps, int32_t count, int32_t threads) {
    Team team;
    Workspace workspace;
    std::mutex counting;  // held until it is known how many threads there are
    auto work = [&](int thread) {
        Memory scratch;
        for (const Step *first = steps, *last; first < steps + count && !team.failed; first = last + 1) {
            for (last = first; last + 1 < steps + count && last[1].joined; ++last) {}
            Chain chain(first, last, team.threads);
            compute_chain(chain, team, thread, workspace, scratch);
        }
    };
    std::vector<std::thread> others;
    counting.lock();
    try {
        others.reserve(threads);
        while (team.threads < threads) {
            others.emplace_back([&, thread = team.threads] {
                { std::lock_guard<std::mutex> counted(counting); }
                work(thread);
            });
            ++team.threads;
        }
    } catch (const std::exception&) {}  // the system gives no more of them, or of memory: those that there are do it
    counting.unlock();
    work(0);
    for (auto& other : others) other.join();
    return team.failed;
}

}  // extern "C"
