"""The LightningDataModule: photographs in folders → batches of pairs, the same on any number of workers and GPUs."""

from collections.abc import Callable, Iterator, Sequence
from math import ceil
from pathlib import Path

import lightning as L  # noqa: N812 (Lightning's own idiom)
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from esrgan_lit.images import FaultPolicy, Photograph, list_images, survey
from esrgan_lit.pairs import CropDataset, Degradation, ImageDataset, LowResForm, Pair, ValidationImage, pair_up
from esrgan_lit.resize import Boundary


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


class PairDataModule(L.LightningDataModule):
    """Photographs in folders → batches of :class:`Pair`, for training and validation.

    Args:
        train: folders (searched recursively) or image files; their union is trained on.
        validation: folders or files of whole high-resolution images, or None for no validation.
        validation_low_res: folder of their low-resolution partners; made from them where None.
        scale: factor between low and high resolution.
        crop: side of the high-resolution training crops, a multiple of ``scale``.
        batch: crops per GPU and iteration.
        boundary: see :class:`Degradation`.
        low_res_form: see :class:`Degradation`.
        augment: flip and rotate the crops.
        small_images: ``skip`` (with a warning that counts them) or ``refuse`` images smaller than the crop.
        unreadable_images: ``skip`` or ``refuse`` files that cannot be decoded whole.
        in_memory: decode every training image once and keep it (uint8: 3 bytes per pixel).
        workers: processes that prepare batches; 0 for none.
        seed: of the order, the crops and the augmentation.

    Raises:
        ValueError: before training starts, for what :meth:`setup` finds wrong.
    """

    def __init__(
        self,
        train: Sequence[str | Path],
        validation: Sequence[str | Path] | None,
        validation_low_res: str | Path | None,
        scale: int,
        crop: int,
        batch: int,
        boundary: Boundary,
        low_res_form: LowResForm,
        augment: bool,
        small_images: FaultPolicy,
        unreadable_images: FaultPolicy,
        in_memory: bool,
        workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.degradation = Degradation(scale, boundary, low_res_form)
        self.degradation.check()
        if crop < scale or crop % scale:
            below = max(scale, crop // scale * scale)
            raise ValueError(f"crop {crop} is not a multiple of scale {scale}; use {below} or {below + scale}")
        if batch < 1:
            raise ValueError(f"batch {batch} is not positive; the paper's is 16")
        self.sources = train
        self.validation_sources = validation
        self.validation_low_res = validation_low_res
        self.crop = crop
        self.batch = batch
        self.augment = augment
        self.small_images: FaultPolicy = small_images
        self.unreadable_images: FaultPolicy = unreadable_images
        self.in_memory = in_memory
        self.workers = workers
        self.seed = seed
        self.photographs: list[Photograph] = []
        self.images: ImageDataset | None = None

    def setup(self, stage: str) -> None:
        """List and check all images, so that what is wrong with them is said before training starts."""
        if self.validation_sources is not None and self.images is None:
            scale = self.degradation.scale
            least = 2 * scale + 11  # the border that metrics shave, and SSIM's window
            found = list_images(self.validation_sources, "data.validation")
            high_res = survey(found, least, small="refuse", unreadable="refuse")
            low_res = None
            if self.validation_low_res is not None:
                found = list_images([self.validation_low_res], "data.validation_low_res")
                low_res = pair_up(high_res, survey(found, 1, small="refuse", unreadable="refuse"), scale)
            self.images = ImageDataset([high.path for high in high_res], low_res, self.degradation)
        if stage == "fit" and not self.photographs:
            found = list_images(self.sources, "data.train")
            self.photographs = survey(found, self.crop, self.small_images, self.unreadable_images)

    def train_dataloader(self) -> DataLoader[Pair]:
        """Batches of :class:`Pair`, from the iteration that the trainer is at."""
        trainer = self._attached_trainer()
        progress = trainer.fit_loop.epoch_loop.batch_progress
        sampler = StepSampler(
            self.batch, trainer.global_rank, trainer.world_size, trainer.max_steps, lambda: progress.total.ready
        )
        length = trainer.max_steps * trainer.world_size * self.batch
        crops = CropDataset(
            self.photographs, self.crop, self.degradation, self.seed, self.augment, length, self.in_memory
        )
        return self._loader(crops, batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader[ValidationImage] | list[None]:
        """Whole images one by one, every rank its share."""
        if self.images is None:
            return []
        trainer = self._attached_trainer()
        rounds = ceil(len(self.images) / trainer.world_size)
        share = range(trainer.global_rank, rounds * trainer.world_size, trainer.world_size)
        return self._loader(self.images, batch_sampler=[[index] for index in share])

    def _loader(self, dataset: Dataset, batch_sampler: Sampler | list[list[int]]) -> DataLoader:
        return DataLoader(
            dataset,
            batch_sampler=batch_sampler,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _attached_trainer(self) -> L.Trainer:
        if self.trainer is None:
            raise RuntimeError("PairDataModule gives its loaders to a Trainer; pass it as trainer.fit(stage, data)")
        return self.trainer
