"""Batches by number, prepared ahead by a thread or by DataLoader's processes.

A thread reads packed images 2.5 times as fast as a DataLoader's process, which sends every batch through a pipe (14,500
and 5,700 pairs a second on one core). Files are decoded by processes all the same: Pillow hands an image over with
Python's lock held, for 12 of the 80 ms that a 2K PNG takes, so that eight threads would stop one another, and training.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, Sampler

from esrgan_lit.data.crops import CropDataset
from esrgan_lit.degradations.pairs import Crops

log = logging.getLogger(__name__)

_AHEAD = 4  # batches that wait ready
_MOST_DEATHS = 3  # of workers in a row, without a batch in between


@dataclass(eq=False)
class StepSampler(Sampler[list[int]]):
    """Batches of sample numbers for one rank: iteration k uses numbers k · global batch … (k + 1) · global batch − 1.

    Args:
        batch: samples per rank and iteration.
        rank: of this process.
        ranks: number of processes.
        steps: iterations of an epoch, which may be the whole training.
        start: gives the iteration to start from, asked when iteration starts (after a checkpoint was restored).
        began: gives the iteration that the epoch began at, asked then, too.
    """

    batch: int
    rank: int
    ranks: int
    steps: int
    start: Callable[[], int]
    began: Callable[[], int] = lambda: 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start(), self.began() + self.steps):
            first = (step * self.ranks + self.rank) * self.batch
            yield list(range(first, first + self.batch))


class RankShare(DistributedSampler[Any]):
    """Every rank's share of whole images: equally many, with positions past the last where their number asks for it.

    Of its base class, which Lightning leaves as it is, whatever ``use_distributed_sampler`` says.
    """

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, self.total_size, self.num_replicas))


@dataclass(eq=False)
class ThreadedLoader:
    """Batches prepared ahead by a thread of this process.

    Args:
        dataset: gives a whole batch at once.
        sampler: the numbers of each batch.
        finish: what is done to each batch in the thread.
    """

    dataset: CropDataset
    sampler: StepSampler
    finish: Callable[[Any], Any]

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        waiting: deque[Future[Any]] = deque()
        pool = ThreadPoolExecutor(1)
        try:
            for numbers in self.sampler:
                waiting.append(pool.submit(self._prepare, numbers))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _prepare(self, numbers: list[int]) -> Any:
        return _pinned(self.finish(self.dataset.__getitems__(numbers)))


@dataclass(eq=False)
class RetryingLoader:
    """Batches from a DataLoader's worker processes; where one of them dies, new ones go on with the next batch.

    A DataLoader alone would end a training of days for one worker that the system killed for want of memory.

    Args:
        dataset: gives a whole batch at once.
        sampler: the numbers of each batch.
        finish: what is done to each batch in the worker.
        workers: number of processes.
    """

    dataset: CropDataset
    sampler: StepSampler
    finish: Callable[[Any], Any]
    workers: int

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        step, deaths, batches = self.sampler.start(), 0, None
        end = self.sampler.began() + self.sampler.steps
        # A thread asks for them: in the main one PyTorch would raise a worker's death wherever training just is.
        with ThreadPoolExecutor(1) as thread:
            while step < end:
                try:
                    batches = batches or thread.submit(iter, self._from(step)).result()
                    batch = thread.submit(next, batches).result()
                except (RuntimeError, ConnectionError, EOFError) as error:
                    if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                        raise
                    deaths, batches = deaths + 1, None
                    if deaths == _MOST_DEATHS:
                        raise RuntimeError(
                            f"{deaths} DataLoader workers died in a row ({error}); where memory ran out, try "
                            "data.workers=1, or 0 for a thread"
                        ) from error
                    log.warning("a worker died, new ones go on with iteration %d: %s", step + 1, error)
                else:
                    step, deaths = step + 1, 0
                    yield batch

    def _from(self, step: int) -> DataLoader[Crops]:
        began = self.sampler.began()
        sampler = replace(self.sampler, start=lambda: step, began=lambda: began)
        pin = torch.cuda.is_available()
        return DataLoader(
            self.dataset, batch_sampler=sampler, collate_fn=self.finish, num_workers=self.workers, pin_memory=pin
        )


def _pinned(batch: Any) -> Any:
    """Move a named tuple's tensors to page-locked memory, from where a CUDA device copies faster, if there is one."""
    if not torch.cuda.is_available():
        return batch
    return type(batch)(*(part.pin_memory() if isinstance(part, Tensor) else part for part in batch))
