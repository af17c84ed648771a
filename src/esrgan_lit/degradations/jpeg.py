"""JPEG compression and decompression on the device that an image is on: what libjpeg does, without the file."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (PyTorch's own idiom)

# ITU-T T.81, tables K.1 and K.2, row by row.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
_TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))  # ITU-T T.871


def compress_jpeg(image: Tensor, quality: float) -> Tensor:
    """Return an image as it comes back from a JPEG file with its colors at half the resolution (4:2:0).

    The steps, their order and where they round are libjpeg's, with its exact transform. It has no useful gradient.

    Args:
        image: RGB (3, height, width) in [0, 1], of any size; each channel of another number is compressed as gray.
        quality: 1 … 100, also between whole numbers, as training pipelines draw it.

    Returns:
        Levels of 8 bits, as float32 in [0, 1].
    """
    height, width = image.shape[-2:]
    # A reduced precision of products (TF32) would move levels.
    exact = torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64
    levels = (image * 255).round().clamp(0, 255).to(exact)
    tables = _tables(float(quality), image.device)
    if len(levels) != 3:
        return (_through_blocks(levels, tables[:1])[..., :height, :width] / 255).float()
    centers = levels.new_tensor([0.0, 128.0, 128.0])[:, None, None]
    planes = (torch.einsum("oc,chw->ohw", levels.new_tensor(_TO_YCBCR), levels) + centers + 0.49999).floor()
    luma = _through_blocks(planes[:1], tables[:1])[..., :height, :width]
    chroma = _through_blocks(_halve(planes[1:]), tables[1:].expand(2, 8, 8))
    chroma = _double(chroma[..., : (height + 1) // 2, : (width + 1) // 2])[..., :height, :width]
    shifted = torch.cat((luma, chroma - 128))
    rgb = torch.einsum("oc,chw->ohw", levels.new_tensor(_TO_RGB), shifted)
    return (_round(rgb).clamp(0, 255) / 255).float()


def compress_as_diffjpeg(image: Tensor, quality: float) -> Tensor:
    """Return an image as it comes back from DiffJPEG, which public training code compresses with, defects included.

    Its luma table is transposed against its transform, tables are neither rounded nor kept within 1 … 255, and sides
    grow to multiples of 16 with black. Nothing but coefficients is rounded; chroma is averaged, and repeated.

    Args:
        image: as :func:`compress_jpeg` takes it.
        quality: 1 … 100, without 100.

    Returns:
        float32 in [0, 1].
    """
    height, width = image.shape[-2:]
    factor = 50 / quality if quality < 50 else 2 - quality / 50
    tables = image.new_tensor((_LUMA, _CHROMA)).transpose(1, 2) * factor
    planes = F.pad(image, (0, -width % 16, 0, -height % 16)) * 255
    if len(image) != 3:
        return (_through_tables(planes, tables[0])[..., :height, :width].clamp(0, 255) / 255).float()
    centers = planes.new_tensor([0.0, 128.0, 128.0])[:, None, None]
    planes = torch.einsum("oc,chw->ohw", planes.new_tensor(_TO_YCBCR), planes) + centers
    chroma = _through_tables(F.avg_pool2d(planes[1:], 2), tables[1])
    chroma = chroma.repeat_interleave(2, -2).repeat_interleave(2, -1) - 128
    whole = torch.cat((_through_tables(planes[:1], tables[0]), chroma))
    rgb = torch.einsum("oc,chw->ohw", planes.new_tensor(_TO_RGB), whole)
    return (rgb[..., :height, :width].clamp(0, 255) / 255).float()


def _through_tables(planes: Tensor, table: Tensor) -> Tensor:
    """Transform blocks of 8 × 8, round to multiples of a table, and transform back."""
    count, height, width = planes.shape
    dct = _transform(planes.device, planes.dtype) / 8**0.5
    blocks = (planes - 128).reshape(count, height // 8, 8, width // 8, 8).transpose(2, 3)
    kept = (dct @ blocks @ dct.T / table).round() * table
    return (dct.T @ kept @ dct + 128).transpose(2, 3).reshape(count, height, width)


@lru_cache(maxsize=8)
def _transform(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return √8 times the orthonormal 8-point DCT-II (T.81, A.3.3): a row for each frequency."""
    frequency, position = torch.arange(8.0, dtype=torch.float64)[:, None], torch.arange(8.0, dtype=torch.float64)
    rows = torch.cos((2 * position + 1) * frequency * torch.pi / 16) * 2**0.5
    rows[0] /= 2**0.5
    return rows.to(device, dtype)


