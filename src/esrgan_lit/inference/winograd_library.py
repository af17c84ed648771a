"""winograd.cpp as a library of this processor: compiled once, kept in the user's cache folder, loaded."""

import ctypes
import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from esrgan_lit.files import cache_folder, digest

_SOURCE = Path(__file__).with_name("winograd.cpp")
_KEPT_SECONDS = 30 * 24 * 3600  # after it was loaded last; compiling anew takes two
log = logging.getLogger(__name__)


@cache
def library() -> ctypes.CDLL:
    """winograd.cpp, compiled for this processor in a few seconds, once: the user's cache folder keeps it.

    Whoever can write there could have their code run by this process. So the folder is the user's alone, and a library
    is loaded only if it is the user's and what its name says; else it is compiled anew. The compiler is ``CXX`` where
    it is set, else ``c++``, ``g++`` or ``clang++``. Where the folder cannot be used, nothing is kept.

    Raises:
        ValueError: when there is no C++ compiler, or when it fails.
    """
    compiler = _compiler()
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    command = [*compiler, "-std=c++17", "-O3", native, "-shared", "-fPIC", "-pthread"]
    key = hashlib.sha256(_SOURCE.read_bytes() + "\n".join([*command, _processor()]).encode()).hexdigest()[:16]
    try:
        try:
            return ctypes.CDLL(str(_kept(command, key)))
        except OSError as error:  # it is read-only or full, another user's, or nothing in it may be run
            log.warning(
                "winograd.cpp is compiled for this process alone: %s. XDG_CACHE_HOME names other folders", error
            )
            with tempfile.TemporaryDirectory() as alone:
                return ctypes.CDLL(str(_compile(command, Path(alone), key)))
    except subprocess.CalledProcessError as error:
        said = "\n".join(error.stderr.strip().splitlines()[:5])
        raise ValueError(
            f"engine winograd: {shlex.join(compiler)} cannot compile {_SOURCE}; use --engine torch\n{said}"
        ) from error
    except OSError as error:
        raise ValueError(f"engine winograd cannot be compiled: {error}; use --engine torch") from error


def _compiler() -> list[str]:
    """Return the compiler's command: ``CXX``, a path or a command with options, or what is there."""
    named = os.environ.get("CXX", "").strip()
    try:
        command = [named] if shutil.which(named) else shlex.split(named)
    except ValueError as error:
        raise ValueError(
            f"CXX={named} is no command ({error}); quote what has spaces, or use --engine torch"
        ) from error
    if command and not shutil.which(command[0]):
        raise ValueError(f"CXX={named} names no compiler that is there; unset it, or use --engine torch")
    command = command or list(filter(shutil.which, ("c++", "g++", "clang++")))[:1]
    if not command:
        raise ValueError(
            "engine winograd needs a C++ compiler, and there is no c++, g++ or clang++; install one (for example: "
            "apt install g++), name yours in CXX, or use --engine torch"
        )
    return command


def _kept(command: Sequence[str], key: str) -> Path:
    """Return the library of a key in the user's cache folder, compiled where it is not there."""
    folder = cache_folder() / "winograd"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_own(folder):
        raise PermissionError(f"{folder} is a link, or belongs to another user")
    if stat.S_IMODE(folder.stat().st_mode) != 0o700:  # a read-only disk refuses to be told what is so already
        folder.chmod(0o700)
    path = next(filter(_is_trusted, folder.glob(f"{key}-*.so")), None)
    if path is None:
        path = _compile(command, folder, key)
        _tidy(folder)
    with suppress(OSError):  # of a read-only disk
        os.utime(path)
    return path


def _is_own(path: Path) -> bool:
    found = path.lstat()
    return not stat.S_ISLNK(found.st_mode) and (not hasattr(os, "getuid") or found.st_uid == os.getuid())


def _compile(command: Sequence[str], folder: Path, key: str) -> Path:
    """Compile winograd.cpp into a folder; return the file, ``KEY-CHECKSUM.so``."""
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        made = Path(unfinished) / "winograd.so"
        compile_it = [*command, "-o", made, _SOURCE]
        subprocess.run(compile_it, check=True, stdin=subprocess.DEVNULL, capture_output=True, errors="replace")
        ctypes.CDLL(str(made))  # what cannot be loaded is not kept
        made.chmod(0o700)
        path = folder / f"{key}-{digest(made)}.so"
        os.replace(made, path)
    return path


def _tidy(folder: Path) -> None:
    """Remove what nobody has loaded for long, and what versions before left beside the folder.

    Processes that have a library loaded keep it. Machines that share a home folder each have their own.
    """
    left = re.compile(r"winograd-[0-9a-f]{16}(-[0-9a-f]{16})?\.so")
    for path in [*folder.iterdir(), *folder.parent.iterdir()]:
        with suppress(OSError):
            old = path.lstat().st_mtime < time.time() - _KEPT_SECONDS
            if _is_own(path) and (old if path.parent == folder else left.fullmatch(path.name)):
                shutil.rmtree(path) if path.parent == folder and path.is_dir() else path.unlink()


def _is_trusted(library: Path) -> bool:
    """Whether a compiled library is the user's and what its name says; a damaged one would end the process."""
    own = _is_own(library) and not library.stat().st_mode & 0o022
    trusted = own and library.stem.endswith(f"-{digest(library)}")
    if not trusted:
        library.unlink(missing_ok=True)
    return trusted


def available() -> bool:
    """Whether winograd.cpp can be compiled here."""
    try:
        library()
    except ValueError:
        return False
    return True


def _processor() -> str:
    """What -march=native depends on; a home folder may be shared by several machines."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        kinds = ("model name", "flags", "features", "cpu part")
        lines = {line for line in information.read_text().splitlines() if line.lower().startswith(kinds)}
        return "\n".join(sorted(lines))
    return f"{platform.machine()} {platform.processor()}"
