"""A generator made ready to enlarge images, in the memory there is, without seams.

Blocks hold most of the arithmetic and see far; the tail holds most of the memory and sees few pixels. So features are
kept for the whole image, the tail runs in strips of rows with their exact margin, and where the blocks' own memory is
too much, each of them runs in strips as well. All of that gives the pixels of the whole image. Only where even the
features do not fit are there tiles, which overlap.
"""

import copy
import math
import sys
from collections.abc import Iterator

import numpy as np
import psutil
import torch
from torch import Tensor

from esrgan_lit.images.levels import to_batch, to_levels
from esrgan_lit.inference.back_projection import back_project
from esrgan_lit.inference.choices import (
    ALPHA_MODES,
    BACK_PROJECTIONS,
    OVERLAP,
    PRECISIONS,
    AlphaMode,
    BackProjection,
    EngineName,
    Precision,
    check_engine,
)
from esrgan_lit.inference.engines import Engine, TorchEngine, default_device, make_engine
from esrgan_lit.inference.memory import Plan, check_room, free_memory, give_back, is_out_of_memory, plan
from esrgan_lit.inference.pixels import alpha_goes_apart, check_image, narrowed, padded, resized, widened
from esrgan_lit.inference.strips import Account, NotFiniteError, Progress, compute
from esrgan_lit.inference.transparency import clamp_to_neighbors, filled
from esrgan_lit.networks.generator import Generator

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

_SMALLEST_TILE = 32
_MIB = 2**20
_SPARE = 32 * _MIB  # allocators keep more or less of what is freed, from run to run
_FLOAT = np.dtype(np.float32)
_Region = tuple[int, int, int, int]  # top, bottom, left and right in low-resolution pixels


