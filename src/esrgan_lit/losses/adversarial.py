"""Adversarial losses: relativistic average (Wang et al. 2018, Eqs. 1 and 2) and standard."""

from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor


class AdversarialLoss(Protocol):
    """The methods of the GAN stage's pair of losses, also of one from outside (``stage.adversarial._target_``).

    All methods take the discriminator's logits of any shape for real and for generated images, and their means over
    the batches of all ranks, 0-dimensional, with gradients: a mean over one rank's batch would make the loss depend on
    the number of GPUs.

    Where ``generator_sees_real`` is there and False, the generator's loss does not depend on ``real``: a discriminator
    that is run for each network's step anew then judges no real images for the generator's.
    """

    def generator(self, real: Tensor, fake: Tensor, real_mean: Tensor, fake_mean: Tensor) -> Tensor:
        """Return the generator's loss, 0-dimensional, unweighted."""
        ...

    def discriminator(self, real: Tensor, fake: Tensor, real_mean: Tensor, fake_mean: Tensor) -> Tensor:
        """Return the discriminator's loss, 0-dimensional."""
        ...

    def accuracy(self, real: Tensor, fake: Tensor, real_mean: Tensor, fake_mean: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shares of real and of generated images that the discriminator is right on, each in [0, 1]."""
        ...


class RelativisticAverageLoss:
    """Relativistic average GAN loss (Eqs. 1 and 2; Jolicoeur-Martineau 2018); an :class:`AdversarialLoss`.

    Args:
        halved: multiply both losses by ½, as the released code did (the released weights' λ = 5e-3 includes it); the
            paper's formula has no such factor.
        detach_means: cut the gradient through the opponent's mean in the discriminator's loss, as BasicSR and mmagic
            do; the paper's gradient flows through both.
    """

    def __init__(self, halved: bool = True, detach_means: bool = False) -> None:
        self.factor = 0.5 if halved else 1.0
        self.detach_means = detach_means

    def discriminator(self, real: Tensor, fake: Tensor, real_mean: Tensor, fake_mean: Tensor) -> Tensor:
        """L_D^Ra (Eq. 1): real should look more real than the average fake, fake less real than the average real."""
        if self.detach_means:
            real_mean, fake_mean = real_mean.detach(), fake_mean.detach()
        return self.factor * relativistic_loss(real, fake, real_mean, fake_mean)

    def generator(self, real: Tensor, fake: Tensor, real_mean: Tensor, fake_mean: Tensor) -> Tensor:
        """L_G^Ra (Eq. 2): the same with the roles exchanged."""
        return self.factor * relativistic_loss(fake, real, fake_mean, real_mean)

    def accuracy(self, real: Tensor, fake: Tensor, real_mean: Tensor, fake_mean: Tensor) -> tuple[Tensor, Tensor]:
        """Right is a real image above the average fake, and a fake one that is not above the average real."""
        return _share(real > fake_mean), 1 - _share(fake > real_mean)


class StandardLoss:
    """The standard GAN loss of SRGAN, non-saturating cross-entropy; an :class:`AdversarialLoss` that needs no means."""

    generator_sees_real = False

    def discriminator(self, real: Tensor, fake: Tensor, real_mean: Tensor, fake_mean: Tensor) -> Tensor:
        """−log D(real) − log(1 − D(fake))."""
        return _cross_entropy(real, 1) + _cross_entropy(fake, 0)

    def generator(self, real: Tensor, fake: Tensor, real_mean: Tensor, fake_mean: Tensor) -> Tensor:
        """−log D(fake)."""
        return _cross_entropy(fake, 1)

    def accuracy(self, real: Tensor, fake: Tensor, real_mean: Tensor, fake_mean: Tensor) -> tuple[Tensor, Tensor]:
        """Right is a probability above ½ of a real image, and one that is not above ½ of a fake."""
        return _share(real > 0), 1 - _share(fake > 0)


def relativistic_loss(more_real: Tensor, less_real: Tensor, mean_more: Tensor, mean_less: Tensor) -> Tensor:
    """Cross-entropy of "each ``more_real`` is more real than the mean ``less_real``, and the reverse".

    D calls it with (real, fake): Eq. 1. G calls it with (fake, real): Eq. 2.

    Args:
        more_real: logits that should come out above the other's mean.
        less_real: logits that should come out below the other's mean.
        mean_more: E[·] of ``more_real`` over the (global) mini-batch.
        mean_less: E[·] of ``less_real``.
    """
    return _cross_entropy(more_real - mean_less, 1) + _cross_entropy(less_real - mean_more, 0)


def _cross_entropy(logits: Tensor, target: int) -> Tensor:
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def _share(right: Tensor) -> Tensor:
    return right.float().mean()
