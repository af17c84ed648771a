"""How much memory there is, and giving back what was freed."""

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch import Tensor


def free_memory() -> int:
    """Bytes that can still be taken: what the system has, or less where a control group (of either version) allows."""
    free = psutil.virtual_memory().available
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            allowed, taken = ((Path("/sys/fs/cgroup") / name).read_text().strip() for name in (limit, used))
            free = free if allowed == "max" else min(free, int(allowed) - int(taken))
        except (OSError, ValueError):
            continue
    return max(0, free)


def giving_back(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same, after what was freed is the system's again: glibc's allocator keeps much of it for each thread."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is None:
        return function

    def run(*inputs: Tensor) -> Tensor:
        trim(0)
        return function(*inputs)

    return run


def is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    message = str(error).lower()
    return any(said in message for said in ("out of memory", "allocate memory", "bad_alloc", "failed to allocate"))
