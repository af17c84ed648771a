"""The generators and the discriminator of ESRGAN (Wang et al. 2018, arXiv:1809.00219).

Images are RGB in [0, 1], (batch, channels, height, width); outputs are not clamped. The parameters' names are the ones
that other programs already read: BasicSR's for :class:`RRDBNet`, MSRResNet's for :class:`SRResNet`.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor, distributed, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.modules._functions import SyncBatchNorm

from esrgan_lit.hub import HubFolder

Norm = Literal["global", "per_rank", "none"]

# The factors of the successive upsampling steps for each supported scale.
UPSAMPLING_STEPS: dict[int, tuple[int, ...]] = {1: (), 2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}


def scaled_init_(network: nn.Module, gain: float = 0.1) -> None:
    """Initialise in place: Kaiming-normal (fan-in) convolutions and linear layers times ``gain``, biases 0.

    "Smaller initialization" of deep residual networks, Wang et al. 2018 §3.1; a gain of 0.1 on every convolution of the
    generator is what the authors' released code used.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            with torch.no_grad():
                module.weight *= gain
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Generator(HubFolder, nn.Module):
    """What every generator has: an integer ``scale``, its ``architecture``, and its two parts.

    ``architecture`` holds the class's name and its constructor's arguments, as plain values; checkpoints keep it.
    ``forward`` is ``tail(trunk(low_res), low_res)``. The trunk holds most of the arithmetic and sees far; the tail
    holds most of the memory and sees only ``tail_reach`` pixels around each, so that a large image can go through it in
    strips.
    """

    scale: int
    unshuffle: int = 1
    architecture: dict[str, Any]
    tail_reach = 2  # its convolutions see a pixel further each, at their own resolution, and the image skips two

    def forward(self, low_res: Tensor) -> Tensor:
        """(batch, channels, height, width) → (batch, channels, scale · height, scale · width)."""
        height, width = low_res.shape[-2:]
        if self.unshuffle > 1:
            low_res = F.pad(low_res, (0, -width % self.unshuffle, 0, -height % self.unshuffle), "reflect")
        image = self.tail(self.trunk(low_res), low_res)
        return image[..., : self.scale * height, : self.scale * width] if self.unshuffle > 1 else image

    def trunk(self, low_res: Tensor) -> Tensor:
        """(batch, channels, height, width) → features (batch, width, height / unshuffle, width / unshuffle)."""
        raise NotImplementedError

    def tail(self, features: Tensor, low_res: Tensor) -> Tensor:
        """The trunk's features and its input, or the same rows and columns of both → image."""
        raise NotImplementedError


