"""Transparency, other channels than three, images of a few pixels, results that are not finite."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_upscale import network, rough
from torch import nn

from conftest import make_photograph
from esrgan_lit import RRDBNet, SRResNet, upscale
from esrgan_lit.images.levels import to_batch
from esrgan_lit.inference import winograd_library
from esrgan_lit.inference.choices import ALPHA_MODES, ENGINES
from esrgan_lit.inference.upscaler import Upscaler
from esrgan_lit.networks.generator import Generator


def upscaler(generator: Generator, **options: object) -> Upscaler:
    return Upscaler(generator, "torch", "cpu", **options)  # pyright: ignore[reportArgumentType]


def bicubic(scale: int) -> Generator:
    generator = RRDBNet(scale, 1, 8, 4, bicubic_skip=True)
    nn.init.zeros_(generator.conv_last.weight)
    return generator


def with_alpha(image: np.ndarray, alpha: np.ndarray | float) -> np.ndarray:
    full = np.iinfo(image.dtype).max
    return np.dstack((image, np.broadcast_to(np.asarray(alpha) * full, image.shape[:2]).astype(image.dtype)))


@pytest.mark.parametrize("alpha", [0, 0.5, 1])
@pytest.mark.parametrize("deep", [False, True])
def test_constant_alpha_stays_and_colors_are_those_of_the_opaque_image(alpha: float, deep: bool) -> None:
    image = make_photograph(14, 11, 0).astype(np.uint16) * 257 if deep else make_photograph(14, 11, 0)
    generator = network(blocks=1)
    for options in ({}, {"self_ensemble": True}, {"back_project": "gaussian"}):
        plain = upscaler(generator, **options)(image)
        result = upscaler(generator, **options)(with_alpha(image, alpha))
        np.testing.assert_array_equal(result[..., 3], with_alpha(image, alpha)[0, 0, 3])
        np.testing.assert_array_equal(result[..., :3], plain)
        small = upscaler(generator, **options)(with_alpha(image, alpha), size=(20, 17))
        np.testing.assert_array_equal(small[..., 3], with_alpha(image, alpha)[0, 0, 3])


def test_one_pixel_of_other_alpha_changes_nothing_but_what_is_around_it() -> None:
    image, generator = make_photograph(20, 24, 0), network(blocks=1)
    almost = with_alpha(image, 1)
    almost[9, 5, 3] = 254
    result = upscaler(generator)(almost)
    np.testing.assert_array_equal(result[..., :3], upscaler(generator)(image))
    assert set(np.unique(result[..., 3])) <= {254, 255}
    result[8 * 4 : 11 * 4, 4 * 4 : 7 * 4, 3] = 255
    assert (result[..., 3] == 255).all()


@pytest.mark.parametrize("size", [None, (30, 50)])
def test_hidden_colors_never_show(size: tuple[int, int] | None) -> None:
    y, x = np.mgrid[:24, :30]
    alpha = np.hypot(y - 12, x - 15) < 8
    image = with_alpha(np.full((24, 30, 3), (250, 10, 60), np.uint8), alpha)
    hidden = image.copy()
    hidden[~alpha, :3] = make_photograph(24, 30, 1)[~alpha]
    generator = network(blocks=1)
    one, other = (upscaler(generator)(each, size=size) for each in (image, hidden))
    np.testing.assert_array_equal(one, other)
    clear = upscaler(generator)(with_alpha(image[..., :3], 0), size=size)  # where nothing is seen, nothing is filled
    np.testing.assert_array_equal(clear[..., :3], upscaler(generator)(image[..., :3].copy(), size=size))
    smooth = upscaler(bicubic(4))(hidden, size=size)
    assert np.abs(smooth[smooth[..., 3] > 8][:, :3].astype(int) - (250, 10, 60)).max() <= 1  # no outline
    np.testing.assert_array_equal(smooth[0, 0, 3], 0)


def test_the_final_size_is_premultiplied_and_rounded_once() -> None:
    image = with_alpha(make_photograph(30, 40, 0), np.linspace(0.2, 1, 40)[None])
    enlarged = upscale_in_floats(image)
    inside = np.s_[2:-2, 2:-2]  # at the border bicubic alpha overshoots, and is clamped

    def resized(plane: np.ndarray) -> np.ndarray:  # Pillow's bicubic filter is another program's
        return np.asarray(Image.fromarray(plane.astype(np.float32)).resize((37, 23), Image.Resampling.BICUBIC))

    assert enlarged.shape[:2] == (60, 80)
    alpha = resized(enlarged[..., 3])
    seen = np.stack([resized(enlarged[..., c] * enlarged[..., 3]) / alpha for c in range(3)], 2)
    straight = np.stack([resized(enlarged[..., c]) for c in range(3)], 2)
    result = upscaler(bicubic(2))(image, size=(23, 37))
    assert np.abs(result[..., :3] - seen.clip(0, 1) * 255)[inside].max() < 0.5 + 1e-2
    assert np.abs(result[..., 3] - alpha.clip(0, 1) * 255)[inside].max() < 0.5 + 1e-2
    separate = upscaler(bicubic(2), alpha_mode="separate")(image, size=(23, 37))
    assert np.abs(separate[..., :3] - straight.clip(0, 1) * 255).max() < 0.5 + 1e-2
    opaque = upscaler(bicubic(2))(image[..., :3], size=(23, 37))
    assert np.abs(opaque - straight.clip(0, 1) * 255).max() < 0.5 + 1e-2


def upscale_in_floats(image: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        planes = [bicubic(2)(to_batch(image[..., c].copy()).expand(1, 3, -1, -1))[0, 0] for c in range(4)]
    return np.stack([plane.clamp(0, 1).numpy() for plane in planes], 2)


def test_alpha_that_is_no_transparency() -> None:
    image, generator = make_photograph(16, 12, 0), network(blocks=1)
    texture = with_alpha(image, make_photograph(16, 12, 1)[..., 0] / 255 > 0.5)
    separate, ignored = (upscaler(generator, alpha_mode=mode)(texture) for mode in ALPHA_MODES[1:])
    np.testing.assert_array_equal(separate[..., :3], upscaler(generator)(image))  # also where alpha is 0
    np.testing.assert_array_equal(ignored, upscaler(generator)(image))
    gray = upscaler(generator, alpha_mode="ignore")(texture[..., 2:])
    np.testing.assert_array_equal(gray, upscaler(generator)(texture[..., 2]))
    with pytest.raises(ValueError, match="alpha mode 'none' is not known; use one of transparency, separate, ignore"):
        upscaler(generator, alpha_mode="none")


def test_networks_of_other_channels_take_what_fits() -> None:
    image = make_photograph(9, 8, 0)
    rgba = np.dstack((image, make_photograph(9, 8, 1)[..., 0]))
    four, one = rough(RRDBNet(2, 1, 8, 4, channels=4)), rough(SRResNet(2, 1, 8, channels=1))

    def directly(generator: Generator, levels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return generator(to_batch(levels))[0].permute(1, 2, 0).numpy()

    def apart(result: np.ndarray, values: np.ndarray) -> float:
        return float(np.abs(result - values.clip(0, 1) * 255).max())

    straight, opaque = directly(four, rgba), directly(four, with_alpha(image, 1))
    assert apart(upscaler(four)(rgba), straight) < 0.51
    assert apart(upscaler(four)(image), opaque[..., :3]) < 0.51
    gray = np.dstack([image[..., 0]] * 3)
    expected = directly(four, np.dstack((gray, rgba[..., 3])))
    result = upscaler(four)(np.dstack((image[..., 0], rgba[..., 3])))
    assert apart(result[..., 0], expected[..., :3].mean(2)) < 0.51
    assert apart(result[..., 1], expected[..., 3]) < 0.51
    assert apart(upscaler(four)(image[..., 0]), directly(four, with_alpha(gray, 1))[..., :3].mean(2)) < 0.51
    assert apart(upscaler(one)(image[..., 0]), directly(one, image[..., 0])[..., 0]) < 0.51
    assert upscale(rgba[..., 2:], one).shape == (18, 16, 2)
    for colors, said in ((image, "3;"), (rgba, "3 beside alpha;")):
        with pytest.raises(ValueError, match=f"this network takes 1 channel, and the image has {said} make it gray"):
            upscaler(one)(colors)
    with pytest.raises(ValueError, match="this network takes 5 channels, and the image has 3; take a network of 3"):
        upscaler(rough(RRDBNet(2, 1, 8, 4, channels=5)))(image)


@pytest.mark.parametrize("size", [(1, 1), (5, 1), (1, 6), (2, 3), (3, 2)])
def test_images_of_a_few_pixels_are_reflected_as_far_as_it_goes(size: tuple[int, int]) -> None:
    image = make_photograph(8, 8, 0)[: size[0], : size[1]]
    for scale, unshuffle in ((2, 2), (1, 4)):
        generator = rough(RRDBNet(scale, 1, 8, 4, unshuffle=unshuffle))
        reflected = np.pad(image, [*((0, -side % unshuffle) for side in size), (0, 0)], "reflect")  # NumPy's own
        with torch.no_grad():
            expected = generator.unpadded(to_batch(reflected))[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255
        result = upscaler(generator)(image)
        assert np.abs(result - expected[: scale * size[0], : scale * size[1]]).max() < 0.51
    for options in ({"self_ensemble": True}, {"back_project": "reverse-filter"}, {"tile": 64}):
        assert upscaler(generator, **options)(with_alpha(image, 0.5), size=(7, 5)).shape == (7, 5, 4)
        assert upscaler(network(), **options)(image).shape == (4 * size[0], 4 * size[1], 3)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["rrdb", "srresnet"])
@pytest.mark.parametrize("fault", [float("nan"), float("inf"), 1e38])
def test_a_result_that_is_not_finite_is_no_image(engine: str, kind: str, fault: float) -> None:
    if engine == "winograd" and not winograd_library.available():
        pytest.skip("no C++ compiler")
    generator = rough(RRDBNet(2, 1, 8, 4) if kind == "rrdb" else SRResNet(2, 1, 8))
    first = next(module for module in generator.modules() if isinstance(module, nn.Conv2d))
    first.weight.data[0] = fault
    broken = Upscaler(generator, engine, "cpu")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="result is not finite"):
        broken(make_photograph(9, 8, 0) // 2 + 100)
    assert not Upscaler(network(), "torch", "cpu").fallbacks


def test_a_final_size_without_room_is_said_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = upscaler(network())
    monkeypatch.setattr(ready, "_enlarge_channels", None)
    with pytest.raises(MemoryError, match=r"a final size of 2000000×2000000 takes 57,220,459 MiB, and .* are free"):
        ready(make_photograph(9, 8, 0), size=(2_000_000, 2_000_000))


def test_networks_that_give_other_channels_than_they_take() -> None:
    colorizer, gray = rough(RRDBNet(2, 1, 8, 4, channels=1, out_channels=3)), make_photograph(9, 8, 0)[..., 0]
    with torch.no_grad():
        expected = colorizer(to_batch(gray))[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255
    assert np.abs(upscaler(colorizer)(gray) - expected).max() < 0.51
    assert upscaler(colorizer)(np.dstack((gray, gray))).shape == (18, 16, 4)
    to_gray = rough(RRDBNet(2, 1, 8, 4, out_channels=1))
    for channels, shape in ((1, (18, 16)), (3, (18, 16)), (4, (18, 16, 2))):
        image = np.dstack([gray] * channels) if channels > 1 else gray
        assert upscaler(to_gray)(image).shape == shape
    assert upscaler(to_gray)(gray[..., None]).shape == (18, 16, 1)
    assert upscaler(colorizer, self_ensemble=True, back_project="gaussian")(gray).shape == (18, 16, 3)
