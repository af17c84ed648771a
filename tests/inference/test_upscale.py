"""Upscaling arrays: exact in strips, bounded in memory, in every depth and kind of channels."""

import gc
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from conftest import assert_same_levels, make_photograph
from esrgan_lit import RRDBNet, SRResNet, imresize, load_generator, upscale
from esrgan_lit.images.levels import to_batch
from esrgan_lit.inference import strips, winograd_library
from esrgan_lit.inference.back_projection import back_project
from esrgan_lit.inference.choices import ENGINES, Precision
from esrgan_lit.inference.engines import TorchEngine
from esrgan_lit.inference.memory import Plan, free_memory
from esrgan_lit.inference.pixels import resized
from esrgan_lit.inference.strips import NotFiniteError
from esrgan_lit.inference.upscaler import Upscaler
from esrgan_lit.networks.generator import Generator


def rough(generator: Generator) -> Generator:
    """Weights large enough for every pixel to matter."""
    torch.manual_seed(1)
    for module in generator.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, 0.5)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return generator.eval()


def network(scale: int = 4, blocks: int = 2) -> Generator:
    return rough(RRDBNet(scale, blocks, 8, 4, bicubic_skip=True))


GENERATORS: dict[str, Callable[[], Generator]] = {
    "rrdb": network,
    "rrdb x3": lambda: network(3),
    "unshuffle": lambda: rough(RRDBNet(2, 2, 8, 4, unshuffle=2)),
    "srresnet": lambda: rough(SRResNet(4, 4, 8)),
    "srresnet bn x3": lambda: rough(SRResNet(3, 4, 8, batch_norm=True)),
}


def floats(upscaler: Upscaler, image: np.ndarray) -> Tensor:
    return torch.from_numpy(upscaler._single(to_batch(image), 3, lambda done: None)).permute(2, 0, 1)[None]


@torch.no_grad()
def directly(generator: Generator, image: np.ndarray) -> Tensor:
    return generator(to_batch(image))


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_computes_every_generator(kind: str, engine: str) -> None:
    if engine == "winograd" and not winograd_library.available():
        pytest.skip("no C++ compiler")
    generator = GENERATORS[kind]()
    for size in ((21, 34), (16, 5)):  # one engine for several sizes
        image = make_photograph(*size, 0)
        expected = directly(generator, image)
        result = floats(Upscaler(generator, engine, "cpu"), image)  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("rows", [(16, 3), (17, 8), (30, 60)])
