"""The dense block (Wang et al. 2018, Fig. 4), which keeps little for backward."""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from esrgan_lit.networks.layers import leaky_relu


class ResidualDenseBlock(nn.Module):
    """Five convolutions, each of which sees the outputs of all before it, and a scaled skip (β = 0.2)."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        conv = partial(nn.Conv2d, kernel_size=3, padding=1)
        self.conv1 = conv(width, growth)
        self.conv2 = conv(width + growth, growth)
        self.conv3 = conv(width + 2 * growth, growth)
        self.conv4 = conv(width + 3 * growth, growth)
        self.conv5 = conv(width + 4 * growth, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.with_skip(x)[1]

    def with_skip(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input, for a skip around this block, and the output."""
        # Compilers, exporters and winograd.py (which gives no tensor) plan their memory themselves.
        planned = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        if planned or not isinstance(x, Tensor):
            return x, self.concatenating(x)
        if not x.is_meta and torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        convs = self.conv1, self.conv2, self.conv3, self.conv4, self.conv5  # parameters() would walk the module
        weights = (value.to(x.dtype) for conv in convs for value in (conv.weight, cast(Tensor, conv.bias)))
        return cast(tuple[Tensor, Tensor], _DenseBlock.apply(x, *weights))

    def concatenating(self, x: Tensor) -> Tensor:
        """Compute the same as it is usually written: backward keeps each concatenation, 640 channels for 192."""
        x1 = leaky_relu(self.conv1(x))
        x2 = leaky_relu(self.conv2(torch.cat((x, x1), 1)))
        x3 = leaky_relu(self.conv3(torch.cat((x, x1, x2), 1)))
        x4 = leaky_relu(self.conv4(torch.cat((x, x1, x2, x3), 1)))
        x5 = self.conv5(torch.cat((x, x1, x2, x3, x4), 1))
        return x + 0.2 * x5


class PlusDenseBlock(ResidualDenseBlock):
    """ESRGAN+'s dense block (Rakotonirina and Rasoanaivo 2020, arXiv:2001.08073): skips inside, noise in training.

    A 1×1 convolution of the input is added to the second convolution's features, those to the fourth's. While it is
    trained, Gaussian noise of a tenth of each output value is added to it.
    """

    def __init__(self, width: int, growth: int) -> None:
        super().__init__(width, growth)
        self.conv1x1 = nn.Conv2d(width, growth, kernel_size=1, bias=False)

    def with_skip(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input, for a skip around this block, and the output."""
        x1 = leaky_relu(self.conv1(x))
        x2 = leaky_relu(self.conv2(torch.cat((x, x1), 1))) + self.conv1x1(x)
        x3 = leaky_relu(self.conv3(torch.cat((x, x1, x2), 1)))
        x4 = leaky_relu(self.conv4(torch.cat((x, x1, x2, x3), 1))) + x2
        x5 = x + 0.2 * self.conv5(torch.cat((x, x1, x2, x3, x4), 1))
        return x, x5 + 0.1 * x5.detach() * torch.randn_like(x5) if self.training else x5


class _DenseBlock(torch.autograd.Function):
    """A dense block that keeps its last concatenation for backward; the others are parts of it.

    Sums run in the order in which autograd would run them, so that the gradients have the bits of
    :meth:`ResidualDenseBlock.concatenating`; that is why the input is given out again for skips around the block, whose
    gradients come first in that order.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # most blocks have no further skip around them
        *inner, (weight, bias) = zip(parameters[::2], parameters[1::2], strict=True)
        features, seen = [x], x
        for inner_weight, inner_bias in inner:
            features.append(leaky_relu(F.conv2d(seen, inner_weight, inner_bias, padding=1)))
            del seen  # free before its successor is made
            seen = torch.cat(features, 1)
        del features
        ctx.save_for_backward(seen, *parameters[::2])
        return x, F.conv2d(seen, weight, bias, padding=1).mul_(0.2).add_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_skips: Tensor | None, gradient: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        seen, *inner, weight = ctx.saved_tensors
        if gradient is None:  # only the skip was used
            return of_skips, *[None] * (2 * len(inner) + 2)
        # Each convolution's share of the gradient at what was seen. Those of a group of channels are summed up just
        # before the sum is used, while it is in the cache.
        share, *gradients = _conv_backward(0.2 * gradient, seen, weight)
        shares = [share]
        for inner_weight in reversed(inner):
            growth, filled = inner_weight.shape[:2]
            at_features = _sum([share.narrow(1, filled, growth) for share in shares])
            at_features = _leaky_relu_backward(at_features, seen.narrow(1, filled, growth), 0.2, True)
            share, *own = _conv_backward(at_features, seen.narrow(1, 0, filled), inner_weight)
            shares.append(share)
            gradients = [*own, *gradients]
        skips = [gradient] if of_skips is None else [of_skips, gradient]
        return _sum([*skips, *(share.narrow(1, 0, gradient.shape[1]) for share in shares)]), *gradients


def _conv_backward(gradient: Tensor, features: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a 3×3 convolution with padding 1 at its input, weight and bias."""
    ones, zeros = [1, 1], [0, 0]
    return torch.ops.aten.convolution_backward.default(
        gradient, features, weight, [weight.shape[0]], ones, ones, ones, False, zeros, 1, [True, True, True]
    )


_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.default


def _sum(terms: Sequence[Tensor]) -> Tensor:
    """Add from the first to the last; in new memory unless there is but one."""
    first, *others = terms
    for number, term in enumerate(others):
        first = first.add_(term) if number else first + term
    return first
