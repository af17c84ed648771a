"""Parity with the public code: each of its defects beside a statement of its own, and its pool of pairs."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from conftest import make_photograph
from esrgan_lit import PairDataModule
from esrgan_lit.degradations.blur import BlurKernels
from esrgan_lit.degradations.jpeg import compress_as_diffjpeg
from esrgan_lit.degradations.pairs import Crops, make_pairs, orient
from esrgan_lit.degradations.parity import PairPool, ParitySteps, RealEsrganParity
from esrgan_lit.degradations.real_esrgan import DegradationPass, Noise

# ITU-T T.81, K.1: rows are vertical frequencies.
ROWS = """
16 11 10 16 24 40 51 61
12 12 14 19 26 58 60 55
14 13 16 24 40 57 69 56
14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77
24 35 55 64 81 104 113 92
49 64 78 87 103 121 120 101
72 92 95 98 112 100 103 99
"""
LUMA = np.array([row.split() for row in ROWS.split("\n") if row], float)


def drawn(degradation: RealEsrganParity, numbers: tuple[int, ...]) -> list[ParitySteps]:
    batch = [np.random.default_rng((degradation.seed, numbers[0], 2)) for _ in numbers]
    return [degradation.draw(degradation.generator_of(n), each) for n, each in zip(numbers, batch, strict=True)]


def crops(first: int = 40, count: int = 4, side: int = 176) -> Crops:
    levels = torch.from_numpy(np.stack([make_photograph(side, side, number) for number in range(count)]))
    return Crops(levels, tuple(range(count)), tuple(range(first, first + count)))


def in_sum(block: np.ndarray, table: np.ndarray) -> np.ndarray:
    """One block through the transform as T.81's A.3.3 writes it, coefficient by coefficient."""
    wave = np.cos((2 * np.arange(8)[:, None] + 1) * np.arange(8) * np.pi / 16)  # position, frequency
    weight = np.where(np.arange(8) == 0, 0.5**0.5, 1) / 2
    kept, back = np.empty((8, 8)), np.zeros((8, 8))
    for u in range(8):
        for v in range(8):
            pattern = weight[u] * weight[v] * np.outer(wave[:, u], wave[:, v])
            kept[u, v] = np.round(((block - 128) * pattern).sum() / table[u, v]) * table[u, v]
            back += kept[u, v] * pattern
    return back + 128


@pytest.mark.parametrize("quality", [30, 61.5, 94])
def test_jpeg_has_the_transposed_unrounded_luma_table(quality: float) -> None:
    image = make_photograph(8, 16, 3)[..., :1]
    factor = 50 / quality if quality < 50 else (200 - 2 * quality) / 100
    blocks = [in_sum(image[:, left : left + 8, 0].astype(float), LUMA.T * factor) for left in (0, 8)]
    padded = torch.from_numpy(image / 255).permute(2, 0, 1).float()
    ours = compress_as_diffjpeg(padded, quality)[0] * 255
    np.testing.assert_allclose(ours, np.concatenate(blocks, 1).clip(0, 255), atol=2e-3)


