"""Initialization, activations, enlargement, and batch normalization over all ranks."""

from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor, distributed, nn
from torch.autograd.function import FunctionCtx

from esrgan_lit.private_api import SyncBatchNorm
from esrgan_lit.resize import bicubic_kernel

Norm = Literal["global", "per_rank", "none"]


def scaled_init_(network: nn.Module, gain: float = 0.1) -> None:
    """Initialize in place: Kaiming-normal (fan-in) convolutions and linear layers times ``gain``, biases 0.

    "Smaller initialization" of deep residual networks, Wang et al. 2018 §3.1; a gain of 0.1 on every convolution of the
    generator is what the authors' released code used.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta:  # which has no values
            nn.init.kaiming_normal_(module.weight)
            with torch.no_grad():
                module.weight *= gain
            if module.bias is not None:
                nn.init.zeros_(module.bias)


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
    """Return the sum of a tensor over all ranks, with gradients through each."""
    return cast(Tensor, _SumOverRanks.apply(term))


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization over the mini-batches of all ranks; PyTorch's SyncBatchNorm, which runs on a CPU as well."""

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
        centered = wide - mean.view(1, -1, 1, 1)
        variance = sum_over_ranks(centered.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * count / (count - 1), momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centered * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(input.dtype)


def leaky_relu(x: Tensor, slope: float = 0.2) -> Tensor:
    """Leaky ReLU, in place."""
    return F.leaky_relu(x, slope, inplace=True)


def enlarge_bicubic(image: Tensor, scale: int) -> Tensor:
    """Enlarge images (batch, channels, height, width) by a whole factor with Keys' cubic kernel (a = −1/2).

    Exports get it as convolutions: other programs lack this kernel, or have another one (OpenVINO's is 0.07 off).
    """
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return _sums_of_taps(image, scale) / _sums_of_taps(image * 0 + 1, scale)  # renormalized at the borders
    # antialias selects MATLAB's kernel (a = -0.5) rather than OpenCV's (a = -0.75); there is nothing to filter here.
    return F.interpolate(image, scale_factor=scale, mode="bicubic", antialias=True)


def _sums_of_taps(image: Tensor, scale: int) -> Tensor:
    """Bicubic enlargement with zeros around the image: a 5×5 convolution for each place in a pixel."""
    channels = image.shape[1]
    centers = (np.arange(scale) + 0.5) / scale - 0.5
    taps = bicubic_kernel(np.arange(-2, 3) - centers[:, None])  # (scale, 5)
    kernels = np.einsum("ih,jw->ijhw", taps, taps).reshape(scale**2, 1, 5, 5)
    kernels = torch.tensor(np.tile(kernels, (channels, 1, 1, 1)).tolist(), dtype=image.dtype, device=image.device)
    return F.pixel_shuffle(F.conv2d(image, kernels, padding=2, groups=channels), scale)


def enlarge_bilinear(image: Tensor, scale: int) -> Tensor:
    """Enlarge images (batch, channels, height, width) by a whole factor with bilinear interpolation."""
    return F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)
