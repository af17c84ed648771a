"""The U-Net discriminator with spectral normalization."""

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor, nn

from esrgan_lit.networks.generator import check_at_least_one
from esrgan_lit.networks.layers import leaky_relu
from esrgan_lit.private_api import without_autocast

_LEAST = 8  # pixels: the image is halved three times


class UNetDiscriminator(nn.Module):
    """Real-ESRGAN's discriminator (Wang et al. 2021, §3.4): a U-Net that gives one logit per pixel, no sigmoid.

    ``UNetDiscriminator()`` has 4,376,897 parameters. Its state dict has the names of the public files.

    Each forward in training mode advances the power iteration by one, and so changes the weights that the next one
    computes with: one forward cannot serve both networks' updates with a plain loop's numbers. ``GanStage`` runs it
    anew for its own update, as often and in the order of the plain loop. An iteration advances it by three with the
    standard loss (fake for the generator; real, fake for the discriminator), by four with a relativistic one (real,
    fake; real, fake); each of ``options.accumulate`` parts does.

    Args:
        width: channels of the first convolution; the deepest has eight times as many.
        channels: image channels.

    Shape: (batch, channels, height, width) → (batch, 1, height, width), of any height and width from 8 up. Where they
    are no multiples of 8, halving rounds down and enlarging goes to the size of the skip connection.
    """

    advances_in_forward = True  # what GanStage asks

    def __init__(self, width: int = 64, channels: int = 3) -> None:
        super().__init__()
        check_at_least_one(width=width, channels=channels)
        self.conv0 = nn.Conv2d(channels, width, 3, padding=1)
        self.conv1 = _SpectralConv(width, 2 * width, 4, stride=2)
        self.conv2 = _SpectralConv(2 * width, 4 * width, 4, stride=2)
        self.conv3 = _SpectralConv(4 * width, 8 * width, 4, stride=2)
        self.conv4 = _SpectralConv(8 * width, 4 * width, 3)
        self.conv5 = _SpectralConv(4 * width, 2 * width, 3)
        self.conv6 = _SpectralConv(2 * width, width, 3)
        self.conv7 = _SpectralConv(width, width, 3)
        self.conv8 = _SpectralConv(width, width, 3)
        self.conv9 = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        if min(height, width) < _LEAST:
            raise ValueError(f"the U-Net discriminator was given {height}×{width}; both sides must be {_LEAST} or more")
        x0 = leaky_relu(self.conv0(image))
        x1 = leaky_relu(self.conv1(x0))
        x2 = leaky_relu(self.conv2(x1))
        x3 = leaky_relu(self.conv3(x2))
        x = leaky_relu(self.conv4(_enlarge_to(x3, x2))) + x2
        x = leaky_relu(self.conv5(_enlarge_to(x, x1))) + x1
        x = leaky_relu(self.conv6(_enlarge_to(x, x0))) + x0
        x = leaky_relu(self.conv8(leaky_relu(self.conv7(x))))
        # The logits' differences are what a relativistic loss lives on: no half precision for them.
        with without_autocast(image):
            return self.conv9(x.to(self.conv9.weight.dtype))


def _enlarge_to(features: Tensor, skip: Tensor) -> Tensor:
    return F.interpolate(features, size=skip.shape[-2:], mode="bilinear", align_corners=False)


class _SpectralConv(nn.Module):
    """Convolution without bias, its weight divided by its largest singular value σ (Miyato et al. 2018, Algorithm 1).

    σ = uᵀWv of the weight W as a matrix (channels out, the rest), with v = Wᵀu / ‖Wᵀu‖ and u = Wv / ‖Wv‖ anew in each
    forward in training mode. That is ``torch.nn.utils.spectral_norm``, which public files come from and which is to be
    deprecated; ``parametrizations.spectral_norm`` goes u before v, half an iteration behind, so that trainings differ.

    Args:
        before: channels in.
        after: channels out.
        size: of the kernel.
        stride: of the convolution, which pads by one pixel.
    """

    def __init__(self, before: int, after: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight_orig = nn.Parameter(nn.Conv2d(before, after, size, bias=False).weight.detach())
        self.weight_u: Tensor
        self.weight_v: Tensor
        self.register_buffer("weight_u", F.normalize(torch.randn(after), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.randn(before * size * size), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x):  # σ in half precision would be off by a thousandth
            weight = self._normalized_weight()
        return F.conv2d(x, weight, stride=self.stride, padding=1)

    def _normalized_weight(self) -> Tensor:
        matrix = self.weight_orig.flatten(1)
        if self.training:
            with torch.no_grad():
                self.weight_v.copy_(F.normalize(matrix.t() @ self.weight_u, dim=0, eps=1e-12))
                self.weight_u.copy_(F.normalize(matrix @ self.weight_v, dim=0, eps=1e-12))
        u, v = self.weight_u.clone(), self.weight_v.clone()  # the next forward changes them before the backward pass
        return self.weight_orig / torch.dot(u, matrix @ v)
