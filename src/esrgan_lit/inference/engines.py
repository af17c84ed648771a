"""What computes a generator's parts: PyTorch, or winograd.cpp, by one interface."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Protocol

import psutil
import torch
from torch import Tensor

from esrgan_lit.inference import winograd_library
from esrgan_lit.inference.choices import EngineName, check_engine
from esrgan_lit.inference.memory import Needs, free_memory, needs_of
from esrgan_lit.inference.tracing import UntraceableError
from esrgan_lit.inference.winograd import WORKSPACE, WinogradEngine
from esrgan_lit.networks.generator import Generator


class Engine(Protocol):
    """Computes a generator's parts on features (1, width, height, width)."""

    @property
    def name(self) -> str:
        """Which it is."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What features are kept in."""
        ...

    @property
    def device(self) -> torch.device:
        """Where features are kept."""
        ...

    @property
    def needs(self) -> Needs:
        """What its parts take."""
        ...

    def head(self, low_res: Tensor) -> Tensor:
        """Image (1, channels, height, width) → features."""
        ...

    def blocks(self, at_once: int) -> list[Callable[[Tensor], Tensor]]:
        """Return what computes so many blocks each, one after the other. They may overwrite what they are given."""
        ...

    def tail(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what computes the tail."""
        ...


class TorchEngine:
    """PyTorch, channels last, on any device and in any precision.

    Args:
        generator: in float32 and evaluation mode; it is laid out anew, or copied where it is to be elsewhere.
        device: where.
        dtype: in which precision.
        compiled: compile the parts with Inductor, which takes a minute and a C++ compiler.
    """

    name = "torch"

    def __init__(
        self, generator: Generator, device: torch.device, dtype: torch.dtype = torch.float32, compiled: bool = False
    ) -> None:
        self.device, self.dtype = device, dtype
        parameter = next(generator.parameters())
        if (parameter.device, parameter.dtype) != (device, dtype):
            generator = copy.deepcopy(generator)
        generator.to(device, dtype, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.generator = generator
        self.needs = needs_of(generator, 2.2, 2.6)
        self._compiled = compiled

    def head(self, low_res: Tensor) -> Tensor:
        """Image (1, channels, height, width) → features."""
        return self.generator.head(low_res.contiguous(memory_format=torch.channels_last))

    def blocks(self, at_once: int) -> list[Callable[[Tensor], Tensor]]:
        """Return what computes so many blocks each, one after the other."""
        chain = [self._maybe_compiled(block) for block in self.generator.blocks]

        def run(features: Tensor, first: int) -> Tensor:
            for block in chain[first : first + at_once]:
                features = block(features)
            return features

        return [partial(run, first=first) for first in range(0, len(chain), at_once)]

    def tail(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what computes the tail."""
        return self._maybe_compiled(self.generator.tail)

    def _maybe_compiled(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        # Blocks share their code: with their weights as its inputs it is compiled once for all of them.
        return torch.compile(function) if self._compiled else function


def make_engine(
    name: EngineName,
    generator: Generator,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    compiled: bool = False,
    max_memory: int | None = None,
) -> Engine:
    """Give an engine a generator's weights.

    Args:
        name: ``auto`` is winograd where that can be compiled, computes this network, and has room for its copy of
            the weights in half of the memory that is left; else torch.
        generator: in float32 and evaluation mode; it is the engine's from now on.
        device: of ``torch``; ``None`` is the CPU.
        dtype: of ``torch``; winograd computes in float32 on the CPU.
        compiled: of ``torch``.
        max_memory: bytes that the process may take; ``None`` for what is free.

    Raises:
        ValueError: when winograd is asked for and cannot do it.
    """
    check_engine(name)
    device = device or torch.device("cpu")
    able = device.type == "cpu" and dtype == torch.float32 and not compiled
    if name == "winograd" and not able:
        raise ValueError(
            f"engine winograd computes in float32 on the CPU, not {'compiled, ' * compiled}in {dtype} on {device}; "
            "use --engine torch"
        )
    left = free_memory() if max_memory is None else max_memory - psutil.Process().memory_info().rss
    needed = WORKSPACE + sum(parameter.nbytes for parameter in generator.parameters())
    if name == "winograd" and max_memory is not None and needed > left:
        raise ValueError(
            f"engine winograd takes {needed / 2**20:.0f} MiB for its weights and its work, and "
            f"{max(0, left) / 2**20:.0f} MiB are left for them; raise --max-memory, or use --engine torch"
        )
    if name == "winograd" or (name == "auto" and able and needed < left / 2 and winograd_library.available()):
        try:
            return WinogradEngine(generator)
        except UntraceableError as error:
            if name == "winograd":
                raise ValueError(
                    f"engine winograd does not compute this network: {error}; use --engine torch"
                ) from error
    return TorchEngine(generator, device, dtype, compiled)


def default_device(engine: EngineName = "torch") -> torch.device:
    """Return CUDA, else MPS, else the CPU; ``winograd`` computes on the CPU."""
    if engine != "winograd":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
    return torch.device("cpu")
