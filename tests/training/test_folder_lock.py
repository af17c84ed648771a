"""One training at a time in a folder."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from esrgan_lit.training import folder_lock
from esrgan_lit.training.folder_lock import HOLDER, FolderLock, folder_held, say_ending

HOLD = """
import sys, time
from collections.abc import Iterator
from pathlib import Path
from esrgan_lit.training.folder_lock import FolderLock
FolderLock(Path(sys.argv[1])).take()
print("held", flush=True)
time.sleep(100)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def write_holder(folder: Path, **who: object) -> None:
    (folder / HOLDER).write_text(json.dumps({"host": socket.gethostname(), "pid": 1, "since": "then", **who}))


def test_a_second_training_is_refused_and_a_killed_ones_place_taken(
    other: subprocess.Popen[str], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"trained in by process {other.pid} on .* since .*resume=auto.*_2"):
        FolderLock(tmp_path).take()
    other.kill()
    other.wait()
    assert (tmp_path / HOLDER).is_file()  # left behind
    with folder_held(tmp_path):
        assert json.loads((tmp_path / HOLDER).read_text())["pid"] == os.getpid()
        with folder_held(tmp_path / ".." / tmp_path.name):  # this process has it
            pass
        assert (tmp_path / HOLDER).is_file()
    assert not (tmp_path / HOLDER).exists()


def test_a_training_that_is_ending_is_waited_for(other: subprocess.Popen[str], tmp_path: Path) -> None:
    """As a requeued job meets its predecessor, which is still saving."""
    write_holder(tmp_path, pid=other.pid, ending=True)
    threading.Timer(0.5, other.kill).start()
    begun = time.perf_counter()
    lock = FolderLock(tmp_path)
    assert lock.take()
    assert time.perf_counter() - begun > 0.4
    say_ending()
    assert json.loads((tmp_path / HOLDER).read_text())["ending"]
    lock.release()


def test_another_machine_whose_lock_is_not_seen_is_told_by_its_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_lock, "BEAT", 0.2)
    write_holder(tmp_path, host="elsewhere", job="12")
    alive = threading.Event()

    def give_signs() -> None:
        while not alive.wait(0.1):
            os.utime(tmp_path / HOLDER)

    thread = threading.Thread(target=give_signs)
    thread.start()
    with pytest.raises(ValueError, match="process 1, SLURM job 12, on elsewhere since then"):
        FolderLock(tmp_path).take()
    alive.set()
    thread.join()
    lock = FolderLock(tmp_path)
    assert lock.take()  # having waited: it gives none any more
    lock.release()


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written to .*hydra\.run\.dir=FOLDER"):
        FolderLock(tmp_path / "file" / "run").take()


def test_further_ranks_share_the_first_ones_hold(
    other: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        with monkeypatch.context() as launched:
            launched.setenv(variable, "1")
            with folder_held(tmp_path):
                pass
    monkeypatch.setattr(folder_lock.rank_zero_only, "rank", 1)
    with folder_held(tmp_path):
        pass
    assert other.poll() is None
