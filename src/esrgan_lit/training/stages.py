"""The two stages of training: glue between networks, losses and Lightning. Formulas and numbers live elsewhere."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning as L  # noqa: N812 (Lightning's own idiom)
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import get_ema_multi_avg_fn

from esrgan_lit.data.pairing import ValidationImage
from esrgan_lit.degradations.pairs import Pair
from esrgan_lit.losses.adversarial import Mean, RelativisticAverageLoss, StandardLoss
from esrgan_lit.losses.perceptual import PerceptualLoss
from esrgan_lit.losses.pixel import PixelLoss, colour_shift
from esrgan_lit.networks.generator import Generator
from esrgan_lit.networks.layers import sum_over_ranks
from esrgan_lit.reports.runs import LOSSES
from esrgan_lit.training.checkpointing import go_on_behind
from esrgan_lit.training.nan_report import NonFiniteLossError, write_diagnosis
from esrgan_lit.training.optimizer_step import Descent, Statistics, StepOptions, keep_freed_memory
from esrgan_lit.training.validation import WITHOUT_EMA, Validation
from esrgan_lit.weights.load import load_weights_into

OptimizerFactory = Callable[[Iterator[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]
SCRATCH = "scratch"


class LossWeights(NamedTuple):
    """Weights of the generator's terms: η, 1 and λ of Eq. 3."""

    pixel: float
    perceptual: float
    adversarial: float


