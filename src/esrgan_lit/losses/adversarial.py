"""Adversarial losses: relativistic average (Wang et al. 2018, Eqs. 1 and 2) and standard."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor

Mean = Callable[[Tensor], Tensor]


class RelativisticAverageLoss:
    """Relativistic average GAN loss (Eqs. 1 and 2; Jolicoeur-Martineau 2018).

    Args:
        halved: multiply both losses by ½, as the released code did (the released weights' λ = 5e-3 includes it); the
            paper's formula has no such factor.
        detach_means: cut the gradient through the opponent's mean in the discriminator's loss, as BasicSR and mmagic
            do; the paper's gradient flows through both.

    The methods take logits of any shape, and ``mean``, which gives E[·] over the mini-batch: with several ranks the
    caller passes a mean over all of them, or else the loss would depend on the number of GPUs.
    """

    def __init__(self, halved: bool = True, detach_means: bool = False) -> None:
        self.factor = 0.5 if halved else 1.0
        self.detach_means = detach_means

    def discriminator(self, real: Tensor, fake: Tensor, mean: Mean = torch.mean) -> Tensor:
        """L_D^Ra (Eq. 1): real should look more real than the average fake, fake less real than the average real."""
        mean_of = (lambda logits: mean(logits).detach()) if self.detach_means else mean
        return self.factor * relativistic_loss(real, fake, mean_of)

    def generator(self, real: Tensor, fake: Tensor, mean: Mean = torch.mean) -> Tensor:
        """L_G^Ra (Eq. 2): the same with the roles exchanged."""
        return self.factor * relativistic_loss(fake, real, mean)

    def believed(self, real: Tensor, fake: Tensor, mean: Mean = torch.mean) -> tuple[Tensor, Tensor]:
        """Whether the discriminator finds each real and each fake image more real than the average of the others."""
        return real > mean(fake), fake > mean(real)


class StandardLoss:
    """The standard GAN loss as SRGAN has it: binary cross-entropy, non-saturating for the generator."""

    def discriminator(self, real: Tensor, fake: Tensor, mean: Mean = torch.mean) -> Tensor:
        """−log D(real) − log(1 − D(fake)); ``mean`` is not needed."""
        return _cross_entropy(real, 1) + _cross_entropy(fake, 0)

    def generator(self, real: Tensor, fake: Tensor, mean: Mean = torch.mean) -> Tensor:
        """−log D(fake); ``real`` and ``mean`` are not needed."""
        return _cross_entropy(fake, 1)

    def believed(self, real: Tensor, fake: Tensor, mean: Mean = torch.mean) -> tuple[Tensor, Tensor]:
        """Whether the discriminator takes each real and each fake image for real; ``mean`` is not needed."""
        return real > 0, fake > 0


def relativistic_loss(more_real: Tensor, less_real: Tensor, mean: Mean = torch.mean) -> Tensor:
    """Cross-entropy of "each ``more_real`` is more real than the mean ``less_real``, and the reverse".

    D calls it with (real, fake): Eq. 1. G calls it with (fake, real): Eq. 2.

    Args:
        more_real: logits that should come out above the other's mean.
        less_real: logits that should come out below the other's mean.
        mean: E[·] over the (global) mini-batch.
    """
    return _cross_entropy(more_real - mean(less_real), 1) + _cross_entropy(less_real - mean(more_real), 0)


def _cross_entropy(logits: Tensor, target: int) -> Tensor:
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