def test_strips_give_the_values_of_the_whole_image(
    kind: str, rows: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = GENERATORS[kind]()
    image = make_photograph(61, 23, 0)
    upscaler = Upscaler(generator.double().float(), "torch", "cpu")
    whole = floats(upscaler, image)
    monkeypatch.setattr(upscaler, "_plan", lambda height, width, budget: Plan(*rows, 0))
    torch.testing.assert_close(floats(upscaler, image), whole, rtol=0, atol=2e-6 * float(whole.abs().max()))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_strips_that_arrive_while_the_next_is_computed_are_the_same(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order that GPUs work in, on the CPU; their copies need a GPU."""
    generator, image = rough(RRDBNet(4, 1, 8, 4)), make_photograph(41, 23, 0)
    upscaler = Upscaler(generator, "torch", "cpu", precision)
    monkeypatch.setattr(upscaler, "_plan", lambda height, width, budget: Plan(100, 8, 0))
    one_by_one = upscaler(image)
    monkeypatch.setitem(strips._AHEAD, "cpu", 1)
    assert np.array_equal(upscaler(image), one_by_one)
    assert upscaler.fallbacks == 0
    monkeypatch.setattr(strips._Leaving, "arrived", lambda self: (_ for _ in ()).throw(NotFiniteError))
    with pytest.raises(ValueError, match="not finite"):
        upscaler(image)


def test_real_weights_in_strips(real_weights: Path, testsets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = load_generator(real_weights / "RealESRGAN_x4plus_anime_6B_fp16.pth")
    image = np.array(Image.open(testsets / "Set5" / "LRbicx4" / "butterfly.png").convert("RGB"))
    upscaler = Upscaler(generator, "torch", "cpu")
    whole = floats(upscaler, image)
    monkeypatch.setattr(upscaler, "_plan", lambda height, width, budget: Plan(22, 16, 0))
    # no bit on the machines tried; kernels that are chosen by shape may round otherwise
    torch.testing.assert_close(floats(upscaler, image), whole, rtol=0, atol=2e-6)


def test_tiles_that_see_as_far_as_the_network_have_no_seams() -> None:
    generator = rough(RRDBNet(4, 1, 8, 4))
    image = make_photograph(90, 66, 0)
    tiled = Upscaler(generator, "torch", "cpu", tile=64)
    assert tiled.overlap == generator.receptive_field == 19
    whole = directly(generator, image)
    bound = 2e-6 * float(whole.abs().max())
    torch.testing.assert_close(floats(tiled, image), whole, rtol=0, atol=bound)
    seams = (floats(Upscaler(generator, "torch", "cpu", tile=64, overlap=4), image) - whole).abs()
    assert float(seams.max()) > 10 * bound  # so that the comparison above means something


def test_the_plan_follows_the_memory_there_is() -> None:
    upscaler = Upscaler(RRDBNet(4, 2), "torch", "cpu")
    whole, strips = upscaler._plan(500, 400, 10**10), upscaler._plan(500, 400, 200 * 2**20)
    assert whole is not None
    assert strips is not None
    assert whole.trunk_rows == 500
    assert strips.trunk_rows < 500
    assert strips.bytes <= 200 * 2**20 < whole.bytes
    assert upscaler._plan(500, 400, 60 * 2**20) is None  # tiles


def test_a_memory_limit_is_kept_by_making_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = rough(RRDBNet(2, 1, 8, 4))
    image = make_photograph(120, 90, 0)
    upscaler = Upscaler(generator, "torch", "cpu")
    planned: list[Plan] = []
    plan_of = upscaler._plan

    def noting(height: int, width: int, budget: int) -> Plan | None:
        plan = plan_of(height, width, budget)
        planned.extend([plan] if plan else [])
        return plan

    expected, held = upscaler(image), list[int]()
    monkeypatch.setattr(upscaler, "_budget", lambda more: (held.append(more), 2_100_000)[1])
    monkeypatch.setattr(upscaler, "_plan", noting)
    result = upscaler(image)
    assert len(planned) > 1
    assert held[0] == expected.nbytes > held[-1]  # the output's rows that are written count as what is in use
    assert max(plan.bytes for plan in planned) <= 2_100_000
    assert np.abs(result.astype(int) - expected).max() <= 1
    monkeypatch.setattr(upscaler, "_budget", lambda held: 1000)
    with pytest.raises(MemoryError, match=r"raise --max-memory, or lower --overlap"):
        upscaler(image)


PEAK = """
import re, sys
from pathlib import Path
import numpy as np
from esrgan_lit import RRDBNet, Upscaler

upscaler = Upscaler(RRDBNet(4, 1).eval(), sys.argv[1], "cpu")
# not ru_maxrss, which begins with what the process that started this one takes
most = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
upscaler.max_memory = most() + 180 * 2**20
upscaler(np.zeros((260, 400, 3), np.uint8))
print(most() - upscaler.max_memory)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("engine", ["torch", "winograd"])
def test_a_process_keeps_its_memory_limit(engine: str) -> None:
    if engine == "winograd" and not winograd_library.available():
        pytest.skip("no C++ compiler")
    done = subprocess.run([sys.executable, "-c", PEAK, engine], check=True, capture_output=True, text=True)
    assert -(120 * 2**20) < int(done.stdout) <= 0  # kept, and a third of it used at least


def test_out_of_memory_takes_less_at_a_time_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = network()
    image = make_photograph(170, 150, 0)
    upscaler = Upscaler(generator, "torch", "cpu")
    expected = upscaler(image)
    largest = []
    blocks_of = TorchEngine.blocks

    def failing(self: TorchEngine, at_once: int) -> list[Callable[[Tensor], Tensor]]:
        def run(features: Tensor, blocks: Callable[[Tensor], Tensor]) -> Tensor:
            if features.shape[2] > 100:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
            largest.append(features.shape[2])
            return blocks(features)

        return [partial(run, blocks=blocks) for blocks in blocks_of(self, at_once)]

    monkeypatch.setattr(TorchEngine, "blocks", failing)
    told: list[float] = []
    assert_same_levels(upscaler(image, told.append), expected)
    assert 30 < max(largest) <= 100
    assert sum(told) == pytest.approx(170 * 150 / 1e6)

    def always(self: TorchEngine, at_once: int) -> list[Callable[[Tensor], Tensor]]:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(TorchEngine, "blocks", always)
    with pytest.raises(MemoryError, match=r"a tile of"):
        upscaler(image)


def test_a_tile_that_is_not_finite_in_half_precision_is_computed_again() -> None:
    generator = network()
    image = make_photograph(40, 30, 0)
    sound = Upscaler(generator, "torch", "cpu", precision="fp16")
    near = floats(sound, image)
    assert sound.fallbacks == 0
    exact = directly(generator, image)
    assert 0 < float((near - exact).abs().max()) < 0.01 * float(exact.abs().max())
    with torch.no_grad():  # the features overflow in fp16, and the image is the same in fp32
        generator.conv_hr.weight *= 1e5
        generator.conv_hr.bias *= 1e5
        generator.conv_last.weight /= 1e5
    overflowing = Upscaler(generator, "torch", "cpu", precision="fp16")
    result = floats(overflowing, image)
    assert overflowing.fallbacks == 1
    torch.testing.assert_close(result, exact, rtol=1e-4, atol=1e-4)


def test_compiled_parts_compute_the_same() -> None:
    generator = network(blocks=2)
    image = make_photograph(20, 24, 0)
    compiled = Upscaler(generator, "torch", "cpu", compiled=True)
    compiled.engine._maybe_compiled = lambda function: torch.compile(function, backend="eager")  # pyright: ignore
    expected = directly(generator, image)
    torch.testing.assert_close(floats(compiled, image), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_upscale_takes_and_gives_levels() -> None:
    generator = RRDBNet(scale=4, blocks=1, width=8, growth=4, bicubic_skip=True)
    image = make_photograph(11, 14, 0)
    result = upscale(image, generator)
    assert result.shape == (44, 56, 3)
    assert result.dtype == np.uint8
    with torch.no_grad():
        raw = generator(torch.from_numpy(image / 255).permute(2, 0, 1)[None].float())[0].permute(1, 2, 0).numpy()
    assert_same_levels(result, np.round(np.clip(raw, 0, 1) * 255).astype(np.uint8))
    assert generator.training  # left as it was
    assert upscale(image[:, ::-1], generator).shape == (44, 56, 3)  # views with negative strides too
    deep = upscale((image.astype(np.uint16) * 257), generator)
    assert deep.dtype == np.uint16
    np.testing.assert_allclose(deep, np.round(np.clip(raw, 0, 1) * 65535), atol=1)
    assert len(np.unique(deep)) > 256
    grey = upscale(image[..., 0], generator)
    repeated = upscale(np.repeat(image[..., :1], 3, 2), generator)
    assert grey.shape == (44, 56)
    np.testing.assert_allclose(grey, repeated.mean(2), atol=1)


def test_what_was_made_ready_is_kept_until_the_weights_change() -> None:
    image, first, second, third = make_photograph(9, 12, 0), *(network(blocks=1) for _ in range(3))
    module = sys.modules["esrgan_lit.inference.upscale"]
    module._prepared.clear()
    before = upscale(image, first)
    kept = module._prepared[first]
    assert kept.engine.name == ("winograd" if winograd_library.available() else "torch")  # the command's choice
    assert (upscale(image, first) == before).all()
    assert module._prepared[first] is kept
    first.conv_last.weight.data.copy_(first.conv_last.weight.flip(0))  # the same numbers elsewhere, unseen by PyTorch
    after = upscale(image, first)
    assert_same_levels(after, Upscaler(first, "torch", "cpu")(image), share=1e-2)
    assert (after != before).mean() > 0.5
    first.load_state_dict(second.state_dict())
    assert (upscale(image, first) == before).all()
    upscale(image, second)
    upscale(image, first)  # used later than the second
    upscale(image, third)
    assert list(module._prepared) == [first, third]
    del first
    gc.collect()
    assert list(module._prepared) == [third]


def test_upscale_takes_pillow_images_and_paths(tmp_path: Path) -> None:
    generator = network(blocks=1)
    pixels = make_photograph(9, 12, 0)
    array = upscale(pixels, generator)
    pillow = Image.fromarray(pixels)
    enlarged = upscale(pillow, generator)
    assert isinstance(enlarged, Image.Image)
    np.testing.assert_array_equal(np.array(enlarged), array)
    pillow.save(tmp_path / "a.png", icc_profile=b"profile")
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        np.testing.assert_array_equal(upscale(path, generator), array)
    with Image.open(tmp_path / "a.png") as opened:
        assert upscale(opened, generator).info["icc_profile"] == b"profile"
    assert upscale(pillow.convert("L"), generator).mode == "L"
    assert upscale(pillow.convert("P"), generator).mode == "RGB"  # palettes are expanded
    assert upscale(pillow.convert("RGBA"), generator).mode == "RGBA"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90°
    pillow.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(upscale(tmp_path / "turned.png", generator), array)
    with Image.open(tmp_path / "turned.png") as opened:
        np.testing.assert_array_equal(np.array(upscale(opened, generator)), array)


def test_alpha_is_enlarged_and_hidden_colours_do_not_bleed() -> None:
    generator = RRDBNet(4, 1, 8, 4, bicubic_skip=True)
    nn.init.zeros_(generator.conv_last.weight)  # bicubic interpolation
    image = np.zeros((20, 20, 4), np.uint8)
    image[:, :10] = (200, 100, 50, 255)
    image[:, 10:] = (0, 255, 0, 0)  # green that is not seen
    result = upscale(image, generator)
    assert result.shape == (80, 80, 4)
    np.testing.assert_array_equal(result[:, :30, 3], 255)
    np.testing.assert_array_equal(result[:, 50:, 3], 0)
    seen = result[result[..., 3] > 20][:, :3].astype(int)
    assert np.abs(seen - (200, 100, 50)).max() <= 2
    opaque = np.dstack((image[..., :3], np.full((20, 20, 1), 255, np.uint8)))
    np.testing.assert_array_equal(upscale(opaque, generator)[..., :3], upscale(opaque[..., :3], generator))
    assert upscale(image[..., 2:], generator).shape == (80, 80, 2)  # grey and alpha


def test_self_ensemble_is_the_mean_over_eight_turns() -> None:
    generator = network()
    image = make_photograph(20, 14, 0)
    low_res = to_batch(image)
    total = torch.zeros(1, 3, 80, 56)
    with torch.no_grad():
        for transpose in (False, True):
            for axes in ((), (2,), (3,), (2, 3)):
                turned = low_res.flip(axes).transpose(2, 3) if transpose else low_res.flip(axes)
                output = generator(turned)
                total += (output.transpose(2, 3) if transpose else output).flip(axes)
    told: list[float] = []
    result = Upscaler(generator, "torch", "cpu", self_ensemble=True)(image, told.append)
    expected = (total / 8).clamp(0, 1)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(result - expected).max() <= 0.51
    assert sum(told) == pytest.approx(280 / 1e6)


@pytest.mark.parametrize("method", ["gaussian", "reverse-filter"])
def test_back_projection_brings_the_shrunken_image_to_the_input(method: str, testsets: Path) -> None:
    low_res = np.array(Image.open(testsets / "Set5" / "LRbicx4" / "bird.png").convert("RGB"))[:48, :40]
    generator = RRDBNet(4, 1, 8, 4, bicubic_skip=True)
    before = Upscaler(generator, "torch", "cpu")(low_res)
    after = Upscaler(generator, "torch", "cpu", back_project=method)(low_res)  # pyright: ignore[reportArgumentType]

    def distance(image: np.ndarray) -> float:
        return float(np.abs(imresize(image / 255, 1 / 4) - low_res / 255).mean())

    assert distance(after) < 0.5 * distance(before)


def test_back_projection_equals_its_formula() -> None:
    scipy = pytest.importorskip("scipy.ndimage")
    random = np.random.default_rng(0)
    low_res, image = random.random((6, 5)), random.random((12, 10))
    offsets = np.arange(-2, 3)
    kernel = np.exp(-(offsets[:, None] ** 2 + offsets**2) / 2)
    kernel = (kernel / kernel.sum()) ** 2
    kernel /= kernel.sum()
    gaussian, reverse = image.copy(), image.copy()
    for _ in range(3):
        missing = imresize(low_res - imresize(gaussian, 1 / 2), 2)
        gaussian = gaussian + scipy.convolve(missing, kernel, mode="nearest")
        reverse = reverse + imresize(low_res, 2) - imresize(imresize(reverse, 1 / 2), 2)
    planes = torch.from_numpy(image)[None, None], torch.from_numpy(low_res)[None, None]
    for method, expected in (("gaussian", gaussian), ("reverse-filter", reverse)):
        result = back_project(*planes, 2, method, rounds=3)  # pyright: ignore[reportArgumentType]
        np.testing.assert_allclose(result[0, 0].numpy(), expected, atol=1e-12)


def test_any_final_size() -> None:
    image = (make_photograph(40, 30, 0) / 255).astype(np.float32)
    assert resized(image, 10, 15, False).shape == (10, 15, 3)
    expected = imresize(image, 1 / 2)
    np.testing.assert_allclose(resized(image, 20, 15, False)[2:-2, 2:-2], expected[2:-2, 2:-2], atol=1 / 255)
    pixels = make_photograph(10, 12, 0)
    upscaler = Upscaler(network(), "torch", "cpu")
    np.testing.assert_array_equal(upscaler(pixels, size=(40, 48)), upscaler(pixels))  # its own size


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3)), "float64; give uint8"),
        (np.zeros(4, np.uint8), r"\(4,\); give gray"),
        (np.zeros((4, 4, 5), np.uint8), "takes 3 channels, and the image has 5"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
    ],
)
def test_other_arrays_are_refused(image: np.ndarray, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        upscale(image, RRDBNet(blocks=1, width=8))


def test_refusals_name_value_rule_and_remedy() -> None:
    generator = RRDBNet(4, 1, 8, 4)
    with pytest.raises(ValueError, match="engine 'tensorrt' is not known; use one of auto, torch, winograd"):
        Upscaler(generator, "tensorrt", "cpu")  # pyright: ignore[reportArgumentType]
    for name, suffix in (("openvino", "xml"), ("onnxruntime", "onnx"), ("ncnn", "param")):
        with pytest.raises(ValueError, match=rf"{name} is no engine .*--engine auto.*esrgan-export -o NAME\.{suffix}"):
            Upscaler(generator, name, "cpu")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"winograd computes in float32 on the CPU.*use --engine torch"):
        Upscaler(generator, "winograd", "cpu", precision="fp16")
    with pytest.raises(ValueError, match="tile 8 is too small"):
        Upscaler(generator, "torch", "cpu", tile=8)
    with pytest.raises(ValueError, match="takes 1 channel, and the image has 3"):
        Upscaler(RRDBNet(4, 1, 8, 4, channels=1), "torch", "cpu")(make_photograph(8, 8, 0))


