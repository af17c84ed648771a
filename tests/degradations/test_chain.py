"""Random degradations: whole chains beside SciPy and Pillow, and their independence of batches, order and process."""

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch.nn.functional import interpolate

from conftest import make_photograph
from esrgan_lit.degradations.blur import sharpen
from esrgan_lit.degradations.bsrgan import BsrganDegradation
from esrgan_lit.degradations.chain import RandomDegradation
from esrgan_lit.degradations.noise import add_gaussian_noise
from esrgan_lit.degradations.pairs import Crops, make_pairs
from esrgan_lit.degradations.real_esrgan import DegradationPass, Noise, RealEsrganDegradation

PRESETS = [RealEsrganDegradation, BsrganDegradation]


def crops(count: int, side: int = 208) -> Crops:
    levels = torch.from_numpy(np.stack([make_photograph(side, side, number) for number in range(count)]))
    return Crops(levels, tuple(number % 8 for number in range(count)), tuple(range(40, 40 + count)))


def jpeg(image: torch.Tensor, quality: float) -> torch.Tensor:
    file = io.BytesIO()
    levels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(levels).save(file, "JPEG", quality=round(quality), subsampling=2)
    return torch.from_numpy(np.asarray(Image.open(file)) / 255).permute(2, 0, 1).float()


def convolve(image: torch.Tensor, weights: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([ndimage.convolve(each, weights, mode="mirror") for each in image.numpy()]))


@pytest.mark.parametrize("number", range(12))
def test_real_esrgans_chain_is_scipys_and_pillows(number: int) -> None:
    degradation = RealEsrganDegradation()
    steps = degradation.draw(degradation.generator_of(number))
    # Poisson numbers are tested alone: the least difference of one changes how many random numbers the next ones take.
    # Of a good quality, since rounding one level the other way may move a block by its table.
    fixed = {"noise": Noise("gaussian", 9, number % 2 == 0), "quality": 95}
    first, second = (replace(each, **fixed) for each in (steps.first, steps.second))
    steps = replace(steps, first=first, second=second)
    image = torch.from_numpy(make_photograph(160, 200, number) / 255).permute(2, 0, 1).float()
    generator = torch.Generator().manual_seed(steps.noise_seed)
    expected = sharpen(image)
    for each, (height, width) in ((first, (160, 200)), (second, (40, 50))):
        expected = convolve(expected, each.blur.values()) if each.blur else expected
        size = int(height * each.factor), int(width * each.factor)
        expected = interpolate(expected[None], size, mode=each.mode)[0].clamp(0, 1)
        assert each.noise
        expected = add_gaussian_noise(expected, each.noise.amount, each.noise.gray, generator)
        if each is first:
            expected = jpeg(expected, each.quality or 0)

    def finish(image: torch.Tensor) -> torch.Tensor:
        small = interpolate(image[None], (40, 50), mode=steps.final_mode)[0]
        return convolve(small, steps.sinc.values()) if steps.sinc else small

    expected = (
        jpeg(finish(expected), second.quality or 0) if steps.jpeg_last else finish(jpeg(expected, second.quality or 0))
    )
    difference = (degradation.apply(image, steps) - expected).abs() * 255
    assert difference.mean() < 1
    assert difference.max() < 16


def test_final_orders_and_modes_are_drawn_evenly() -> None:
    degradation = RealEsrganDegradation()
    drawn = [degradation.draw(np.random.default_rng(n)) for n in range(4000)]
    noises = [each.first.noise for each in drawn if each.first.noise]
    shares = {
        "jpeg last": (np.mean([each.jpeg_last for each in drawn]), 0.5),
        "sinc": (np.mean([each.sinc is not None for each in drawn]), 0.8),
        "second blur": (np.mean([each.second.blur is not None for each in drawn]), 0.8),
        "down": (np.mean([each.first.factor < 1 for each in drawn]), 0.7),
        "up": (np.mean([each.first.factor > 1 for each in drawn]), 0.2),
        "second keep": (np.mean([each.second.factor == 1 for each in drawn]), 0.3),
        "poisson": (
            np.mean([noise.kind == "poisson" for noise in noises]),
            0.5,
        ),
        "gray": (np.mean([noise.gray for noise in noises]), 0.4),
        "area": (np.mean([each.final_mode == "area" for each in drawn]), 1 / 3),
    }
    for name, (share, expected) in shares.items():
        assert abs(share - expected) < 0.035, name
    factors = np.array([each.first.factor for each in drawn])
    assert factors.min() > 0.15
    assert factors.max() < 1.5
    assert len({each.noise_seed for each in drawn}) == len(drawn)


