"""Packed images: packing, resuming, and everything that makes one untrustworthy."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import make_photograph
from esrgan_lit.data import packed as packed_module
from esrgan_lit.data.crops import CropDataset
from esrgan_lit.data.packed import PackedError, PackedImages, pack
from esrgan_lit.data.photographs import Photograph, check_images
from esrgan_lit.degradations.bicubic import Bicubic
from esrgan_lit.images.listing import list_images
from esrgan_lit.images.reading import read_image


@pytest.fixture
def photographs(photograph_folder: Path) -> list[Photograph]:
    return check_images(list_images([photograph_folder], "FOLDER"), "refuse")


@pytest.fixture
def packed(photographs: list[Photograph], tmp_path: Path) -> Path:
    pack(photographs, tmp_path / "store", license="CC0")
    return tmp_path / "store"


def test_a_packed_folder_holds_the_pixels_and_where_they_came_from(packed: Path, photographs: list[Photograph]) -> None:
    images = PackedImages(packed).images()
    assert [image.path for image in images] == [photo.path.resolve() for photo in photographs]
    for image, photo in zip(images, photographs, strict=True):
        np.testing.assert_array_equal(image.pixels(), read_image(photo.path))
        assert (image.height, image.width, image.name) == (photo.height, photo.width, photo.name)
        assert image.record.license == "CC0"
    assert {path.name for path in packed.iterdir()} == {"pixels.bin", "manifest.json", "verified.json"}


def test_a_worker_gets_no_copy_of_the_pixels(packed: Path) -> None:
    image = PackedImages(packed).images()[1]
    copied = pickle.loads(pickle.dumps(image))
    assert len(pickle.dumps(image)) < 2000
    image.prefetch(-5, 1000)  # rows outside the image are no error
    np.testing.assert_array_equal(copied.pixels(), image.pixels())


def test_a_copied_folder_is_verified_and_then_trusted(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(packed, tmp_path / "copy", copy_function=shutil.copy)
    hashed = []
    real = packed_module._sha256
    monkeypatch.setattr(packed_module, "_sha256", lambda pixels: hashed.append(1) or real(pixels))
    PackedImages(packed)
    assert hashed == []
    PackedImages(tmp_path / "copy")
    assert len(hashed) == 3
    PackedImages(tmp_path / "copy")
    assert len(hashed) == 3


def edit_pixel(folder: Path) -> None:
    with (folder / "pixels.bin").open("r+b") as file:
        file.seek(1000)
        value = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([value ^ 1]))


def edit_manifest(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["images"][0][3] -= 1
    manifest["images"][0][4] += 1
    (folder / "manifest.json").write_text(json.dumps(manifest))


def other_version(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "version": 99}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (edit_pixel, r"was edited: the pixels of 1 images, .*a\.png first.*pack again"),
        (edit_manifest, r"manifest of packed folder .* was edited; copy it again"),
        (other_version, r"has version 99, not 1; delete it and pack again"),
        (lambda folder: os.truncate(folder / "pixels.bin", 5000), r"was cut short: pixels.bin has 5,000 bytes"),
        (lambda folder: (folder / "pixels.bin").unlink(), r"was cut short: pixels.bin has 0 bytes"),
        (lambda folder: (folder / "manifest.json").write_text("{"), r"cannot be read .*; delete it and pack again"),
        (lambda folder: (folder / "manifest.json").unlink(), r"is half made; give the same `esrgan-data pack`"),
    ],
)
def test_damaged_folders_are_refused_with_the_remedy(packed: Path, damage, message: str) -> None:  # noqa: ANN001
    damage(packed)
    with pytest.raises(PackedError, match=message):
        PackedImages(packed)


def test_packing_goes_on_where_it_was_interrupted(
    photographs: list[Photograph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    real = Photograph.pixels

    def fail_at_third(photo: Photograph) -> np.ndarray:
        decoded.append(photo.name)
        if photo.name == "c":
            raise KeyboardInterrupt
        return real(photo)

    def fail_at_pixels(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "pixels.bin":
            raise KeyboardInterrupt
        return open(path, *arguments, **options)  # noqa: PTH123

    monkeypatch.setattr(Photograph, "pixels", fail_at_third)
    with monkeypatch.context() as killed:
        killed.setattr(Path, "open", fail_at_pixels)
        with pytest.raises(KeyboardInterrupt):
            pack(photographs, tmp_path / "store")
    with pytest.raises(KeyboardInterrupt):
        pack(photographs, tmp_path / "store")
    with pytest.raises(PackedError, match="half made"):
        PackedImages(tmp_path / "store")
    with (tmp_path / "store" / "progress.jsonl").open("a") as file:
        file.write('["half a li')  # what a kill can leave
    with (tmp_path / "store" / "pixels.bin").open("ab") as file:
        file.write(b"rest")
    decoded.clear()
    monkeypatch.setattr(Photograph, "pixels", lambda photo: decoded.append(photo.name) or real(photo))
    images = pack(photographs, tmp_path / "store").images()
    assert decoded == ["c"]
    for image, photo in zip(images, photographs, strict=True):
        np.testing.assert_array_equal(image.pixels(), read_image(photo.path))


def test_a_killed_pack_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(60):
        Image.fromarray(make_photograph(300, 300, number)).save(folder / f"{number:02}.png")
    code = (
        "from pathlib import Path; import time\n"
        "from esrgan_lit.data.photographs import Photograph, check_images\n"
        "from esrgan_lit.images.listing import list_images\n"
        "from esrgan_lit.data.packed import pack\n"
        "photos = check_images(list_images(['many'], 'FOLDER'), 'refuse')\n"
        "real = Photograph.pixels\n"
        "Photograph.pixels = lambda photo: time.sleep(0.05) or real(photo)\n"
        "pack(photos, Path('store'))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL)
    progress = tmp_path / "store" / "progress.jsonl"
    while not (progress.is_file() and progress.read_text().count("\n") >= 5):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    kept = progress.read_text().count("\n")
    assert 5 <= kept < 60
    images = pack(check_images(list_images([folder], "FOLDER"), "refuse"), tmp_path / "store").images()
    assert len(images) == 60
    np.testing.assert_array_equal(images[30].pixels(), read_image(folder / "30.png"))


def test_two_processes_pack_one_folder(photographs: list[Photograph], tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from esrgan_lit.data.photographs import check_images\n"
        "from esrgan_lit.images.listing import list_images\n"
        "from esrgan_lit.data.packed import pack\n"
        "print(len(pack(check_images(list_images(['photographs'], 'x'), 'refuse'), Path('store')).images()))"
    )
    run = [sys.executable, "-c", code]
    both = [subprocess.Popen(run, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == ["3", "3"]
    assert PackedImages(tmp_path / "store")


def test_a_batch_asks_for_its_rows_and_no_others(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = PackedImages(packed)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(PackedImages, "prefetch", lambda _, start, end: asked.append((start, end)))
    crops = CropDataset(folder.images(), 32, Bicubic(4), 0, False, 100, in_memory=False)
    windows = crops.__getitems__(range(30))
    assert len(asked) == 30
    for (start, end), window in zip(asked, windows.levels.numpy(), strict=True):
        record = next(record for record in folder.records if record.offset <= start < record.end)
        rows = folder.pixels[start:end].reshape(-1, record.width, 3)
        inside = window[8:-8, 8:-8]
        assert len(rows) <= 48
        windows_of_rows = np.lib.stride_tricks.sliding_window_view(rows, inside.shape)
        assert (windows_of_rows == inside).all((3, 4, 5)).any()


def test_what_cannot_be_packed_is_said_first(
    photographs: list[Photograph], packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PackedError, match="holds other files; name a new folder"):
        pack(photographs, photographs[0].path.parent)
    with pytest.raises(PackedError, match="nothing to pack"):
        pack([], tmp_path / "empty")
    with pytest.raises(PackedError, match="packed from other files"):
        pack(photographs[:2], packed)
    (tmp_path / "file").touch()
    with pytest.raises(PackedError, match=r"cannot be written to \(Not a directory\); .*data\.cache=null"):
        pack(photographs, tmp_path / "file" / "cache")
    lock = packed.with_name(f"{packed.name}.lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()  # as good as a folder that can only be read: a whole one takes no lock
    assert len(pack(photographs, packed).records) == 3
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(PackedError, match=r"needs 0\.0 GB and its disk has 0\.0 GB free; free some"):
        pack(photographs, tmp_path / "new")
    assert not (tmp_path / "new" / "pixels.bin").stat().st_size


def sign_again(folder: Path, change: Callable[[list[list[Any]]], object]) -> None:
    """Change the records of a manifest, and sign it and pass it off as verified."""
    path = folder / "manifest.json"
    images = json.loads(path.read_text())["images"]
    change(images)
    digest = hashlib.sha256(json.dumps(images).encode()).hexdigest()
    path.write_text(json.dumps({"version": 1, "sha256": digest, "images": images}))
    packed_module._stamp(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: images[0].__setitem__(5, -3), "begins at byte -3, not 0"),
        (lambda images: images[1].__setitem__(5, 10**15), "begins at byte 1000000000000000"),
        (lambda images: images[1].__setitem__(3, "70"), r"an image is \["),
        (lambda images: images[1].__setitem__(4, True), r"an image is \["),
        (lambda images: images[2].__setitem__(3, 10**18), "was cut short"),
        (lambda images: images[2].__setitem__(0, None), r"an image is \["),
        (lambda images: images[0].__setitem__(0, "a\0b"), "an image of"),
        (lambda images: images[1].pop(), r"an image is \["),
        (lambda images: images.__setitem__(1, 3), "an image is 3"),
        (lambda images: images.clear(), "cut short|no image"),
    ],
)
def test_a_manifest_that_is_signed_again_is_not_believed(packed: Path, change, message: str) -> None:  # noqa: ANN001
    sign_again(packed, change)
    with pytest.raises(PackedError, match=f"(?s){packed.name}.*({message}).*pack again"):
        PackedImages(packed)


def test_names_that_are_no_text_are_packed(tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    with (folder / os.fsdecode(b"caf\xe9\n$x^2$.png")).open("wb") as file:
        Image.fromarray(make_photograph(40, 40, 0)).save(file, "PNG")
    for _ in range(2):  # packed, and opened again
        packed = pack(check_images(list_images([folder], "FOLDER"), "refuse"), tmp_path / "store")
        [image] = packed.images()
        assert os.fsencode(image.path.name) == b"caf\xe9\n$x^2$.png"
