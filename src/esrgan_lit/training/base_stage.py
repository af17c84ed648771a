"""The base of both stages: their iterations' frame, the terms and their log, the EMA, what a checkpoint holds."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning as L  # noqa: N812 (Lightning's own idiom)
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import get_ema_multi_avg_fn

from esrgan_lit import private_api
from esrgan_lit.degradations.blur import sharpen
from esrgan_lit.degradations.pairs import Pair
from esrgan_lit.networks.generator import Generator
from esrgan_lit.training.changes import SCRATCH
from esrgan_lit.training.enlarging import EnlargingModule
from esrgan_lit.training.from_checkpoint import when_needed
from esrgan_lit.training.nan_report import NonFiniteLossError, write_nan_report
from esrgan_lit.training.optimizer_step import BatchNormBuffers, StepOptions, keep_freed_memory
from esrgan_lit.training.rankings import relative_paths
from esrgan_lit.training.resume import adapt
from esrgan_lit.training.settings import one_line
from esrgan_lit.training.terms import check_terms, sees_average
from esrgan_lit.training.validation import Validation
from esrgan_lit.weights.load import load_weights_into

OptimizerFactory = Callable[[Iterator[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


class Stage(EnlargingModule):
    """The base of both stages: the generator, its running average (EMA), the log of the terms, validation.

    Terms are gathered on the device and logged every ``log_every_n_steps`` iterations, as means over those since the
    last time and over the ranks, so that in between the host never waits for the device.

    Validation logs ``val/psnr_y``, ``val/ssim_y`` … of the network that ``load_generator`` will give (the EMA where
    there is one), and ``val/psnr_y_without_ema`` … of the weights that are being trained.

    Args:
        generator: network to train, with an integer ``scale``.
        losses: the terms of (output, ground truth), by name; None for a term that is left out.
        loss_weights: weights of the generator's terms by name; a term without one weighs 1.
        further: names of the generator's terms that the stage itself computes, weighed as well.
        watched: names of what is logged beside them.
        ema_decay: of the running average of the weights; None for none.
        start_from: weights to start from; None or ``scratch`` for the network as initialized.
        options: how steps are taken.
        validation: what is measured on validation images; None for PSNR-Y and SSIM-Y, or PSNR and SSIM of the channels.
        sharpened: names of the terms that see the ground truth sharpened by an unsharp mask (Real-ESRGAN's).

    Raises:
        ValueError: for an EMA decay out of range, or a weight or name of a term that does not fit.
    """

    def __init__(
        self,
        generator: Generator,
        losses: Mapping[str, nn.Module | None],
        loss_weights: Mapping[str, float] | None,
        further: Sequence[str],
        watched: Sequence[str],
        ema_decay: float | None,
        start_from: str | Path | None,
        options: StepOptions,
        validation: Validation | None,
        sharpened: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.options = options
        self.generator = generator
        if start_from not in (None, SCRATCH):
            load_weights_into(generator, start_from)
        self.ema, self.ema_decay = None, ema_decay
        if ema_decay is not None:
            if not 0 < ema_decay < 1:
                raise ValueError(f"ema_decay {ema_decay} is not in (0, 1); use for example 0.999, or null for no EMA")
            self.ema = copy.deepcopy(generator).requires_grad_(False)
        check_terms(losses, loss_weights or {}, further, watched, sharpened, ema_decay)
        self.sharpened = frozenset(sharpened)
        self.losses = nn.ModuleDict({name: term for name, term in losses.items() if term is not None})
        self.loss_weights = {name: float((loss_weights or {}).get(name, 1)) for name in (*self.losses, *further)}
        self.terms = (*dict.fromkeys((*self.loss_weights, *watched)),)
        self.sums: Tensor
        self.counts: Tensor
        self.skipped: Tensor
        self.register_buffer("sums", torch.zeros(len(self.terms)))
        self.register_buffer("counts", torch.zeros(len(self.terms)))
        self.register_buffer("skipped", torch.zeros(2, dtype=torch.long))  # iterations with a skipped step; in a row
        usual = ("psnr_y", "ssim_y") if generator.out_channels == 3 else ("psnr", "ssim")
        self.validation = validation or Validation(usual, generator.scale)
        self.parameters_of: dict[nn.Module, list[Tensor]] = {}
        self.batch_norm_buffers: list[Tensor] = []
        self.config: dict[str, Any] = {}  # the resolved configuration, kept in checkpoints
        self.validated_at = 0  # iteration of the last complete validation
        self.figures: dict[str, str] = {}  # of that validation, for people
        self.max_steps: int | None = None  # as configured, where the trainer has one more for the last validation

    @property
    def descended(self) -> list[str]:
        """Names of the terms that a network descends, among those that are logged."""
        return [*self.loss_weights]

    def networks(self) -> list[nn.Module]:
        """Return the networks that are trained."""
        return [self.generator]

    def raw_terms(self, output: Tensor, pair: Pair) -> dict[str, Tensor]:
        """Return the stage's terms, unweighted and with their graphs, and what is watched beside them.

        Args:
            output: the generator's, of the pair's low resolution.
            pair: the images; the ground truth has the output's shape.
        """
        raise NotImplementedError

    def image_terms(self, output: Tensor, pair: Pair) -> dict[str, Tensor]:
        """Return the terms of ``losses``: each of (output, ground truth), and of the EMA's output where it asks."""
        sharp = sharpen(pair.high_res) if self.sharpened else pair.high_res
        targets = {name: sharp if name in self.sharpened else pair.high_res for name in self.losses}
        asking = {name for name, term in self.losses.items() if sees_average(term)}
        average: tuple[Tensor, ...] = ()
        if asking:
            with torch.no_grad():
                average = (self.ema_generator.eval()(pair.low_res),)
        return {
            name: term(output, targets[name], *(average if name in asking else ()))
            for name, term in self.losses.items()
        }

    def on_fit_start(self) -> None:
        """Lay out and compile the networks, now that they are on their device."""
        if self.device.type == "cpu":
            keep_freed_memory()
        for name, term in self.losses.items():
            self.losses[name] = when_needed(term).to(self.device)
        # Looked up once: PyTorch takes a millisecond to walk through the 500 modules of 23 blocks.
        self.parameters_of = {network: list(network.parameters()) for network in (*self.networks(), self.ema_generator)}
        self.batch_norm_buffers = [buffer for network in self.networks() for buffer in network.buffers()]
        run = [*self.networks(), *self.losses.values()]  # by an iteration
        channels_last = self.options.channels_last
        if self.device.type == "cuda" if channels_last is None else channels_last:
            for network in (*run, self.ema_generator):
                network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if self.options.compile is not None:
            for network in run:
                network.compile(mode=self.options.compile)

    def on_train_start(self) -> None:
        """Begin the log anew where a training begins: the stage may have been trained before."""
        if self.trainer.global_step == 0:
            self.validated_at = 0
            for gathered in (self.sums, self.counts, self.skipped):
                gathered.zero_()

    def split(self, batch: Pair) -> list[Pair]:
        """Return the batch, split along its first dimension into ``options.accumulate`` parts of one size."""
        count = self.options.accumulate
        if len(batch.low_res) % count:
            raise ValueError(
                f"data.batch {len(batch.low_res)} cannot be split into {count} parts of one size; "
                "use a multiple of stage.options.accumulate"
            )
        return [Pair(*images) for images in zip(*(images.chunk(count) for images in batch), strict=True)]

    def weighted_sum(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the generator's loss (Eq. 3): the sum of its raw terms, each times its weight.

        Raises:
            ValueError: for a term that a subclass computes and neither trains by nor logs.
        """
        if unknown := terms.keys() - set(self.terms):
            raise ValueError(
                f"raw_terms of {type(self).__name__} returns {', '.join(sorted(unknown))}, which nothing weighs or "
                "logs; add terms of (output, ground truth) as +stage.losses.NAME._target_=PACKAGE.CLASS, and others to "
                "`further` (weighed) or `watched` (logged) of Stage.__init__"
            )
        return torch.stack([weight * terms[name] for name, weight in self.loss_weights.items()]).sum()

    @torch.no_grad()
    def end_iteration(
        self,
        batch: Pair,
        parts: Sequence[dict[str, Tensor]],
        norms: dict[str, Tensor],
        skipped: Tensor,
        before: BatchNormBuffers,
    ) -> None:
        """Update the EMA and the schedules, gather the terms; when it is time, log them.

        Args:
            batch: the batch, for a NaN report.
            parts: the terms of each part of it.
            norms: of the networks' gradients.
            skipped: whether a step was skipped, a boolean on the device.
            before: batch normalization's buffers, put back where it was.
        """
        before.restore_if(skipped)
        self.update_ema()
        for schedule in self._schedules():
            if not isinstance(schedule, ReduceLROnPlateau):  # which waits for a validation
                schedule.step()
        kind = self.sums.dtype
        rows = [[(part | norms)[name].to(kind) for name in self.terms] for part in parts]
        vector = torch.stack([torch.stack(row) for row in rows]).mean(0)
        finite = vector.isfinite()
        self.sums += torch.where(finite, vector, 0)
        self.counts += finite
        self.skipped += skipped  # both: iterations in all, and in a row
        self.skipped[1] *= skipped
        every = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if every and self.trainer.global_step % every == 0:  # 0: Trainer(barebones=True) logs nothing
            self._log_terms(batch)

    def schedule(self, make: SchedulerFactory, optimizer: Optimizer) -> LRScheduler:
        """Make a learning-rate schedule; one that waits for a plateau waits for one of the first metric.

        Args:
            make: makes it.
            optimizer: whose rate it sets.

        Raises:
            ValueError: where its ``mode`` would lower the rate while the metric gets better.
        """
        made = make(optimizer)
        name, metric = next(iter(self.validation.metrics.items()), (None, None))
        if not isinstance(made, ReduceLROnPlateau) or metric is None:
            return made
        mode = "max" if metric.higher_is_better else "min"
        if made.mode == mode:
            return made
        if not isinstance(make, partial) or "mode" in make.keywords:
            raise ValueError(
                f"stage.scheduler.mode={made.mode} waits while {name} gets worse; give ++stage.scheduler.mode={mode}"
            )
        return make(optimizer, mode=mode)

    def _schedules(self) -> list[LRScheduler]:
        """Return the learning-rate schedules, of which there may be none."""
        schedules = cast(list[LRScheduler] | LRScheduler | None, self.lr_schedulers())
        return schedules if isinstance(schedules, list) else [] if schedules is None else [schedules]

    def configure_callbacks(self) -> list[L.Callback]:
        """Name our own options where Lightning would only say what manual optimization cannot.

        Raises:
            ValueError: for ``Trainer(gradient_clip_val=…)`` and ``accumulate_grad_batches``.
        """
        clip, parts = self.trainer.gradient_clip_val, self.trainer.accumulate_grad_batches
        if clip or parts != 1:
            ours = f"clip_norm={clip}" if clip else f"accumulate={parts}"
            raise ValueError(f"the stage takes its steps itself: give it options=StepOptions({ours}), not the Trainer")
        return []

    @torch.no_grad()
    def update_ema(self) -> None:
        """Move the running average towards the weights just reached: ema = decay · ema + (1 − decay) · weights."""
        if self.ema is None:
            return
        average = get_ema_multi_avg_fn(cast(float, self.ema_decay))
        average(self.parameters_of[self.ema], self.parameters_of[self.generator], 0)
        for mean, value in zip(self.ema.buffers(), self.generator.buffers(), strict=True):
            mean.copy_(value)  # batch normalization's, which are running averages themselves

    def _log_terms(self, batch: Pair) -> None:
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
                self.log(f"train/{name}", value, prog_bar=name in self.descended)
        self.sums.zero_()
        self.counts.zero_()
        if in_a_row >= self.options.stop_after_skipped:
            try:
                report = self._write_nan_report(batch)
            except (OSError, RuntimeError) as error:  # RuntimeError: torch's, where a disk or the memory is full
                report = f"not written ({one_line(error)})"
            raise NonFiniteLossError(
                f"training stopped at iteration {self.trainer.global_step}: the last {in_a_row:.0f} steps had NaN or "
                "inf in a loss or gradient and were skipped, so the weights are the last good ones. Which term and "
                f"which images: {report}. The usual remedies are a lower learning rate, stage.options.clip_norm=1 "
                "or trainer.precision=32-true"
            )

    @torch.enable_grad()
    def _write_nan_report(self, batch: Pair) -> Path:
        """Write down what is not finite, from another forward; return the folder."""
        step = private_api.batches_begun(self.trainer)
        sources_of = getattr(getattr(self.trainer, "datamodule", None), "sources_of", None)  # as ours has it
        sources = sources_of(step - 1) if sources_of else ["?"] * len(batch.low_res)
        folder = Path(self.trainer.default_root_dir) / "diagnosis" / f"step_{step:07d}_rank_{self.global_rank}"
        before = BatchNormBuffers(self.batch_norm_buffers)
        try:
            output = self.generator(batch.low_res)
            terms = self.raw_terms(output, batch)
            write_nan_report(folder, {name: terms[name] for name in self.descended}, output, self, batch, sources)
        finally:
            before.restore()
        return folder

    def on_validation_epoch_end(self) -> None:
        """Log the means, step the schedules that wait for them, and note that this validation is complete."""
        figures = self.log_figures("val")
        if self.trainer.sanity_checking or self.trainer.state.fn != TrainerFn.FITTING:
            return
        first = next(iter(figures.values()), None)  # of stage.validation.metrics
        for schedule in self._schedules():
            if isinstance(schedule, ReduceLROnPlateau) and first is not None:
                schedule.step(first)
        self.validated_at = self.trainer.global_step
        self.figures = self.validation.describe(figures)
        if self.max_steps is not None:
            private_api.set_max_steps(self.trainer, self.max_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a reader needs to build the generator, and how it was trained, as plain containers."""
        checkpoint["architecture"] = self.generator.architecture
        checkpoint["config"] = self.config
        if not self.config:  # made in Python
            checkpoint["terms"] = [*self.terms]
        checkpoint["validated_at"] = self.validated_at
        checkpoint["figures"] = self.figures
        relative_paths(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Resume behind the last iteration, whatever moment the checkpoint was written at.

        Lightning's counters tell apart many such moments, and some of them lose a validation or the place in the data.
        They are left as they are where an epoch is a pass over the images, as ``max_epochs`` has it.
        """
        adapt(checkpoint, self)
        self.validated_at = checkpoint.get("validated_at", 0)
        every = self.trainer.val_check_interval  # pyright: ignore[reportAttributeAccessIssue] (set by its connector)
        self.figures = checkpoint.get("figures", {})  # checkpoints of 0.1 have none
        if self.trainer.max_steps == -1 or not isinstance(every, int) or "loops" not in checkpoint:
            return
        iterations = checkpoint["global_step"]
        pending = iterations % every == 0 and self.validated_at != iterations
        private_api.set_counters(checkpoint["loops"]["fit_loop"], iterations, pending)
        if pending and iterations >= self.trainer.max_steps:  # Lightning would not begin where no iteration is left
            self.max_steps = self.trainer.max_steps
            private_api.set_max_steps(self.trainer, iterations + 1)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Do no iteration more than configured, where only the last validation was left."""
        if self.max_steps is None:
            return None
        private_api.set_max_steps(self.trainer, self.max_steps)
        return -1
