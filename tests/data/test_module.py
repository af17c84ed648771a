"""The data module: batches over ranks, validation pairs, and what is refused before training starts."""

import inspect
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from PIL import Image

from esrgan_lit import PairDataModule, imresize
from esrgan_lit.data import loading
from esrgan_lit.data.crops import CropDataset
from esrgan_lit.data.loading import RetryingLoader, StepSampler, ThreadedLoader
from esrgan_lit.data.packed import pack
from esrgan_lit.data.photographs import check_images
from esrgan_lit.degradations.bicubic import Bicubic
from esrgan_lit.images.listing import list_images


def test_ranks_share_the_global_batch_and_a_resumed_sampler_goes_on() -> None:
    alone = list(StepSampler(4, 0, 1, steps=5, start=lambda: 0))
    halves = [list(StepSampler(2, rank, 2, steps=5, start=lambda: 0)) for rank in (0, 1)]
    assert [left + right for left, right in zip(*halves, strict=True)] == alone
    assert list(StepSampler(4, 0, 1, steps=5, start=lambda: 3)) == alone[3:]


def test_a_thread_gives_every_batch_in_order_and_passes_errors_on(photograph_folder: Path) -> None:
    photographs = check_images(list_images([photograph_folder], "data.train"), "refuse")
    crops = CropDataset(photographs, 32, Bicubic(4), 0, True, 100, in_memory=False)
    sampler = StepSampler(2, 0, 1, steps=6, start=lambda: 1)
    batches = list(ThreadedLoader(crops, sampler, lambda windows: windows))
    assert len(batches) == 5
    for step, batch in enumerate(batches, start=1):
        expected = crops.__getitems__([2 * step, 2 * step + 1])
        assert torch.equal(batch.levels, expected.levels)
        assert batch.orientations == expected.orientations

    before = threading.active_count()
    loader = iter(ThreadedLoader(crops, sampler, lambda windows: windows))
    next(loader)
    loader.close()  # an interrupted training leaves no thread behind
    assert threading.active_count() == before

    for path in photograph_folder.rglob("*.png"):
        path.unlink()
    with pytest.raises(FileNotFoundError):
        list(ThreadedLoader(crops, sampler, lambda windows: windows))


@pytest.fixture
def module(photograph_folder: Path) -> Callable[..., PairDataModule]:
    def build(**changes: Any) -> PairDataModule:
        settings: dict[str, Any] = {
            "train": [photograph_folder],
            "validation": [photograph_folder],
            "validation_low_res": None,
            "scale": 4,
            "crop": 32,
            "batch": 2,
            "boundary": "symmetric",
            "low_res_form": "uint8",
            "augment": True,
            "small_images": "refuse",
            "unreadable_images": "refuse",
            "in_memory": False,
            "cache": None,
            "texture_candidates": 1,
            "on_device": True,
            "workers": 0,
            "seed": 0,
        }
        return PairDataModule(**{**settings, **changes})

    return build


def test_the_defaults_are_those_of_the_configuration() -> None:
    with initialize_config_module("esrgan_lit.conf", version_base=None):
        config = compose("train", ["data=folder", "data.train=[photos]"]).data
    parameters = inspect.signature(PairDataModule).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items() if name != "train"}
    assert defaults == {name: value for name, value in config.items() if name not in ("_target_", "train")}


