"""One training at a time in a folder, on one machine or several."""

import atexit
import errno
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout
from lightning_utilities.core.rank_zero import rank_zero_only  # Lightning's own, which takes seconds to import

from esrgan_lit.files import write_text
from esrgan_lit.overrides import as_override

LOCK, HOLDER = ".training.lock", ".training.json"
BEAT = 10.0  # seconds between signs of life, for machines that do not see one another's locks
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # as launchers say it
log = logging.getLogger(__name__)


class FolderLock:
    """Keeps other trainings out of a folder until it is released, or this process ends, however it ends.

    The lock is the operating system's; beside it ``.training.json`` says who holds it. On a file system whose locks
    other machines do not see, the time of that file is the sign of life.

    Args:
        folder: of a run or a sweep; it is made where it is not there.
    """

    held: dict[Path, "FolderLock"] = {}  # noqa: RUF012 (by this process)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / LOCK)
        self._released = threading.Event()
        self._waited_for: dict[str, Any] | None = None

    def take(self) -> bool:
        """Take the lock; wait for a training that is ending, and refuse where another goes on.

        Returns:
            Whether there was one to wait for, so that the folder may have changed.

        Raises:
            ValueError: naming who holds it, or why the folder cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while not self._acquired():
                time.sleep(0.2)
            self.write_holder()
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise ValueError(
                    f"{self.folder} cannot be written to ({error.strerror or error}); give a folder that can, "
                    "hydra.run.dir=FOLDER"
                ) from None
            log.warning("%s has no locks (%s): nothing keeps a second training out of it", self.folder, error)
        self.held[self.folder.resolve()] = self
        atexit.register(self.release)
        threading.Thread(target=self._give_signs_of_life, daemon=True).start()
        return self._waited_for is not None

    def _acquired(self) -> bool:
        holder = self._read_holder()
        here = holder.get("host") == socket.gethostname()
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            # Processes that read the data of a killed training live on for a moment.
            gone = here and not psutil.pid_exists(int(holder.get("pid", -1)))
            if not gone and not holder.get("ending"):
                raise self._refusal(holder) from None
            self._say_waiting(holder)
            return False
        if holder and not here:
            self._wait_for_silence(holder)
        return True  # what a dead process of this machine left is taken over

    def _wait_for_silence(self, holder: dict[str, Any]) -> None:
        """Wait until another machine has given no sign of life for three beats; refuse where it gives one."""
        first = self._last_sign()
        while first is not None and self._now() - first < 3 * BEAT:
            self._say_waiting(holder)
            time.sleep(0.2)
            latest = self._last_sign()
            if latest is not None and latest > first and not self._read_holder().get("ending"):
                self._lock.release()
                raise self._refusal(holder)
            first = latest

    def _last_sign(self) -> float | None:
        try:
            return (self.folder / HOLDER).stat().st_mtime
        except FileNotFoundError:  # released
            return None

    def _now(self) -> float:
        """Return the time by the clock of the file system, which may be another machine's."""
        os.utime(self.folder / LOCK)
        return (self.folder / LOCK).stat().st_mtime

    def _say_waiting(self, holder: dict[str, Any]) -> None:
        if self._waited_for != holder:
            log.warning("%s is held by %s, which seems to be ending: waiting for it", self.folder, _describe(holder))
        self._waited_for = holder

    def _refusal(self, holder: dict[str, Any]) -> ValueError:
        return ValueError(
            f"{self.folder} is being trained in by {_describe(holder)}. Stop that one and resume with resume=auto, or "
            f"begin another elsewhere: {as_override('hydra.run.dir', unused_folder(self.folder))}"
        )

    def _read_holder(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            content = json.loads((self.folder / HOLDER).read_text(encoding="utf-8"))
            return content if isinstance(content, dict) else {}
        return {}

    def write_holder(self, ending: bool = False) -> None:
        """Say who holds the lock, and whether it is about to end."""
        who = {"host": socket.gethostname(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID")}
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        write_text(self.folder / HOLDER, json.dumps({**who, "since": since, "ending": ending}))

    def _give_signs_of_life(self) -> None:
        while not self._released.wait(BEAT):
            with suppress(OSError):  # a folder that was deleted, a disk that is away
                os.utime(self.folder / HOLDER)

    def release(self) -> None:
        """Let the next training in."""
        atexit.unregister(self.release)
        self._released.set()
        self.held.pop(self.folder.resolve(), None)
        with suppress(OSError):
            (self.folder / HOLDER).unlink(missing_ok=True)
        self._lock.release()


@contextmanager
def folder_held(folder: Path) -> Iterator[None]:
    """Hold a folder for a training, of whose ranks the first holds it for all; no more where this process has it."""
    lock = None
    if is_first_rank() and folder.resolve() not in FolderLock.held:
        lock = FolderLock(folder)
        lock.take()
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def say_ending() -> None:
    """Note beside this process's locks that it is ending, so that the next training waits and is not refused."""
    for lock in FolderLock.held.values():
        with suppress(OSError):
            lock.write_holder(ending=True)


def unused_folder(folder: Path) -> Path:
    """Return a folder of a similar name that is not there."""
    return next(path for n in range(2, 10**6) if not (path := folder.with_name(f"{folder.name}_{n}")).exists())


def is_first_rank() -> bool:
    """Return whether this process is a training's first rank, or its only one."""
    # Lightning looks once, at its import: before a forked rank was told its rank, and of nodes it knows none then.
    return not getattr(rank_zero_only, "rank", None) and all(os.environ.get(name, "0") == "0" for name in _RANKS)


def _describe(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    job = f", SLURM job {holder['job']}," if holder.get("job") else ""
    return f"process {holder.get('pid')}{job} on {holder.get('host')} since {holder.get('since')}"
