"""Fetching data sets: archives, checks, folders laid out by hand, the command."""

import hashlib
import io
import logging
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from esrgan_lit.cli.data import main
from esrgan_lit.data.datasets import DATASETS, GROUPS, Dataset
from esrgan_lit.data.fetch import expand, fetch
from esrgan_lit.downloads import FetchError
from misbehaving_server import IMAGES, Server, contents, fetch_tiny, files_in, left_in, make_tar, make_zip


@pytest.mark.parametrize(
    ("suffix", "make"),
    [(".zip", make_zip), (".tar.gz", make_tar), (".tar", lambda members: make_tar(members, "w"))],
)
def test_images_are_fetched_and_only_images(
    tmp_path: Path, offer: Callable[..., Dataset], suffix: str, make: Callable[[dict[str, bytes]], bytes]
) -> None:
    rubbish = {
        "Tiny_LR/0000.png": b"other",
        "Tiny_HR/.DS_Store": b"x",
        "Tiny_HR/._0000.png": b"x",
        "Tiny_HR/run.sh": b"x",
    }
    offer(make({f"Tiny_HR/{name}": data for name, data in IMAGES.items()} | rubbish), suffix)
    folder = fetch_tiny(tmp_path)
    assert folder == tmp_path / "Tiny" / "HR"
    assert contents(folder) == IMAGES
    assert left_in(tmp_path) == {"Tiny"}  # neither archive nor partial file
    assert left_in(tmp_path / "Tiny") == {"HR"}


def test_what_is_there_is_not_fetched_again(tmp_path: Path, offer: Callable[..., Dataset], server: Server) -> None:
    offer()
    fetch_tiny(tmp_path)
    assert server.ranges == [None]
    assert fetch_tiny(tmp_path) == tmp_path / "Tiny" / "HR"
    assert server.ranges == [None]


