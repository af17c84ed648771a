"""The library that winograd.cpp becomes: compiled once, the user's alone, and never a danger to a process."""

import ctypes
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import platformdirs
import pytest

from esrgan_lit.inference import winograd_library
from esrgan_lit.inference.upscaler import Upscaler
from esrgan_lit.networks.rrdbnet import RRDBNet

needs_compiler = pytest.mark.skipif(not winograd_library.available(), reason="no C++ compiler")


def as_compiler(script: str) -> str:
    """A value of CXX that runs a script in Python."""
    return shlex.join([sys.executable, "-c", script])


@pytest.mark.slow
@needs_compiler
def test_two_processes_compile_at_once(tmp_path: Path) -> None:
    command = "from esrgan_lit.inference.winograd_library import library; print(library().group_size())"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", command], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [process.communicate()[0] for process in processes]
    assert printed[0] == printed[1] == f"{winograd_library.library().group_size()}\n"
    assert [path.suffix for path in (tmp_path / "esrgan_lit/winograd").iterdir()] == [".so"]


@pytest.fixture
def uncompiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder in which nothing is compiled yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(winograd_library, "library", winograd_library.library.__wrapped__)
    return tmp_path


def test_without_a_compiler_the_message_says_so(uncompiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler.*install one.*--engine torch"):
        Upscaler(RRDBNet(4, 1, 8, 8), "winograd", "cpu")
    assert not winograd_library.available()


def test_a_compiler_that_fails_leaves_nothing_behind(uncompiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", as_compiler("raise SystemExit('unheard-of')"))
    with pytest.raises(ValueError, match=r"cannot compile (?s:.*)unheard-of"):
        winograd_library.library()
    assert list((uncompiled / "esrgan_lit/winograd").iterdir()) == []


@pytest.fixture
def kept(uncompiled: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiled library in an otherwise empty cache; the compiler only copies, which is faster."""
    built = cache_of_tests(uncompiled)
    copying = f"import shutil, sys; shutil.copy({str(built)!r}, sys.argv[-2])"
    monkeypatch.setenv("CXX", as_compiler(copying))
    winograd_library.library()
    return next((uncompiled / "esrgan_lit/winograd").glob("*.so"))


def cache_of_tests(folder: Path) -> Path:
    """Compile anything with winograd's functions, once."""
    source, made = folder / "any.cpp", folder / "any.so"
    source.write_text('extern "C" int group_size() { return 1; }')
    subprocess.run(
        [next(filter(None, map(shutil.which, ("c++", "g++", "clang++")))), "-shared", "-fPIC", "-o", made, source]
    )
    return made


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "getuid"), reason="files have no owners")
def test_the_compiled_library_is_the_users_alone(kept: Path) -> None:
    assert kept.parent.stat().st_mode & 0o777 == kept.stat().st_mode & 0o777 == 0o700
    kept.parent.chmod(0o777)
    before = kept.stat().st_ino
    winograd_library.library()
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    assert kept.stat().st_ino == before  # it is not compiled again


@needs_compiler
@pytest.mark.parametrize("spoilt", ["truncated", "other bytes", "writable for others", "another's", "a link"])
def test_a_library_that_is_not_what_was_compiled_is_compiled_again(
    kept: Path, spoilt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, before = kept.read_bytes(), kept.stat().st_ino
    if spoilt in ("truncated", "other bytes"):
        kept.unlink()  # this process has it loaded
    if spoilt == "truncated":
        kept.write_bytes(content[:100])
    elif spoilt == "other bytes":
        kept.write_bytes(content[:-1] + b"!")
    elif spoilt == "writable for others":
        kept.chmod(0o722)
    elif spoilt == "a link":
        kept.rename(kept.parent.parent / "elsewhere.so")
        kept.symlink_to(kept.parent.parent / "elsewhere.so")
    else:
        own = winograd_library._is_own
        monkeypatch.setattr(winograd_library, "_is_own", lambda path: own(path) and path.lstat().st_ino != before)
    assert winograd_library.library().group_size() == 1
    assert kept.read_bytes() == content
    assert not kept.is_symlink()
    assert kept.stat().st_mode & 0o777 == 0o700


@needs_compiler
@pytest.mark.parametrize("why", ["another user's", "a link", "a file", "no folder", "no home", "nothing runs there"])
def test_where_the_cache_cannot_be_used_nothing_is_kept(
    why: str, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = kept.parent
    if why == "another user's":
        monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1, raising=False)
    elif why == "a link":
        folder.symlink_to(folder.rename(tmp_path / "elsewhere"))
    elif why == "a file":
        monkeypatch.setenv("XDG_CACHE_HOME", str(kept))
    elif why == "no folder":
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc")  # in which root cannot make any either
    elif why == "no home":  # as of an account without a name
        monkeypatch.setattr(
            platformdirs, "user_cache_path", lambda *_, **__: Path("~").with_name("~nobody-here").expanduser()
        )
    else:
        load = ctypes.CDLL
        monkeypatch.setattr(ctypes, "CDLL", lambda path: load(path) if str(tmp_path) not in path else load(__file__))
    before = sorted(tmp_path.rglob("*"))
    assert winograd_library.library().group_size() == 1
    assert "compiled for this process alone" in caplog.text
    assert sorted(tmp_path.rglob("*")) == before


@needs_compiler
def test_old_libraries_are_removed_when_a_new_one_is_made(kept: Path) -> None:
    """Those that versions before left beside the folder, and in it what nobody loads any more; nothing else."""
    cache, long_ago = kept.parent.parent, time.time() - 40 * 24 * 3600
    removed = [cache / f"winograd-{'0123456789abcdef'}.so", cache / f"winograd-{'0' * 16}-{'f' * 16}.so"]
    removed += [kept.parent / "of-long-ago.so", kept.parent / "killed" / "winograd.so"]
    stay = [cache / "winograd-mine.so", cache / f"winograd-{'0' * 16}.so.txt", kept.parent / "of-yesterday.so"]
    for path in removed + stay:
        path.parent.mkdir(exist_ok=True)
        path.write_text("old")
    linked = cache / f"winograd-{'1' * 16}.so"
    linked.symlink_to(stay[0])
    for path in (*removed[2:], kept.parent / "killed", stay[1], kept):
        os.utime(path, (long_ago, long_ago))
    winograd_library.library()
    assert kept.stat().st_mtime > long_ago + 1  # it was loaded
    assert removed[0].exists()  # nothing was made
    kept.unlink()
    winograd_library.library()
    assert [path for path in removed if path.exists()] == []
    assert [path for path in (*stay, linked, kept) if not path.exists()] == []


@pytest.mark.parametrize(
    ("compiler", "said"),
    [
        ("no-such-compiler -O2", "names no compiler that is there"),
        ("g++ 'unfinished", r"is no command \(No closing quotation\)"),
        (as_compiler("import os; os.write(2, bytes(range(128, 256))); raise SystemExit(1)"), "cannot compile"),
        (as_compiler("pass"), "cannot be compiled: .*winograd.so"),
        (as_compiler("import sys; open(sys.argv[-2], 'w').write('garbage')"), "cannot be compiled: "),
    ],
    ids=["none", "quotes", "binary", "nothing", "garbage"],
)
def test_what_is_no_compiler_is_one_message(
    compiler: str, said: str, uncompiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(ValueError, match=said) as raised:
        winograd_library.library()
    assert "use --engine torch" in str(raised.value)
    assert list(uncompiled.rglob("*.so")) == []
    assert Upscaler(RRDBNet(4, 1, 8, 8), device="cpu").engine.name == "torch"


@needs_compiler
def test_a_compilers_path_may_have_spaces(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "my compiler"
    script.write_text(f'#!/bin/sh\nexec {os.environ["CXX"]} "$@"\n')
    script.chmod(0o700)
    for named in (str(script), f"'{script}' -O2"):
        monkeypatch.setenv("CXX", named)
        assert winograd_library.library().group_size() == 1
    assert len(list(kept.parent.iterdir())) == 3