class Stage(L.LightningModule):
    """What both stages share: the generator, its running average (EMA), the log of the terms, validation.

    Terms are gathered on the device and logged every ``log_every_n_steps`` iterations, as means over those since the
    last time and over the ranks, so that in between the host never waits for the device.

    Validation logs ``val/psnr_y``, ``val/ssim_y`` … of the network that ``load_generator`` will give (the EMA where
    there is one), and ``val/psnr_y_without_ema`` … of the weights that are being trained.
    """

    def __init__(
        self,
        generator: Generator,
        ema_decay: float | None,
        start_from: str | Path | None,
        options: StepOptions,
        validation: Validation | None,
        terms: Sequence[str],
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        options.check()
        self.options = options
        self.generator = generator
        if start_from not in (None, SCRATCH):
            load_weights_into(generator, start_from)
        self.ema, self.ema_decay = None, ema_decay
        if ema_decay is not None:
            if not 0 < ema_decay < 1:
                raise ValueError(f"ema_decay {ema_decay} is not in (0, 1); use for example 0.999, or null for no EMA")
            self.ema = copy.deepcopy(generator).requires_grad_(False)
        self.terms = tuple(terms)
        self.sums: Tensor
        self.counts: Tensor
        self.skipped: Tensor
        self.register_buffer("sums", torch.zeros(len(self.terms)))
        self.register_buffer("counts", torch.zeros(len(self.terms)))
        self.register_buffer("skipped", torch.zeros(2, dtype=torch.long))  # iterations with a skipped step; in a row
        self.validation = validation or Validation(("psnr_y", "ssim_y"), generator.scale)
        self.parameters_of: dict[nn.Module, list[Tensor]] = {}
        self.statistics: list[Tensor] = []  # what batch normalisation remembers
        self.config: dict[str, Any] = {}  # the resolved configuration, kept in checkpoints
        self.validated_at = 0  # iteration of the last complete validation

    @property
    def delivered(self) -> Generator:
        """The network that a checkpoint's reader gets: the EMA where there is one."""
        return self.generator if self.ema is None else self.ema

    def networks(self) -> list[nn.Module]:
        """The networks that an iteration runs, for memory layout and compilation."""
        return [self.generator]

    def on_fit_start(self) -> None:
        """Lay out and compile the networks, now that they are on their device."""
        if self.device.type == "cpu":
            keep_freed_memory()
        # Looked up once: PyTorch takes a millisecond to walk through the 500 modules of 23 blocks.
        trained = self.networks()
        self.parameters_of = {network: list(network.parameters()) for network in (*trained, self.delivered)}
        perceptual = getattr(self, "perceptual", None)  # frozen
        self.statistics = [b for network in trained if network is not perceptual for b in network.buffers()]
        channels_last = self.options.channels_last
        if self.device.type == "cuda" if channels_last is None else channels_last:
            for network in (*self.networks(), self.delivered):
                network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if self.options.compile is not None:
            for network in self.networks():
                network.compile(mode=self.options.compile)

    def parts(self, batch: Pair) -> list[Pair]:
        """The batch, split along its first dimension into ``options.accumulate`` parts of one size."""
        count = self.options.accumulate
        if len(batch.low_res) % count:
            raise ValueError(
                f"data.batch {len(batch.low_res)} cannot be split into {count} parts of one size; "
                "use a multiple of stage.options.accumulate"
            )
        return [Pair(*images) for images in zip(*(images.chunk(count) for images in batch), strict=True)]

    @torch.no_grad()
    def update_ema(self) -> None:
        """Move the running average towards the weights just reached: ema = decay · ema + (1 − decay) · weights."""
        if self.ema is None:
            return
        average = get_ema_multi_avg_fn(cast(float, self.ema_decay))
        average(self.parameters_of[self.ema], self.parameters_of[self.generator], 0)
        for mean, value in zip(self.ema.buffers(), self.generator.buffers(), strict=True):
            mean.copy_(value)  # batch normalisation's, which are running averages themselves

    def step_schedules(self) -> None:
        """Count an iteration in every learning-rate schedule."""
        schedules = cast(list[LRScheduler] | LRScheduler, self.lr_schedulers())
        for schedule in schedules if isinstance(schedules, list) else [schedules]:
            schedule.step()

    @torch.no_grad()
    def record(self, parts: Sequence[dict[str, Tensor]], once: dict[str, Tensor], skipped: Tensor, batch: Pair) -> None:
        """Gather an iteration's terms; when it is time, log them and see whether training goes on.

        Args:
            parts: the terms of each part of the batch.
            once: further values of the whole iteration.
            skipped: whether a step was skipped.
            batch: the batch, for the diagnosis.
        """
        kind = self.sums.dtype
        rows = [[(part | once)[name].to(kind) for name in self.terms] for part in parts]
        vector = torch.stack([torch.stack(row) for row in rows]).mean(0)
        finite = vector.isfinite()
        self.sums += torch.where(finite, vector, 0)
        self.counts += finite
        self.skipped += skipped  # both: iterations in all, and in a row
        self.skipped[1] *= skipped
        if self.trainer.global_step % self.trainer.log_every_n_steps == 0:  # pyright: ignore[reportAttributeAccessIssue]
            self.log_record(batch)

    def log_record(self, batch: Pair) -> None:
        """Log the means of what was gathered; the one time that the host waits for the device.

        Raises:
            NonFiniteLossError: after ``options.stop_after_skipped`` skipped iterations in a row.
        """
        totals = torch.stack((self.sums, self.counts))
        if self.trainer.world_size > 1:
            totals = cast(Tensor, self.trainer.strategy.reduce(totals, reduce_op="sum"))
        *means, skipped, in_a_row = torch.cat((totals[0] / totals[1], self.skipped)).tolist()
        for name, value in (*zip(self.terms, means, strict=True), ("skipped_steps", skipped)):
            if not math.isnan(value):  # NaN: the term was finite in none of the iterations
                self.log(f"train/{name}", value, prog_bar=name in LOSSES)
        self.sums.zero_()
        self.counts.zero_()
        if in_a_row >= self.options.stop_after_skipped:
            folder = self.diagnose(batch)
            raise NonFiniteLossError(
                f"training stopped at iteration {self.trainer.global_step}: the last {in_a_row:.0f} steps had NaN or "
                "inf in a loss or gradient and were skipped, so the weights are the last good ones. Which term and "
                f"which images: {folder}. The usual remedies are a lower learning rate, stage.options.clip_norm=1 "
                "or trainer.precision=32-true"
            )

    def losses(self, pair: Pair) -> tuple[dict[str, Tensor], Tensor]:
        """The stage's raw terms on a pair, with their graphs, and the generator's output."""
        raise NotImplementedError

    @torch.enable_grad()
    def diagnose(self, batch: Pair) -> Path:
        """Write down what is not finite, from another forward; returns the folder."""
        step = self.trainer.fit_loop.epoch_loop.batch_progress.total.ready
        data = getattr(self.trainer, "datamodule", None)
        sources = data.sources_of(step - 1) if data is not None else ["?"] * len(batch.low_res)
        terms, output = self.losses(batch)
        losses = {name: terms[name] for name in LOSSES if name in terms}
        folder = Path(self.trainer.default_root_dir) / "diagnosis" / f"step_{step:07d}_rank_{self.global_rank}"
        write_diagnosis(folder, losses, output, self, batch, sources)
        return folder

    def validation_step(self, batch: ValidationImage, batch_idx: int) -> Tensor:
        """Measure whole images; returns the delivered network's output for the image panels."""
        pair = batch.pair
        # Not through __call__: a compiled network would be compiled anew for each size.
        output = self.delivered.forward(pair.low_res)
        self.validation.update(output, pair, batch.counted)
        if self.ema is not None:
            self.validation.update(self.generator.forward(pair.low_res), pair, batch.counted, WITHOUT_EMA)
        return output

    def on_validation_epoch_end(self) -> None:
        """Log the means, and note that this iteration's validation is complete."""
        for name, figure in self.validation.compute().items():
            self.log(f"val/{name}", figure, prog_bar=name in ("psnr_y", self.validation.rank_by))
        if not self.trainer.sanity_checking:
            self.validated_at = self.trainer.global_step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a reader needs to build the generator, and how it was trained, as plain containers."""
        checkpoint["architecture"] = self.generator.architecture
        checkpoint["config"] = self.config
        checkpoint["validated_at"] = self.validated_at

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on behind the last iteration, whatever moment the checkpoint was written at.

        Lightning's counters tell apart many such moments, and some of them lose a validation or the place in the data.
        """
        iterations = checkpoint["global_step"]
        every = self.trainer.val_check_interval  # pyright: ignore[reportAttributeAccessIssue] (set by its connector)
        self.validated_at = checkpoint["validated_at"]
        pending = iterations % int(every) == 0 and self.validated_at != iterations
        go_on_behind(iterations, checkpoint["loops"]["fit_loop"], pending)


class PsnrStage(Stage):
    """Stage 1: the generator alone, pixel loss (§3.4 and §4.1).

    Args:
        generator: network to train, with an integer ``scale``.
        optimizer: makes the optimizer of its parameters.
        scheduler: makes the learning-rate schedule, stepped every iteration.
        ema_decay: of the running average of the weights; None for none.
        start_from: weights to start from; None or ``scratch`` for the network as initialised.
        options: how steps are taken.
        validation: what is measured on validation images; None for PSNR-Y and SSIM-Y.
    """

    def __init__(
        self,
        generator: Generator,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory,
        ema_decay: float | None,
        start_from: str | Path | None = None,
        options: StepOptions = StepOptions(),  # noqa: B008 (a tuple, which nobody can change)
        validation: Validation | None = None,
    ) -> None:
        terms = ("pixel", "colour_shift", "gradient_norm")
        super().__init__(generator, ema_decay, start_from, options, validation, terms)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.pixel = PixelLoss()

    def training_step(self, batch: Pair, batch_idx: int) -> None:
        """One iteration: the generator descends the L1 distance of its output from the truth."""
        descent, before = Descent(self, self.parameters_of[self.generator], self.options), Statistics(self.statistics)
        parts = []
        for part in self.parts(batch):
            terms, _ = self.losses(part)
            descent.add(terms["pixel"])
            parts.append(terms)
        norm, skipped = descent.step(cast(LightningOptimizer, self.optimizers()), counted=True)
        before.restore_if(skipped)
        self.update_ema()
        self.step_schedules()
        self.record(parts, {"gradient_norm": norm}, skipped, batch)

    def losses(self, pair: Pair) -> tuple[dict[str, Tensor], Tensor]:
        """The pixel loss, and what is watched beside it."""
        output = self.generator(pair.low_res)
        return {"pixel": self.pixel(output, pair.high_res), "colour_shift": colour_shift(output, pair.high_res)}, output

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimizer, one schedule counted in iterations."""
        optimizer = self.optimizer(self.generator.parameters())
        schedule = {"scheduler": self.scheduler(optimizer), "name": "learning_rate"}
        return cast(OptimizerLRScheduler, ([optimizer], [schedule]))


class GanStage(Stage):
    """Stage 2: perceptual, adversarial and pixel loss against a discriminator (Eq. 3), from a stage-1 generator.

    Each iteration runs G once and D once on real and once on fake images; as D's weights do not change in between, the
    same logits serve the generator's step and the discriminator's.

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
        options: how steps are taken.
        validation: what is measured on validation images; None for PSNR-Y and SSIM-Y.

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
        options: StepOptions = StepOptions(),  # noqa: B008 (a tuple, which nobody can change)
        validation: Validation | None = None,
    ) -> None:
        if start_from is None:
            raise ValueError(
                "stage.start_from is not set: the GAN stage fine-tunes a generator of the PSNR stage. Train one with "
                "`esrgan-train +experiment=psnr_rrdb23` (psnr_… for another generator) and give its checkpoint, "
                "stage.start_from=runs/…/checkpoints/best.ckpt; or stage.start_from=scratch to go without"
            )
        watched = ("real_logit", "fake_logit", "real_accuracy", "fake_accuracy", "colour_shift")
        norms = ("gradient_norm", "discriminator_gradient_norm")
        losses = [name for name in LOSSES if name != "perceptual" or perceptual is not None]
        super().__init__(generator, ema_decay, start_from, options, validation, (*losses, *watched, *norms))
        self.discriminator = discriminator
        self.perceptual = perceptual
        self.adversarial = adversarial
        self.pixel = PixelLoss()
        self.weights = loss_weights
        self.factories = (optimizer, discriminator_optimizer), (scheduler, discriminator_scheduler)

    def networks(self) -> list[nn.Module]:
        """Generator, discriminator, and the network of the perceptual term."""
        return [self.generator, self.discriminator, *([self.perceptual] if self.perceptual else [])]

    def training_step(self, batch: Pair, batch_idx: int) -> None:
        """One iteration: forward once, then G descends Eq. 3 and D descends Eq. 1."""
        optimizer_g, optimizer_d = cast(list[LightningOptimizer], self.optimizers())
        descent_g = Descent(self, self.parameters_of[self.generator], self.options)
        descent_d = Descent(self, self.parameters_of[self.discriminator], self.options)
        parts, before = [], Statistics(self.statistics)
        for part in self.parts(batch):
            terms, _ = self.losses(part)
            weighed = [weight * terms[name] for name, weight in self.weights._asdict().items() if name in terms]
            descent_g.add(torch.stack(weighed).sum(), retain_graph=True)
            descent_d.add(terms["discriminator"])
            parts.append(terms)
        norm_g, skipped_g = descent_g.step(optimizer_g, counted=True)
        norm_d, skipped_d = descent_d.step(optimizer_d, counted=False)
        before.restore_if(skipped_g | skipped_d)
        self.update_ema()
        self.step_schedules()
        norms = {"gradient_norm": norm_g, "discriminator_gradient_norm": norm_d}
        self.record(parts, norms, skipped_g | skipped_d, batch)

    def losses(self, pair: Pair) -> tuple[dict[str, Tensor], Tensor]:
        """The terms of Eqs. 1 and 3, unweighted, and what is watched beside them."""
        fake = self.generator(pair.low_res)
        terms = {"pixel": self.pixel(fake, pair.high_res)}
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(fake, pair.high_res)
        real_logits, fake_logits = self.discriminator(pair.high_res), self.discriminator(fake)
        mean = self._global_mean(real_logits, fake_logits)
        terms["adversarial"] = self.adversarial.generator(real_logits, fake_logits, mean)
        terms["discriminator"] = self.adversarial.discriminator(real_logits, fake_logits, mean)
        real_believed, fake_believed = self.adversarial.believed(real_logits, fake_logits, mean)
        terms |= {
            "real_logit": real_logits.detach().mean(),
            "fake_logit": fake_logits.detach().mean(),
            "real_accuracy": real_believed.float().mean(),
            "fake_accuracy": 1 - fake_believed.float().mean(),
            "colour_shift": colour_shift(fake, pair.high_res),
        }
        return terms, fake

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Generator first, discriminator second; both schedules are counted in iterations."""
        networks = self.generator, self.discriminator
        make_optimizers, make_schedulers = self.factories
        optimizers = [make(net.parameters()) for make, net in zip(make_optimizers, networks, strict=True)]
        schedulers = [make(optimizer) for make, optimizer in zip(make_schedulers, optimizers, strict=True)]
        names = "learning_rate", "discriminator_learning_rate"
        named = [{"scheduler": schedule, "name": name} for schedule, name in zip(schedulers, names, strict=True)]
        return cast(OptimizerLRScheduler, (optimizers, named))

    def _global_mean(self, real_logits: Tensor, fake_logits: Tensor) -> Mean:
        """E[·] of Eqs. 1 and 2 over the mini-batches of all ranks, with gradients through each."""
        if self.trainer.world_size == 1:
            return torch.mean
        means = torch.stack((real_logits.mean(), fake_logits.mean()))
        real_mean, fake_mean = sum_over_ranks(means) / self.trainer.world_size
        return lambda logits: real_mean if logits is real_logits else fake_mean
