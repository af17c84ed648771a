"""What samples tell: the kernel and the shift of a pair, traces of JPEG, copies."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from esrgan_lit.data.duplicates import Copy, Fingerprint, find_copies, fingerprint, measure_texture, was_jpeg
from esrgan_lit.data.kernels import EXPECTED, KERNELS, find_kernel
from esrgan_lit.images.listing import list_images
from esrgan_lit.images.reading import read_image
from esrgan_lit.resize import imresize


def make_scene(height: int, width: int, seed: int) -> np.ndarray:
    """Colour noise whose amplitude falls with the frequency, as that of photographs does: no two scenes are alike."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    falling = np.fft.rfft2(noise, axes=(0, 1)) / np.maximum(frequency, 1 / max(height, width))[..., None]
    levels = np.fft.irfft2(falling, (height, width), axes=(0, 1))
    return np.clip(128 + 50 * levels / levels.std(), 0, 255).astype(np.uint8)


SCENE = make_scene(230, 270, seed=0)


def compress(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def shrink(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def luma(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).convert("L"))


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_is_told_from_the_others(kernel: str, scale: int) -> None:
    fit = find_kernel(SCENE[:228, :268], KERNELS[kernel](SCENE[:228, :268], scale), scale)
    assert (fit.kernel, fit.down, fit.right, fit.differing, fit.largest) == (kernel, 0, 0, 0, 0)


def test_the_expected_kernel_is_what_imresize_does() -> None:
    low_res = imresize(SCENE[:228, :268], 1 / 4)
    assert find_kernel(SCENE, low_res, 4).kernel == EXPECTED  # the rows past the last multiple are cut off
    touched = low_res.copy()
    touched[5, 6, 1] ^= 3
    fit = find_kernel(SCENE, touched, 4)
    assert (fit.kernel, fit.differing) == (EXPECTED, 1 / low_res.size)
    assert 1 <= fit.largest <= 3


def test_matlabs_own_files_are_recognised(testsets: Path) -> None:
    for name, kernel in (("Set5", EXPECTED), ("Set14", "MATLAB bicubic, uint8, replicate")):
        for path in list_images([testsets / name / "HR"], "x")[:4]:
            low_res = read_image(testsets / name / "LRbicx4" / path.name)
            fit = find_kernel(read_image(path), low_res, 4)
            assert (fit.kernel, fit.differing) == (kernel, 0), path


@pytest.mark.parametrize(("down", "right"), [(1, 0), (-2, 3), (4, -8), (0, -7)])
def test_whole_pixel_shifts_are_found_exactly(down: int, right: int) -> None:
    high_res = SCENE[8:216, 8:256]
    low_res = imresize(SCENE[8 + down : 216 + down, 8 + right : 256 + right], 1 / 4)
    fit = find_kernel(high_res, low_res, 4)
    assert (fit.down, fit.right, fit.kernel, fit.differing) == (down, right, EXPECTED, 0)


def test_a_filter_that_keeps_every_fourth_pixel_is_shifted_by_one_and_a_half() -> None:
    # A box of odd width is centred on pixel 4 n; the low-resolution pixel n is centred on 4 n + 1.5.
    rows = np.stack([np.roll(SCENE.astype(np.float64), by, 0) for by in (-2, -1, 0, 1, 2)]).mean(0)
    blurred = np.stack([np.roll(rows, by, 1) for by in (-2, -1, 0, 1, 2)]).mean(0).round().astype(np.uint8)
    fit = find_kernel(SCENE[:228, :268], blurred[:228:4, :268:4], 4)
    assert (fit.down, fit.right) == (-1.5, -1.5)
    assert 0 < fit.differing <= 1


def test_compression_is_no_shift_and_another_picture_no_kernel() -> None:
    low_res = imresize(SCENE[:228, :268], 1 / 4)
    fit = find_kernel(SCENE, compress(low_res, 90), 4)
    assert (fit.down, fit.right) == (0, 0)
    assert 0 < fit.residual < 0.4
    assert find_kernel(make_scene(230, 270, seed=1), low_res, 4).residual > 0.8


def test_a_flat_pair_is_not_taken_for_two_pictures() -> None:
    flat = (SCENE[:228, :268] // 100 + 120).astype(np.uint8)
    assert find_kernel(flat, compress(imresize(flat, 1 / 4), 50), 4).residual < 0.3
    assert find_kernel(flat, imresize(flat, 1 / 4) // 2, 4).residual > 1


def test_sizes_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(57, 66, 3\); with scale 4 .* \(57, 67, 3\)"):
        find_kernel(SCENE, np.zeros((57, 66, 3), np.uint8), 4)


@pytest.mark.parametrize("quality", [50, 75, 90, 95])
def test_jpeg_shows_in_what_was_decoded_from_it(quality: int) -> None:
    assert was_jpeg(luma(compress(SCENE, quality)))
    assert was_jpeg(luma(compress(SCENE, quality))[4:, 4:])  # also where the grid was cut


def test_jpeg_does_not_show_where_there_was_none_or_it_was_shrunk_away() -> None:
    assert not was_jpeg(luma(SCENE))
    assert not was_jpeg(luma(shrink(compress(make_scene(460, 540, seed=2), 75), 270, 230)))
    assert not was_jpeg(np.full((64, 64), 90, np.uint8))


def test_texture_is_measured_in_levels() -> None:
    assert measure_texture(np.tile(np.array([[0, 10]], np.uint8), (8, 4))) == 5  # 10 across, 0 down
    assert measure_texture(np.full((1, 1), 7, np.uint8)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_copies_are_found_and_others_are_not(seed: int) -> None:
    original = make_scene(230, 270, seed)
    copies = [
        original,
        shrink(original, 135, 115),
        shrink(original, 90, 77),
        compress(original, 75),
        original[:228, :268],
        compress(shrink(original, 200, 170), 75),
    ]
    others = [make_scene(230, 270, seed=100 + number) for number in range(20)]
    found = find_copies([fingerprint(pixels) for pixels in [original, *copies, *others]])
    assert found == [None, Copy(0, True), *[Copy(0, False)] * 5, *[None] * 20]


def test_flat_images_are_copies_only_if_they_are_equal() -> None:
    random = np.random.default_rng(0)
    y, x = np.mgrid[:200, :260] / 200
    flat = [np.full((200, 260), level) for level in (0.0, 90.0, 91.0, 255.0)]
    skies = [
        level + up * y + across * x for level, up, across in random.uniform((60, -60, -40), (190, 60, 40), (40, 3))
    ]
    noisy = [sky + random.normal(0, 3, sky.shape) for sky in skies]
    images = [np.repeat(one.clip(0, 255).astype(np.uint8)[..., None], 3, 2) for one in [*flat, *skies, *noisy]]
    fingerprints = [fingerprint(pixels) for pixels in images]
    assert find_copies(fingerprints) == [None] * 84
    assert find_copies(fingerprints[7:8], among=fingerprints) == [Copy(7, True)]


def test_copies_are_found_across_blocks_and_in_another_collection() -> None:
    random = np.random.default_rng(0)
    directions = random.normal(size=(600, 64)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    hashes = random.integers(0, 2**64, 600, np.uint64)
    many = [Fingerprint(bytes(8) + n.to_bytes(8), hashes[n], directions[n]) for n in range(600)]
    near = Fingerprint(b"near", hashes[3] ^ np.uint64(0b111), directions[3])
    far = Fingerprint(b"far", hashes[3] ^ np.uint64(0x7FF << 20), directions[3])  # 11 bits, and 14 from near
    unlike = Fingerprint(b"unlike", hashes[3], directions[4])
    assert find_copies([*many, near, far, unlike, many[599]])[600:] == [Copy(3, False), None, None, Copy(599, True)]
    assert find_copies([near, many[3]], among=many[2:]) == [Copy(1, False), Copy(1, True)]
    assert find_copies([near], among=[]) == [None]