class RRDBNet(Generator):
    """Generator of residual-in-residual dense blocks (Wang et al. 2018, Figs. 3 and 4).

    ``RRDBNet()`` is the paper's: 23 blocks, 16,697,987 parameters.

    Args:
        scale: magnification: 1, 2, 3, 4 or 8.
        blocks: number of RRDBs in the trunk.
        width: feature channels between blocks.
        growth: channels that each convolution of a dense block adds.
        channels: image channels, in and out.
        bicubic_skip: add the bicubically enlarged input to the output, so that the network learns the difference. Not
            the paper's; it makes short trainings useful. Other programs' loaders do not know it.
        unshuffle: fold squares of so many pixels into channels first, and enlarge by ``scale · unshuffle`` after the
            trunk: how BasicSR makes its ×2 (2) and ×1 (4) networks. Other sizes are padded by reflection.

    Shape: (batch, channels, height, width) → (batch, channels, scale · height, scale · width).
    """

    def __init__(
        self,
        scale: int = 4,
        blocks: int = 23,
        width: int = 64,
        growth: int = 32,
        channels: int = 3,
        bicubic_skip: bool = False,
        unshuffle: int = 1,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.unshuffle = unshuffle
        self.steps = _upsampling_steps(scale * unshuffle)
        self.bicubic_skip = bicubic_skip
        self.architecture = {
            "name": "RRDBNet",
            "scale": scale,
            "blocks": blocks,
            "width": width,
            "growth": growth,
            "channels": channels,
            "bicubic_skip": bicubic_skip,
            "unshuffle": unshuffle,
        }
        conv = partial(nn.Conv2d, kernel_size=3, padding=1)
        self.conv_first = conv(channels * unshuffle**2, width)
        self.body = nn.Sequential(*(ResidualInResidualDenseBlock(width, growth) for _ in range(blocks)))
        self.conv_body = conv(width, width)
        for number in range(1, len(self.steps) + 1):
            self.add_module(f"conv_up{number}", conv(width, width))
        self.conv_hr = conv(width, width)
        self.conv_last = conv(width, channels)
        scaled_init_(self)

    def trunk(self, low_res: Tensor) -> Tensor:
        features = self.conv_first(F.pixel_unshuffle(low_res, self.unshuffle))
        first, *others = cast(Iterator[ResidualInResidualDenseBlock], self.body)
        skip, deep = first.with_skip(features)
        for block in others:
            deep = block(deep)
        return skip + self.conv_body(deep)

    def tail(self, features: Tensor, low_res: Tensor) -> Tensor:
        for number, factor in enumerate(self.steps, start=1):
            enlarged = F.interpolate(features, scale_factor=factor, mode="nearest")
            features = _leaky_relu(self.get_submodule(f"conv_up{number}")(enlarged))
        image = self.conv_last(_leaky_relu(self.conv_hr(features)))
        return image + _bicubic(low_res, self.scale) if self.bicubic_skip else image


class ResidualInResidualDenseBlock(nn.Module):
    """Three dense blocks and a scaled skip (Wang et al. 2018, Fig. 4 right; β = 0.2)."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock(width, growth)
        self.rdb2 = ResidualDenseBlock(width, growth)
        self.rdb3 = ResidualDenseBlock(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        return self.with_skip(x)[1]

    def with_skip(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The input, for a further skip around this block, and the output."""
        skip, deep = self.rdb1.with_skip(x)
        return skip, skip + 0.2 * self.rdb3(self.rdb2(deep))


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
        """The input, for a skip around this block, and the output."""
        # Compilers and exporters plan their memory themselves.
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            return x, self.concatenating(x)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        convs = self.conv1, self.conv2, self.conv3, self.conv4, self.conv5  # parameters() would walk the module
        weights = (value.to(x.dtype) for conv in convs for value in (conv.weight, cast(Tensor, conv.bias)))
        return cast(tuple[Tensor, Tensor], _DenseBlock.apply(x, *weights))

    def concatenating(self, x: Tensor) -> Tensor:
        """The same as it is usually written: backward keeps each concatenation, 640 channels for 192."""
        x1 = _leaky_relu(self.conv1(x))
        x2 = _leaky_relu(self.conv2(torch.cat((x, x1), 1)))
        x3 = _leaky_relu(self.conv3(torch.cat((x, x1, x2), 1)))
        x4 = _leaky_relu(self.conv4(torch.cat((x, x1, x2, x3), 1)))
        x5 = self.conv5(torch.cat((x, x1, x2, x3, x4), 1))
        return x + 0.2 * x5


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
            features.append(_leaky_relu(F.conv2d(seen, inner_weight, inner_bias, padding=1)))
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
    """Gradients of a 3×3 convolution with padding 1 at its input, weight and bias."""
    ones, zeros = [1, 1], [0, 0]
    return torch.ops.aten.convolution_backward.default(
        gradient, features, weight, [weight.shape[0]], ones, ones, ones, False, zeros, 1, [True, True, True]
    )


_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.default


def _sum(terms: Sequence[Tensor]) -> Tensor:
    """From the first to the last; in new memory unless there is but one."""
    first, *others = terms
    for number, term in enumerate(others):
        first = first.add_(term) if number else first + term
    return first


class SRResNet(Generator):
    """Generator of plain residual blocks, the paper's small setting (§4.1 "16 residual blocks" and the PIRM entry).

    ``SRResNet()`` is what the released code calls MSRResNet: no batch normalisation, the bilinearly enlarged input
    added to the output, 1,517,571 parameters. ``SRResNet(batch_norm=True)`` has batch normalisation and no such skip:
    the first column of the ablation (Wang et al. 2018, Fig. 8).

    Args:
        scale: magnification: 1, 2, 3, 4 or 8.
        blocks: number of residual blocks.
        width: feature channels.
        channels: image channels, in and out.
        batch_norm: normalise after each convolution of the blocks, and leave the image skip out.

    Shape: (batch, channels, height, width) → (batch, channels, scale · height, scale · width).
    """

    def __init__(
        self, scale: int = 4, blocks: int = 16, width: int = 64, channels: int = 3, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.scale = scale
        self.steps = _upsampling_steps(scale)
        self.batch_norm = batch_norm
        self.architecture = {
            "name": "SRResNet",
            "scale": scale,
            "blocks": blocks,
            "width": width,
            "channels": channels,
            "batch_norm": batch_norm,
        }
        conv = partial(nn.Conv2d, kernel_size=3, padding=1)
        self.conv_first = conv(channels, width)
        self.body = nn.Sequential(*(ResidualBlock(width, batch_norm) for _ in range(blocks)))
        for number, factor in enumerate(self.steps, start=1):
            self.add_module(f"upconv{number}", conv(width, width * factor**2))
        self.conv_hr = conv(width, width)
        self.conv_last = conv(width, channels)
        scaled_init_(self)

    def trunk(self, low_res: Tensor) -> Tensor:
        return self.body(F.leaky_relu(self.conv_first(low_res), 0.1))

    def tail(self, features: Tensor, low_res: Tensor) -> Tensor:
        for number, factor in enumerate(self.steps, start=1):
            enlarged = F.pixel_shuffle(self.get_submodule(f"upconv{number}")(features), factor)
            features = F.leaky_relu(enlarged, 0.1)
        image = self.conv_last(F.leaky_relu(self.conv_hr(features), 0.1))
        return image if self.batch_norm else image + _bilinear(low_res, self.scale)


class ResidualBlock(nn.Module):
    """Two convolutions and a skip, with batch normalisation after each if asked."""

    def __init__(self, width: int, batch_norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width) if batch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))


