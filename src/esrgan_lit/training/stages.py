"""The two stages of training: glue between networks, losses and Lightning. Formulas and numbers live elsewhere."""

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import MultiStepLR

from esrgan_lit.degradations.pairs import Pair
from esrgan_lit.losses.adversarial import AdversarialLoss, RelativisticAverageLoss
from esrgan_lit.losses.perceptual import PerceptualLoss
from esrgan_lit.networks.discriminator import Discriminator
from esrgan_lit.networks.generator import Generator
from esrgan_lit.networks.layers import sum_over_ranks
from esrgan_lit.training.base_stage import OptimizerFactory, SchedulerFactory, Stage
from esrgan_lit.training.from_checkpoint import load_discriminator_into
from esrgan_lit.training.optimizer_step import BatchNormBuffers, OptimizerStep, StepOptions
from esrgan_lit.training.validation import Validation

# For a notebook: what conf/stage/psnr.yaml and gan.yaml have, which a test compares.
_PSNR_ADAM = partial(Adam, lr=2e-4, betas=(0.9, 0.999), fused=True)
_PSNR_SCHEDULE = partial(MultiStepLR, milestones=(200_000, 400_000, 600_000, 800_000), gamma=0.5)
_ADAM = partial(Adam, lr=1e-4, betas=(0.9, 0.999), fused=True)
_SCHEDULE = partial(MultiStepLR, milestones=(50_000, 100_000, 200_000, 300_000), gamma=0.5)
_WEIGHTS: Mapping[str, float] = MappingProxyType({"pixel": 1e-2, "perceptual": 1.0, "adversarial": 5e-3})