@pytest.mark.parametrize("count", [3, 2])
def test_a_folder_laid_out_by_hand_is_taken(
    tmp_path: Path, offer: Callable[..., Dataset], server: Server, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    offer()
    folder = tmp_path / "Tiny" / "HR" / "below"
    folder.mkdir(parents=True)
    for name in list(IMAGES)[:count]:
        (folder / name).write_bytes(IMAGES[name])
    assert fetch_tiny(tmp_path) == folder.parent
    assert server.ranges == []
    assert ("holds 2 images, the data set has 3; used as it is" in caplog.text) == (count == 2)


def test_an_archive_put_there_by_hand_is_used_and_kept(
    tmp_path: Path, offer: Callable[..., Dataset], server: Server
) -> None:
    offer()
    (tmp_path / "tiny.zip").write_bytes(server.content)
    assert contents(fetch_tiny(tmp_path)) == IMAGES
    assert server.ranges == []
    assert left_in(tmp_path) == {"Tiny", "tiny.zip"}


def test_without_a_checksum_the_count_decides_and_the_sum_seen_is_said(
    tmp_path: Path, offer: Callable[..., Dataset], server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    offer(checksum=None)
    assert contents(fetch_tiny(tmp_path / "three")) == IMAGES
    assert f"no published checksum; its sha256 is {hashlib.sha256(server.content).hexdigest()}" in caplog.text
    offer(make_zip({"Tiny_HR/0000.png": b"x"}), checksum=None)
    with pytest.raises(FetchError, match="holds 1 images, the data set has 3"):
        fetch_tiny(tmp_path / "one")
    assert not (tmp_path / "one" / "Tiny" / "HR").exists()


def test_with_a_right_checksum_another_count_is_only_said(
    tmp_path: Path, offer: Callable[..., Dataset], caplog: pytest.LogCaptureFixture
) -> None:
    offer(make_zip({"Tiny_HR/0000.png": b"x"}))
    assert contents(fetch_tiny(tmp_path)) == {"0000.png": b"x"}
    assert "Tiny: 1 images, the data set has 3" in caplog.text


def test_a_broken_archive_is_named(tmp_path: Path, offer: Callable[..., Dataset]) -> None:
    offer(make_tar(IMAGES)[:60_000], suffix=".tar.gz")
    with pytest.raises(FetchError, match=r"tiny\.tar\.gz is broken .*kept as"):
        fetch_tiny(tmp_path)


@pytest.mark.parametrize(
    "name", ["../outside.png", "Tiny_HR/../../outside.png", "/outside.png", r"..\o.png", "C:/o.png"]
)
@pytest.mark.parametrize(("suffix", "make"), [(".zip", make_zip), (".tar.gz", make_tar)])
def test_nothing_is_written_outside_the_folder(
    tmp_path: Path, offer: Callable[..., Dataset], name: str, suffix: str, make: Callable[[dict[str, bytes]], bytes]
) -> None:
    offer(make({f"Tiny_HR/{image}": data for image, data in IMAGES.items()} | {name: b"bad"}), suffix)
    root = tmp_path / "root"
    with pytest.raises(FetchError, match="which is outside the folder; nothing is unpacked"):
        fetch_tiny(root)
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    assert files_in(root) == {f"tiny{suffix}.rejected"}


def test_nothing_is_written_through_a_link(tmp_path: Path, offer: Callable[..., Dataset]) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        link = tarfile.TarInfo("Tiny_HR/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        archive.addfile(link)
        image = tarfile.TarInfo("Tiny_HR/link.png/0000.png")
        image.size = 3
        archive.addfile(image, io.BytesIO(b"bad"))
    offer(buffer.getvalue(), suffix=".tar.gz")
    folder = fetch_tiny(tmp_path / "root")
    assert contents(folder) == {"link.png/0000.png": b"bad"}
    assert list(outside.iterdir()) == []


def test_a_kill_while_unpacking_leaves_no_folder_that_passes_for_whole(
    tmp_path: Path, offer: Callable[..., Dataset], server: Server
) -> None:
    offer()
    (tmp_path / "tiny.zip").write_bytes(server.content)
    script = f"""
import shutil, signal, os
from pathlib import Path
from esrgan_lit.data import fetch
from esrgan_lit.data.datasets import DATASETS, Archive, Dataset
DATASETS["Tiny"] = {DATASETS["Tiny"]!r}
real = shutil.copyfileobj
def copy(source, target, length):
    if target.name.endswith("0001.png"):
        target.write(source.read(1000))
        target.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target, length)
shutil.copyfileobj = copy
fetch.fetch("Tiny", {str(tmp_path)!r})
"""
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    left = contents(tmp_path / "Tiny")
    assert set(left) == {".HR.unpacking/0000.png", ".HR.unpacking/0001.png"}
    assert len(left[".HR.unpacking/0001.png"]) == 1000
    assert contents(fetch_tiny(tmp_path)) == IMAGES
    assert left_in(tmp_path / "Tiny") == {"HR"}


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, offer: Callable[..., Dataset]) -> None:
    offer()
    notes = tmp_path / "Tiny" / "HR" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    with pytest.raises(FetchError, match="holds other files and no image; move them away"):
        fetch_tiny(tmp_path)
    assert notes.read_text() == "mine"
    notes.unlink()
    assert contents(fetch_tiny(tmp_path)) == IMAGES


def test_names_are_found_in_any_case_and_groups_are_opened() -> None:
    assert expand(["set5", "df2k_ost"]) == ["Set5", "DIV2K-train", "Flickr2K", "OST"]
    with pytest.raises(ValueError, match="'flickr' is not known; did you mean Flickr2K"):
        expand(["flickr"])
    with pytest.raises(ValueError, match="'x' is not known; known are DIV2K-train, "):
        expand(["x"])
    with pytest.raises(ValueError, match="'x' is not known; known are DIV2K-train, "):
        fetch("x", "anywhere")


def test_the_command(
    tmp_path: Path,
    offer: Callable[..., Dataset],
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*arguments: str | Path) -> int | str | None:
        with pytest.raises(SystemExit) as stopped:
            main(["fetch", *map(str, arguments)])
        return stopped.value.code

    offer()
    monkeypatch.setenv("ESRGAN_DATA", str(tmp_path))
    assert run("tiny") == 0
    assert capsys.readouterr().out == f"{tmp_path}/Tiny/HR\n"
    assert run() == 0
    listed = capsys.readouterr().out
    assert f"3 in {tmp_path}/Tiny/HR" in listed
    assert all(name in listed for name in [*DATASETS, *GROUPS])
    assert "did you mean Tiny?" in str(run("tinyy"))
    server.statuses = [404]
    assert run("tiny", "--root", tmp_path / "other") == 1
    assert "Tiny could not be downloaded" in capsys.readouterr().err
    monkeypatch.delenv("ESRGAN_DATA")
    assert run("--help") == 0
    assert "(default: datasets, from ESRGAN_DATA where it is set)" in " ".join(capsys.readouterr().out.split())


def test_the_table_is_well_formed() -> None:
    digits = {"sha256": 64, "md5": 32, "images-md5": 32}
    for dataset in DATASETS.values():
        assert dataset.images > 0
        assert dataset.archives
        assert not Path(dataset.folder).is_absolute()
        assert all([dataset.page, dataset.license, dataset.citation])
        for archive in dataset.archives:
            assert archive.address.startswith("https://")
            assert archive.file_name.endswith((".zip", ".tar", ".tar.gz"))
            assert archive.source
            if archive.checksum is not None:
                kind, _, value = archive.checksum.partition(":")
                assert len(bytes.fromhex(value)) * 2 == digits[kind]
    files = [archive.file_name for dataset in DATASETS.values() for archive in dataset.archives]
    assert len(set(files)) == len(files)  # they all lie in one root
    assert {name for members in GROUPS.values() for name in members} == DATASETS.keys()


def test_the_data_sets_fill_the_folders_that_the_configuration_reads() -> None:
    config: Any = OmegaConf.load(Path(__file__).parents[2] / "conf" / "data" / "df2k_ost.yaml")
    read = OmegaConf.to_container(OmegaConf.create({"data_root": "", "data": config}), resolve=False)
    assert isinstance(read, dict)
    paths = [*read["data"]["train"], *read["data"]["validation"]]
    assert {path.removeprefix("${data_root}/") for path in paths} == {
        DATASETS[name].folder for name in GROUPS["df2k_ost"]
    }
