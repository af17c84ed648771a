"""Write whole checkpoints, and find the one to resume from."""

import logging
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812 (Lightning's own idiom)
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from esrgan_lit.files import atomic_write, unfinished_files
from esrgan_lit.overrides import as_override

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
            f"{as_override('hydra.run.dir', path.parent.parent)} resume=auto then resumes from the furthest one there"
        )


def find_checkpoint(
    folder: str | Path, unfit: Callable[[Mapping[str, Any]], str | None] = lambda content: None
) -> Path | None:
    """Return the whole checkpoint in a folder that has come furthest, whatever the files' times, or None.

    Those that are not whole are named in a warning. So are those of other settings than the run's, where there is one
    of its own; where there is none, they are returned, to be refused by name.

    Args:
        folder: of checkpoints.
        unfit: tells why a checkpoint cannot be the run's, or None.
    """
    progress: dict[Path, tuple[Any, ...]] = {}
    unfits: dict[Path, str] = {}
    for path in sorted(Path(folder).glob("[!.]*.ckpt")):
        try:
            content = read_checkpoint(path, weights_only=True)
            if "architecture" in content and "optimizer_states" not in content:
                continue  # weights alone, as ``callbacks=gan_small`` keeps them on purpose
            content = read_checkpoint(path)
        except ValueError as fault:
            _pass_over(path, fault)
            continue
        # Of those of one iteration the one behind its validation.
        progress[path] = (content["global_step"], content.get("validated_at", 0), path.name == "last.ckpt")
        if reason := unfit(content):
            unfits[path] = reason
    for path in sorted(progress, key=lambda path: (path not in unfits, *progress[path]), reverse=True):
        try:
            read_checkpoint(path, whole=True)
        except ValueError as fault:
            _pass_over(path, fault)
            continue
        if path not in unfits:
            for other in (other for other in unfits if progress[other] > progress[path]):
                _pass_over(other, unfits[other])
        return path
    return None


def _pass_over(path: Path, reason: object) -> None:
    shown = os.fsencode(path).decode(errors="backslashreplace")  # also where the name is none in UTF-8
    log.warning("checkpoint %s is passed over: %s", shown, reason)


def read_checkpoint(path: Path, whole: bool = False, weights_only: bool = False) -> dict[str, Any]:
    """Read a training checkpoint; tensors stay in the file until they are used.

    Args:
        path: of the file.
        whole: compute the checksums of all of it anew.
        weights_only: take one that no training can be resumed from, too.

    Raises:
        ValueError: saying what is wrong with it.
    """
    try:
        if not path.is_file():  # a folder; or a pipe, which would be waited for
            raise ValueError("it is no file")
        if whole:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"{damaged} in it is damaged")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except ValueError:
        raise
    except Exception as error:  # a file may hold anything, and its reader raise anything
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"it is cut, damaged or foreign ({first})") from None
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}: not a training checkpoint")
    needed = {"state_dict", "global_step"} if weights_only else _PARTS.keys()
    for key, kind in (_PARTS | _FURTHER).items():
        if (key in needed or key in content) and not isinstance(content.get(key), kind):
            raise ValueError(f"it holds no {key}: not a training checkpoint")
    if content["global_step"] < 0 or not all(isinstance(key, str) for key in content["state_dict"]):
        raise ValueError("its iteration or the names of its weights are none: not a training checkpoint")
    return content


# Of a checkpoint that a training can resume from.
_PARTS = {"state_dict": dict, "optimizer_states": list, "lr_schedulers": list, "loops": dict, "global_step": int}
_FURTHER = {"config": dict, "validated_at": int, "callbacks": dict}  # where it has them
