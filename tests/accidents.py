"""Callbacks that the tests of interrupted trainings add to a run by configuration; not a test itself."""

import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import torch

MOMENTS = ("step", "checkpoint", "validation")


class Kill(L.Callback):
    """At one moment of one iteration, end all processes of the run without warning."""

    def __init__(self, moment: str, step: int) -> None:
        self.moment = moment
        self.step = step

    def _kill(self, trainer: L.Trainer) -> None:
        if trainer.world_size > 1:
            trainer.strategy.barrier()  # so that no rank is killed before it was there
        os.killpg(os.getpgid(0), signal.SIGKILL)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        """After the generator's step, before the discriminator's."""
        if self.moment == "step" and trainer.global_step == self.step and optimizer is trainer.optimizers[-1]:
            self._kill(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: Any) -> None:
        """With half of the file written."""
        if self.moment == "checkpoint" and trainer.global_step == self.step:
            whole = torch.save

            def save_half(content: Any, file: Any) -> None:
                whole(content, file)
                file.flush()
                os.truncate(file.name, Path(file.name).stat().st_size // 2)
                os.killpg(os.getpgid(0), signal.SIGKILL)

            torch.save = save_half

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """With images measured and others not."""
        if self.moment == "validation" and trainer.global_step == self.step:
            self._kill(trainer)


class Signal(L.Callback):
    """In an iteration, or in its validation, send this process (the first rank alone) a signal."""

    def __init__(self, name: str, step: int, validation: bool = False) -> None:
        self.number = getattr(signal, name)
        self.step = step
        self.validation = validation

    def on_validation_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Send it."""
        if self.validation and trainer.global_step == self.step and not trainer.sanity_checking:
            os.kill(os.getpid(), self.number)

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Send it."""
        if trainer.global_step == self.step and trainer.is_global_zero and not self.validation:
            os.kill(os.getpid(), self.number)
