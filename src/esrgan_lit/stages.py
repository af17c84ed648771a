"""The two stages of training: glue between networks, losses and Lightning. Formulas and numbers live elsewhere."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning as L  # noqa: N812 (Lightning's own idiom)
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchmetrics import MeanMetric

from esrgan_lit.checkpoints import load_weights_into
from esrgan_lit.data.pairs import Pair, ValidationImage
from esrgan_lit.losses import PerceptualLoss, PixelLoss, RelativisticAverageLoss, StandardLoss
from esrgan_lit.metrics import psnr_y, ssim_y
from esrgan_lit.networks import Generator

OptimizerFactory = Callable[[Iterator[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]

SCRATCH = "scratch"


class LossWeights(NamedTuple):
    """Weights of the generator's terms: η, 1 and λ of Eq. 3."""

    pixel: float
    perceptual: float
    adversarial: float


class Stage(L.LightningModule):
    """What both stages share: the generator, its running average (EMA) and validation.

    Validation logs ``val/psnr_y`` and ``val/ssim_y`` of the network that ``load_generator`` will give (the EMA where
    there is one), and ``val/psnr_y_without_ema`` … of the weights that are being trained.
    """

    def __init__(self, generator: Generator, ema_decay: float | None, start_from: str | Path | None) -> None:
        super().__init__()
        self.generator = generator
        if start_from not in (None, SCRATCH):
            load_weights_into(generator, start_from)
        self.ema = None
        if ema_decay is not None:
            if not 0 < ema_decay < 1:
                raise ValueError(f"ema_decay {ema_decay} is not in (0, 1); use for example 0.999, or null for no EMA")
            average = get_ema_multi_avg_fn(ema_decay)
            self.ema = AveragedModel(generator, multi_avg_fn=average, use_buffers=True).requires_grad_(False)
        suffixes = [""] if self.ema is None else ["", "_without_ema"]
        self.validation_means = nn.ModuleDict(
            {metric + suffix: MeanMetric() for metric in ("psnr_y", "ssim_y") for suffix in suffixes}
        )
        self.config: dict[str, Any] = {}  # the resolved configuration, kept in checkpoints

    @property
    def delivered(self) -> Generator:
        """The network that a checkpoint's reader gets: the EMA where there is one."""
        return self.generator if self.ema is None else cast(Generator, self.ema.module)

    def update_ema(self) -> None:
        """Move the running average towards the weights just reached."""
        if self.ema is not None:
            self.ema.update_parameters(self.generator)

    def validation_step(self, batch: ValidationImage, batch_idx: int) -> Tensor:
        """Measure whole images; returns the delivered network's output for the image panels."""
        pair = batch.pair
        networks = {"": self.delivered, "_without_ema": self.generator} if self.ema else {"": self.generator}
        outputs = {suffix: network(pair.low_res) for suffix, network in networks.items()}
        for suffix, output in outputs.items():
            for name, metric in (("psnr_y", psnr_y), ("ssim_y", ssim_y)):
                mean = cast(MeanMetric, self.validation_means[name + suffix])
                mean.update(metric(output, pair.high_res, self.generator.scale), batch.counted)
                self.log(f"val/{name}{suffix}", mean, prog_bar=name == "psnr_y" and not suffix, batch_size=1)
        return outputs[""]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a reader needs to build the generator, and how it was trained, as plain containers."""
        checkpoint["architecture"] = self.generator.architecture
        checkpoint["config"] = self.config


class PsnrStage(Stage):
    """Stage 1: the generator alone, pixel loss (§3.4 and §4.1).

    Args:
        generator: network to train, with an integer ``scale``.
        optimizer: makes the optimizer of its parameters.
        scheduler: makes the learning-rate schedule, stepped every iteration.
        ema_decay: of the running average of the weights; None for none.
        start_from: weights to start from; None or ``scratch`` for the network as initialised.
    """

    def __init__(
        self,
        generator: Generator,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory,
        ema_decay: float | None,
        start_from: str | Path | None = None,
    ) -> None:
        super().__init__(generator, ema_decay, start_from)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.pixel = PixelLoss()

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        """L1 distance of the output from the truth."""
        loss = self.pixel(self.generator(batch.low_res), batch.high_res)
        self.log("train/pixel", loss, prog_bar=True)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then average at once: a checkpoint written right after the step must hold both."""
        super().optimizer_step(*args, **kwargs)
        self.update_ema()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimizer, one schedule counted in iterations."""
        optimizer = self.optimizer(self.generator.parameters())
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step", "name": "learning_rate"},
        }


class GanStage(Stage):
    """Stage 2: perceptual, adversarial and pixel loss against a discriminator (Eq. 3), from a stage-1 generator.

    Each iteration runs G once and D once on real and once on fake images; as D's weights do not change in between, the
    same logits serve the generator's step and then the discriminator's.

    Args:
        generator: network to train, with an integer ``scale``.
        discriminator: image → logits.
        perceptual: the perceptual term, or None to leave it out.
        adversarial: the pair of GAN losses.
        loss_weights: of the generator's terms.
        optimizer: makes the generator's optimizer.
        discriminator_optimizer: makes the discriminator's.
        scheduler: makes the generator's learning-rate schedule, stepped every iteration.
        discriminator_scheduler: makes the discriminator's.
        ema_decay: of the running average of the generator's weights; None for none.
        start_from: a checkpoint of stage 1 or any generator's weights; ``scratch`` to go without.

    Raises:
        ValueError: when ``start_from`` is None, with the command that makes what is missing.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: nn.Module,
        perceptual: PerceptualLoss | None,
        adversarial: RelativisticAverageLoss | StandardLoss,
        loss_weights: LossWeights,
        optimizer: OptimizerFactory,
        discriminator_optimizer: OptimizerFactory,
        scheduler: SchedulerFactory,
        discriminator_scheduler: SchedulerFactory,
        ema_decay: float | None,
        start_from: str | Path | None,
    ) -> None:
        if start_from is None:
            raise ValueError(
                "stage.start_from is not set: the GAN stage fine-tunes a generator of the PSNR stage. Train one with "
                "`esrgan-train +experiment=psnr_rrdb23` (psnr_… for another generator) and give its checkpoint, "
                "stage.start_from=runs/…/checkpoints/best.ckpt; or stage.start_from=scratch to go without"
            )
        super().__init__(generator, ema_decay, start_from)
        self.automatic_optimization = False
        self.discriminator = discriminator
        self.perceptual = perceptual
        self.adversarial = adversarial
        self.pixel = PixelLoss()
        self.weights = loss_weights
        self.factories = (optimizer, discriminator_optimizer), (scheduler, discriminator_scheduler)

    def training_step(self, batch: Pair, batch_idx: int) -> None:
        """One iteration: forward once, then G descends Eq. 3, then D descends Eq. 1."""
        optimizer_g, optimizer_d = cast(list[LightningOptimizer], self.optimizers())
        fake = self.generator(batch.low_res)
        real_logits, fake_logits = self.discriminator(batch.high_res), self.discriminator(fake)

        terms = {
            "pixel": self.pixel(fake, batch.high_res),
            "adversarial": self.adversarial.generator(real_logits, fake_logits, self._global_mean),
        }
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(fake, batch.high_res)
        generator_loss = torch.stack([getattr(self.weights, name) * term for name, term in terms.items()]).sum()
        terms["discriminator"] = self.adversarial.discriminator(real_logits, fake_logits, self._global_mean)

        self._descend(generator_loss, self.generator, optimizer_g.step, retain_graph=True)
        self.update_ema()
        self._descend(terms["discriminator"], self.discriminator, lambda: self._step_uncounted(optimizer_d))
        for scheduler in cast(list[LRScheduler], self.lr_schedulers()):
            scheduler.step()
        self._log_terms({**terms, "real_logit": real_logits, "fake_logit": fake_logits})

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Generator first, discriminator second; both schedules are counted in iterations."""
        networks = self.generator, self.discriminator
        make_optimizers, make_schedulers = self.factories
        optimizers = [make(net.parameters()) for make, net in zip(make_optimizers, networks, strict=True)]
        schedulers = [make(optimizer) for make, optimizer in zip(make_schedulers, optimizers, strict=True)]
        names = "learning_rate", "discriminator_learning_rate"
        named = [{"scheduler": schedule, "name": name} for schedule, name in zip(schedulers, names, strict=True)]
        return cast(OptimizerLRScheduler, (optimizers, named))

    def _global_mean(self, logits: Tensor) -> Tensor:
        """E[·] of Eqs. 1 and 2 over the mini-batches of all ranks, with gradients through each."""
        if self.trainer.world_size > 1:
            logits = cast(Tensor, self.all_gather(logits, sync_grads=True))
        return logits.mean()

    def _descend(self, loss: Tensor, network: nn.Module, step: Callable[[], Any], retain_graph: bool = False) -> None:
        """One step of one network alone: the gradients of the other are neither computed nor touched.

        ``torch.autograd.grad`` instead of ``manual_backward``, because the two losses share a graph, which DDP's
        reducer cannot follow; the ranks' gradients are averaged here instead.
        """
        parameters = list(network.parameters())
        loss = self.trainer.precision_plugin.pre_backward(loss, self)  # scales it under fp16
        gradients = torch.autograd.grad(loss, parameters, retain_graph=retain_graph)
        if self.trainer.world_size > 1:
            flat = self.trainer.strategy.reduce(torch.cat([g.flatten() for g in gradients]), reduce_op="mean")
            pieces = flat.split([parameter.numel() for parameter in parameters])
            gradients = [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        step()
        network.zero_grad(set_to_none=True)

    def _step_uncounted(self, optimizer: LightningOptimizer) -> None:
        # LightningOptimizer.step would count a second global step per iteration, and halve every number of iterations
        # that Lightning is told (max_steps, checkpoints, validation). The precision plugin and hooks still run.
        self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)

    def _log_terms(self, terms: dict[str, Tensor]) -> None:
        every = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue] (set by its connector)
        if self.trainer.global_step % every == 0:
            self.log_dict({f"train/{name}": value.detach().mean() for name, value in terms.items()}, prog_bar=True)
