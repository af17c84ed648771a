"""Degraded twins of validation images: written once, by whichever process comes first, with the pixels of a draw."""

import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from esrgan_lit import PairDataModule
from esrgan_lit.data.packed import pack
from esrgan_lit.data.photographs import Photograph, check_images
from esrgan_lit.data.twin import degraded_twin
from esrgan_lit.data.whole_images import ImageDataset
from esrgan_lit.degradations.bsrgan import BsrganDegradation
from esrgan_lit.degradations.real_esrgan import RealEsrganDegradation
from esrgan_lit.images.listing import list_images
from esrgan_lit.reports.runs import Run
from esrgan_lit.training.trainer import train


@pytest.fixture
def images(photograph_folder: Path) -> list[Photograph]:
    return check_images(list_images([photograph_folder], "v"), "refuse")


def twin(
    images: Sequence[Photograph], folder: Path, degradation: RealEsrganDegradation | None = None
) -> list[Photograph]:
    made = degraded_twin(images, degradation or RealEsrganDegradation(), folder)
    assert made is not None
    return made


@pytest.mark.parametrize("degradation", [RealEsrganDegradation(seed=3), BsrganDegradation(2)])
def test_pairs_are_those_of_degrading_anew(images: list[Photograph], tmp_path: Path, degradation: object) -> None:
    made = degraded_twin(images, degradation, tmp_path / "twins")  # pyright: ignore[reportArgumentType]
    kept, fresh = (ImageDataset(images, low_res, degradation) for low_res in (made, None))  # pyright: ignore
    for place in range(4):
        for ours, theirs in zip(kept[place].pair, fresh[place].pair, strict=True):
            assert torch.equal(ours, theirs)


def test_it_is_written_once_and_mended_where_it_was_damaged(
    images: list[Photograph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    made, drawn = [each.path for each in twin(images, tmp_path)], []
    assert f"degraded validation images: 3 in {made[0].parent} (" in caplog.text
    content = [path.read_bytes() for path in made]
    degrade = RealEsrganDegradation.degrade
    monkeypatch.setattr(RealEsrganDegradation, "degrade", lambda *given: (drawn.append(given[2]), degrade(*given))[1])
    twin(images, tmp_path)
    assert drawn == []
    made[0].write_bytes(content[0][:-40])
    Image.new("RGB", (5, 5)).save(made[1])
    made[2].unlink()
    twin(images, tmp_path)
    assert drawn == [0, 1, 2]
    assert [path.read_bytes() for path in made] == content
    (made[0].parent / "twin.json").write_text("{")
    with ThreadPoolExecutor(3) as pool:  # the lock's other holders may as well be processes
        list(pool.map(lambda _: twin(images, tmp_path), range(3)))
    assert drawn == [0, 1, 2, 0, 1, 2]


def test_its_name_is_of_content_settings_and_seed(
    images: list[Photograph], photograph_folder: Path, tmp_path: Path
) -> None:
    def name(images: Sequence[Photograph], degradation: RealEsrganDegradation | None = None) -> str:
        return twin(images, tmp_path / "twins", degradation)[0].path.parent.name

    photograph_folder.rename(tmp_path / "elsewhere")
    moved = check_images(list_images([tmp_path / "elsewhere"], "v"), "refuse")
    packed = [*pack(moved, tmp_path / "packed").images()]
    before = name(moved)
    (tmp_path / "elsewhere").rename(photograph_folder)
    assert name(images) == before
    assert name(packed) != before  # of pixels, not of files
    others = [
        name(images[::-1]),
        name(images, RealEsrganDegradation(seed=1)),
        name(images, RealEsrganDegradation(sinc=0.7)),
        name(images, replace(RealEsrganDegradation(), second=replace(RealEsrganDegradation().second, gray=0.1))),
    ]
    Image.new("RGB", (90, 70), "red").save(images[0].path)
    others.append(name(check_images([image.path for image in images], "refuse")))
    assert len({before, *others}) == 6


def test_the_source_of_a_class_of_one_s_own_counts(
    images: list[Photograph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    names = []
    for number in (1, 2):
        (tmp_path / "my_twin_chain.py").write_text(
            "from esrgan_lit import BsrganDegradation\n\n\nclass Mine(BsrganDegradation):\n"
            f'    """Degrade in way {number}."""\n'
        )
        importlib.invalidate_caches()
        sys.modules.pop("my_twin_chain", None)
        mine = importlib.import_module("my_twin_chain").Mine()
        names.append(twin(images, tmp_path, mine)[0].path.parent.name)
    monkeypatch.delitem(sys.modules, "my_twin_chain")
    assert names[0] != names[1]


def test_where_none_can_be_written_images_are_degraded_anew(
    configure: Callable[..., DictConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And a training's figures are the same."""
    figures = []
    (tmp_path / "blocked").write_text("a file")
    for cache in ("kept", "blocked"):
        more = [
            "degradation=realesrgan",
            f"output_dir={tmp_path}/{cache}{len(figures)}",
            "data.validation=${data.train}",
        ]
        config = configure("psnr_rrdb23", *more)
        # Packing is another matter, and has no place there either.
        config.data.cache = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(tmp_path / cache))
            train(config)
        curves = Run(tmp_path / f"{cache}{len(figures)}").curves
        figures.append({name: curve for name, curve in curves.items() if name.startswith("val/")})
    assert figures[0] == figures[1]
    assert caplog.text.count("they have no twin") == 1
    assert len(list((tmp_path / "kept/esrgan_lit/degraded").glob("*/*.png"))) == 3


def test_the_data_module_s_digest_is_of_what_was_given(photograph_folder: Path, tmp_path: Path) -> None:
    """Resuming compares it, and where the twin lies does not matter."""
    states = []
    for cache in ("one", "two"):
        module = PairDataModule(
            [photograph_folder], [photograph_folder], degradation=RealEsrganDegradation(), cache=tmp_path / cache
        )
        module.setup("validate")
        assert module.images
        assert module.images.low_res
        states.append(module.state_dict())
    assert states[0] == states[1]
