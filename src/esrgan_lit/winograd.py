"""Prototype."""
import ctypes, os, sys, time
import torch
from torch import Tensor

TILE = int(os.environ.get("TILE", "6"))
LIB = ctypes.CDLL(os.environ.get("LIB", f"/tmp/dev/w6/w{TILE}.so"))
LIB.transformed_floats.restype = ctypes.c_int64
GROUP = LIB.group_size()
if TILE == 4:
    G = [[1/4,0,0],[-1/6]*3,[-1/6,1/6,-1/6],[1/24,1/12,1/6],[1/24,-1/12,1/6],[0,0,1]]
else:
    G = [[1,0,0],[-2/9]*3,[-2/9,2/9,-2/9],[1/90,1/45,2/45],[1/90,-1/45,2/45],[1/45,1/90,1/180],[1/45,-1/90,1/180],[0,0,1]]
G = torch.tensor(G, dtype=torch.float64)


class Step(ctypes.Structure):
    _fields_ = [(n, ctypes.c_void_p) for n in "input transformed weights bias skip1 skip2 output".split()] + \
        [(n, ctypes.c_float) for n in "factor1 factor2 slope".split()] + \
        [(n, ctypes.c_int32) for n in "height width enlarge seen fresh depth outputs stored".split()]


def up(n): return -(-n // GROUP) * GROUP


def prepare(conv, parts=None):
    """parts: real channel counts of the concatenated inputs"""
    w, b = conv.weight.detach().double(), conv.bias.detach()
    cout, cin = w.shape[:2]
    parts = parts or [cin]
    padded = torch.zeros(up(cout), sum(map(up, parts)), 3, 3, dtype=torch.float64)
    at = start = 0
    for p in parts:
        padded[:cout, at:at + p] = w[:, start:start + p]
        at += up(p); start += p
    u = torch.einsum("ai,ocij,bj->abco", G, padded, G)
    u = u.reshape(len(G)**2, padded.shape[1], -1, GROUP).transpose(1, 2).float().contiguous()
    bias = torch.zeros(up(cout)); bias[:cout] = b
    return u, bias


def ptr(t): return None if t is None else t.data_ptr()


def step(keep, input, weights, h, w, slope=1.0, enlarge=1, transformed=None, seen=0, depth=0, skip1=None, factor1=1., skip2=None, factor2=1., output=None, stored=None):
    u, b = weights
    outputs = b.numel()
    stored = stored or outputs
    if output is None: output = torch.empty(h, w, stored)
    keep += [input, u, b, output, transformed, skip1, skip2]
    return Step(ptr(input), ptr(transformed), ptr(u), ptr(b), ptr(skip1), ptr(skip2), ptr(output), factor1, factor2, slope, h, w, enlarge, seen, input.shape[-1], depth, outputs, stored), output


def run(steps, threads):
    assert not LIB.run((Step * len(steps))(*steps), len(steps), threads)


class Net:
    def __init__(self, g):
        self.g = g
        W, gr = g.architecture["width"], g.architecture["growth"]
        self.W, self.gr = W, gr
        self.dense = [[prepare(getattr(d, f"conv{i+1}"), [W] + [gr] * i) for i in range(5)] for b in g.body for d in (b.rdb1, b.rdb2, b.rdb3)]
        self.body = prepare(g.conv_body)
        self.ups = [prepare(g.get_submodule(f"conv_up{n}")) for n in range(1, len(g.steps) + 1)]
        self.hr, self.last = prepare(g.conv_hr), prepare(g.conv_last)

    def __call__(self, low, threads=2):
        keep, steps = [], []
        x = self.g.conv_first(low)
        h, w = x.shape[2:]
        W, gr = up(self.W), up(self.gr)
        head = torch.nn.functional.pad(x[0].permute(1, 2, 0), (0, W - self.W)).contiguous()
        depth = W + 4 * gr
        V = torch.empty(LIB.transformed_floats(h, w, depth, threads))
        growth = [torch.empty(h, w, gr) for _ in range(2)]
        feats = [torch.empty(h, w, W) for _ in range(4)]
        block = head
        def free(*used):
            return next(f for f in feats if all(f is not u for u in used))
        t0 = time.perf_counter()
        for i in range(0, len(self.dense), 3):
            cur = block
            for j in range(3):
                source, seen = cur, 0
                d = self.dense[i + j]
                for c in range(4):
                    s, source = step(keep, source, d[c], h, w, 0.2, transformed=V, seen=seen, depth=depth, output=growth[c % 2])
                    seen += W if c == 0 else gr
                    steps.append(s)
                out = free(cur, block)
                s, _ = step(keep, source, d[4], h, w, transformed=V, seen=seen, depth=depth, output=out, skip1=cur, factor1=0.2, skip2=block if j == 2 else None, factor2=0.2)
                steps.append(s)
                cur = out
            block = cur
        s, x = step(keep, block, self.body, h, w, skip1=head)
        nb = len(steps)
        steps.append(s)
        for u, f in zip(self.ups, self.g.steps):
            h, w = h * f, w * f
            s, x = step(keep, x, u, h, w, 0.2, enlarge=f); steps.append(s)
        s, x = step(keep, x, self.hr, h, w, 0.2); steps.append(s)
        s, x = step(keep, x, self.last, h, w, stored=3); steps.append(s)
        if os.environ.get("SPLIT"):
            t1 = time.perf_counter(); run(steps[:nb], threads); t2 = time.perf_counter(); run(steps[nb:], threads)
            print(f"setup {t1-t0:.4f} trunk {t2-t1:.3f} tail {time.perf_counter()-t2:.3f}")
        else:
            run(steps, threads)
        return x.permute(2, 0, 1)[None]


if __name__ == "__main__":
    import statistics
    from esrgan_lit import load_generator
    import spandrel
    path = "/work/shared/weights/RealSR_DF2K_x4_fp16.pth"
    g = load_generator(path).eval()
    theirs = spandrel.ModelLoader().load_from_file(path).model.float().eval()
    t = time.perf_counter(); net = Net(g); print("weights", time.perf_counter() - t)
    with torch.inference_mode():
        for size in map(int, sys.argv[2:]):
            x = torch.rand(1, 3, size, size - (size % 64 > 0))
            a, b = [], []
            for _ in range(int(sys.argv[1])):
                t = time.perf_counter(); r = theirs(x); a.append(time.perf_counter() - t)
                t = time.perf_counter(); y = net(x); b.append(time.perf_counter() - t)
            a, b = a[1:] or a, b[1:] or b
            print(size, f"max diff {(y - r).abs().max():.1e} spandrel {statistics.median(a):.3f} ours {statistics.median(b):.3f} x {statistics.median(a)/statistics.median(b):.2f} best {min(a):.3f} {min(b):.3f}", flush=True)
