"""winograd.cpp against PyTorch's convolutions, on every kind of processor."""

import copy
import ctypes
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from as_program import LibraryAsProgram
from torch import Tensor, nn

from esrgan_lit import load_generator
from esrgan_lit.inference import winograd_library
from esrgan_lit.inference.engines import make_engine
from esrgan_lit.inference.tracing import UntraceableError, take_down
from esrgan_lit.inference.winograd import WinogradEngine
from esrgan_lit.networks.generator import Generator
from esrgan_lit.networks.rrdbnet import RRDBNet
from esrgan_lit.networks.srresnet import SRResNet

needs_compiler = pytest.mark.skipif(not winograd_library.available(), reason="no C++ compiler")


@torch.inference_mode()
def outputs(generator: Generator, low_res: Tensor) -> tuple[Tensor, Tensor]:
    """What the engine and PyTorch make of an image, the tail included and the image skip not."""
    images = []
    for name in ("winograd", "torch"):
        engine = make_engine(name, generator.eval())
        head = engine.head(low_res)
        images.append(engine.tail()(engine.blocks(len(generator.blocks))[0](head.clone()), head))
    return images[0], images[1]


def with_larger_weights(generator: Generator) -> Generator:
    """A copy without the small initialisation, so that every convolution counts in the output; biases too."""
    generator = copy.deepcopy(generator)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-0.1, 0.1)
            else:
                parameter *= 5
    return generator


torch.manual_seed(0)  # the networks below are made when this file is read


@needs_compiler
@pytest.mark.parametrize(
    "generator",
    [
        RRDBNet(4, blocks=2),
        RRDBNet(3, blocks=1, width=24, growth=8),
        RRDBNet(2, blocks=1, width=8, growth=5, channels=1),
        RRDBNet(1, blocks=1, width=40, growth=32),
        RRDBNet(8, blocks=1, width=16, growth=16),
        RRDBNet(2, blocks=1, width=16, growth=8, unshuffle=2),
        SRResNet(4, blocks=2, width=32),
        SRResNet(3, blocks=1, width=8),
        SRResNet(2, blocks=2, width=16, batch_norm=True),
    ],
    ids=lambda generator: "-".join(map(str, generator.architecture.values())),
)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (6, 12), (7, 5), (23, 38), (13, 610)])
def test_same_image_as_pytorch(generator: Generator, height: int, width: int) -> None:
    torch.manual_seed(0)
    step = generator.unshuffle
    low_res = torch.rand(1, generator.channels, height * step, width * step)
    image, reference = outputs(with_larger_weights(generator), low_res)
    assert image.shape == reference.shape
    assert (image - reference).abs().max() < 2e-5 * reference.abs().max()  # both round in float32


def block(forward: Callable[[nn.ModuleList, Tensor], Tensor]) -> nn.Module:
    """A user's block of three convolutions of 8 channels and one from 16 to 8."""
    made = nn.ModuleList([*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)), nn.Conv2d(16, 8, 3, padding=1)])
    made.forward = MethodType(forward, made)
    return made


COMPUTED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "modules": lambda c, x: x + nn.Sequential(c[0], nn.LeakyReLU(0.1), c[1], nn.ReLU())(x),
    "sums": lambda c, x: torch.add(c[1](F.relu(c[0](x))) * 0.3, x),
    "skips of skips": lambda c, x: x + 0.5 * (x + 2 * c[1](c[0](x))),
    "dense": lambda c, x: c[3](torch.cat((x, torch.relu(c[0](x))), 1)) + x,
    "enlarged": lambda c, x: c[1](F.interpolate(c[0](x), scale_factor=2)),
}
REFUSED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a value read before its activation": lambda c, x: c[3](torch.cat(((y := c[0](x)), F.relu(y)), 1)),
    "a skip from before its activation": lambda c, x: (y := c[0](x)) + c[1](F.relu(y)),
    "an activation whose result is ignored": lambda c, x: (F.relu(y := c[0](x), inplace=True), c[1](y))[1],
    "a concatenation of other convolutions": lambda c, x: c[3](torch.cat((c[0](x), c[1](x)), 1)),
    "another function": lambda c, x: c[0](x).sigmoid(),
    "a mean": lambda c, x: c[0](x) * c[0](x).mean((2, 3), keepdim=True),
    "two scaled terms": lambda c, x: 0.5 * x + 0.5 * c[0](x),
    "a sum of inputs": lambda c, x: x + x,
    "its input": lambda c, x: x,
    "its shape": lambda c, x: c[0](x)[..., : x.shape[-1] - 1],
    "a 1×1 convolution": lambda c, x: F.conv2d(x, c[0].weight[..., :1, :1]),
    "stride": lambda c, x: F.conv2d(x, c[0].weight, stride=2, padding=1),
    "a broadcast": lambda c, x: x + F.conv2d(x, c[0].weight[:1], padding=1),
    "bilinear": lambda c, x: c[0](F.interpolate(x, scale_factor=2, mode="bilinear")),
}


