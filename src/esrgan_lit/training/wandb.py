"""The Weights & Biases logger."""

import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from esrgan_lit.training.callbacks import log


class TolerantWandbLogger(WandbLogger):
    """W&B's logger; where W&B fails, training goes on without it, and the CSV log has everything.

    Args:
        checkpoints: folder whose ``best.ckpt`` and ``last.ckpt`` become an artifact at the end; None for none.
        options: of W&B's logger.
    """

    def __init__(self, checkpoints: Path | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.checkpoints = checkpoints
        self.failed = False

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Log, or warn once."""
        self._attempt(super().log_metrics, *args, **kwargs)

    def log_image(self, *args: Any, **kwargs: Any) -> None:
        """Log, or warn once."""
        self._attempt(super().log_image, *args, **kwargs)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Log, or warn once."""
        self._attempt(super().log_hyperparams, *args, **kwargs)

    def save(self) -> None:
        """Save, or warn once."""
        self._attempt(super().save)

    def finish(self) -> None:
        """Log the checkpoints and end the run, or another one in this process would go on in it."""
        if self.checkpoints is not None and getattr(rank_zero_only, "rank", 0) == 0:
            self._attempt(self._log_checkpoints, self.checkpoints)
        self._attempt(lambda: self.experiment.finish())

    def _log_checkpoints(self, folder: Path) -> None:
        run = self.experiment
        artifact = wandb.Artifact(f"checkpoints-{run.id}", "model")
        # W&B reads the files now, or when `wandb sync` is called. So it gets names of its own for them: training writes
        # checkpoints beside and renames, which leaves what these names lead to as it is, and nothing is copied.
        kept = Path(run.dir).parent / "checkpoints"
        for path in (folder / "best.ckpt", folder / "last.ckpt"):
            if path.is_file():
                kept.mkdir(exist_ok=True)
                (kept / path.name).unlink(missing_ok=True)
                try:
                    os.link(path, kept / path.name)
                except OSError:  # another file system, or one without links
                    shutil.copyfile(path, kept / path.name)
                artifact.add_file(str(kept / path.name), policy="immutable", skip_cache=True)
        if kept.exists():
            run.log_artifact(artifact)

    def _attempt(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:  # W&B raises what its service, network or disk raised
            if not self.failed:
                log.warning("W&B failed, and training goes on without what it missed (it is in the CSV log): %s", error)
            self.failed = True


def wandb_logger(
    project: str,
    name: str,
    folder: str | Path,
    group: str | None = None,
    checkpoints: str | Path | None = None,
    entity: str | None = None,
    tags: Sequence[str] = (),
) -> TolerantWandbLogger:
    """Make W&B's logger: online where a key is found, offline (to be synced later) where there is none or no network.

    A run that is resumed in its folder stays one run there; one that ``wandb agent`` started is the sweep's.

    Args:
        project: of W&B.
        name: of the run.
        folder: where W&B writes its files.
        group: that the runs of one sweep share.
        checkpoints: folder whose best and last checkpoint become an artifact at the end; None for none.
        entity: user or team of the project; None for the account's own.
        tags: of the run.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    identity = folder / "wandb_run_id"
    if not identity.exists():
        # Under another id than the agent's, its sweep would wait for the run's figures in vain.
        agents = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
        identity.write_text(agents or secrets.token_hex(4))
    # Without a key and without a mode, wandb.init would stop the training.
    if not os.environ.get("WANDB_MODE", "-"):
        del os.environ["WANDB_MODE"]  # set and empty, which W&B refuses
    mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
    options: dict[str, Any] = {"project": project, "name": name, "save_dir": folder, "group": group}
    options |= {"entity": entity, "tags": list(tags) or None}
    options |= {"id": identity.read_text().strip(), "resume": "allow"}
    options["checkpoints"] = None if checkpoints is None else Path(checkpoints)
    logger = TolerantWandbLogger(**options, mode=mode)
    if mode == "online" and getattr(rank_zero_only, "rank", 0) == 0:
        try:
            logger.experiment  # noqa: B018 (connects)
        except Exception as error:
            log.warning("W&B cannot be reached and logs offline; `wandb sync` uploads it later: %s", error)
            logger = TolerantWandbLogger(**options, mode="offline")
    return logger
