"""What is refused before Hydra writes a file: overwriting a run, mixing two, and names that hide one's own settings."""

import filecmp
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from esrgan_lit.training.folder_lock import FolderLock, is_first_rank
from esrgan_lit.training.resume import AUTO, check_unbegun, find_start
from esrgan_lit.training.sweep import check_same_sweep
from esrgan_lit.training.trainer import normalize


class RunFolderGuard(Callback):
    """Checks the folder of a run, or of a sweep, and holds it until the process ends."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check one run's."""
        with _exit_plainly():
            check_shipped_names(config)
            with _in_silence():
                composed = _as_the_run_sees_it(config)
            if composed is not None:
                _hold(Path(composed.output_dir), lambda: find_start(composed))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a sweep's; each job checks its own."""
        with _exit_plainly():
            check_shipped_names(config)
            folder, resumed = Path(str(OmegaConf.select(config, "hydra.sweep.dir"))), config.get("resume") == AUTO
            if resumed:
                check_same_sweep(folder, list(config.hydra.overrides.task))
            _hold(folder, lambda: None if resumed else check_unbegun(folder, "hydra.sweep.dir"))


def _hold(folder: Path, check: Callable[[], object]) -> None:
    with _in_silence():
        check()
    if is_first_rank() and FolderLock(folder).take():
        with _in_silence():
            check()  # what there was to wait for has written to it


@contextmanager
def _in_silence() -> Iterator[None]:
    # The run looks at the same again, and says it in its own log.
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def _exit_plainly() -> Iterator[None]:
    # Hydra makes warnings of what its callbacks raise, and goes on; SystemExit passes.
    try:
        yield
    except (ValueError, OSError) as error:
        sys.exit(f"esrgan-train: {error}")


def _as_the_run_sees_it(config: DictConfig) -> DictConfig | None:
    """Return a run's configuration, resolved; None where it cannot be, which the run itself says."""
    hydra = HydraConfig.instance()
    before, config, composed = hydra.cfg, deepcopy(config), deepcopy(config)
    try:
        hydra.set_config(config)
        folder = Path(str(OmegaConf.select(config, "hydra.run.dir"))).absolute()
        with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
            config.hydra.runtime.output_dir = str(folder)
        hydra.set_config(config)
        with read_write(composed), open_dict(composed):
            del composed["hydra"]
        normalize(composed)
        OmegaConf.resolve(composed)
    except (OmegaConfBaseException, ValueError, OSError):
        return None
    finally:
        hydra.cfg = before
    return composed


def check_shipped_names(config: DictConfig) -> None:
    """Raise ValueError for a file of the user's that has the name of a shipped one, which Hydra takes instead.

    Args:
        config: with Hydra's own part.
    """
    shipped = Path(str(files("esrgan_lit.conf")))
    for source in config.hydra.runtime.config_sources:
        if source.schema != "file" or not source.path or Path(source.path).resolve() == shipped.resolve():
            continue
        for path in sorted(Path(source.path).rglob("*.yaml")):
            name = path.relative_to(source.path)
            if (shipped / name).is_file() and not filecmp.cmp(path, shipped / name, shallow=False):
                raise ValueError(
                    f"{path} has the name of a shipped configuration ({name}), which is taken instead of it; rename "
                    f"it, for example to {name.with_name(f'my_{name.name}')}, and choose it by that name"
                )