class PsnrStage(Stage):
    """Stage 1: the generator alone, pixel loss (§3.4 and §4.1).

    The defaults are those of ``conf/stage/psnr.yaml``.

    Args:
        generator: network to train, with an integer ``scale``.
        optimizer: makes the optimizer of its parameters.
        scheduler: makes the learning-rate schedule, stepped every iteration; None for a constant rate.
        ema_decay: of the running average of the weights; None for none.
        start_from: weights to start from; None or ``scratch`` for the network as initialized.
        options: how steps are taken.
        validation: what is measured on validation images; None for PSNR-Y and SSIM-Y.
        losses: the terms of (output, ground truth), by name; None for L1 as ``pixel``.
        loss_weights: their weights by name; a term without one weighs 1.
        sharpened: names of the terms that see the ground truth sharpened, as Real-ESRGAN's do.
    """

    def __init__(
        self,
        generator: Generator,
        optimizer: OptimizerFactory = _PSNR_ADAM,
        scheduler: SchedulerFactory | None = _PSNR_SCHEDULE,
        ema_decay: float | None = 0.999,
        start_from: str | Path | None = None,
        options: StepOptions = StepOptions(),  # noqa: B008 (frozen)
        validation: Validation | None = None,
        losses: Mapping[str, nn.Module | None] | None = None,
        loss_weights: Mapping[str, float] | None = None,
        sharpened: Sequence[str] = (),
    ) -> None:
        losses = {"pixel": nn.L1Loss()} if losses is None else losses
        watched, ema_and_start = ("color_shift", "gradient_norm"), (ema_decay, start_from)
        super().__init__(generator, losses, loss_weights, (), watched, *ema_and_start, options, validation, sharpened)
        if not self.losses:
            raise ValueError("stage.losses has no term left to train by; give one, such as stage.losses.pixel")
        self.optimizer = optimizer
        self.scheduler = scheduler

    def training_step(self, batch: Pair, batch_idx: int) -> None:
        """Run one iteration: the generator descends the distance of its output from the ground truth."""
        batch = Pair(*batch)  # of another loader a list
        step = OptimizerStep(self, self.parameters_of[self.generator], self.options)
        parts, before = [], BatchNormBuffers(self.batch_norm_buffers)
        for part in self.split(batch):
            terms = self.raw_terms(self.generator(part.low_res), part)
            step.add(self.weighted_sum(terms))
            parts.append(terms)
        norm, skipped = step.take(cast(LightningOptimizer, self.optimizers()), counted=True)
        self.end_iteration(batch, parts, {"gradient_norm": norm}, skipped, before)

    def raw_terms(self, output: Tensor, pair: Pair) -> dict[str, Tensor]:
        """Return the terms, unweighted, and how far colors have moved."""
        return self.image_terms(output, pair) | {"color_shift": _color_shift(output, pair.high_res)}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make one optimizer and one schedule, counted in iterations."""
        optimizer = self.optimizer(self.generator.parameters())
        if self.scheduler is None:
            return cast(OptimizerLRScheduler, ([optimizer], []))
        schedule = {"scheduler": self.schedule(self.scheduler, optimizer), "name": "learning_rate"}
        return cast(OptimizerLRScheduler, ([optimizer], [schedule]))


class GanStage(Stage):
    """Stage 2: perceptual, adversarial and pixel loss against a discriminator (Eq. 3), from a stage-1 generator.

    Each iteration runs G once and D once on real and once on fake images; as D's weights do not change in between, the
    same logits serve the generator's step and the discriminator's. A D whose forward changes it, by spectral norm's
    power iteration, says ``advances_in_forward = True`` and is run for each step anew (:class:`UNetDiscriminator`).

    The defaults are those of ``conf/stage/gan.yaml``.

    Args:
        generator: network to train, with an integer ``scale``.
        discriminator: image → logits of any shape; ``vgg128`` for the paper's, of crops of 128².
        perceptual: the term of this name, ``vgg19`` for the paper's, or None to leave it out.
        adversarial: the pair of GAN losses; None for the paper's.
        loss_weights: of the generator's terms by name, ``adversarial`` among them; a term without one weighs 1.
        optimizer: makes the generator's optimizer.
        discriminator_optimizer: makes the discriminator's.
        scheduler: makes the generator's learning-rate schedule, stepped every iteration; None for a constant rate.
        discriminator_scheduler: makes the discriminator's.
        ema_decay: of the running average of the generator's weights; None for none.
        start_from: a checkpoint of stage 1 or any generator's weights; ``scratch`` to go without.
        options: how steps are taken.
        validation: what is measured on validation images; None for PSNR-Y and SSIM-Y.
        losses: the other terms of (output, ground truth), by name; None for L1 as ``pixel``.
        discriminator_from: a file of the discriminator's weights: a checkpoint of this stage, or its state dict; None
            for a discriminator as initialized.
        discriminator_warmup: first iterations, in which the discriminator is trained alone and the generator stays.
        sharpened: names of the terms that see the ground truth sharpened, as Real-ESRGAN's do; the discriminator never.

    Raises:
        ValueError: when ``start_from`` is None, with the command that makes what is missing.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: nn.Module | Literal["vgg128"] = "vgg128",
        perceptual: nn.Module | Literal["vgg19"] | None = "vgg19",
        adversarial: AdversarialLoss | None = None,
        loss_weights: Mapping[str, float] | None = _WEIGHTS,
        optimizer: OptimizerFactory = _ADAM,
        discriminator_optimizer: OptimizerFactory = _ADAM,
        scheduler: SchedulerFactory | None = _SCHEDULE,
        discriminator_scheduler: SchedulerFactory | None = _SCHEDULE,
        ema_decay: float | None = 0.999,
        start_from: str | Path | None = None,
        options: StepOptions = StepOptions(),  # noqa: B008 (frozen)
        validation: Validation | None = None,
        losses: Mapping[str, nn.Module | None] | None = None,
        discriminator_from: str | Path | None = None,
        discriminator_warmup: int = 0,
        sharpened: Sequence[str] = (),
    ) -> None:
        if start_from is None:
            raise ValueError(
                "stage.start_from is not set: the GAN stage fine-tunes a generator of the PSNR stage. Train one with "
                "`esrgan-train +experiment=psnr_rrdb23` (psnr_… for another generator, realesrnet_… for real-world "
                "pairs) and give its checkpoint, stage.start_from=runs/…/checkpoints/best.ckpt; or "
                "stage.start_from=scratch to go without "
                '(in Python: start_from="scratch" takes the generator as it is)'
            )
        if not isinstance(discriminator_warmup, int) or discriminator_warmup < 0:
            raise ValueError(
                f"stage.discriminator_warmup {discriminator_warmup!r} is no whole number of 0 or more; give the first "
                "iterations in which the discriminator is trained alone, such as 1000"
            )
        if perceptual == "vgg19":
            perceptual = PerceptualLoss()
        losses = {**({"pixel": nn.L1Loss()} if losses is None else losses), "perceptual": perceptual}
        watched = ("discriminator", "real_logit", "fake_logit", "real_accuracy", "fake_accuracy", "color_shift")
        watched = (*watched, "gradient_norm", "discriminator_gradient_norm")
        further, ema_and_start = ("adversarial",), (ema_decay, start_from)
        super().__init__(
            generator, losses, loss_weights, further, watched, *ema_and_start, options, validation, sharpened
        )
        self.discriminator = Discriminator() if isinstance(discriminator, str) else discriminator
        if discriminator_from is not None:
            load_discriminator_into(self.discriminator, discriminator_from)
        self.judged_anew = getattr(self.discriminator, "advances_in_forward", False)
        self.discriminator_warmup = discriminator_warmup
        self.adversarial = RelativisticAverageLoss() if adversarial is None else adversarial
        self.factories = (optimizer, discriminator_optimizer), (scheduler, discriminator_scheduler)

    @property
    def descended(self) -> list[str]:
        """Names of the generator's terms and of the discriminator's loss."""
        return [*self.loss_weights, "discriminator"]

    def networks(self) -> list[nn.Module]:
        """Return generator and discriminator."""
        return [self.generator, self.discriminator]

    def training_step(self, batch: Pair, batch_idx: int) -> None:
        """Run one iteration: forward once, then G descends Eq. 3 and D descends Eq. 1."""
        batch = Pair(*batch)  # of another loader a list
        optimizer_g, optimizer_d = cast(list[LightningOptimizer], self.optimizers())
        step_g = OptimizerStep(self, self.parameters_of[self.generator], self.options)
        step_d = OptimizerStep(self, self.parameters_of[self.discriminator], self.options)
        parts, before = [], BatchNormBuffers(self.batch_norm_buffers)
        alone = self.trainer.global_step < self.discriminator_warmup
        for part in self.split(batch):
            terms = self.raw_terms(self._fake(part.low_res, alone), part)
            if not alone:
                step_g.add(self.weighted_sum(terms), retain_graph=not self.judged_anew)
            step_d.add(terms["discriminator"])
            parts.append(terms)
        stayed = torch.full((), torch.nan, device=self.device), torch.zeros((), dtype=torch.bool, device=self.device)
        norm_g, skipped_g = stayed if alone else step_g.take(optimizer_g, counted=True)
        norm_d, skipped_d = step_d.take(optimizer_d, counted=alone)
        norms = {"gradient_norm": norm_g, "discriminator_gradient_norm": norm_d}
        with warnings.catch_warnings():
            if alone:  # PyTorch expects a step of the generator's before its schedule's
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            self.end_iteration(batch, parts, norms, skipped_g | skipped_d, before)

    def _fake(self, low_res: Tensor, alone: bool) -> Tensor:
        """Return the generator's output; where the discriminator is trained alone, with nothing of it moved."""
        if not alone:
            return self.generator(low_res)
        before = BatchNormBuffers([*self.generator.buffers()])
        with torch.no_grad():
            output = self.generator(low_res)
        before.restore()
        return output

    def raw_terms(self, output: Tensor, pair: Pair) -> dict[str, Tensor]:
        """Return the terms of Eqs. 1 and 3, unweighted, and what is watched beside them."""
        terms = self.image_terms(output, pair)
        logits_g, logits_d = self._logits(output, pair.high_res)
        terms["adversarial"] = self.adversarial.generator(*logits_g)
        terms["discriminator"] = self.adversarial.discriminator(*logits_d)
        terms["real_accuracy"], terms["fake_accuracy"] = self.adversarial.accuracy(*logits_d)
        terms["real_logit"], terms["fake_logit"] = (logits.detach().mean() for logits in logits_d[:2])
        return terms | {"color_shift": _color_shift(output, pair.high_res)}

    def _logits(self, output: Tensor, target: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return what the generator's loss takes, and the discriminator's: logits of real and fake, and their means."""
        if not (self.judged_anew and output.requires_grad):  # the generator's own update needs none where it stays
            real, fake = self.discriminator(target), self.discriminator(output)
            logits = real, fake, *self._means(real, fake)
            return logits, logits
        # In the order of a plain loop, whose generator looks at real images only where its loss does.
        real = None
        if getattr(self.adversarial, "generator_sees_real", True):
            with torch.no_grad():
                real = self.discriminator(target)
        fake = self.discriminator(output)
        pairs = [(fake.detach() if real is None else real, fake)]
        pairs.append((self.discriminator(target), self.discriminator(output.detach())))
        logits_g, logits_d = ((*pair, *self._means(*pair)) for pair in pairs)
        return logits_g, logits_d

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the generator's, then the discriminator's; both schedules are counted in iterations."""
        make_optimizers, make_schedulers = self.factories
        optimizers = [make(net.parameters()) for make, net in zip(make_optimizers, self.networks(), strict=True)]
        names = "learning_rate", "discriminator_learning_rate"
        named = [
            {"scheduler": self.schedule(make, optimizer), "name": name}
            for make, optimizer, name in zip(make_schedulers, optimizers, names, strict=True)
            if make is not None
        ]
        return cast(OptimizerLRScheduler, (optimizers, named))

    def _means(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Return E[·] of Eqs. 1 and 2 over the mini-batches of all ranks, with gradients through each."""
        if self.trainer.world_size == 1:
            return real.mean(), fake.mean()
        real_mean, fake_mean = sum_over_ranks(torch.stack((real.mean(), fake.mean()))) / self.trainer.world_size
        return real_mean, fake_mean


@torch.no_grad()
def _color_shift(output: Tensor, target: Tensor) -> Tensor:
    """Return the difference in mean of the color channel that has moved furthest over a batch, in levels of 255."""
    return 255 * (output.float().mean((0, 2, 3)) - target.float().mean((0, 2, 3))).abs().max()
