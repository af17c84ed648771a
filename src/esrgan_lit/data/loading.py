"""Batches by number, prepared ahead by a thread or by processes."""

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from esrgan_lit.data.crops import CropDataset, Windows

log = logging.getLogger(__name__)


class StepSampler(Sampler[list[int]]):
    """Batches of sample numbers for one rank: iteration k uses numbers k · global batch … (k + 1) · global batch − 1.

    Args:
        batch: samples per rank and iteration.
        rank: of this process.
        ranks: number of processes.
        steps: iterations of the whole training.
        start: gives the iteration to start from, asked when iteration starts (after a checkpoint was restored).
    """

    def __init__(self, batch: int, rank: int, ranks: int, steps: int, start: Callable[[], int]) -> None:
        self.batch = batch
        self.rank = rank
        self.ranks = ranks
        self.steps = steps
        self.start = start

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start(), self.steps):
            first = (step * self.ranks + self.rank) * self.batch
            yield list(range(first, first + self.batch))


class ThreadedLoader:
    """Batches prepared ahead by a thread of this process.

    Where nothing has to be decoded this beats DataLoader's processes, which must send every batch through a pipe.

    Args:
        dataset: gives a whole batch at once.
        sampler: the numbers of each batch.
        finish: what is done to each batch in the thread.
        ahead: number of batches that wait ready.
    """

    def __init__(
        self, dataset: CropDataset, sampler: StepSampler, finish: Callable[[Windows], Any], ahead: int = 4
    ) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.finish = finish
        self.ahead = ahead

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        ready: queue.Queue[Any] = queue.Queue(self.ahead)
        stopped = threading.Event()

        def put(item: Any) -> None:
            while not stopped.is_set():
                with suppress(queue.Full):
                    ready.put(item, timeout=0.1)
                    return

        def produce() -> None:
            try:
                for numbers in self.sampler:
                    put((pin(self.finish(self.dataset.__getitems__(numbers))), None))
                    if stopped.is_set():
                        return
                put((None, StopIteration()))
            except Exception as error:  # raised again where the batch is asked for
                put((None, error))

        thread = threading.Thread(target=produce, daemon=True)
        thread.start()
        try:
            while True:
                batch, error = ready.get()
                if isinstance(error, StopIteration):
                    return
                if error is not None:
                    raise error
                yield batch
        finally:
            stopped.set()
            thread.join()


class SteadfastLoader:
    """Batches from a loader's worker processes; where one of them dies, new ones go on with the next batch.

    Args:
        make: the loader of batches from a given iteration on.
        start: gives the iteration to start from, asked when iteration starts.
        steps: iterations of the whole training.
        patience: deaths in a row, without a batch in between, after which it gives up.
    """

    def __init__(
        self, make: Callable[[int], DataLoader[Windows]], start: Callable[[], int], steps: int, patience: int = 3
    ) -> None:
        self.make = make
        self.start = start
        self.steps = steps
        self.patience = patience

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        step, deaths = self.start(), 0
        while True:
            try:
                for batch in self.make(step):
                    step, deaths = step + 1, 0
                    yield batch
                return
            except RuntimeError as error:  # what PyTorch raises for a worker killed, for example for want of memory
                deaths += 1
                if "DataLoader worker" not in str(error) or deaths == self.patience:
                    raise
                log.warning("a worker died, new ones go on with iteration %d: %s", step + 1, error)


def pin(batch: Any) -> Any:
    """Move a named tuple's tensors to page-locked memory, from where a CUDA device copies faster, if there is one."""
    if not torch.cuda.is_available():
        return batch
    return type(batch)(*(part.pin_memory() if isinstance(part, Tensor) else part for part in batch))
