"""Files are whole or absent, under any name that the disk takes."""

import hashlib
import os
import resource
from pathlib import Path

import pytest

from esrgan_lit.files import atomic_write, cache_folder, digest, file_name, unfinished_files, write_text


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "first\r\n")

    def fail() -> None:
        with atomic_write(path) as unfinished:
            unfinished.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_bytes() == b"first\r\n"
    assert list(path.parent.iterdir()) == [path]


def test_two_writers_of_one_path_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write_text("one")
        second.write_text("two")
        assert first != second
    assert path.read_text() == "one"  # whose block ended last
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_writers_left_is_found(tmp_path: Path) -> None:
    path, other = tmp_path / "a.png", tmp_path / "b.png"
    with atomic_write(path) as unfinished, atomic_write(other) as theirs:
        unfinished.touch()
        theirs.touch()
        assert unfinished_files(path) == [unfinished]
    assert unfinished_files(path) == []


def test_names_as_long_as_the_disk_takes_are_written(tmp_path: Path) -> None:
    path = tmp_path / f"{'é' * 120}.safetensors"
    assert len(path.name.encode()) > 250
    write_text(path, "whole")
    assert path.read_text() == "whole"


def test_the_cache_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "esrgan_lit"


def test_checksums_are_hashlibs(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000  # more than one chunk
    (tmp_path / "a").write_bytes(content)
    assert digest(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    assert digest(tmp_path / "a", "md5") == hashlib.md5(content).hexdigest()


def test_errors_of_the_disk_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "named.bin"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*named\.bin'"), atomic_write(path) as unfinished:
            unfinished.write_bytes(bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*named\.bin'$"), atomic_write(path):
        pass  # nothing is written
    with pytest.raises(FileNotFoundError, match=r"'another'"), atomic_write(path):
        open("another")  # noqa: PTH123, SIM115
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("photo.png", "photo.png"),
        ("set/a\nb\0.png", "set_a_b_.png"),
        ("caf\udce9 {{x}} $y$.png", "caf\udce9 {{x}} $y$.png"),
    ],
)
def test_what_a_file_can_be_called_stays(text: str, expected: str) -> None:
    assert file_name(text) == expected


@pytest.mark.parametrize("name", ["l" * 300 + ".png", "é" * 200 + ".png", "\udce9" * 260, "x" * 252 + "." + "y" * 300])
def test_names_that_are_too_long_are_shortened_and_differ(tmp_path: Path, name: str) -> None:
    short, other = file_name(name), file_name(f"x{name}")
    assert len(os.fsencode(short)) <= 255
    assert short != other
    (tmp_path / short).touch()
    assert name.endswith(".png") == short.endswith(".png")


def test_a_text_may_hold_names_that_are_not_utf_8(tmp_path: Path) -> None:
    write_text(tmp_path / "table.md", "é caf\udce9\r\n")
    assert (tmp_path / "table.md").read_bytes() == "é caf?\r\n".encode()