def test_bsrgans_operations_come_in_every_order_but_shrink_before_resize() -> None:
    degradation = BsrganDegradation()
    drawn = [degradation.draw(np.random.default_rng(n)) for n in range(3000)]
    assert all(each.order.index("shrink") < each.order.index("resize") for each in drawn)
    assert len({each.order for each in drawn}) == 720 / 2
    kinds = [each.noise.kind for each in drawn]
    for kind, share in (("color", 0.4), ("gray", 0.4), ("correlated", 0.2)):
        assert abs(kinds.count(kind) / len(drawn) - share) < 0.04
    assert {each.noise.sigma for each in drawn if each.noise.kind == "correlated"} == {25}
    assert {each.noise.sigma for each in drawn} == set(range(2, 26))
    assert abs(np.mean([each.halve is not None for each in drawn]) - 0.25) < 0.035
    assert all(each.halve is None for each in map(BsrganDegradation(2).draw, map(np.random.default_rng, range(50))))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_a_batch_is_its_samples(preset: Any, scale: int) -> None:
    degradation = preset(scale, seed=3)
    batch = crops(5)
    side = 208 - 144
    if side % scale:  # ×3
        batch = Crops(batch.levels[:, :204, :204], batch.orientations, batch.numbers)
        side = 60
    low_res, high_res = make_pairs(batch, degradation)
    assert low_res.shape == (5, 3, side // scale, side // scale)
    assert high_res.shape == (5, 3, side, side)
    for place in (3, 0, 4):
        only = slice(place, place + 1)
        alone = make_pairs(Crops(batch.levels[only], batch.orientations[only], batch.numbers[only]), degradation)
        assert torch.equal(alone.low_res[0], low_res[place])
        assert torch.equal(alone.high_res[0], high_res[place])
    other = make_pairs(batch, replace(degradation, seed=4))
    assert not torch.equal(other.low_res, low_res)


@pytest.mark.parametrize("preset", PRESETS)
def test_pairs_lie_upon_each_other(preset: Any) -> None:
    """The low resolution resembles the high one shrunk, more than the high one shifted by a low-resolution pixel."""
    degradation = preset(2, seed=0)
    low_res, high_res = make_pairs(crops(24), degradation)
    small = interpolate(high_res, scale_factor=0.5, mode="area")
    soft = [
        np.stack([[ndimage.gaussian_filter(c, 2) for c in each] for each in images.numpy()])
        for images in (low_res, small)
    ]
    inner = slice(8, -8)

    def error(down: int, right: int) -> float:
        moved = np.roll(soft[1], (down, right), (2, 3))
        return float(np.abs(soft[0] - moved)[:, :, inner, inner].mean())

    errors = {(down, right): error(down, right) for down in (-2, 0, 2) for right in (-2, 0, 2)}
    assert min(errors, key=lambda at: errors[at]) == (0, 0)


def test_crops_lie_anywhere_within_their_margin() -> None:
    degradation = RealEsrganDegradation(seed=1)
    places = {tuple(degradation.generator_of(n).integers(37, size=2) % 8) for n in range(600)}
    assert len(places) == 64  # every phase of JPEG's blocks


@pytest.mark.parametrize("preset", PRESETS)
def test_draws_can_be_written_as_json_and_whole_images_degraded(preset: Any) -> None:
    degradation: RandomDegradation = preset(4)
    steps = degradation.draw(degradation.generator_of(7))
    assert json.loads(json.dumps(steps.as_json()))["noise_seed"] == steps.noise_seed
    image = torch.from_numpy(make_photograph(64, 100, 0)).permute(2, 0, 1)
    small = degradation.degrade(image, 7)
    assert small.shape == (3, 16, 25)
    assert torch.equal(small, degradation.degrade(image[None], 7)[0])
    assert not torch.equal(small, degradation.degrade(image, 8))
    for tiny in ((4, 4), (8, 4)):
        assert degradation.degrade(image[:, : tiny[0], : tiny[1]], 1).shape[-2:] == (tiny[0] // 4, tiny[1] // 4)
    for channels in (1, 4, 5):
        more = torch.cat([image, image])[:channels]
        assert degradation.degrade(more, 7).shape == (channels, 16, 25)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RealEsrganDegradation(margin=70), r"margin 70 is not a multiple of scale 4; use 72"),
        (lambda: RealEsrganDegradation(margin=8), r"margin 8 is less than the 25 pixels that filters reach; use 28"),
        (lambda: RealEsrganDegradation(0), "scale 0 is not a positive whole number"),
        (lambda: RealEsrganDegradation(sinc=2), "sinc 2 is no probability"),
        (lambda: BsrganDegradation(margin=20), "margin 20 is less than the 24 pixels"),
        (lambda: BsrganDegradation(quality=(95, 30)), r"quality \[95, 30\] begins with the larger number"),
        (
            lambda: DegradationPass(resize={"up": 1, "down": 1, "keep": 0}),
            "resize has probabilities of sum 2, which must be 1; divided by it they are {up: 0.50000, down: 0.50000, k",
        ),
        (lambda: DegradationPass(resize={"up": 1}), "resize has up; give up, down, keep"),  # pyright: ignore
        (lambda: DegradationPass(factor=(1.1, 1.5)), "factor .* does not hold 1"),
        (lambda: DegradationPass(quality=(0, 95)), "quality .* must be within 1 … 100"),
        (
            lambda: DegradationPass(noise={"gaussian": -1, "poisson": 2, "none": 0}),
            "noise.gaussian -1 is no probability",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_rule(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
