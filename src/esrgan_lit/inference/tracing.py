"""Taking down a network as convolutions, for winograd.cpp.

A network's parts are called with :class:`Features` instead of tensors. These have PyTorch's ``__torch_function__``, so
that every function of PyTorch that would compute something notes here what it would compute. What winograd.cpp does
beside a convolution (activation, batch normalization, skips, enlargement) becomes part of that convolution, where
nothing else reads the values in between.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_weights


class UntraceableError(ValueError):
    """A network does what winograd.cpp does not compute."""


@dataclass(eq=False, kw_only=True)
class Features:
    """What stands for a tensor (1, channels, height, width); this class itself stands for an input."""

    trace: "Trace"
    channels: int
    scale: int = 1
    """Height and width, over those of the inputs."""
    replaced: bool = False
    """What it stood for became a part of a convolution: nothing may read it any more."""

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: object, arguments: Sequence[Any] = (), named: Any = None
    ) -> "Features":
        operation = _OPERATIONS.get(function)
        if operation is None:
            raise UntraceableError(f"{getattr(function, '__name__', function)} is not computed by it")
        return operation(*arguments, **(named or {}))

    def dim(self) -> int:
        """Return the number of dimensions, which modules check."""
        return 4

    def __add__(self, other: Any) -> "Features":
        return _add(self, other)

    def __radd__(self, other: Any) -> "Features":
        return _add(self, other)

    def __mul__(self, factor: Any) -> "Features":
        return _multiply(self, factor)

    def __rmul__(self, factor: Any) -> "Features":
        return _multiply(self, factor)


@dataclass(eq=False, kw_only=True)
class Convolution(Features):
    """A 3×3 convolution, its activation, and up to two skips around it: ``skip + factor · (what was before)``."""

    parts: list[Features]
    """What it reads, concatenated; all but the last were transformed by the convolution before."""
    enlarge: int = 1
    """It reads each pixel so many times both ways."""
    weight: Tensor
    bias: Tensor
    slope: float | None = None
    skips: tuple[tuple[Features, float], ...] = ()


@dataclass(eq=False, kw_only=True)
class Shuffled(Features):
    """A pixel shuffle, which PyTorch computes."""

    x: Features
    factor: int


@dataclass(eq=False, kw_only=True)
class _Joined(Features):
    """A concatenation: never written down, a convolution reads its parts one by one."""

    parts: list[Features]


@dataclass(eq=False, kw_only=True)
class _Enlarged(Features):
    """Pixels repeated: never written down, a convolution reads ``x`` so."""

    x: Features
    factor: int


@dataclass(eq=False, kw_only=True)
class _Multiplied(Features):
    """A convolution times a number, which is about to be added to something."""

    x: Features
    factor: float


Computed = Convolution | Shuffled
Node = TypeVar("Node", Convolution, Shuffled)


@dataclass(eq=False)
class Trace:
    """A part of a network: its inputs, what is computed in which order, and the last of it."""

    inputs: list[Features] = field(default_factory=list)
    computed: list[Computed] = field(default_factory=list)

    @property
    def output(self) -> Computed:
        """What comes out."""
        return self.computed[-1]

    def add(self, node: Node) -> Node:
        """Note one more thing to compute."""
        self.computed.append(node)
        return node

    def change(self, node: Node, **changes: Any) -> Node:
        """Make something a part of what was noted ``node``."""
        changed = replace(node, **changes)
        self.computed[self.computed.index(node)] = changed
        node.replaced = True
        return changed


def take_down(function: Callable[..., Any], *channels: int) -> Trace:
    """Call a part of a network with inputs of so many channels, and return what it computes.

    Raises:
        UntraceableError: when it computes anything else than winograd.cpp does.
    """
    trace = Trace()
    trace.inputs = [Features(trace=trace, channels=count) for count in channels]
    try:
        output = function(*trace.inputs)
    except UntraceableError:
        raise
    except Exception as error:  # a user's network may do anything with what is no tensor
        raise UntraceableError(f"{type(error).__name__}: {error}") from error
    if not trace.computed or output is not trace.output:
        raise UntraceableError("its last operation is no convolution and no pixel shuffle")
    return trace


def _conv(
    x: Features,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Convolution:
    ones = (1, (1, 1))
    plain = stride in ones and dilation in ones and padding in (*ones, "same") and groups == 1
    if not plain or weight.shape[2:] != (3, 3) or weight.shape[1] != x.channels:
        raise UntraceableError(f"it computes 3×3 convolutions with padding 1, not one of {tuple(weight.shape)}")
    enlarge = x.factor if isinstance(x, _Enlarged) else 1
    parts = x.parts if isinstance(x, _Joined) else [x.x if isinstance(x, _Enlarged) else x]
    for part in parts:
        _check_written(part)
    trace = x.trace
    if len(parts) > 1:
        before = trace.computed[-1] if trace.computed else None
        chained = isinstance(before, Convolution) and before.parts == parts[:-1] and before.enlarge == 1
        if not chained or x.scale != 1:
            raise UntraceableError("concatenations are computed in dense blocks only, where each adds to that before")
    bias = torch.zeros(len(weight)) if bias is None else bias
    return trace.add(
        Convolution(
            trace=trace, channels=len(weight), scale=x.scale, parts=parts, enlarge=enlarge, weight=weight, bias=bias
        )
    )


def _batch_norm(
    x: Features,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Features:
    if training or not _is_open(x) or x.slope is not None or x.skips:
        raise UntraceableError("batch normalization is computed right behind a convolution only")
    fused = fuse_conv_bn_weights(x.weight, x.bias, mean, variance, eps, weight, bias)
    return x.trace.change(x, weight=fused[0], bias=fused[1])


def _leaky_relu(x: Features, negative_slope: float = 0.01, inplace: bool = False) -> Features:
    shuffled = x if isinstance(x, Shuffled) and not x.replaced and x is x.trace.output else None
    inner = shuffled.x if shuffled else x  # the activation may come before the shuffle, which only moves values
    behind = x.trace.computed[-2:-1] if shuffled else x.trace.computed[-1:]
    if not isinstance(inner, Convolution) or inner.replaced or behind != [inner] or inner.skips:
        raise UntraceableError("activations are computed right behind a convolution only")
    if inner.slope is not None:
        raise UntraceableError("a convolution has one activation")
    activated = x.trace.change(inner, slope=float(negative_slope))
    return x.trace.change(shuffled, x=activated) if shuffled else activated


def _relu(x: Features, inplace: bool = False) -> Features:
    return _leaky_relu(x, 0.0)


def _cat(tensors: Sequence[Any], dim: int = 0) -> Features:
    nodes = [part for x in tensors for part in (x.parts if isinstance(x, _Joined) else [x])]
    if dim not in (1, -3) or not all(isinstance(node, Features) for node in nodes):
        raise UntraceableError("features are concatenated along their channels only")
    channels = sum(node.channels for node in nodes)
    return _Joined(trace=nodes[0].trace, channels=channels, scale=nodes[0].scale, parts=nodes)


def _interpolate(
    x: Features,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: Any = None,
    recompute_scale_factor: Any = None,
    antialias: bool = False,
) -> Features:
    factors = set(scale_factor) if isinstance(scale_factor, tuple | list) else {scale_factor}
    factor = factors.pop()
    if mode != "nearest" or size is not None or factors or factor is None or factor != int(factor):
        raise UntraceableError("features are enlarged by repeating their pixels only")
    return _Enlarged(trace=x.trace, channels=x.channels, scale=x.scale * int(factor), x=x, factor=int(factor))


def _pixel_shuffle(x: Features, upscale_factor: int) -> Features:
    _check_written(x)
    channels, scale = x.channels // upscale_factor**2, x.scale * upscale_factor
    return x.trace.add(Shuffled(trace=x.trace, channels=channels, scale=scale, x=x, factor=upscale_factor))


def _pixel_unshuffle(x: Features, downscale_factor: int) -> Features:
    if downscale_factor != 1:
        raise UntraceableError("pixels are not folded into channels")
    return x


def _multiply(x: Any, factor: Any) -> Features:
    if isinstance(factor, Features):
        x, factor = factor, x
    if not isinstance(factor, int | float):
        raise UntraceableError("features are multiplied by numbers only")
    return _Multiplied(trace=x.trace, channels=x.channels, scale=x.scale, x=x, factor=float(factor))


def _add(x: Any, y: Any) -> Features:
    # Convolutions add what they computed to a skip before they write it down.
    for skip, added in ((x, y), (y, x)):
        node, factor = (added.x, added.factor) if isinstance(added, _Multiplied) else (added, 1.0)
        if not isinstance(skip, Features) or skip is node or not _is_open(node) or len(node.skips) == 2:
            continue
        if (skip.channels, skip.scale) == (node.channels, node.scale) and _is_written(skip):
            return node.trace.change(node, skips=(*node.skips, (skip, factor)))
    raise UntraceableError("sums are computed right behind a convolution only")


def _is_open(x: Any) -> TypeGuard[Convolution]:
    """Whether a convolution was the last thing noted, so that nothing reads it yet."""
    return isinstance(x, Convolution) and not x.replaced and x is x.trace.output


def _is_written(x: Features) -> bool:
    return not x.replaced and not isinstance(x, _Joined | _Enlarged | _Multiplied)


def _check_written(x: Features) -> None:
    if not _is_written(x):
        raise UntraceableError("it reads a value that is never written down by itself")


_OPERATIONS: dict[Any, Callable[..., Features]] = {
    torch.conv2d: _conv,
    F.batch_norm: _batch_norm,
    F.leaky_relu: _leaky_relu,
    F.relu: _relu,
    torch.relu: _relu,
    torch.cat: _cat,
    F.interpolate: _interpolate,
    torch.pixel_shuffle: _pixel_shuffle,
    torch.pixel_unshuffle: _pixel_unshuffle,
    torch.add: _add,
    torch.mul: _multiply,
}
