"""The LightningDataModule: folders and packed images → batches of pairs, the same on any number of workers and GPUs."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812 (Lightning's own idiom)
import torch
from torch.utils.data import DataLoader

from esrgan_lit.data.crops import CropDataset
from esrgan_lit.data.loading import RankShare, RetryingLoader, StepSampler, ThreadedLoader
from esrgan_lit.data.packed import PackedImages, is_packed
from esrgan_lit.data.pairing import pair_up
from esrgan_lit.data.photographs import FaultPolicy, Photograph, large_enough
from esrgan_lit.data.sources import Sources, as_paths, open_images
from esrgan_lit.data.twin import degraded_twin
from esrgan_lit.data.whole_images import ImageDataset, LowResDataset, NamedImage, ValidationImage
from esrgan_lit.degradations.bicubic import Bicubic, LowResForm
from esrgan_lit.degradations.given import GivenPairs
from esrgan_lit.degradations.pairs import Crops, Degradation, make_pairs
from esrgan_lit.files import cache_folder
from esrgan_lit.images.listing import list_images
from esrgan_lit.networks.generator import check_at_least_one
from esrgan_lit.overrides import as_override
from esrgan_lit.private_api import batches_begun, epoch_began
from esrgan_lit.resize import Boundary

log = logging.getLogger(__name__)


class PairDataModule(L.LightningDataModule):
    """Photographs in folders, or packed, → batches of :class:`Pair`, for training and validation.

    The defaults are those of ``conf/data/folder.yaml``, so that ``PairDataModule(FOLDERS)`` is enough in a notebook.

    Args:
        train: folders (searched recursively), image files or what ``esrgan-data pack`` made; their union is trained on.
            None where nothing is trained.
        validation: the same, for whole high-resolution images, or None for no validation.
        validation_low_res: folder of their low-resolution partners, or several; made from them where None, by a random
            degradation once and for all (:mod:`esrgan_lit.data.twin`). For ``validation_sets`` a mapping of names to
            folders.
        scale: factor between low and high resolution.
        crop: side of the high-resolution training crops, a multiple of ``scale``.
        batch: crops per GPU and iteration.
        boundary: see :class:`Bicubic`.
        low_res_form: see :class:`Bicubic`.
        augment: flip and rotate the crops.
        small_images: ``skip`` (with a warning that counts them) or ``refuse`` images smaller than the crop.
        unreadable_images: ``skip`` or ``refuse`` files that cannot be decoded whole.
        in_memory: decode every training image once and keep it (uint8: 3 bytes per pixel).
        cache: folder in which the training files are packed before the first training, and degraded validation images
            are kept; None for no packing, and the user's cache folder for the latter.
        texture_candidates: of so many random crops the most textured one is taken; 1 for any.
        on_device: send uint8 crops to the device and make low resolution, flips and rotations there: the same pairs.
        workers: processes that prepare batches; 0 for a thread of this process; None for a thread where nothing has to
            be decoded and up to 8 processes otherwise.
        seed: of the order, the crops and the augmentation.
        degradation: makes the low-resolution images in place of :class:`Bicubic`; ``boundary`` and ``low_res_form`` are
            then its own.
        validation_sets: further images, by the name of their set: logged as ``val/NAME/psnr_y`` ….
        predict: low-resolution images that ``trainer.predict`` enlarges, given as ``train`` is.
        low_res: low-resolution partners of ``train``, given as it is, instead of a degradation; None to make them.
        channels: of the images. 3 reads whatever can be RGB, with 8 bits. Any other number must be the file's own: 1 is
            gray, 4 are RGBA or RGB with one more band, and ``.npy`` and TIFF files may have any; they keep their depth.

    Raises:
        ValueError: before training starts, for what :meth:`setup` finds wrong.
    """

    def __init__(
        self,
        train: Sources | None = None,
        validation: Sources | None = None,
        validation_low_res: str | Path | Sources | Mapping[str, str | Path | Sources] | None = None,
        scale: int = 4,
        crop: int = 128,
        batch: int = 16,
        boundary: Boundary = "symmetric",
        low_res_form: LowResForm = "uint8",
        augment: bool = True,
        small_images: FaultPolicy = "skip",
        unreadable_images: FaultPolicy = "refuse",
        in_memory: bool = False,
        cache: str | Path | None = None,
        texture_candidates: int = 1,
        on_device: bool = True,
        workers: int | None = None,
        seed: int = 0,
        degradation: Degradation | None = None,
        validation_sets: Mapping[str, Sources] | None = None,
        predict: Sources | None = None,
        low_res: Sources | None = None,
        channels: int = 3,
    ) -> None:
        super().__init__()
        check_at_least_one(channels=channels)
        made = Bicubic(scale, boundary, low_res_form) if low_res is None else GivenPairs(scale)
        self.degradation: Degradation = degradation or made
        if isinstance(self.degradation, GivenPairs) != (low_res is not None):
            raise ValueError("data.low_res and degradation=pairs go together: pairs are given, or they are made")
        if self.degradation.scale != scale:
            raise ValueError(f"data.degradation has scale {self.degradation.scale}, not {scale}; give it ${{scale}}")
        if channels != 3 and (remedy := self.degradation.rgb_only(channels)):
            raise ValueError(
                f"channels={channels}: {type(self.degradation).__name__} has parts that take RGB alone (JPEG, gray or "
                f"correlated noise); give {remedy}"
            )
        if crop < scale or crop % scale:
            below = max(scale, crop // scale * scale)
            raise ValueError(f"crop {crop} is not a multiple of scale {scale}; use {below} or {below + scale}")
        for name, number, usual in (("batch", batch, 16), ("texture_candidates", texture_candidates, 1)):
            if number < 1:
                raise ValueError(f"{name} {number} is not positive; the usual is {usual}")
        if self.degradation.stateful and not on_device:
            raise ValueError(
                "data.on_device=false makes pairs ahead of the training, and this degradation remembers those of "
                "earlier batches, for checkpoints, too; give data.on_device=true"
            )
        if workers is not None and workers < 0:
            raise ValueError(f"workers {workers} is negative; give 0 for a thread, or null to choose by what is read")
        self.sources = train
        self.validation_sources = {**({} if validation is None else {"": validation}), **(validation_sets or {})}
        self.validation_low_res = _by_set(validation_low_res, self.validation_sources)
        self.predict = predict
        self.low_res = low_res
        self.channels = channels
        self.crop = crop
        self.batch = batch
        self.augment = augment
        self.small_images: FaultPolicy = small_images
        self.unreadable_images: FaultPolicy = unreadable_images
        self.in_memory = in_memory
        self.cache = cache
        self.texture_candidates = texture_candidates
        self.on_device = on_device
        self.workers = workers
        self.seed = seed
        self.photographs: list[Photograph] = []
        self.partners: list[Photograph] | None = None
        self.validation_sets: dict[str, ImageDataset] = {}

    @property
    def images(self) -> ImageDataset | None:
        """The images of ``validation``; None for none."""
        return self.validation_sets.get("")

    def list_files(self) -> None:
        """Find the files of every source, without reading any.

        Raises:
            ValueError: for a source that does not exist or holds no image, and for partners that do not pair up.
        """
        named: dict[str, Any] = {} if self.sources is None else {"data.train": self.sources}
        named |= {} if self.low_res is None else {"data.low_res": self.low_res}
        named |= {_setting(name): sources for name, sources in self.validation_sources.items()}
        partners = "data.validation_low_res"
        named |= {f"{partners}.{name}" if name else partners: one for name, one in self.validation_low_res.items()}
        for name in self.validation_sources:
            if self.low_res is not None and name not in self.validation_low_res:
                missing = f"data.validation_low_res{'.' * bool(name)}{name}"
                raise ValueError(f"{missing} is not set; degradation=pairs makes no low resolution: {missing}=FOLDER")
        for setting, sources in named.items():
            if not (paths := as_paths(sources)):
                raise ValueError(f"{setting} is empty; give {as_override(setting, ['FOLDER'])}")
            for source in paths:
                if not is_packed(source):
                    list_images([source], setting)

    def count_files(self) -> int:
        """Return how many images there are to train on, without reading any."""
        sources = as_paths(self.sources or [])
        packed, files = ([source for source in sources if is_packed(source) == kind] for kind in (True, False))
        return sum(len(PackedImages(one).images()) for one in packed) + len(list_images(files, "data.train"))

    def setup(self, stage: str) -> None:
        """List and check all images, before training starts."""
        if stage != "predict":
            for name in self.validation_sources.keys() - self.validation_sets.keys():
                self.validation_sets[name] = self._open_set(name)
            self.validation_sets = {name: self.validation_sets[name] for name in self.validation_sources}
        if stage == "fit" and not self.photographs:
            if self.sources is None:
                raise ValueError("data.train is not set: give the folders to train on, PairDataModule(train=[FOLDER])")
            found = self._open(self.sources, "data.train", self.unreadable_images, self.cache)
            self.photographs = large_enough(found, self.crop, self.small_images)
            if self.low_res is not None:
                low_res = self._open(self.low_res, "data.low_res", self.unreadable_images, self.cache)
                sources = as_paths(self.sources), as_paths(self.low_res)
                partners = pair_up(found, low_res, self.degradation.scale, "data.low_res", *sources, False)
                kept = {image.path for image in self.photographs}
                self.partners = [low for high, low in zip(found, partners, strict=True) if high.path in kept]

    def set_digests(self) -> dict[str, str]:
        """Return a digest of each set of validation images: the figures of two with other ones do not compare."""
        digests = {}
        for name, images in self.validation_sets.items():
            given = (images.low_res or ()) if name in self.validation_low_res else ()
            files = [[one.name, one.height, one.width, _bytes_in(one.path)] for one in (*images.high_res, *given)]
            digests[name] = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]
        return digests

    def state_dict(self) -> dict[str, Any]:
        """Return the sets' digests, and what a stateful degradation remembers, of each rank: all must call this."""
        digests = self.set_digests()
        if not self.degradation.stateful:
            return {"validation_sets": digests}
        own = self.degradation.state_dict()
        states = [own] * getattr(self.trainer, "world_size", 1)
        if len(states) > 1:
            torch.distributed.all_gather_object(states, own)
        return {"validation_sets": digests, "degradation": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have a stateful degradation remember what this rank's did."""
        trainer = self._attached_trainer()
        states = state_dict.get("degradation", [])
        if self.degradation.stateful and len(states) != trainer.world_size:
            log.warning(
                "the degradation remembers nothing of before: the checkpoint has %d processes with one like it, not %d",
                *(len(states), trainer.world_size),
            )
        elif self.degradation.stateful:
            self.degradation.load_state_dict(states[trainer.global_rank])

    def train_dataloader(self) -> ThreadedLoader | RetryingLoader:
        """Return batches from the iteration that the trainer is at."""
        crops = self._crops(self.in_memory)
        trainer = self._attached_trainer()
        if getattr(trainer, "overfit_batches", 0):
            raise ValueError("overfit_batches: batches are drawn by number here; give one image as data.train")
        began = (lambda: epoch_began(trainer)) if self._by_epochs else (lambda: 0)
        sampler = self._sampler(self.epoch_length, lambda: batches_begun(trainer), began)
        finish = _as_they_are if self.on_device else partial(make_pairs, degradation=self.degradation)
        workers = self.workers
        if workers is None:
            decodes = not self.in_memory and any(image.decodes for image in self.photographs)
            workers = min(8, os.cpu_count() or 1) if decodes else 0
        return RetryingLoader(crops, sampler, finish, workers) if workers else ThreadedLoader(crops, sampler, finish)

    def sources_of(self, step: int) -> list[str]:
        """Return where this rank's crops of an iteration (from 0) come from, for messages."""
        crops = self._crops(in_memory=False)
        numbers = next(iter(self._sampler(step + 1, lambda: step)))
        return [str(crops.source_of(number)) for number in self.degradation.samples_given(numbers)]

    def val_dataloader(self) -> list[DataLoader[ValidationImage]]:
        """Return whole images one by one, every rank its share; a loader for each set."""
        return [DataLoader(images, sampler=self._share(images)) for images in self.validation_sets.values()]

    def test_dataloader(self) -> list[DataLoader[ValidationImage]]:
        """Return the images of the validation: other ones are the ``validation`` of another data module."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[NamedImage]:
        """Return the low-resolution images one by one, every rank its share."""
        if self.predict is None:
            raise ValueError("data.predict is not set: give the folders to enlarge, PairDataModule(predict=[FOLDER])")
        images = LowResDataset(self._open(self.predict, "data.predict", self.unreadable_images))
        return DataLoader(images, sampler=self._share(images))

    def _share(self, images: ImageDataset | LowResDataset) -> RankShare:
        trainer = self._attached_trainer()
        return RankShare(images, trainer.world_size, trainer.global_rank, shuffle=False)

    def _open(
        self,
        sources: str | Path | Sources,
        setting: str,
        unreadable: FaultPolicy = "refuse",
        cache: str | Path | None = None,
    ) -> list[Photograph]:
        return open_images(sources, setting, unreadable, cache, self.channels)

    def _open_set(self, name: str) -> ImageDataset:
        scale = self.degradation.scale
        least = 2 * scale + 11  # the border that metrics shave, and SSIM's window
        high_res = self._open(self.validation_sources[name], _setting(name))
        high_res = large_enough(high_res, least, "refuse", skipping="")
        low_res, partners = None, self.validation_low_res.get(name)
        if partners is not None:
            sources = as_paths(self.validation_sources[name]), as_paths(partners)
            low_res = self._open(partners, "data.validation_low_res")
            low_res = pair_up(high_res, low_res, scale, "data.validation_low_res", *sources, self.low_res is None)
        elif self.degradation.random:
            low_res = degraded_twin(high_res, self.degradation, Path(self.cache or cache_folder()) / "degraded")
        return ImageDataset(high_res, low_res, self.degradation, name)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Make the pairs of a batch that came as crops, on the device that it came to."""
        if not isinstance(batch, Crops):
            return batch
        # Lightning converted the batch to the trainer's precision before it was floating point.
        return self._attached_trainer().precision_plugin.convert_input(make_pairs(batch, self.degradation))

    @property
    def epoch_length(self) -> int:
        """Iterations that Lightning calls an epoch: all of the training by ``max_steps``, a pass by ``max_epochs``."""
        trainer = self._attached_trainer()
        if not self._by_epochs:
            return trainer.max_steps
        return ceil(len(self.photographs) / (self.batch * trainer.world_size))

    @property
    def _by_epochs(self) -> bool:
        trainer = self._attached_trainer()
        return trainer.max_steps == -1 or getattr(trainer, "max_epochs", -1) not in (None, -1)

    def _sampler(self, steps: int, start: Callable[[], int], began: Callable[[], int] = lambda: 0) -> StepSampler:
        trainer = self._attached_trainer()
        return StepSampler(self.batch, trainer.global_rank, trainer.world_size, steps, start, began)

    def _crops(self, in_memory: bool) -> CropDataset:
        trainer = self._attached_trainer()
        return CropDataset(
            self.photographs,
            self.crop,
            self.degradation,
            self.seed,
            self.augment,
            self.epoch_length * trainer.world_size * self.batch,
            in_memory,
            self.texture_candidates,
            self.partners,
        )

    def _attached_trainer(self) -> L.Trainer:
        if self.trainer is None:
            raise RuntimeError("PairDataModule gives its loaders to a Trainer; pass it as trainer.fit(stage, data)")
        return self.trainer


def _setting(name: str) -> str:
    return f"data.validation_sets.{name}" if name else "data.validation"


def _by_set(low_res: Any, sets: Mapping[str, Sources]) -> dict[str, str | Path]:
    """Return the folders of low-resolution partners by the name of the set, which is empty for ``data.validation``."""
    for name in sets:
        if not re.fullmatch(r"[\w-]*", name):
            raise ValueError(f"data.validation_sets: {name!r} cannot name a set; use letters, digits, _ and -")
    if low_res is None:
        return {}
    if not isinstance(low_res, Mapping):
        if sets and "" not in sets:
            raise ValueError(
                "data.validation_low_res is of data.validation, which is not set; say of which set it is, "
                f"{as_override('data.validation_low_res', {next(iter(sets)): 'FOLDER'})}"
            )
        return {"": low_res}
    for name in low_res:
        if name not in sets:
            raise ValueError(
                f"data.validation_low_res names a set {name!r}, and data.validation_sets has "
                f"{', '.join(filter(None, sets)) or 'none'}; give it one of these names"
            )
    return dict(low_res)


def _bytes_in(path: Path) -> int | None:
    """Return the size of a file; None where it is not there, as of packed images."""
    return path.stat().st_size if path.is_file() else None


def _as_they_are(crops: Crops) -> Crops:
    return crops
