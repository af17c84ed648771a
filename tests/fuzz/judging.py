"""Give a hostile file to a consumer, and judge what comes of it."""

import os
import re
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Literal, NamedTuple

import numpy as np
import torch

from esrgan_lit import RRDBNet, save_generator
from esrgan_lit.files import cache_folder

SECONDS = 10.0
MEGABYTES = 1000.0
_LINES, _CHARACTERS = 3, 3000
EXPECTED = (ValueError, OSError)
"""What commands turn into one line and exit code 1: PictureError, WeightsError, PackedError, FetchError and others."""


class Verdict(NamedTuple):
    """What came of a case: ``processed``, ``refused`` clearly, or a ``fault``, with why."""

    kind: Literal["processed", "refused", "fault"]
    why: str = ""


class Kind(NamedTuple):
    """A kind of hostile file: its name, what makes one in an empty folder, and by name what consumes it."""

    name: str
    make: Callable[[np.random.Generator, Path], Path]
    consumers: dict[str, Callable[[Path], object]]


class _HangError(BaseException):
    """Too long; no `except Exception` may swallow it."""


def judge(consume: Callable[[Path], object], path: Path) -> Verdict:
    """Run a consumer on a hostile file.

    A clear refusal is an error of :data:`EXPECTED`, or a command's exit with a message, that names the file in few
    lines. A fault is everything else: another exception, a hang, memory out of proportion; what must not be left
    behind or harmed, the consumer asserts.

    Args:
        consume: what is tried.
        path: of the file, or the folder, that a message must name.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
    peak = _peak()
    try:
        with _limited(), warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            consume(path)
        verdict = Verdict("processed")
    except SystemExit as stopped:
        verdict = _judge_message(stopped.code, path) if stopped.code else Verdict("processed")
    except EXPECTED as error:
        verdict = _judge_message(str(error), path)
        if verdict.kind == "fault" or isinstance(error, UnicodeError):
            verdict = Verdict("fault", f"{verdict.why or 'UnicodeError'}\n{traceback.format_exc()}")
    except _HangError:
        verdict = Verdict("fault", f"hangs: more than {SECONDS:g} s of computing\n{traceback.format_exc()}")
    except BaseException as error:  # whatever it is, it is the finding
        if isinstance(error, KeyboardInterrupt):
            raise
        verdict = Verdict("fault", traceback.format_exc())
    grown = (_peak() - peak) / 1e6
    if grown > MEGABYTES:
        verdict = Verdict("fault", f"takes {grown:.0f} MB\n{verdict.why}")
    return verdict


def _judge_message(message: object, path: Path) -> Verdict:
    if not isinstance(message, str):
        return Verdict("fault", f"exit code {message} without a message")
    lines = message.splitlines()
    if path.name not in message and repr(path.name)[1:-1] not in message:
        return Verdict("fault", f"names no file: {message[:500]}")
    if len(lines) > _LINES or len(message) > _CHARACTERS:
        return Verdict("fault", f"{len(lines)} lines, {len(message)} characters: {message[:500]}")
    return Verdict("refused", message)


@contextmanager
def _limited():
    def stop(number: int, frame: FrameType | None) -> None:
        raise _HangError

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS, 1)  # again each second, should a __del__ swallow it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(
            signal.SIGPROF, signal.SIG_IGN
        )  # not what was before: one that is on its way would end the process


def _peak() -> float:
    """Return the largest memory of this process so far, in bytes; on Linux since it was begun anew."""
    status = Path("/proc/self/status")
    if status.is_file():
        return float(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def files_below(folder: Path) -> set[str]:
    """Return the files below a folder, but for locks."""
    found = (Path(base) / name for base, _, names in os.walk(folder) for name in names)
    return {str(path.relative_to(folder)) for path in found if path.suffix != ".lock"}


def tiny_network() -> Path:
    """Return a small network's file, in this library's folder in the user's cache."""
    path = cache_folder() / "tiny.safetensors"
    if not path.is_file():
        torch.manual_seed(0)
        save_generator(RRDBNet(scale=2, blocks=1, width=8, growth=4), path)
    return path
