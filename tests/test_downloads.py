"""Downloads that are cut, silent, changed, full or refused, from a server on this machine."""

import errno
import hashlib
import shutil
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from esrgan_lit.data.datasets import DATASETS, Dataset
from esrgan_lit.data.fetch import fetch
from esrgan_lit.downloads import FetchError
from misbehaving_server import IMAGES, Server, contents, fetch_tiny, files_in, left_in, make_zip


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
        while caplog.text.count("another process is making this") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    for thread in both:
        thread.join()
    assert found == [IMAGES, IMAGES]
    assert server.ranges == [None]
    assert caplog.text.count("another process is making this") == 2