def test_jpeg_pads_with_black_and_repeats_chroma() -> None:
    image = torch.from_numpy(make_photograph(40, 40, 4) / 255).permute(2, 0, 1).float()
    part, black = image[:, :21, :19], torch.zeros(3, 32, 32)
    black[:, :21, :19] = part
    assert torch.equal(compress_as_diffjpeg(part, 50), compress_as_diffjpeg(black, 50)[:, :21, :19])
    to_chroma = torch.tensor([[-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    chroma = torch.einsum("oc,chw->ohw", to_chroma, compress_as_diffjpeg(image[:, :32, :32] * 0.3 + 0.35, 90))
    assert torch.allclose(chroma[:, ::2, ::2], chroma[:, 1::2, 1::2], atol=1e-5)


def test_jpeg_is_as_far_from_libjpegs_as_was_measured(testsets: Path) -> None:
    """Mean differences in luma of the public code, as found beside Pillow's."""
    measured = {"butterfly": {30: 4.29, 60: 3.35, 90: 1.97}, "baby": {30: 2.31, 60: 1.68, 90: 1.05}}
    for name, by_quality in measured.items():
        image = Image.open(testsets / f"Set5/HR/{name}.png").convert("L")
        for quality, expected in by_quality.items():
            file = io.BytesIO()
            image.save(file, "JPEG", quality=quality)
            ours = compress_as_diffjpeg(torch.from_numpy(np.asarray(image) / 255)[None].float(), quality)[0] * 255
            difference = ours.round().numpy() - np.asarray(Image.open(file)).astype(float)
            assert np.abs(difference).mean() == pytest.approx(expected, abs=0.006)


def test_gray_gaussian_noise_is_one_field_of_the_batch() -> None:
    degradation, noise = RealEsrganParity(), Noise("gaussian", 10.0, True)
    gray = torch.full((3, 30, 30), 0.5)

    def field(n: int, noise: Noise, place: int = 0) -> Tensor:
        steps = drawn(degradation, (8, 9, 10))[n]
        own = torch.Generator().manual_seed(steps.noise_seed)
        return degradation.add_noise(gray, noise, steps, place, own) - gray

    torch.testing.assert_close(field(1, replace(noise, amount=20)), 2 * field(0, noise))
    assert not torch.allclose(field(0, noise), field(0, noise, 1), atol=0.01)  # the second pass has its own
    color = [field(n, replace(noise, gray=False)).flatten().numpy() for n in (0, 1)]
    assert abs(np.corrcoef(np.stack(color))[0, 1]) < 0.1


def test_what_a_batch_shares_and_what_it_does_not() -> None:
    degradation, own = RealEsrganParity(), {"kernels": set(), "amounts": set(), "qualities": set(), "sinc": set()}
    for first in range(0, 120, 6):
        batch = drawn(degradation, tuple(range(first, first + 6)))
        for one in ("first", "second"):
            passes = [getattr(steps, one) for steps in batch]
            assert len({(each.factor, each.mode, each.noise.kind, each.blur is None) for each in passes}) == 1
            own["kernels"].add(len({each.blur for each in passes}) - len({each.blur is None for each in passes}))
            own["amounts"].add(len({each.noise.amount for each in passes}))
            own["qualities"].add(len({each.quality for each in passes}))
        assert len({(steps.final_mode, steps.jpeg_last, steps.batch_seed) for steps in batch}) == 1
        own["sinc"].add(len({steps.sinc for steps in batch}))
    assert own["amounts"] == own["qualities"] == {6}
    assert own["kernels"] == {0, 5}  # none for all, or one for each
    assert max(own["sinc"]) > 4
    assert len({drawn(degradation, (first,))[0].first.factor for first in range(0, 400, 4)}) > 50


def test_a_batch_shares_its_place_is_flipped_and_depends_on_its_first_sample() -> None:
    degradation = RealEsrganParity(pool=0)
    batch = crops()
    low_res, high_res = make_pairs(batch, degradation)
    batch_draws = np.random.default_rng((0, 40, 4))
    top, left = (int(4 * place) for place in batch_draws.integers(37, size=2))
    turned = orient(batch.levels.permute(0, 3, 1, 2), [0, 0, 0, 0])
    assert torch.equal((high_res * 255).round().byte(), turned[..., top : top + 32, left : left + 32])
    flipped = make_pairs(batch._replace(orientations=(5, 4, 7, 6)), degradation).high_res
    mirrored = turned.flip(-1)[..., top : top + 32, left : left + 32]
    assert torch.equal((flipped * 255).round().byte(), mirrored)
    assert low_res.shape == (4, 3, 8, 8)
    other = make_pairs(batch._replace(numbers=(41, 42, 43, 44)), degradation)
    assert not torch.equal(other.high_res, high_res)
    whole = degradation.degrade(batch.levels[0].permute(2, 0, 1), 3)
    assert whole.shape == (3, 44, 44)


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
def test_the_first_resizing_keeps_its_factor(mode: str) -> None:
    image = torch.from_numpy(make_photograph(50, 61, 0) / 255).permute(2, 0, 1).float()
    ours = RealEsrganParity().resize_first(image, 0.37, mode)  # pyright: ignore[reportArgumentType]
    assert ours.shape == (3, 18, 22)
    if mode == "bilinear":  # pixel centers lie 1 / 0.37 apart, and not 50 / 18
        at = (np.arange(18) + 0.5) / 0.37 - 0.5
        column = np.interp(at, np.arange(50), image[0, :, 0].numpy())
        across = (0.5 / 0.37 - 0.5) % 1
        second = np.interp(at, np.arange(50), image[0, :, 1].numpy())
        np.testing.assert_allclose(ours[0, :, 0], column * (1 - across) + second * across, atol=1e-4)
    assert torch.equal(ours, interpolate(image[None], scale_factor=0.37, mode=mode)[0])
    assert RealEsrganParity().resize_first(image, 0.01, mode).shape == (3, 1, 1)  # pyright: ignore[reportArgumentType]


def test_the_pool_is_the_public_one(caplog: pytest.LogCaptureFixture) -> None:
    """Beside a statement that moves arrays: shuffle, take the first, put the fresh ones into their places."""
    size, count, pool = 6, 2, PairPool()
    plain, filled = np.zeros(size, int), 0
    for first in range(0, 40, count):
        numbers = list(range(first, first + count))
        if filled < size:
            plain[filled : filled + count], filled = numbers, filled + count
            expected = numbers
        else:
            plain = plain[np.random.default_rng((5, first, 3)).permutation(size)]
            expected, plain[:count] = plain[:count].tolist(), numbers
        fresh = [torch.tensor(numbers, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, k, k) for k in (2, 8)]
        for _ in range(2):  # asked for anew, it gives the same
            low, high = pool.exchange(fresh, numbers, size, 5)
            assert low[:, 0, 0, 0].tolist() == high[:, 0, 7, 7].tolist() == expected
        assert pool.state["samples"].tolist() == plain[:filled].tolist()
        assert pool.state["given_samples"] == expected
        again = PairPool()
        again.state = dict(pool.state)
        pool = again
    for numbers, side in (([0, 1], 2), ([2, 3], 5)):  # a training that begins, or goes on with other crops
        fresh = [torch.full((count, 3, k, k), 7, dtype=torch.uint8) for k in (side, 4 * side)]
        assert (pool.exchange(fresh, numbers, size, 5)[0] == 7).all()
        assert len(pool.state["samples"]) == count
    assert caplog.text.count("begins anew") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": -1}, "pool -1 is negative; the public code has 180"),
        ({"kernels": BlurKernels((5, 17))}, r"kernels.sizes \[5, 17\] has no effect in the public code"),
        ({"first": DegradationPass(quality=(30, 100))}, r"first.quality \[30, 100\] ends at 100"),
    ],
)
def test_what_the_public_code_would_not_do_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RealEsrganParity(**options)  # pyright: ignore[reportArgumentType]


def test_pairs_cannot_be_made_ahead() -> None:
    with pytest.raises(ValueError, match=r"remembers those of earlier batches.*; give data.on_device=true"):
        PairDataModule(degradation=RealEsrganParity(), on_device=False)