class Around(Generator):
    """A generator of one such block."""

    block_reach, tail_reach = 2, 1

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(1, channels=8)
        self.blocks = nn.Sequential(inner)
        self.exit = nn.Conv2d(8, 8, 3, padding=1)

    def head(self, low_res: Tensor) -> Tensor:
        return low_res.clone()

    def tail(self, features: Tensor, head: Tensor) -> Tensor:
        return self.exit(features)


@needs_compiler
@pytest.mark.parametrize("kind", COMPUTED)
def test_blocks_of_other_kinds_are_computed(kind: str) -> None:
    inner, x = block(COMPUTED[kind]), torch.rand(1, 8, 13, 20)
    engine = WinogradEngine(Around(inner).eval().requires_grad_(False))
    with torch.no_grad():
        torch.testing.assert_close(engine.blocks(1)[0](x.clone()), inner(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_computed_is_refused_and_not_computed_wrongly(kind: str) -> None:
    inner = block(REFUSED[kind])
    inner(torch.rand(1, 8, 13, 20))  # PyTorch computes it
    with pytest.raises(UntraceableError):
        take_down(inner, 8)


@needs_compiler
def test_any_number_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    generator, low_res = with_larger_weights(RRDBNet(2, 1, 16, 8)), torch.rand(1, 3, 70, 45)
    images = []
    for threads in (1, 2, 3, 16):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        image, reference = outputs(generator, low_res)
        images.append(image)
    assert (images[0] - reference).abs().max() < 1e-5 * reference.abs().max()
    assert all(torch.equal(image, images[0]) for image in images)


@pytest.mark.slow
@needs_compiler
def test_real_weights_stay_within_a_ten_thousandth(real_weights: Path) -> None:
    generator = load_generator(real_weights / "RealSR_DF2K_x4_fp16.pth")
    torch.manual_seed(0)
    image, reference = outputs(generator, torch.rand(1, 3, 25, 40))
    assert (image - reference).abs().max() < 1e-4


def check_library(loaded: Any, monkeypatch: pytest.MonkeyPatch, height: int = 23, width: int = 38) -> None:
    """Dense block and tail, which enlarges and stores fewer channels than it computes, are PyTorch's."""
    monkeypatch.setattr(winograd_library, "library", lambda: loaded)
    torch.manual_seed(0)
    low_res = torch.rand(1, 3, height, width)
    image, reference = outputs(with_larger_weights(RRDBNet(2, blocks=1, width=24, growth=8)), low_res)
    assert (image - reference).abs().max() < 2e-5 * reference.abs().max()


@needs_compiler
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of x86's levels")
@pytest.mark.parametrize("level", ["x86-64", "x86-64-v3", "x86-64-v4"], ids=["SSE2", "AVX2", "AVX-512"])
def test_every_instruction_set_gives_the_same_image(
    level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if level == "x86-64-v4" and "avx512vl" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX-512")
    command = [shutil.which("c++") or "g++", "-std=c++17", "-O1", f"-march={level}", "-shared", "-fPIC", "-pthread"]
    loaded = ctypes.CDLL(str(winograd_library._compile(command, tmp_path, level)))
    assert loaded.group_size() == {"x86-64": 8, "x86-64-v3": 16, "x86-64-v4": 32}[level]
    check_library(loaded, monkeypatch)


@pytest.fixture(scope="module")
def neon(tmp_path_factory: pytest.TempPathFactory) -> LibraryAsProgram:
    """winograd.cpp of 64-bit ARM, under QEMU."""
    compiler = shutil.which("aarch64-linux-gnu-g++")
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("no ARM to run on: apt install g++-aarch64-linux-gnu qemu-user-static")
    command = [compiler, "-O2", "-Wall", "-Wextra", "-static", "-pthread"]
    return LibraryAsProgram(command, [emulator], tmp_path_factory.mktemp("neon"))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (23, 38), (13, 150)])
def test_neon_gives_the_same_image(
    height: int, width: int, threads: int, neon: LibraryAsProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert neon.group_size() == 8
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    check_library(neon, monkeypatch, height, width)


@needs_compiler
@pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit is of Linux")
def test_where_the_system_gives_fewer_threads_they_do_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacks of 100 MiB fit twice. Those of 8 MiB leave no memory to compute with, which all threads have to notice."""
    limit, compiler = f"--as={256 * 2**20}", [shutil.which("c++") or "g++", "-O1", "-pthread"]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    large = ["prlimit", limit, f"--stack={100 * 2**20}"]
    check_library(LibraryAsProgram(compiler, large, tmp_path), monkeypatch)
    small = LibraryAsProgram(compiler, ["prlimit", limit, f"--stack={8 * 2**20}"], tmp_path)
    for _ in range(5):
        with pytest.raises(MemoryError):
            check_library(small, monkeypatch)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("kind", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [shutil.which("c++") or "g++", "-O1", f"-fsanitize={kind}", "-fno-sanitize-recover=all", "-pthread"]
    try:
        program = LibraryAsProgram(command, [], tmp_path)
    except subprocess.CalledProcessError:
        pytest.skip("this compiler has no sanitizers")
    if program.group_size() != 8:
        pytest.skip("its programs do not start here")  # the older ones, where addresses are random
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    check_library(program, monkeypatch, 13, 150)
