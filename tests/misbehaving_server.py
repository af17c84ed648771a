"""A server on this machine that can be told to misbehave, and a data set on it; not a test itself."""

import hashlib
import io
import os
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

import pytest

from esrgan_lit.data.datasets import DATASETS, Archive, Dataset
from esrgan_lit.data.fetch import fetch

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