def test_an_image_lost_during_training_is_replaced_and_said(
    photograph_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photographs = check_images(list_images([photograph_folder], "data.train"), "refuse")
    crops = CropDataset(photographs, 32, Bicubic(4), 0, True, 100, in_memory=False)
    before = crops.__getitems__(range(12))
    (photograph_folder / "b.png").unlink()
    after = crops.__getitems__(range(12))
    same = [torch.equal(*levels) for levels in zip(before.levels, after.levels, strict=True)]
    assert same.count(False) == 4  # b's third of the samples, and no other
    assert caplog.text.count("taken from another photograph") == 4
    assert "b.png" in caplog.text


def low_res_folder(high_res: Path, folder: Path, suffix: str = "x4") -> Path:
    folder.mkdir()
    for path in high_res.rglob("*.png"):
        image = np.asarray(Image.open(path))
        small = imresize(image[: len(image) // 4 * 4, : image.shape[1] // 4 * 4], 1 / 4)
        Image.fromarray(small).save(folder / f"{path.stem}{suffix}.png")
    return folder


@pytest.mark.parametrize("suffix", ["", "x4"])
def test_validation_pairs_are_found_by_name(
    module: Callable[..., PairDataModule], photograph_folder: Path, tmp_path: Path, suffix: str
) -> None:
    given = module(validation_low_res=low_res_folder(photograph_folder, tmp_path / "low", suffix))
    made = module()
    for data in (given, made):
        data.setup("validate")
    assert given.images is not None
    assert made.images is not None
    assert len(given.images) == 3
    for index in range(3):
        assert given.images[index].name == made.images[index].name
        torch.testing.assert_close(given.images[index].pair, made.images[index].pair, rtol=0, atol=0)


def test_pairs_that_do_not_fit_are_refused(
    module: Callable[..., PairDataModule], photograph_folder: Path, tmp_path: Path
) -> None:
    low = low_res_folder(photograph_folder, tmp_path / "low")
    Image.new("RGB", (5, 5)).save(low / "bx4.png")
    with pytest.raises(ValueError, match=r"low_res bx4 is 5×5, which is not 1/4 of high_res b \(77×83\)"):
        module(validation_low_res=low).setup("validate")
    (low / "bx4.png").rename(low / "d.png")
    with pytest.raises(
        ValueError, match=r"by name: without a partner b; belonging to none d\. .*or leave data.validation_low_res out"
    ):
        module(validation_low_res=low).setup("validate")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 130}, "crop 130 is not a multiple of scale 4; use 128 or 132"),
        ({"crop": 2}, "crop 2 is not a multiple of scale 4; use 4 or 8"),
        ({"batch": 0}, "batch 0 is not positive"),
        ({"texture_candidates": 0}, "texture_candidates 0 is not positive"),
        ({"boundary": "wrap"}, "boundary 'wrap' is not known"),
        ({"low_res_form": "int"}, "low_res_form 'int' is not known"),
        ({"train": ["nowhere"]}, r"data.train: nowhere does not exist .*Put the photographs"),
        ({"crop": 80}, r"3 images smaller than 80×80:\n.*\(90×70\)"),
        ({"small_images": "ignore"}, "small_images=ignore is not known; use skip or refuse"),
    ],
)
def test_bad_settings_are_refused_before_training(
    module: Callable[..., PairDataModule], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        module(**changes).setup("fit")


def test_small_and_unreadable_images_are_skipped_by_choice(
    module: Callable[..., PairDataModule], photograph_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = (photograph_folder / "a.png").read_bytes()
    (photograph_folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"1 image cannot be decoded whole:\n  .*cut\.png"):
        module(validation=None).setup("fit")
    data = module(validation=None, crop=68, small_images="skip", unreadable_images="skip")
    data.setup("fit")
    assert [photo.name for photo in data.photographs] == ["a", "b"]
    assert "1 image smaller than 68×68" in caplog.text
    assert "cut.png" in caplog.text
    with pytest.raises(ValueError, match="none of 3 images can be used"):
        module(validation=None, crop=200, small_images="skip", unreadable_images="skip").setup("fit")


def test_folders_stores_and_the_cache_give_the_same_pairs(
    module: Callable[..., PairDataModule], photograph_folder: Path, tmp_path: Path
) -> None:
    pack(check_images(list_images([photograph_folder], "FOLDER"), "refuse"), tmp_path / "store")
    read = []
    for changes in ({}, {"train": [tmp_path / "store"], "validation": tmp_path / "store"}, {"cache": tmp_path / "c"}):
        data = module(**changes)
        data.setup("fit")
        crops = CropDataset(data.photographs, 32, Bicubic(4), 0, True, 50, in_memory=False)
        assert data.images is not None
        read.append((crops.__getitems__(range(20)), [data.images[index] for index in range(3)]))
    for windows, images in read[1:]:
        torch.testing.assert_close(windows, read[0][0], rtol=0, atol=0)
        torch.testing.assert_close(images[2].pair, read[0][1][2].pair, rtol=0, atol=0)
        assert images[2].name == read[0][1][2].name
    assert len(list((tmp_path / "c").glob("*/manifest.json"))) == 1
    module(cache=tmp_path / "c").setup("fit")
    Image.fromarray(np.zeros((90, 90, 3), np.uint8)).save(photograph_folder / "a.png")
    module(cache=tmp_path / "c").setup("fit")
    assert len(list((tmp_path / "c").glob("*/manifest.json"))) == 2  # changed files are packed anew


def test_workers_threads_and_devices_give_the_same_pairs(module: Callable[..., PairDataModule]) -> None:
    """The k-th batch, whoever prepares it and wherever it becomes pairs."""
    precision = SimpleNamespace(convert_input=lambda pair: pair)
    progress = SimpleNamespace(total=SimpleNamespace(ready=2))
    trainer = SimpleNamespace(
        global_rank=1,
        world_size=2,
        max_steps=5,
        precision_plugin=precision,
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
    )
    read = {}
    for workers, on_device in ((0, True), (0, False), (2, True), (2, False)):
        data = module(workers=workers, on_device=on_device)
        data.setup("fit")
        data.trainer = cast(Any, trainer)
        loader = data.train_dataloader()
        assert isinstance(loader, ThreadedLoader) == (workers == 0)
        read[workers, on_device] = [data.on_after_batch_transfer(batch, 0) for batch in loader]
    first = read.pop((0, True))
    assert len(first) == 3
    assert first[0].low_res.shape == (2, 3, 8, 8)
    for others in read.values():
        torch.testing.assert_close(others, first, rtol=0, atol=0)


class _KillsWorkers(torch.utils.data.Dataset[torch.Tensor]):
    """Ends the worker process that is asked for sample 3, so often."""

    def __init__(self, folder: Path, times: int) -> None:
        self.folder = folder
        self.times = times

    def __getitem__(self, number: int) -> torch.Tensor:
        died = len(list(self.folder.iterdir()))
        if number == 3 and died < self.times:
            (self.folder / str(died)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor(number)


def killing_loader(folder: Path, times: int) -> RetryingLoader:
    sampler = StepSampler(1, 0, 1, 6, lambda: 1)
    return RetryingLoader(cast(Any, _KillsWorkers(folder, times)), sampler, lambda batch: batch[0], 1)


def test_workers_that_die_are_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    batches = iter(killing_loader(tmp_path, 1))
    assert int(next(batches)) == 1
    deadline = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline:  # it dies while training is elsewhere
        time.sleep(0.01)
    time.sleep(0.2)
    assert [int(batch) for batch in batches] == [2, 3, 4, 5]
    assert caplog.text.count("a worker died, new ones go on with iteration") == 1


def test_workers_that_die_again_and_again_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_MOST_DEATHS", 2)  # each takes PyTorch five seconds to notice
    with pytest.raises(RuntimeError, match=r"2 DataLoader workers died in a row .*try data\.workers=1"):
        list(killing_loader(tmp_path, 2))