class Discriminator(nn.Module):
    """VGG-style discriminator (SRGAN's, as ESRGAN uses it): one logit per image, no sigmoid.

    ``Discriminator()`` judges the paper's 128×128 crops and has 14,499,401 parameters.

    Args:
        crop: side of the square images it judges, a multiple of 32.
        width: channels of the first convolution; the deepest have eight times as many.
        channels: image channels.
        batch_norm: ``global`` takes batch statistics over the mini-batches of all ranks, so that training does not
            depend on the number of GPUs; ``per_rank`` over each one's own; ``none`` leaves batch normalisation out.

    Shape: (batch, channels, crop, crop) → (batch, 1).
    """

    def __init__(self, crop: int = 128, width: int = 64, channels: int = 3, batch_norm: Norm = "global") -> None:
        super().__init__()
        if crop < 32 or crop % 32:
            below = max(32, crop // 32 * 32)
            raise ValueError(
                f"discriminator crop {crop} is not a multiple of 32 (it halves the image five times); "
                f"use {below} or {below + 32}"
            )
        if batch_norm not in get_args(Norm):
            raise ValueError(f"batch_norm {batch_norm!r} is not known; use one of {', '.join(get_args(Norm))}")
        self.crop = crop
        keeping, halving = (partial(make, batch_norm=batch_norm) for make in (_keeping, _halving))
        first = [nn.Conv2d(channels, width, 3, padding=1), _leaky_relu_layer(), *halving(width, width)]
        widths = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        stages = [
            layer for before, after in pairwise(widths) for layer in (*keeping(before, after), *halving(after, after))
        ]
        self.features = nn.Sequential(*first, *stages)
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(widths[-1] * (crop // 32) ** 2, 100), _leaky_relu_layer(), nn.Linear(100, 1)
        )
        scaled_init_(self, gain=1.0)

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[-2:] != (self.crop, self.crop):
            height, width = image.shape[-2:]
            raise ValueError(
                f"discriminator for {self.crop}×{self.crop} crops was given {height}×{width}; "
                f"build it with crop={height}, or crop the images to {self.crop}"
            )
        features = self.features(image)
        # The logits' differences are what the relativistic loss lives on: no half precision for them.
        with torch.autocast(image.device.type, enabled=False):
            return self.classifier(features.to(self.classifier[1].weight.dtype))


class _SumOverRanks(torch.autograd.Function):
    """All-reduce; every rank's loss depends on each term, so the gradient is the sum over the ranks too."""

    @staticmethod
    def forward(ctx: FunctionCtx, term: Tensor) -> Tensor:
        total = term.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _SumOverRanks.forward(ctx, gradient)


def sum_over_ranks(term: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, with gradients through each."""
    return cast(Tensor, _SumOverRanks.apply(term))


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the mini-batches of all ranks; PyTorch's SyncBatchNorm, which runs on a CPU as well."""

    def forward(self, input: Tensor) -> Tensor:
        """(batch, channels, height, width) → the same."""
        ranks = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
        if not self.training or ranks == 1:
            return super().forward(input)
        running_mean, running_var = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
        momentum = cast(float, self.momentum)
        cast(Tensor, self.num_batches_tracked).add_(1)
        if input.is_cuda:
            group = distributed.group.WORLD
            statistics = running_mean, running_var, self.eps, momentum, group, ranks
            return cast(Tensor, SyncBatchNorm.apply(input.contiguous(), self.weight, self.bias, *statistics))
        count = input.numel() // input.shape[1] * ranks
        wide = input.to(self.weight.dtype)  # float32 under autocast
        mean = sum_over_ranks(wide.sum((0, 2, 3))) / count
        centred = wide - mean.view(1, -1, 1, 1)
        variance = sum_over_ranks(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * count / (count - 1), momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(input.dtype)


def _keeping(before: int, after: int, batch_norm: Norm) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(before, after, 3, 1, 1, bias=batch_norm == "none")
    return conv, _norm(after, batch_norm), _leaky_relu_layer()


def _halving(before: int, after: int, batch_norm: Norm) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(before, after, 4, 2, 1, bias=batch_norm == "none")
    return conv, _norm(after, batch_norm), _leaky_relu_layer()


def _norm(channels: int, batch_norm: Norm) -> nn.Module:
    kinds = {"global": GlobalBatchNorm2d, "per_rank": nn.BatchNorm2d}
    return kinds[batch_norm](channels) if batch_norm in kinds else nn.Identity()


def _leaky_relu_layer() -> nn.Module:
    return nn.LeakyReLU(0.2, inplace=True)


def _leaky_relu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)


def _bicubic(image: Tensor, scale: int) -> Tensor:
    # antialias selects MATLAB's kernel (a = -0.5) rather than OpenCV's (a = -0.75); there is nothing to filter here.
    return F.interpolate(image, scale_factor=scale, mode="bicubic", antialias=True)


def _bilinear(image: Tensor, scale: int) -> Tensor:
    return F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)


def _upsampling_steps(scale: int) -> tuple[int, ...]:
    if scale not in UPSAMPLING_STEPS:
        raise ValueError(f"scale {scale} is not supported; use one of {', '.join(map(str, UPSAMPLING_STEPS))}")
    return UPSAMPLING_STEPS[scale]
