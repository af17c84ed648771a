"""Write whole checkpoints, and find the one to resume from."""

import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812 (Lightning's own idiom)
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from esrgan_lit.files import atomic_write, unfinished_files

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints beside their place and moves them there whole: a full disk or a kill costs no earlier one.

    The ``last.ckpt`` before the newest stays as ``previous.ckpt``, should the newest be damaged later. Where one cannot
    be written, training goes on without: the next may fit. ``failure`` holds the last one's error, or None.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failure: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save, or leave what is at ``path`` as it was and say so."""
        path = Path(path)
        self.failure = None
        try:
            for leftover in unfinished_files(path):  # of a training that was killed
                leftover.unlink(missing_ok=True)
            with atomic_write(path) as unfinished:
                with unfinished.open("wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())  # or a power cut could leave the new name before the new content
                if path.name == "last.ckpt" and path.exists():
                    os.replace(path, path.with_name("previous.ckpt"))
        except (OSError, RuntimeError) as error:  # RuntimeError: how torch reports a write that failed
            self.failure = error if isinstance(error, OSError) else OSError(str(error).splitlines()[0])
            log.error("%s was not written, what was there before is kept and training goes on: %s", path, self.failure)


def save_last(trainer: L.Trainer, path: Path) -> None:
    """Write the checkpoint that a run ends with.

    Raises:
        OSError: when it cannot be written, with what to do. Other checkpoints may fail; without this one the iterations
            since the one before it are lost.
    """
    trainer.save_checkpoint(path, weights_only=False)
    writer = trainer.strategy.checkpoint_io
    if isinstance(writer, AtomicCheckpointIO) and writer.failure is not None:
        raise OSError(
            f"{path} could not be written at iteration {trainer.global_step} ({writer.failure}). Make room for it; "
            f"hydra.run.dir={path.parent.parent} resume=auto then resumes from the newest checkpoint there"
        )


def find_checkpoint(folder: str | Path) -> Path | None:
    """Return the newest whole checkpoint in a folder, or None; those that are not whole are named in a warning."""
    files = sorted(Path(folder).glob("[!.]*.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in files:
        fault = find_fault(path)
        if fault is None:
            return path
        log.warning("checkpoint %s is passed over: %s", path, fault)
    return None


def find_fault(path: Path) -> str | None:
    """Return what is wrong with a checkpoint file, or None: its checksums are computed anew."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            return f"{damaged} in it is damaged"
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, zipfile.BadZipFile, EOFError, RuntimeError) as error:
        return f"it is cut or damaged ({str(error).splitlines()[0]})"
    missing = {"state_dict", "optimizer_states", "loops"} - content.keys()
    return f"it holds no {', '.join(sorted(missing))}: not a training checkpoint" if missing else None
