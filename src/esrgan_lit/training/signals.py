"""SIGTERM and Ctrl-C: a training that is asked to stop ends with everything saved."""

import logging
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L  # noqa: N812 (Lightning's own idiom)

from esrgan_lit import private_api
from esrgan_lit.training.checkpointing import save_last
from esrgan_lit.training.folder_lock import say_ending
from esrgan_lit.training.nan_report import NonFiniteLossError
from esrgan_lit.training.slurm import requeue, requeue_signal

log = logging.getLogger(__name__)


class Interrupted(SystemExit):
    """Raised when training ended early because it was asked to, with a checkpoint written; exit code 0."""

    def __init__(self, iteration: int = 0) -> None:
        super().__init__(0)
        self.iteration = iteration


class StopOnSignal(L.Callback):
    """SIGTERM (a cluster's preemption) or Ctrl-C: finish the iteration, log and save it, end.

    SIGUSR1, where SLURM runs the job: the same, and the job is queued again.

    A validation is not finished, but its image: it is done when the run is resumed. A training that NaN ends is saved,
    too: its steps with NaN were skipped.

    Args:
        path: of the checkpoint.
        every: iterations after which several ranks agree on whether one of them was asked.

    Lightning's own handling of SIGTERM is put aside: it lets one rank leave while the others wait for it, and has
    several ranks wait for the device in every iteration.
    """

    def __init__(self, path: str | Path, every: int = 10) -> None:
        self.path = Path(path)
        self.every = every
        self.asked = False  # of this rank
        self.ending = False  # of all ranks
        self.requeue = False  # by SLURM
        self.handlers: dict[int, Any] = {}

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals over."""
        self._take_over(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals over, where there was no sanity check."""
        self._take_over(trainer)

    def _take_over(self, trainer: L.Trainer) -> None:
        # Python lets one in the main thread.
        if threading.current_thread() is threading.main_thread() and not self.handlers:
            for number in filter(None, (signal.SIGTERM, signal.SIGINT, requeue_signal())):
                self.handlers[number] = signal.signal(number, self._ask)
        private_api.stop_sigterm_broadcast(trainer)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C does not wait
        self.asked = True
        self.requeue = self.requeue or number == requeue_signal()
        log.warning("%s: this iteration is finished and saved, then training ends", signal.Signals(number).name)
        say_ending()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Agree with the other ranks, from time to time."""
        if trainer.world_size == 1 or trainer.global_step % self.every == 0:
            self._agree(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """End before the next iteration: this one is logged by now, and other callbacks have saved it."""
        self._end(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End before a validation."""
        self._end(trainer)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """End after an image, of which every rank has as many."""
        self._agree(trainer)
        self._end(trainer)

    def _agree(self, trainer: L.Trainer) -> None:
        if trainer.world_size > 1:
            self.ending = trainer.strategy.reduce_boolean_decision(self.asked, all=False)
        else:
            self.ending = self.asked

    def _end(self, trainer: L.Trainer) -> None:
        """Save and end, when a rank was asked to.

        Raises:
            Interrupted: when it is saved.
            OSError: when it could not be.
        """
        if self.ending:
            if not trainer.sanity_checking:  # before it, nothing was done
                save_last(trainer, self.path)
            if self.requeue and trainer.is_global_zero:
                resumes = getattr(trainer.lightning_module, "config", {}).get("resume") == "auto"
                requeue(resumes, str(self.path.parent.parent))
            raise Interrupted(trainer.global_step)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save what was learned where NaN ended it; give the signals back, before Lightning gives back its own."""
        if isinstance(exception, NonFiniteLossError):
            try:
                save_last(trainer, self.path)
                log.warning("the last good weights are kept in %s, from which resume=auto goes on", self.path)
            except OSError as error:  # what ended the training is told, and not this
                log.error("the last good weights are lost: %s", error)
        self._give_back()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the signals back, before Lightning gives back those that it took."""
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers.clear()
