"""How much memory there is, and giving back what was freed."""

import ctypes
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from esrgan_lit.networks.generator import Generator

_TAIL_TARGET = 144 * 2**20  # strips of the tail are no faster with more


class Needs(NamedTuple):
    """Values that a generator's parts hold at most, per feature pixel."""

    width: int
    """Channels of the features, which are kept throughout."""
    blocks: float
    tail: float
    fixed: int = 0
    """Bytes beside that, whatever the size."""


class Plan(NamedTuple):
    """How an image or a tile is computed, and the most bytes that it will take beside its input and output.

    It is tight where that is more than half of what there is.
    """

    trunk_rows: int
    tail_rows: int
    bytes: int
    tight: bool = False


@torch.inference_mode()
def needs_of(generator: Generator, in_blocks: float, in_tail: float) -> Needs:
    """Count what PyTorch's results hold at once in each part, on a small image, times what a program takes for them.

    Args:
        generator: it is run, where its parameters are.
        in_blocks: factor of the blocks, measured with benchmarks/upscale.py --memory; a fifth is added, because
            versions allocate otherwise.
        in_tail: the same of the tail.
    """
    side = 16 * generator.unshuffle
    parameter = next(generator.parameters())
    low_res = torch.zeros(1, generator.channels, side, side, dtype=parameter.dtype, device=parameter.device)
    features = generator.head(low_res)
    size = features[0, 0].numel()
    with _Held() as held_by_blocks:
        deep = generator.blocks(features)
    with _Held() as held_by_tail:
        generator.tail(deep, features)
    return Needs(features.shape[1], in_blocks * held_by_blocks.most / size, in_tail * held_by_tail.most / size)


def plan(generator: Generator, needs: Needs, value_bytes: int, height: int, width: int, budget: int) -> Plan | None:
    """Choose the rows that go through the blocks and the tail at a time, such that features fit a budget, if they do.

    Args:
        generator: says how far its parts see.
        needs: of the engine.
        value_bytes: of one value.
        height: of the features.
        width: of the features.
        budget: bytes.
    """
    block_row, tail_row = (floats * value_bytes * width for floats in (needs.blocks, needs.tail))
    features = needs.width * value_bytes * height * width
    left = budget - features - needs.fixed
    margin, reach = 2 * generator.tail_reach, generator.block_reach
    tail_rows = min(height, max(8, int(min(_TAIL_TARGET, max(left, 0)) // tail_row) - margin))
    trunk_rows = height
    if block_row * height > left:
        block_row += needs.width * value_bytes * width  # a strip is a copy of its rows
        trunk_rows = int(left // block_row) - 2 * reach
        if trunk_rows < max(16, reach):
            return None
    trunk = block_row * min(height, trunk_rows + (2 * reach if trunk_rows < height else 0))
    tail = tail_row * min(height, tail_rows + margin)
    if max(trunk, tail) > left:
        return None
    most = int(features + needs.fixed + max(trunk, tail))
    return Plan(trunk_rows, tail_rows, most, most > budget // 2)


class _Held(TorchFunctionMode):
    """Counts the values that results of PyTorch's functions hold at once; ``most`` has the largest count."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self._now = 0
        self._known: set[int] = set()

    def __torch_function__(
        self, function: Callable[..., Any], types: object, arguments: Sequence[Any] = (), named: Any = None
    ) -> Any:
        result = function(*arguments, **(named or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and not isinstance(tensor, nn.Parameter):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self._known:
                    self._known.add(storage.data_ptr())
                    self._add(values := storage.nbytes() // tensor.itemsize)
                    weakref.finalize(storage, self._forget, storage.data_ptr(), values)
        return result

    def _add(self, values: int) -> None:
        self._now += values
        self.most = max(self.most, self._now)

    def _forget(self, pointer: int, values: int) -> None:
        self._known.discard(pointer)
        self._now -= values


def free_memory() -> int:
    """Return the bytes that can still be taken: what the system has, or less where a control group allows less."""
    free = psutil.virtual_memory().available
    for limit, used in (  # of either version
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            allowed, taken = ((Path("/sys/fs/cgroup") / name).read_text().strip() for name in (limit, used))
            free = free if allowed == "max" else min(free, int(allowed) - int(taken))
        except (OSError, ValueError):
            continue
    return max(0, free)


def check_room(what: str, needed: int, free: int) -> None:
    """Raise MemoryError where so many bytes are not free."""
    if needed > free:
        raise MemoryError(
            f"{what} takes {needed / 2**20:,.0f} MiB, and {max(0, free) / 2**20:,.0f} MiB are free; ask for less"
        )


_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def give_back() -> None:
    """Give the system what was freed: glibc keeps much of it for each thread."""
    if _trim is not None:
        _trim(0)


def giving_back(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the same, after what was freed is the system's again."""

    def run(*inputs: Tensor) -> Tensor:
        give_back()
        return function(*inputs)

    return run


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error is some allocator's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    message = str(error).lower()
    return any(said in message for said in ("out of memory", "allocate memory", "bad_alloc", "failed to allocate"))