def _tables(quality: float, device: torch.device) -> Tensor:
    """Return both quantization tables (2, 8, 8) as libjpeg scales them: whole numbers from 1 to 255."""
    percent = 5000 // quality if quality < 50 else (200 - 2 * quality) // 1
    base = torch.tensor((_LUMA, _CHROMA), dtype=torch.float32)
    return ((base * percent + 50) / 100).floor().clamp(1, 255).to(device, non_blocking=True)


def _through_blocks(planes: Tensor, tables: Tensor) -> Tensor:
    """Transform, quantize and transform back blocks of 8 × 8 levels; sides grow to multiples of 8.

    libjpeg's transform has whole numbers: √8 · 4 times the true ones after its first pass, 8 times after its second.
    """
    planes = _extend(planes, 8, 8)
    count, height, width = planes.shape
    dct = _transform(planes.device, planes.dtype)  # √8 · orthonormal
    blocks = (planes - 128).reshape(count, height // 8, 8, width // 8, 8).transpose(2, 3)
    eightfold = _round(dct @ _round(blocks @ dct.T * 4) / 4)
    table = tables[:, None, None]
    kept = eightfold.sign() * ((eightfold.abs() + 4 * table) / (8 * table)).floor() * table
    levels = (_round(_round(dct.T @ kept * 4) @ dct / 32) + 128).clamp(0, 255)
    return levels.transpose(2, 3).reshape(count, height, width)


def _round(numbers: Tensor) -> Tensor:
    """Round halves up, as a shift of whole numbers does."""
    return (numbers + 0.5).floor()


def _extend(planes: Tensor, rows: int, columns: int) -> Tensor:
    """Repeat the last row and column until the sides are multiples of ``rows`` and ``columns``."""
    height, width = planes.shape[-2:]
    return F.pad(planes[None], (0, -width % columns, 0, -height % rows), mode="replicate")[0]


def _halve(planes: Tensor) -> Tensor:
    """Return means of 2 × 2 levels, rounded down and up in turn along each row (libjpeg's h2v2_downsample)."""
    planes = _extend(planes, 2, 16)  # columns before, rows after (T.81 leaves it open)
    sums = planes[..., ::2, ::2] + planes[..., 1::2, ::2] + planes[..., ::2, 1::2] + planes[..., 1::2, 1::2]
    bias = 1 + torch.arange(sums.shape[-1], device=planes.device) % 2
    return ((sums + bias) / 4).floor()


def _double(planes: Tensor) -> Tensor:
    """Enlarge twice: ¾ of the nearer and ¼ of the further level in each direction (libjpeg's "fancy" upsampling)."""
    rows = torch.stack(_quarters(planes, -2), -2).flatten(-3, -2)  # four times the levels, exact
    left, right = _quarters(rows, -1)
    columns = torch.stack(((left + 8) / 16, (right + 7) / 16), -1)
    return columns.flatten(-2).floor()


def _quarters(planes: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return, for the two halves of each level, 3 · its own + its neighbor on that side; at the edge its own again."""
    size = planes.shape[axis]
    first, last = planes.narrow(axis, 0, 1), planes.narrow(axis, size - 1, 1)
    before = torch.cat((first, planes.narrow(axis, 0, size - 1)), axis)
    after = torch.cat((planes.narrow(axis, 1, size - 1), last), axis)
    return 3 * planes + before, 3 * planes + after
