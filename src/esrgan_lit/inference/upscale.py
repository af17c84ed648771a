"""Upscaling images with a trained generator, in the memory there is, without seams.

A generator is a trunk, which holds most of the arithmetic and sees far, and a tail, which holds most of the memory and
sees two pixels. So the trunk's features are kept for the whole image, the tail runs in strips of rows with their exact
margin, and where the trunk's own working memory is too much, each of its blocks runs in strips as well. All of that
gives the pixels of the whole image. Only where even the features do not fit are there tiles, which overlap.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import psutil
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor

from esrgan_lit.inference.back_projection import BACK_PROJECTIONS, BackProjection, back_project
from esrgan_lit.inference.engines import Engine, EngineName, block_reach, body_of, image_skip_of, make_engine
from esrgan_lit.inference.fastest import fastest, round_up
from esrgan_lit.inference.memory import free_memory, giving_back, is_out_of_memory
from esrgan_lit.inference.strips import Progress, even_rows, head_in_strips, in_strips
from esrgan_lit.networks.generator import Generator

Precision = Literal["auto", "fp32", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "fp16", "bf16")
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# Low-resolution pixels that tiles see beyond their own on each side. Measured on RealSR's weights and two photographs
# (192², tiles of 96): an overlap of 10 changes 16.6 % of the pixels by up to 24 levels, 16 8.6 % by up to 16, 32 0.65 %
# by 1, and 64 0.01 % by 1 (benchmarks/upscale.py --seams).
OVERLAP = 64
SMALLEST_TILE = 32
_MIB = 2**20
_SPARE = 24 * _MIB  # allocators keep more or less of what is freed, from run to run
_FINISH_TARGET = 128 * _MIB  # strips of the tail are no faster with more

# Smaller images go through all blocks as one graph, which is up to 1.4 times as fast; larger ones show their progress.
_ONE_PART_PIXELS = 512**2
Region = tuple[int, int, int, int]  # top, bottom, left and right in low-resolution pixels


class Plan(NamedTuple):
    """How an image or a tile is computed, and the most bytes that it will take beside its input and output.

    It is tight where that is more than half of what there is.
    """

    trunk_rows: int
    finish_rows: int
    bytes: int
    tight: bool = False


def upscale(image: np.ndarray, generator: Generator) -> np.ndarray:
    """Enlarge one image, in PyTorch, where the generator's parameters are.

    Args:
        image: uint8 or uint16: grey (height, width), or (height, width, channels) with 1 channel (grey), 2 (grey and
            alpha), 3 (RGB) or 4 (RGB and alpha).
        generator: for example of ``load_generator``; it is left as it is. For many images, other engines and options
            make an :class:`Upscaler` once.

    Returns:
        (scale · height, scale · width, …), of the image's dtype and channels, clamped and rounded.

    Raises:
        TypeError: when the image is neither uint8 nor uint16.
        ValueError: when it has another shape.
    """
    check_image(image)
    return Upscaler(generator, "torch", next(generator.parameters()).device)(image)


class Upscaler:
    """A generator made ready to enlarge images.

    Args:
        generator: it is copied.
        engine: ``torch``, ``openvino``, ``onnxruntime``, ``ncnn``, ``winograd``, or ``auto``: on a CPU the fastest of
            those that are there, by one trial that is remembered, and PyTorch elsewhere.
        device: ``None`` takes CUDA, else MPS, else the CPU.
        precision: ``auto`` is fp16 on CUDA and fp32 elsewhere. A tile whose result is not finite is computed again in
            fp32.
        max_memory: bytes that the process (on a GPU: its tensors) may take. ``None``: nine tenths of what is free.
        overlap: low-resolution pixels that tiles see beyond their own on each side, where tiles are needed.
        tile: largest side of a tile in low-resolution pixels; ``None`` makes tiles only where memory asks for them.
        self_ensemble: mean over the eight flips and rotations: eight times the work, slightly closer.
        back_project: make the result agree with the input when it is shrunk again, see :func:`back_project`.
        compiled: compile the parts with Inductor; ``torch`` only.
        trial_side: side in pixels of the image that ``auto`` tries the engines on.
    """

    def __init__(
        self,
        generator: Generator,
        engine: EngineName | Literal["auto"] = "auto",
        device: str | torch.device | None = None,
        precision: Precision = "auto",
        max_memory: int | None = None,
        overlap: int = OVERLAP,
        tile: int | None = None,
        self_ensemble: bool = False,
        back_project: BackProjection | None = None,
        compiled: bool = False,
        trial_side: int = 64,
    ) -> None:
        place = torch.device(device) if device is not None else default_device(engine)
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r} is not known; use one of {', '.join(PRECISIONS)}")
        if back_project is not None and back_project not in BACK_PROJECTIONS:
            raise ValueError(f"back projection {back_project!r} is not known; use {' or '.join(BACK_PROJECTIONS)}")
        if overlap < 0:
            raise ValueError(f"overlap {overlap} is negative; use {OVERLAP}, or 0 for visible seams")
        if tile is not None and tile < 2 * SMALLEST_TILE:
            raise ValueError(f"tile {tile} is too small; use {2 * SMALLEST_TILE} or more, or none for no seams")
        if precision == "auto":
            precision = "fp16" if place.type == "cuda" else "fp32"
        if engine == "auto":
            plain = place.type == "cpu" and precision == "fp32" and not compiled
            engine = fastest(generator, trial_side, max_memory) if plain else "torch"
        self.generator = generator
        self.scale = generator.scale
        self.max_memory = max_memory
        self.tile = tile
        self.self_ensemble = self_ensemble
        self.back_project: BackProjection | None = back_project
        self.fallbacks = 0
        """Tiles that were computed again in fp32."""
        self._engine: Engine = make_engine(engine, generator, place, _DTYPES[precision], compiled)
        self._exact_engine: Engine | None = None
        # A tile that sees as far as the network does has no seam at all.
        self.overlap = round_up(min(overlap, reach_of(generator)), generator.unshuffle)

    @property
    def engine(self) -> Engine:
        """What computes."""
        return self._engine

    def __call__(self, image: np.ndarray, progress: Progress = lambda done: None) -> np.ndarray:
        """Enlarge one image.

        Args:
            image: as :func:`upscale` takes it.
            progress: told how many megapixels of the input have been dealt with since it was told last.

        Returns:
            (scale · height, scale · width, …), of the image's dtype and channels.

        Raises:
            MemoryError: when not even the smallest tile fits.
        """
        check_image(image)
        pixels = image.reshape(*image.shape[:2], -1)
        colours = pixels.shape[2] - (pixels.shape[2] in (2, 4))
        full = np.iinfo(image.dtype).max
        if colours == pixels.shape[2] or (pixels[..., -1] == full).all():
            result = self._planes(pixels[..., :colours], image.dtype, progress)
            if colours < pixels.shape[2]:
                opaque = np.full((*result.shape[:2], 1), full, image.dtype)
                result = np.concatenate((result, opaque), 2)
        else:
            result = self._with_alpha(pixels, progress)
        return result.reshape(*result.shape[:2], *image.shape[2:])

    def predicted_bytes(self, height: int, width: int, channels: int = 3, sample_bytes: int = 1) -> int:
        """Most bytes that the process is expected to take while it enlarges an image of this size."""
        low_res, output = self._held(height, width, channels, sample_bytes)
        budget = self._budget(low_res + output)
        step = self.generator.unshuffle
        plan = self._plan(round_up(height, step), round_up(width, step), budget)
        computing = plan.bytes if plan else max(0, budget)
        return self._in_use() + low_res + output + self._engine.preparation_bytes + computing

    def _with_alpha(self, pixels: np.ndarray, progress: Progress) -> np.ndarray:
        """Colours count as far as they are seen: they are enlarged times their alpha, and divided by it afterwards."""
        full = np.iinfo(pixels.dtype).max
        alpha = pixels[..., -1:].astype(np.float32) / full
        half: Progress = lambda done: progress(done / 2)  # noqa: E731
        large_alpha = self._planes(pixels[..., -1:], np.dtype(np.float32), half)
        premultiplied = pixels[..., :-1].astype(np.float32) / full * alpha
        result = self._planes(premultiplied, np.dtype(np.float32), half)
        result /= np.maximum(large_alpha, 1 / full)
        return _quantised(np.concatenate((result, large_alpha), 2), pixels.dtype)

    def _planes(self, pixels: np.ndarray, dtype: np.dtype, progress: Progress) -> np.ndarray:
        """Colours or grey (height, width, channels), levels or [0, 1] → enlarged, as levels or [0, 1] of ``dtype``."""
        wanted = self.generator.architecture["channels"]
        if pixels.shape[2] not in (1, wanted):
            raise ValueError(f"this network takes {wanted} channel, and the image has {pixels.shape[2]}; make it grey")
        grey = pixels.shape[2] < wanted
        low_res = _to_planes(pixels)
        if grey:
            low_res = low_res.expand(1, wanted, -1, -1)
        direct = not (self.self_ensemble or self.back_project)
        kept = 1 if grey else wanted
        if direct:
            height, width = pixels.shape[:2]
            output = np.empty((self.scale * height, self.scale * width, kept), dtype)
            self._generate(low_res, output, grey, progress)
            return output
        image = self._ensemble(low_res, grey, progress) if self.self_ensemble else self._single(low_res, grey, progress)
        if self.back_project:
            planes = torch.from_numpy(image).permute(2, 0, 1)[None]
            planes = back_project(planes, low_res[:, :kept], self.scale, self.back_project)
            image = np.ascontiguousarray(planes[0].permute(1, 2, 0).numpy())
        return _quantised(image, dtype)

    def _single(self, low_res: Tensor, grey: bool, progress: Progress) -> np.ndarray:
        height, width = low_res.shape[-2:]
        output = np.empty((self.scale * height, self.scale * width, 1 if grey else low_res.shape[1]), np.float32)
        self._generate(low_res, output, grey, progress)
        return output

    def _ensemble(self, low_res: Tensor, grey: bool, progress: Progress) -> np.ndarray:
        """Mean over the eight flips and rotations (Timofte et al. 2016, "enhanced prediction")."""
        total: np.ndarray | None = None
        for turns in range(4):
            for flipped in (False, True):
                turned = low_res.rot90(turns, (2, 3))
                single = self._single(turned.flip(3) if flipped else turned, grey, lambda done: progress(done / 8))
                upright = np.rot90(single[:, ::-1] if flipped else single, -turns)
                total = upright.copy() if total is None else np.add(total, upright, out=total)
        assert total is not None
        total /= 8
        return total

    @torch.inference_mode()
    def _generate(self, low_res: Tensor, output: np.ndarray, grey: bool, progress: Progress) -> None:
        """Fill ``output`` (scale · height, scale · width, channels): float32 in about [0, 1], or rounded levels."""
        height, width = low_res.shape[-2:]
        step = self.generator.unshuffle
        if step > 1:
            low_res = F.pad(low_res, (0, -width % step, 0, -height % step), "reflect")
        queue: list[Region] = [(0, low_res.shape[-2], 0, low_res.shape[-1])]
        budget = self._budget(output.nbytes)
        while queue:
            region = top, bottom, left, right = queue.pop(0)
            origin = max(0, top - self.overlap), max(0, left - self.overlap)
            tile = low_res[..., origin[0] : bottom + self.overlap, origin[1] : right + self.overlap]
            plan = self._plan(tile.shape[-2], tile.shape[-1], budget)
            if plan is None or (self.tile and max(bottom - top, right - left) > self.tile):
                queue[:0] = self._halves(region, budget)
                continue
            account = _Account(progress, (bottom - top) * (right - left) / 1e6)
            for engine in (lambda: self._engine, self._in_fp32):
                try:
                    for first, image in self._compute(engine(), tile, plan, account):
                        self._write(output, image, origin[0] * self.scale + first, origin[1] * self.scale, region, grey)
                    break
                except NotFiniteError:
                    self.fallbacks += 1
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    # Half the memory means strips of half the rows, and half the tile where they are thin already.
                    budget = min(budget, plan.bytes) // 2
                    if torch.cuda.is_available():
                        torch.cuda.empty_cache()
                    queue.insert(0, region)
                    account.undo()
                    break
                account.undo()

    def _halves(self, region: Region, budget: int) -> list[Region]:
        top, bottom, left, right = region
        step = self.generator.unshuffle
        if max(bottom - top, right - left) < 2 * SMALLEST_TILE:
            least = self._least(bottom - top + 2 * self.overlap, right - left + 2 * self.overlap)
            taken = self._in_use() + self._engine.preparation_bytes
            lighter = "" if self._engine.name == "torch" else ", or take --engine torch, whose weights are the smallest"
            raise MemoryError(
                f"a tile of {right - left}×{bottom - top} with an overlap of {self.overlap} takes {least / _MIB:.0f} "
                f"MiB, and {max(0, budget) / _MIB:.0f} MiB are left for it beside {taken / _MIB:.0f} MiB of programs "
                f"and weights; raise --max-memory, or lower --overlap{lighter}"
            )
        if bottom - top >= right - left:
            middle = top + round_up((bottom - top) // 2, step)
            return [(top, middle, left, right), (middle, bottom, left, right)]
        middle = left + round_up((right - left) // 2, step)
        return [(top, bottom, left, middle), (top, bottom, middle, right)]

    def _compute(self, engine: Engine, tile: Tensor, plan: Plan, account: "_Account") -> Iterator[tuple[int, Tensor]]:
        """Run the generator on a tile, and yield the enlarged tile strip by strip: first row, (channels, rows, width).

        Raises:
            NotFiniteError: when half precision overflowed.
        """
        step, count = self.generator.unshuffle, len(body_of(self.generator))
        height, width = (side // step for side in tile.shape[-2:])
        group = count if plan.trunk_rows >= height and height * width <= _ONE_PART_PIXELS else 1
        in_trunk = _trunk_share(self.generator)
        frugal = giving_back if plan.tight and engine.device.type == "cpu" else lambda function: function
        features = head_in_strips(engine, tile, plan.finish_rows * step, step)
        for first in range(0, count, group):
            blocks = frugal(engine.blocks(first, first + group))
            reach = block_reach(self.generator) * group
            features = in_strips(
                blocks, features, reach, plan.trunk_rows, lambda part: account.add(part * in_trunk * group / count)
            )
        finish, margin = frugal(engine.finish()), 1 + self.generator.tail_reach
        rows = even_rows(height, plan.finish_rows)
        for start in range(0, height, rows):
            end = min(start + rows, height)
            above, below = max(0, start - margin), min(height, end + margin)
            low_res = tile[..., above * step : below * step, :].to(engine.device)
            image = finish(features[:, :, above:below], engine.head(low_res.to(engine.dtype))).float()
            if engine.dtype != torch.float32 and not image.isfinite().all():
                raise NotFiniteError
            skip = image_skip_of(self.generator, low_res)
            image = image if skip is None else image + skip
            enlarged = step * self.scale
            yield start * enlarged, image[0, :, (start - above) * enlarged : (end - above) * enlarged].cpu()
            account.add((1 - in_trunk) * (end - start) / height)

    def _write(self, output: np.ndarray, image: Tensor, top: int, left: int, own: Region, grey: bool) -> None:
        """Put the part of an image (channels, height, width) at (top, left) that is a tile's own into the output."""
        first, last = max(top, own[0] * self.scale), min(top + image.shape[1], own[1] * self.scale, len(output))
        if last <= first:
            return
        begin, end = own[2] * self.scale, min(own[3] * self.scale, output.shape[1])
        part = image[:, first - top : last - top, begin - left : end - left].permute(1, 2, 0).numpy()
        if grey:
            part = part.mean(2, keepdims=True)
        output[first:last, begin:end] = _quantised(part, output.dtype)

    def _in_fp32(self) -> Engine:
        if self._exact_engine is None:
            self._exact_engine = make_engine("torch", self.generator, self._engine.device)
        return self._exact_engine

    # ---- memory ----

    def _plan(self, height: int, width: int, budget: int) -> Plan | None:
        """Rows of the trunk and of the finish at a time, such that an image fits the budget, if it does."""
        engine, step = self._engine, self.generator.unshuffle
        height, width = height // step, width // step
        size = engine.dtype.itemsize
        in_blocks, in_finish = (floats * size * width for floats in engine.working_floats)  # bytes a row
        features = self.generator.architecture["width"] * size * height * width
        left = budget - features
        margin = 2 * (1 + self.generator.tail_reach)
        finish_rows = min(height, max(8, int(min(_FINISH_TARGET, max(left, 0)) // in_finish) - margin))
        reach = block_reach(self.generator)
        trunk_rows = height
        if in_blocks * height > left:
            trunk_rows = int(left // in_blocks) - 2 * reach
            if trunk_rows < max(16, reach):
                return None
        trunk = in_blocks * min(height, trunk_rows + (2 * reach if trunk_rows < height else 0))
        finish = in_finish * min(height, finish_rows + margin)
        if max(trunk, finish) > left:
            return None
        most = int(features + max(trunk, finish))
        return Plan(trunk_rows, finish_rows, most, most > budget // 2)

    def _least(self, height: int, width: int) -> int:
        """Bytes of the most frugal plan."""
        budget = 2**20
        while (plan := self._plan(height, width, budget)) is None:
            budget = budget * 9 // 8
        return plan.bytes

    def _held(self, height: int, width: int, channels: int, sample_bytes: int) -> tuple[int, int]:
        """Bytes of an image's input and output as they are held throughout."""
        samples = height * width * channels
        alpha = channels in (2, 4)
        output = samples * self.scale**2 * (4 if self.self_ensemble or self.back_project or alpha else sample_bytes)
        copies = 1 + self.self_ensemble + 4 * (self.back_project is not None) + alpha
        return samples * 4 * (1 + alpha) + samples * sample_bytes, output * copies

    def _in_use(self) -> int:
        device = self._engine.device
        if device.type == "cuda":
            return torch.cuda.memory_allocated(device)
        return psutil.Process().memory_info().rss

    def _budget(self, held: int) -> int:
        """Bytes left for computing, when ``held`` are yet to be allocated for input and output, and the weights."""
        device = self._engine.device
        held += self._engine.preparation_bytes + _SPARE
        if self.max_memory is not None:
            return self.max_memory - self._in_use() - (held if device.type != "cuda" else 0)
        if device.type == "cuda":
            return int(0.9 * torch.cuda.mem_get_info(device)[0])
        return int(0.9 * (free_memory() - held))


class NotFiniteError(ArithmeticError):
    """A tile came out with NaN or infinity."""


class _Account:
    """What has been told about a tile of so many megapixels, in parts of the whole."""

    def __init__(self, progress: Progress, megapixels: float) -> None:
        self._progress, self._megapixels = progress, megapixels
        self._told = 0.0

    def add(self, part: float) -> None:
        self._told += part
        self._progress(part * self._megapixels)

    def undo(self) -> None:
        """The tile starts again."""
        self._progress(-self._told * self._megapixels)
        self._told = 0.0


def check_image(image: np.ndarray) -> None:
    """Raise TypeError or ValueError for an array that is no image as :func:`upscale` takes it."""
    if image.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"image has dtype {image.dtype}; give uint8 levels 0 … 255, or uint16 levels 0 … 65535")
    if image.ndim not in (2, 3) or (image.ndim == 3 and not 1 <= image.shape[2] <= 4) or 0 in image.shape:
        raise ValueError(
            f"image has shape {image.shape}; give grey (height, width), or 1 to 4 channels as (height, width, channels)"
        )


def default_device(engine: str = "torch") -> torch.device:
    """CUDA, else MPS, else the CPU; engines other than ``torch`` compute on the CPU."""
    if engine in ("auto", "torch"):
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
    return torch.device("cpu")


def resized_to(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize levels (height, width, …) to any size with antialiased bicubic interpolation (a = −1/2), rounded."""
    if image.shape[:2] == (height, width):
        return image
    pixels = image.reshape(*image.shape[:2], -1)
    result = np.empty((height, width, pixels.shape[2]), image.dtype)
    for channel in range(pixels.shape[2]):  # one at a time, which bounds the memory
        plane = torch.from_numpy(pixels[..., channel].astype(np.float32))[None, None]
        plane = F.interpolate(plane, size=(height, width), mode="bicubic", antialias=True)[0, 0]
        result[..., channel] = plane.clamp_(0, np.iinfo(image.dtype).max).round_().numpy()
    return result.reshape(height, width, *image.shape[2:])


def reach_of(generator: Generator) -> int:
    """How many low-resolution pixels around it an output depends on: through every convolution in a row."""
    features = 1 + block_reach(generator) * len(body_of(generator)) + 1 + generator.tail_reach
    return features * generator.unshuffle


def _to_planes(pixels: np.ndarray) -> Tensor:
    planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32))[None]
    return planes if pixels.dtype == np.float32 else planes / np.iinfo(pixels.dtype).max


def _quantised(image: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """[0, 1] → levels of an integer dtype, clamped and rounded; as it is for floating point."""
    if dtype.kind == "f":
        return image
    full = np.iinfo(dtype).max
    return np.round(np.clip(image, 0, 1) * np.float32(full)).astype(dtype)


def _trunk_share(generator: Generator) -> float:
    """The trunk's part of the arithmetic, roughly."""
    trunk = sum(parameter.numel() for parameter in body_of(generator).parameters())
    width, enlarged = generator.architecture["width"], (generator.scale * generator.unshuffle) ** 2
    return trunk / (trunk + 2.25 * 9 * width**2 * enlarged)