class Gated(RRDBNet):
    """Computes what winograd.cpp does not."""

    def tail(self, features: Tensor, head: Tensor) -> Tensor:
        return super().tail(features * head.sigmoid(), head)


def test_auto_is_winograd_where_that_computes_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    if not winograd_library.available():
        pytest.skip("no C++ compiler")
    generator = network()
    assert Upscaler(generator, device="cpu").engine.name == "winograd"
    assert Upscaler(generator, device="cpu", precision="bf16").engine.name == "torch"
    assert Upscaler(generator, device="cpu", compiled=True).engine.name == "torch"
    assert Upscaler(generator, device="cpu", max_memory=1).engine.name == "torch"  # no room
    with pytest.raises(ValueError, match=r"winograd takes 48 MiB for .* weights.*raise --max-memory, or use --engine"):
        Upscaler(generator, "winograd", "cpu", max_memory=1)
    gated = rough(Gated(4, 1, 8, 4))
    upscaler, image = Upscaler(gated, device="cpu"), make_photograph(20, 20, 0)
    assert upscaler.engine.name == "torch"
    torch.testing.assert_close(floats(upscaler, image), directly(gated, image))
    with pytest.raises(ValueError, match=r"winograd does not compute this network: .*use --engine torch"):
        Upscaler(gated, "winograd", "cpu")
    monkeypatch.setattr(winograd_library, "available", lambda: False)
    assert Upscaler(generator, device="cpu").engine.name == "torch"


def test_a_control_group_limits_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"memory/memory.limit_in_bytes": "5000", "memory/memory.usage_in_bytes": "2000"}

    def read(path: Path) -> str:
        name = path.relative_to("/sys/fs/cgroup").as_posix()
        if name not in files:
            raise FileNotFoundError(name)
        return files[name] + "\n"

    monkeypatch.setattr(Path, "read_text", read)
    assert free_memory() == 3000
    files.update({"memory.max": "max", "memory.current": "9"})
    assert free_memory() == 3000
    files["memory.max"] = "1009"
    assert free_memory() == 1000