class Upscaler:
    """A generator made ready to enlarge images.

    Args:
        generator: it is copied.
        engine: ``torch``, ``winograd`` (float32 on a CPU, 2.6 times as fast) or ``auto``: winograd where it can be
            compiled and computes this network, else PyTorch.
        device: ``None`` takes CUDA, else MPS, else the CPU.
        precision: ``auto`` is fp16 on CUDA and fp32 elsewhere. A tile whose result is not finite is computed again in
            fp32.
        max_memory: bytes that the process (on a GPU: its tensors) may take. ``None``: nine tenths of what is free.
        overlap: low-resolution pixels that tiles see beyond their own on each side, where tiles are needed.
        tile: largest side of a tile in low-resolution pixels; ``None`` makes tiles only where memory asks for them.
        self_ensemble: mean over the eight flips and rotations: eight times the work, slightly closer.
        back_project: make the result agree with the input when it is shrunk again, see :func:`back_project`.
        compiled: compile the parts with Inductor; ``torch`` only.
        alpha_mode: what a second or fourth channel is. ``transparency``: colors that it hides are filled from those
            around them first, and resizing weighs colors by it. ``separate``: one more channel, such as a texture's
            gloss or height; no color is changed by it. ``ignore``: nothing, it is left out.

    Raises:
        ValueError: for an option that is not known or does not go with another.
    """

    def __init__(
        self,
        generator: Generator,
        engine: EngineName = "auto",
        device: str | torch.device | None = None,
        precision: Precision = "auto",
        max_memory: int | None = None,
        overlap: int = OVERLAP,
        tile: int | None = None,
        self_ensemble: bool = False,
        back_project: BackProjection | None = None,
        compiled: bool = False,
        alpha_mode: AlphaMode = "transparency",
    ) -> None:
        check_engine(engine)
        place = torch.device(device) if device is not None else default_device(engine)
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r} is not known; use one of {', '.join(PRECISIONS)}")
        if back_project is not None and back_project not in BACK_PROJECTIONS:
            raise ValueError(f"back projection {back_project!r} is not known; use {' or '.join(BACK_PROJECTIONS)}")
        if alpha_mode not in ALPHA_MODES:
            raise ValueError(f"alpha mode {alpha_mode!r} is not known; use one of {', '.join(ALPHA_MODES)}")
        if overlap < 0:
            raise ValueError(f"overlap {overlap} is negative; use {OVERLAP}, or 0 for visible seams")
        if tile is not None and tile < 2 * _SMALLEST_TILE:
            raise ValueError(f"tile {tile} is too small; use {2 * _SMALLEST_TILE} or more, or none for no seams")
        if precision == "auto":
            precision = "fp16" if place.type == "cuda" else "fp32"
        self.generator = copy.deepcopy(generator).float().eval().requires_grad_(False)
        self.scale = generator.scale
        self.max_memory = max_memory
        self.tile = tile
        self.self_ensemble = self_ensemble
        self.back_project: BackProjection | None = back_project
        self.alpha_mode: AlphaMode = alpha_mode
        self.fallbacks = 0
        """Tiles that were computed again in fp32."""
        self.engine: Engine = make_engine(engine, self.generator, place, _DTYPES[precision], compiled, max_memory)
        self._exact_engine: Engine | None = None
        # A tile that sees as far as the network does has no seam at all.
        self.overlap = _round_up(min(overlap, generator.receptive_field), generator.unshuffle)

    def __call__(
        self,
        image: np.ndarray,
        progress: Progress = lambda done: None,
        size: tuple[int, int] | None = None,
        bands: bool = False,
    ) -> np.ndarray:
        """Enlarge one image.

        Args:
            image: as :func:`upscale` takes it.
            progress: told how many megapixels of the input have been dealt with since it was told last.
            size: (height, width) of the result; ``None`` is the input's times the scale. To any other it is resized
                before its values are rounded.
            bands: none of its channels is transparency, whatever their number.

        Returns:
            (height, width, …), of the image's dtype and channels.

        Raises:
            ValueError: when the network takes other channels, or the result is not finite.
            MemoryError: when not even the smallest tile fits.
        """
        check_image(image)
        pixels = image.reshape(*image.shape[:2], -1)
        has_alpha = pixels.shape[2] in (2, 4) and not bands
        if self.alpha_mode == "ignore" and has_alpha:
            pixels = image = pixels[..., :-1]
            image = image[..., 0] if image.shape[2] == 1 else image
            has_alpha = False
        natural = size is None or size == (self.scale * image.shape[0], self.scale * image.shape[1])
        if size is not None and not natural:  # before the work
            on_cpu = self.engine.device.type != "cuda"
            needed = size[0] * size[1] * pixels.shape[2] * (_FLOAT.itemsize + image.itemsize)
            check_room(f"a final size of {size[1]}×{size[0]}", needed, self._budget(0) if on_cpu else free_memory())
        result = self._enlarge_channels(pixels, image.dtype if natural else _FLOAT, progress, bands)
        if size is not None and not natural:
            seen_through = has_alpha and self.alpha_mode == "transparency"
            result = to_levels(resized(result.clip(0, 1, out=result), *size, seen_through), image.dtype)
        if result.dtype == _FLOAT:
            result.clip(0, 1, out=result)
        asked_for = image.ndim == 3 and image.shape[2] == 1
        return result[..., 0] if result.shape[2] == 1 and not asked_for else result

    def predicted_bytes(
        self, height: int, width: int, channels: int = 3, sample_bytes: int = 1, to_size: bool = False
    ) -> int:
        """Return the most bytes that the process is expected to take while it enlarges an image of this size."""
        samples, transparent = height * width * channels, channels in (2, 4)
        several = self.self_ensemble or self.back_project or to_size  # float32, and copies of it
        copies = 1 + self.self_ensemble + 4 * (self.back_project is not None) + transparent + to_size
        low_res = samples * (4 * (1 + 3 * transparent) + sample_bytes)
        output = samples * self.scale**2 * (4 if several else sample_bytes) * copies
        budget = self._budget(low_res + output)
        step = self.generator.unshuffle
        chosen = self._plan(_round_up(height, step), _round_up(width, step), budget)
        return self._in_use() + low_res + output + (chosen.bytes if chosen else max(0, budget))

    def _enlarge_channels(self, pixels: np.ndarray, dtype: np.dtype, progress: Progress, bands: bool) -> np.ndarray:
        """Enlarge levels (height, width, channels), alpha apart from colors, to levels or [0, 1] of ``dtype``."""
        if not alpha_goes_apart(pixels.shape[2], self.generator.channels, bands):
            return self._enlarge(pixels, dtype, progress)
        colors, alpha = pixels[..., :-1], pixels[..., -1:]
        if dtype == _FLOAT and pixels.dtype != _FLOAT:
            alpha = alpha.astype(np.float32) / np.iinfo(pixels.dtype).max
        if alpha.min() == alpha.max():  # nothing to compute, and nothing to fill from
            large = self._enlarge(colors, dtype, progress)
            return np.concatenate((large, np.full((*large.shape[:2], 1), alpha[0, 0, 0], dtype)), 2)
        half: Progress = lambda done: progress(done / 2)  # noqa: E731
        large_alpha = self._enlarge(alpha, dtype, half, 1)
        clamp_to_neighbors(large_alpha, alpha, self.scale)
        if self.alpha_mode == "transparency":
            planes = filled(to_batch(colors), to_batch(alpha))
            colors = planes[0].permute(1, 2, 0).numpy()
        return np.concatenate((self._enlarge(colors, dtype, half), large_alpha), 2)

    def _enlarge(self, pixels: np.ndarray, dtype: np.dtype, progress: Progress, kept: int | None = None) -> np.ndarray:
        """Levels or [0, 1] (height, width, channels) → (…, ``kept`` or what there is), of ``dtype``."""
        own = to_batch(pixels)
        low_res = widened(own, self.generator.channels)
        channels: int = pixels.shape[2]
        if kept is None:
            kept = self.generator.out_channels if channels == self.generator.channels else channels
        if not (self.self_ensemble or self.back_project):
            return self._generate(low_res, kept, dtype, progress)
        image = (self._ensemble if self.self_ensemble else self._single)(low_res, kept, progress)
        if self.back_project:
            planes = torch.from_numpy(image).permute(2, 0, 1)[None]
            planes = back_project(planes, own, self.scale, self.back_project)
            image = np.ascontiguousarray(planes[0].permute(1, 2, 0).numpy())
        return to_levels(image, dtype)

    def _single(self, low_res: Tensor, kept: int, progress: Progress) -> np.ndarray:
        return self._generate(low_res, kept, _FLOAT, progress)

    def _ensemble(self, low_res: Tensor, kept: int, progress: Progress) -> np.ndarray:
        """Mean over the eight flips and rotations (Timofte et al. 2016, "enhanced prediction")."""
        total: np.ndarray | None = None
        for turns in range(4):
            for flipped in (False, True):
                turned = low_res.rot90(turns, (2, 3))
                single = self._single(turned.flip(3) if flipped else turned, kept, lambda done: progress(done / 8))
                upright = np.rot90(single[:, ::-1] if flipped else single, -turns)
                total = upright.copy() if total is None else np.add(total, upright, out=total)
        assert total is not None
        total /= 8
        return total

    @torch.inference_mode()
    def _generate(self, low_res: Tensor, kept: int, dtype: np.dtype, progress: Progress) -> np.ndarray:
        """Enlarge (1, channels, height, width) to (scale · height, scale · width, kept): about [0, 1], or levels."""
        height, width = low_res.shape[-2:]
        output = np.empty((self.scale * height, self.scale * width, kept), dtype)
        low_res = padded(low_res, self.generator.unshuffle)
        queue: list[_Region] = [(0, low_res.shape[-2], 0, low_res.shape[-1])]
        most, reached = sys.maxsize, 0
        while queue:
            region = top, bottom, left, right = queue.pop(0)
            origin = max(0, top - self.overlap), max(0, left - self.overlap)
            tile = low_res[..., origin[0] : bottom + self.overlap, origin[1] : right + self.overlap]
            budget = min(most, self._budget(output[reached:].nbytes))  # of the others there is memory already
            chosen = self._plan(tile.shape[-2], tile.shape[-1], budget)
            if chosen is None or chosen.tight:
                give_back()  # what the tile or image before left may be what is missing
                budget = min(most, self._budget(output[reached:].nbytes))
                chosen = self._plan(tile.shape[-2], tile.shape[-1], budget)
            if chosen is None or (self.tile and max(bottom - top, right - left) > self.tile):
                queue[:0] = self._halves(region, budget)
                continue
            account = Account(progress, (bottom - top) * (right - left) / 1e6)
            for engine in self._engines():
                try:
                    for first, image in compute(engine, self.generator, tile, chosen, account.add):
                        self._write(output, image, origin[0] * self.scale + first, origin[1] * self.scale, region)
                    reached = max(reached, bottom * self.scale)
                    break
                except NotFiniteError:
                    account.undo()
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    # Half the memory means strips of half the rows, and half the tile where they are thin already.
                    most = min(budget, chosen.bytes) // 2
                    if torch.cuda.is_available():
                        torch.cuda.empty_cache()
                    queue.insert(0, region)
                    account.undo()
                    break
            else:
                raise ValueError(
                    "the network's result is not finite (NaN or infinity), in fp32 too: its weights are damaged or not "
                    "of this architecture"
                )
        return output

    def _halves(self, region: _Region, budget: int) -> list[_Region]:
        top, bottom, left, right = region
        step = self.generator.unshuffle
        if max(bottom - top, right - left) < 2 * _SMALLEST_TILE:
            needed = 2**20
            while self._plan(bottom - top + 2 * self.overlap, right - left + 2 * self.overlap, needed) is None:
                needed = needed * 9 // 8
            lighter = "" if self.engine.name == "torch" else ", or take --engine torch, whose weights are the smallest"
            raise MemoryError(
                f"a tile of {right - left}×{bottom - top} with an overlap of {self.overlap} takes {needed / _MIB:.0f} "
                f"MiB, and {max(0, budget) / _MIB:.0f} MiB are left for it beside {self._in_use() / _MIB:.0f} MiB of "
                f"programs and weights; raise --max-memory, or lower --overlap{lighter}"
            )
        if bottom - top >= right - left:
            middle = top + _round_up((bottom - top) // 2, step)
            return [(top, middle, left, right), (middle, bottom, left, right)]
        middle = left + _round_up((right - left) // 2, step)
        return [(top, bottom, left, middle), (top, bottom, middle, right)]

    def _write(self, output: np.ndarray, image: Tensor, top: int, left: int, own: _Region) -> None:
        """Put the part of an image (channels, height, width) at (top, left) that is a tile's own into the output."""
        first, last = max(top, own[0] * self.scale), min(top + image.shape[1], own[1] * self.scale, len(output))
        if last <= first:
            return
        begin, end = own[2] * self.scale, min(own[3] * self.scale, output.shape[1])
        part = image[:, first - top : last - top, begin - left : end - left].permute(1, 2, 0).numpy()
        output[first:last, begin:end] = to_levels(narrowed(part, output.shape[2]), output.dtype)

    def _engines(self) -> Iterator[Engine]:
        """Yield the engine, and PyTorch's in fp32 for a tile whose result was not finite."""
        yield self.engine
        if (self.engine.name, self.engine.dtype) != ("torch", torch.float32):
            self.fallbacks += 1
            self._exact_engine = self._exact_engine or TorchEngine(self.generator, self.engine.device)
            yield self._exact_engine

    def _plan(self, height: int, width: int, budget: int) -> Plan | None:
        step, engine = self.generator.unshuffle, self.engine
        return plan(self.generator, engine.needs, engine.dtype.itemsize, height // step, width // step, budget)

    def _in_use(self) -> int:
        device = self.engine.device
        if device.type == "cuda":
            return torch.cuda.memory_allocated(device)
        return psutil.Process().memory_info().rss

    def _budget(self, held: int) -> int:
        """Return the bytes left for computing, when ``held`` are yet to be allocated for input and output."""
        device = self.engine.device
        held += _SPARE
        if self.max_memory is not None:
            return self.max_memory - self._in_use() - (held if device.type != "cuda" else 0)
        if device.type == "cuda":
            return int(0.9 * torch.cuda.mem_get_info(device)[0])
        return int(0.9 * (free_memory() - held))


def _round_up(length: int, step: int) -> int:
    return math.ceil(length / step) * step
