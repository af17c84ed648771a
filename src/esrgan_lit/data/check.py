"""``esrgan-data check``: what is wrong with a folder of training images, and whether training could start with it."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from esrgan_lit.data.duplicates import Fingerprint, find_copies, fingerprint, measure_texture, was_jpeg
from esrgan_lit.data.kernels import EXPECTED, find_kernel
from esrgan_lit.data.pairing import is_shrunk, match_files
from esrgan_lit.data.photographs import Photograph
from esrgan_lit.images.jpeg import luma_quantization
from esrgan_lit.images.levels import as_colors
from esrgan_lit.images.listing import list_images
from esrgan_lit.images.picture import Decoded, has_alpha
from esrgan_lit.images.reading import as_channels, decode, read_image, size_of

Severity = Literal["error", "warning"]
Item = TypeVar("Item")
Result = TypeVar("Result")

# Mean of the luma quantization table of the JPEG standard (Annex K), which is quality 50.
_STANDARD_QUANTIZATION = 57.625

# Mean difference of neighbouring samples, in levels of 255: photographs have 2.5 and more.
_LEAST_TEXTURE = 1.0

# Residual of the best kernel: up to 0.44 for pairs, even with noise of 25 levels, and from 0.62 for other pictures.
_MOST_RESIDUAL = 0.6


class Fault(Enum):
    """What can be wrong with a file: name, severity and remedy, severest first.

    An error stops a training or falsifies its figures; with a warning training runs, in a way worth knowing.
    """

    EMPTY = "empty file", "error", "fetch it again or remove it"
    NOT_AN_IMAGE = "not an image", "error", "remove or rename it"
    DAMAGED = "truncated or damaged", "error", "fetch it again or remove it"
    BOMB = "decompression bomb", "error", "cut it into smaller images"
    CHANNELS = "other channels", "error", "convert or remove it, or give the channels that it has"
    LEAKAGE = "also in a benchmark", "error", "remove it from training: the benchmark's figures would not count"
    NO_PARTNER = "without a partner", "error", "give each image one partner, called NAME, NAMEx4 or NAME_ANYTHING"
    WRONG_RATIO = "wrong ratio to partner", "error", "make the low-resolution image again from this one"
    OTHER_PICTURE = "partner shows something else", "error", "give the right pair"
    SHIFTED = "shifted against partner", "error", "make the low-resolution image again"
    OTHER_KERNEL = (
        "partner by another kernel",
        "warning",
        "mixing kernels costs decibels: make it again, or set data.low_res_form, data.boundary",
    )
    TOO_SMALL = "smaller than the crop", "warning", "left out of training; choose a smaller crop to use it"
    VERY_LARGE = "very large", "warning", "cut it into smaller images, which load faster"
    SAME_PIXELS = "exact duplicate", "warning", "remove one: it is seen twice as often as the others"
    NEAR_DUPLICATE = "near duplicate", "warning", "look at both and remove one"
    JPEG = "JPEG-compressed", "warning", "its artifacts are learnt as ground truth; use the original or shrink it by 2"
    FLAT = "flat, without texture", "warning", "remove it: there is nothing to learn from"
    CONSTANT = "channel without content", "warning", "train without it: there is nothing to learn from"
    GREYSCALE = "greyscale", "warning", "grey is repeated over the channels; remove it if color is wanted"
    PALETTE = "palette", "warning", "at most 256 colors, often dithered; use the original"
    CMYK = "CMYK", "warning", "converted without a color profile; convert it to sRGB yourself"
    DEEP = "more than 8 bits", "warning", "reduced to 8 bits; convert it yourself if its range is not the full one"
    ALPHA = "alpha channel", "warning", "transparency is dropped; flatten it if hidden colors show"
    TURNED = "EXIF rotation", "warning", "turned upright here; other tools may not, so store it upright"

    def __init__(self, title: str, severity: Severity, remedy: str) -> None:
        self.title = title
        self.severity = severity
        self.remedy = remedy


class Finding(NamedTuple):
    """A fault of a file, with what is known about it."""

    path: Path
    fault: Fault
    detail: str = ""


class Report(NamedTuple):
    """What a check found.

    Args:
        images: number of training images looked at.
        usable: how many of them decode and hold a crop.
        findings: by severity and fault, then in the order of the files.
    """

    images: int
    usable: int
    findings: list[Finding]

    @property
    def could_start(self) -> bool:
        """Return whether training could start: something is usable and nothing is an error."""
        return self.usable > 0 and not any(finding.fault.severity == "error" for finding in self.findings)


class _Known(NamedTuple):
    """A photograph that decodes, with what recognizes it; the pixels are not kept."""

    photograph: Photograph
    fingerprint: Fingerprint


def check(
    folders: Sequence[str | Path],
    crop: int = 128,
    scale: int = 4,
    low_res: str | Path | None = None,
    benchmark: Sequence[str | Path] = (),
    workers: int | None = None,
    channels: int = 3,
) -> Report:
    """Read every image once and report its faults.

    Args:
        folders: folders (recursive) or files of high-resolution training images.
        crop: side of the training crop in pixels.
        scale: integer factor between low and high resolution; 1 for pairs that are only restored.
        low_res: folder of the low-resolution partners, if there are any.
        benchmark: folders of test images, none of which may be among the training images.
        workers: threads; None for one per CPU core.
        channels: that training will read; 3 takes whatever can be RGB.

    Raises:
        ValueError: when a folder does not exist or holds no image.
    """
    paths = list_images(folders, "FOLDER")
    low_paths = list_images([low_res], "--low-res") if low_res else []
    benchmark_paths = list_images(benchmark, "--benchmark") if benchmark else []

    def inspect_all(files: Sequence[Path], title: str) -> tuple[list[_Known], list[Finding]]:
        inspected = list(_in_parallel(lambda path: _inspect(path, crop, channels), files, workers, title))
        return [known for known, _ in inspected if known], [finding for _, found in inspected for finding in found]

    # Pillow's warnings on single files would tear the progress bar; what matters in them is found here anyway.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        training, findings = inspect_all(paths, "images")
        held_out, in_benchmark = inspect_all(benchmark_paths, "benchmark")
        findings += [finding for finding in in_benchmark if finding.fault.severity == "error"]
        if low_res:
            pairs, lonely = _match_partners(paths, low_paths, [Path(folder) for folder in folders], [Path(low_res)])
            decoded = {known.photograph.path: known.photograph for known in training}
            jobs = [(decoded[high], low) for high, low in pairs if high in decoded]
            checked = _in_parallel(lambda pair: _check_pair(*pair, scale), jobs, workers, "pairs")
            findings += lonely + [finding for finding in checked if finding]
    findings += _find_copies(training, held_out)
    severest_first = list(Fault)
    findings.sort(key=lambda finding: severest_first.index(finding.fault))
    usable = sum(min(known.photograph.height, known.photograph.width) >= crop for known in training)
    return Report(len(paths), usable, findings)


def _in_parallel(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int | None, title: str
) -> Iterator[Result]:
    # Threads, for what takes time lets go of the interpreter's lock: Pillow's decoders and filters, hashlib, NumPy and
    # torch. Two were 1.9 times as fast as one, two processes 1.75 times; and processes would load torch once each.
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        yield from tqdm(pool.map(work, items), title, len(items), unit="image", disable=not items)


def _inspect(path: Path, crop: int, channels: int) -> tuple[_Known | None, list[Finding]]:
    """Decode one file whole and say what is wrong with it; never raises. None where it does not decode.

    Args:
        path: an image file.
        crop: side of the training crop in pixels.
        channels: that training will read.
    """
    decoded = None
    try:
        if not path.stat().st_size:
            return None, [Finding(path, Fault.EMPTY)]
        decoded = decode(path, bands=channels != 3)
        samples = as_channels(decoded, channels)
        pixels = as_colors(samples)
        found = _judge(decoded, luma_quantization(path), channels)
    except Exception as error:  # whatever a damaged file provokes must not stop the run
        height, width = size_of(path)
        fault = Fault.NOT_AN_IMAGE if isinstance(error, UnidentifiedImageError) else Fault.DAMAGED
        fault = fault if decoded is None else Fault.CHANNELS
        if Image.MAX_IMAGE_PIXELS and height * width > 2 * Image.MAX_IMAGE_PIXELS:  # as far as Pillow goes
            fault = Fault.BOMB
        return None, [Finding(path, fault, "" if fault is Fault.NOT_AN_IMAGE else str(error))]
    height, width = pixels.shape[:2]
    if min(height, width) < crop:
        found[Fault.TOO_SMALL] = f"{width}×{height}, crop {crop}"
    if Image.MAX_IMAGE_PIXELS and height * width > Image.MAX_IMAGE_PIXELS:
        found[Fault.VERY_LARGE] = f"{width}×{height}"
    constant = [place + 1 for place in range(channels) if channels > 3 and np.ptp(samples[..., place]) == 0]
    if constant:
        found[Fault.CONSTANT] = f"channel {', '.join(map(str, constant))}"
    if channels > 2 and (pixels == pixels[..., :1]).all():
        found.setdefault(Fault.GREYSCALE, "three equal channels")
    luma = np.asarray(Image.fromarray(pixels).convert("L"))
    if (texture := measure_texture(luma)) < _LEAST_TEXTURE:
        found[Fault.FLAT] = f"neighbouring pixels differ by {texture:.2f} levels"
    if was_jpeg(luma):
        found.setdefault(Fault.JPEG, "stored otherwise now, but its 8×8 blocks still show")
    known = _Known(Photograph(path, height, width, channels=channels), fingerprint(pixels))
    return known, [Finding(path, fault, detail) for fault, detail in found.items()]


def _judge(decoded: Decoded, quantization: float | None, channels: int) -> dict[Fault, str]:
    """Say what is to be known of a file's samples.

    Args:
        decoded: as they are stored.
        quantization: mean step of a JPEG file's luma, None of others.
        channels: that training will read.
    """
    found = {}
    if decoded.kind == "gray" and channels > 2:
        found[Fault.GREYSCALE] = "one channel"
    if decoded.kind == "palette":
        found[Fault.PALETTE] = ""
    if decoded.kind == "CMYK":
        found[Fault.CMYK] = ""
    if decoded.bits > 8 and channels == 3:
        found[Fault.DEEP] = f"{decoded.bits} bits"
    if has_alpha(decoded.picture) and channels not in (2, 4):
        found[Fault.ALPHA] = ""
    if decoded.orientation != 1:
        found[Fault.TURNED] = f"orientation {decoded.orientation}"
    if quantization is not None:
        percent = 100 * quantization / _STANDARD_QUANTIZATION  # libjpeg's rule, inverted
        quality = 100 - percent / 2 if percent <= 100 else 5000 / percent
        found[Fault.JPEG] = f"quality about {quality:.0f}"
    return found


def _find_copies(images: Sequence[_Known], held_out: Sequence[_Known]) -> Iterator[Finding]:
    """Find training images that copy an earlier one, and those that a benchmark has as well."""
    prints, held_out_prints = ([known.fingerprint for known in group] for group in (images, held_out))
    for known, copy in zip(images, find_copies(prints), strict=True):
        if copy:
            fault = Fault.SAME_PIXELS if copy.exact else Fault.NEAR_DUPLICATE
            yield Finding(known.photograph.path, fault, f"of {images[copy.of].photograph.path}")
    for known, copy in zip(images, find_copies(prints, held_out_prints), strict=True):
        if copy:
            how = "same pixels as" if copy.exact else "looks like"
            yield Finding(known.photograph.path, Fault.LEAKAGE, f"{how} {held_out[copy.of].photograph.path}")


def _match_partners(
    high_res: Sequence[Path], low_res: Sequence[Path], sources: Sequence[Path], low_sources: Sequence[Path]
) -> tuple[list[tuple[Path, Path]], list[Finding]]:
    """Return the pairs, and a finding for every file that is in none.

    Args:
        high_res: image files.
        low_res: files that may be their partners.
        sources: where ``high_res`` was found.
        low_sources: the same of ``low_res``.
    """
    matches = match_files(high_res, low_res, sources, low_sources)
    pairs, lonely = [], []
    for place, (high, found) in enumerate(zip(high_res, matches.of, strict=True)):
        if len(found) == 1:
            pairs.append((high, low_res[found[0]]))
        elif place in matches.alike:
            lonely.append(Finding(high, Fault.NO_PARTNER, "others have its name, and no folders tell them apart"))
        else:
            several = ", ".join(low_res[place].name for place in found)
            lonely.append(Finding(high, Fault.NO_PARTNER, f"several low_res: {several}" if several else "no low_res"))
    lonely += [Finding(low_res[place], Fault.NO_PARTNER, "no high_res") for place in matches.lonely]
    return pairs, lonely


def _check_pair(high: Photograph, low: Path, scale: int) -> Finding | None:
    """Say what is wrong between a photograph and its low-resolution partner, None if nothing; never raises.

    Args:
        high: the photograph.
        low: file of its partner.
        scale: integer factor between the two.
    """
    try:
        low_res, high_res = (as_colors(read_image(path, high.channels)) for path in (low, high.path))
    except OSError as error:
        return Finding(low, Fault.DAMAGED, str(error.__cause__ or error))
    height, width = low_res.shape[:2]
    if not is_shrunk(high, Photograph(low, height, width), scale):
        return Finding(high.path, Fault.WRONG_RATIO, f"{high.width}×{high.height}, {low} {width}×{height}, ×{scale}")
    fit = find_kernel(high_res, low_res, scale)
    if fit.residual > _MOST_RESIDUAL:
        return Finding(high.path, Fault.OTHER_PICTURE, f"{low}: {fit}")
    if fit.down or fit.right:
        return Finding(high.path, Fault.SHIFTED, f"{low}: {fit}")
    if fit.differing or fit.kernel != EXPECTED:
        return Finding(high.path, Fault.OTHER_KERNEL, f"{low}: {fit}")
    return None
