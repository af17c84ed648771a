"""A callback that measures how much a training grows; not a test itself."""

import threading
from pathlib import Path

import lightning as L
import numpy as np
import psutil


class Watch(L.Callback):
    """Write into ``growth.txt`` how many MB, open files and threads more there are at the last iteration.

    Args:
        first: iteration to compare with.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.before = np.zeros(3)

    def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:
        """Measure."""
        if trainer.global_step not in (self.first, trainer.max_steps):
            return
        process = psutil.Process()
        seen = np.array([process.memory_info().rss / 1e6, process.num_fds(), threading.active_count()])
        if trainer.global_step == self.first:
            self.before = seen
        else:
            np.savetxt(Path(trainer.default_root_dir) / "growth.txt", seen - self.before)
