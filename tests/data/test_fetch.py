"""Fetching data sets, from a server on this machine that can be told to misbehave."""

import errno
import hashlib
import io
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from filelock import FileLock
from omegaconf import OmegaConf

from esrgan_lit.cli.data import main
from esrgan_lit.data.datasets import DATASETS, GROUPS, Archive, Dataset
from esrgan_lit.data.fetch import expand, fetch
from esrgan_lit.downloads import FetchError

IMAGES = {f"{number:04}.png": os.urandom(40_000) for number in range(3)}  # noise, as incompressible as photographs


def make_zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def make_tar(members: dict[str, bytes], mode: Literal["w", "w:gz"] = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves one content at every path; what it was asked for is in `ranges`."""

    content: bytes
    version = '"one"'
    ranges_work = True
    cuts: list[int]  # how many bytes of the next answers are sent before the connection is cut
    stall = 0.0  # seconds of silence before a cut
    statuses: list[int]  # of the next answers
    ranges: list[str | None]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/tiny"


class Handler(BaseHTTPRequestHandler):
    """Answers as its server is told to."""

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        assert isinstance(server, Server)
        server.ranges.append(asked)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        start, content = 0, server.content
        if asked and server.ranges_work and self.headers.get("If-Range", server.version) == server.version:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206 if start < len(content) else 416)
            part = f"{start}-{len(content) - 1}" if start < len(content) else "*"
            self.send_header("Content-Range", f"bytes {part}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(max(len(content) - start, 0)))
        self.send_header("ETag", server.version)
        self.end_headers()
        body = content[start:]
        if not server.cuts:
            self.wfile.write(body)
            return
        self.wfile.write(body[: server.cuts.pop(0)])
        time.sleep(server.stall)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(("127.0.0.1", 0), Handler) as running:
        running.content, running.cuts, running.statuses, running.ranges = b"", [], [], []
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def offer(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Dataset]:
    """Serve a content, and put it among the data sets as Tiny."""

    def put(
        content: bytes | None = None, suffix: str = ".zip", checksum: str | None = "right", size: int | None = None
    ) -> Dataset:
        server.content = make_zip({f"Tiny_HR/{name}": data for name, data in IMAGES.items()})
        server.content = server.content if content is None else content
        if checksum == "right":
            checksum = "sha256:" + hashlib.sha256(server.content).hexdigest()
        archive = Archive(server.address + suffix, size or len(server.content), checksum, inside="Tiny_HR")
        dataset = Dataset("Tiny", "Tiny/HR", 3, (archive,), "PAGE", "LICENSE", "PAPER")
        monkeypatch.setitem(DATASETS, "Tiny", dataset)
        return dataset

    return put


def fetch_tiny(root: Path) -> Path:
    return fetch("Tiny", root, timeout=5, attempts=3, pause=0.01)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def files_in(root: Path) -> set[str]:
    """Files below the root, without the locks."""
    return {name for name in contents(root) if not name.endswith(".lock")}


def left_in(root: Path) -> set[str]:
    """Names in the root, without the locks."""
    return {path.name for path in root.iterdir() if path.suffix != ".lock"}


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


def test_a_cut_connection_goes_on_where_it_stopped(
    tmp_path: Path, offer: Callable[..., Dataset], server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    offer()
    server.cuts = [50_000, 20_000]
    assert contents(fetch_tiny(tmp_path)) == IMAGES
    assert server.ranges == [None, "bytes=50000-", "bytes=70000-"]
    assert f"cut at byte 50000 of {len(server.content)}; trying again" in caplog.text


def test_a_silent_server_is_a_cut_connection(
    tmp_path: Path, offer: Callable[..., Dataset], server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    offer()
    server.cuts, server.stall = [50_000], 5.0
    assert contents(fetch("Tiny", tmp_path, timeout=1.0, pause=0.01)) == IMAGES
    assert server.ranges == [None, "bytes=50000-"]
    assert "the connection was cut (timed out); trying again" in caplog.text


def test_a_later_process_goes_on_too(tmp_path: Path, offer: Callable[..., Dataset], server: Server) -> None:
    offer()
    server.cuts = [50_000, 0, 0, 0]
    with pytest.raises(
        FetchError, match=r"cut at byte 50000 of \d+, 3 times in a row, 50 kB of it kept in .*\.partial"
    ):
        fetch_tiny(tmp_path)
    assert left_in(tmp_path) == {"tiny.zip.partial", "tiny.zip.partial.version"}
    server.cuts, server.ranges = [], []
    assert contents(fetch_tiny(tmp_path)) == IMAGES
    assert server.ranges == ["bytes=50000-"]


def test_a_file_that_changed_meanwhile_is_read_from_the_start(
    tmp_path: Path, offer: Callable[..., Dataset], server: Server
) -> None:
    (tmp_path / "tiny.zip.partial").write_bytes(b"of the first version")
    (tmp_path / "tiny.zip.partial.version").write_text('"zero"')
    offer()
    assert contents(fetch_tiny(tmp_path)) == IMAGES


def test_a_weak_tag_is_no_condition_for_going_on(tmp_path: Path, offer: Callable[..., Dataset], server: Server) -> None:
    offer()
    server.version, server.cuts = 'W/"one"', [50_000, 0, 0, 0]
    with pytest.raises(FetchError, match="3 times in a row"):
        fetch_tiny(tmp_path)
    assert left_in(tmp_path) == {"tiny.zip.partial"}


def test_a_partial_file_that_is_whole_is_not_read_again(
    tmp_path: Path, offer: Callable[..., Dataset], server: Server
) -> None:
    offer()
    (tmp_path / "tiny.zip.partial").write_bytes(server.content)
    assert contents(fetch_tiny(tmp_path)) == IMAGES
    assert server.ranges == [f"bytes={len(server.content)}-"]


def test_a_partial_file_that_is_too_long_is_dropped(
    tmp_path: Path, offer: Callable[..., Dataset], server: Server
) -> None:
    offer()
    (tmp_path / "tiny.zip.partial").write_bytes(server.content + b"more")
    assert contents(fetch_tiny(tmp_path)) == IMAGES
    assert server.ranges == [f"bytes={len(server.content) + 4}-", None]


def test_a_server_that_cannot_resume_starts_again_and_this_is_said(
    tmp_path: Path, offer: Callable[..., Dataset], server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    offer()
    server.ranges_work = False
    server.cuts = [50_000]
    assert contents(fetch_tiny(tmp_path)) == IMAGES
    assert "tiny.zip: the server does not go on at byte 50000; starting again" in caplog.text


def test_a_server_that_always_cuts_is_given_up(tmp_path: Path, offer: Callable[..., Dataset], server: Server) -> None:
    offer()
    server.ranges_work = False
    server.cuts = [50_000] * 100
    with pytest.raises(FetchError, match="3 times in a row"):
        fetch_tiny(tmp_path)


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(
    tmp_path: Path, offer: Callable[..., Dataset], server: Server
) -> None:
    offer()
    server.statuses = [503, 429]
    assert contents(fetch_tiny(tmp_path)) == IMAGES
    shutil.rmtree(tmp_path / "Tiny")
    server.statuses, server.ranges = [404], []
    with pytest.raises(FetchError, match="HTTP status 404 Not Found"):
        fetch_tiny(tmp_path)
    assert server.ranges == [None]


def test_a_page_instead_of_the_file_is_told_by_its_size(tmp_path: Path, offer: Callable[..., Dataset]) -> None:
    offer(b"<html>please log in</html>", size=500_000)
    with pytest.raises(FetchError, match="offers 26 bytes instead of 500000; it is another file"):
        fetch_tiny(tmp_path)
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize("kind", ["sha256", "md5", "images-md5"])
def test_a_wrong_checksum_is_refused_and_the_file_set_aside(
    tmp_path: Path, offer: Callable[..., Dataset], server: Server, kind: str
) -> None:
    offer(checksum=f"{kind}:00ff")
    with pytest.raises(FetchError, match=rf"tiny\.zip.* ha(s|ve) {kind} \w+ instead of 00ff.*kept as .*\.rejected"):
        fetch_tiny(tmp_path)
    assert files_in(tmp_path) == {"tiny.zip.rejected"}
    shutil.copy(tmp_path / "tiny.zip.rejected", tmp_path / "tiny.zip")
    with pytest.raises(FetchError, match="Remove it to have it downloaded"):
        fetch_tiny(tmp_path)
    assert (tmp_path / "tiny.zip").exists()  # what the user put there is the user's
    assert server.ranges == [None]


def test_right_checksums_of_each_kind_are_accepted(tmp_path: Path, offer: Callable[..., Dataset]) -> None:
    dataset = offer()
    archive = make_zip({f"Tiny_HR/{name}": data for name, data in IMAGES.items()})
    of_images = hashlib.md5("".join(hashlib.md5(data).hexdigest() for data in IMAGES.values()).encode()).hexdigest()
    for checksum in (f"md5:{hashlib.md5(archive).hexdigest()}", f"images-md5:{of_images}"):
        offer(checksum=checksum)
        assert contents(fetch_tiny(tmp_path / checksum)) == IMAGES
    assert dataset.archives[0].file_name == "tiny.zip"


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


def test_too_little_space_is_said_before_anything_is_written(
    tmp_path: Path, offer: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    offer()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=200_000))
    with pytest.raises(FetchError, match=r"downloading and unpacking tiny\.zip needs 241 kB, and .* has 200 kB free"):
        fetch_tiny(tmp_path)
    assert left_in(tmp_path) == set()


class FullDisk:
    """A file on a disk that has room for so many bytes more."""

    def __init__(self, path: Path, mode: str, room: int) -> None:
        self.file, self.room = open(path, mode, buffering=0), room  # noqa: PTH123, SIM115 (Path.open is what it replaces)

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> int:
        self.room -= self.file.write(data[: max(self.room, 0)]) or 0
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(data)


@pytest.mark.parametrize(("full", "kept"), [(".partial", "tiny.zip.partial"), (".png", "tiny.zip")])
def test_a_disk_that_fills_up_keeps_what_came(
    tmp_path: Path,
    offer: Callable[..., Dataset],
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    full: str,
    kept: str,
) -> None:
    offer()
    real = Path.open

    def open_on_full_disk(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        writes = path.suffix == full and "r" not in mode
        return FullDisk(path, mode, 30_000) if writes else real(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", open_on_full_disk)
    with pytest.raises(
        FetchError, match=r"disk is full \(.*No space left on device\).* kept.*; make room and run again"
    ):
        fetch_tiny(tmp_path)
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert not (tmp_path / "Tiny" / "HR").exists()
    assert (tmp_path / kept).stat().st_size == (30_000 if full == ".partial" else len(server.content))
    server.ranges = []
    offer()
    assert contents(fetch_tiny(tmp_path)) == IMAGES
    assert server.ranges == (["bytes=30000-"] if full == ".partial" else [])


def test_a_closed_network_is_met_with_what_to_do_by_hand(
    tmp_path: Path, offer: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = offer()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    address = f"http://127.0.0.1:{port}/tiny.zip"
    archives = (replace(dataset.archives[0], address=address),)
    monkeypatch.setitem(DATASETS, "Tiny", replace(dataset, archives=archives))
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("nobody answers: there is nothing to wait for"))
    with pytest.raises(FetchError) as caught:
        fetch_tiny(tmp_path)
    message = str(caught.value)
    assert f"{address}: no answer" in message
    assert f"Put\n  {address} (120 kB) as {tmp_path / 'tiny.zip'}\n" in message
    assert f"or the 3 images into {tmp_path / 'Tiny' / 'HR'} (the authors' page: PAGE)" in message
    assert "License: LICENSE." in message
    assert "Cite: PAPER" in message


def test_the_next_address_is_tried(tmp_path: Path, offer: Callable[..., Dataset], server: Server) -> None:
    dataset = offer()
    second = replace(dataset.archives[0], address=f"{server.address}/copy.zip")
    DATASETS["Tiny"] = replace(dataset, archives=(*dataset.archives, second))
    server.statuses = [404]
    assert contents(fetch_tiny(tmp_path)) == IMAGES
    assert server.ranges == [None, None]


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


def test_two_at_once_download_once(
    tmp_path: Path, offer: Callable[..., Dataset], server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    offer()
    found: list[dict[str, bytes]] = []
    held = FileLock(tmp_path / ".Tiny.lock")
    with held:  # both come while a third is at work
        both = [threading.Thread(target=lambda: found.append(contents(fetch_tiny(tmp_path)))) for _ in range(2)]
        for thread in both:
            thread.start()
        deadline = time.monotonic() + 10
        while caplog.text.count("another process is fetching this") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    for thread in both:
        thread.join()
    assert found == [IMAGES, IMAGES]
    assert server.ranges == [None]
    assert caplog.text.count("another process is fetching this") == 2


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
