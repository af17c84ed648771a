"""What is refused before Hydra writes a file."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

import esrgan_lit
from esrgan_lit.training.folder_lock import HOLDER, FolderLock
from esrgan_lit.training.run_folder import RunFolderGuard, check_shipped_names
from esrgan_lit.training.trainer import train


@pytest.fixture(autouse=True)
def _released() -> Any:
    yield
    for lock in [*FolderLock.held.values()]:
        lock.release()


def as_hydra_composes(overrides: list[str]) -> DictConfig:
    """A configuration with Hydra's own part, before anything ran."""
    before = HydraConfig.instance().cfg
    kept = [each for each in overrides if not each.startswith("output_dir")]
    with initialize_config_module("esrgan_lit.conf", version_base="1.3"):
        config = compose("train", kept, return_hydra_config=True)
    HydraConfig.instance().cfg = before
    return config


def test_the_guard_is_in_the_configuration(tiny: Callable[[str], list[str]]) -> None:
    target = as_hydra_composes(tiny("psnr_rrdb23")).hydra.callbacks.guard._target_
    assert getattr(esrgan_lit, target.rpartition(".")[2]) is RunFolderGuard


def test_a_run_is_refused_or_held(
    configure: Callable[..., DictConfig], tiny: Callable[[str], list[str]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(configure("psnr_rrdb23"))
    (run / HOLDER).unlink(missing_ok=True)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    common = [*tiny("psnr_rrdb23"), f"hydra.run.dir={run}"]
    guard = RunFolderGuard()
    for change, message in (
        ("seed=3", "holds a training already"),
        ("resume=auto generator.width=16", "generator.width was 8 and is 16"),
    ):
        with pytest.raises(SystemExit, match=rf"esrgan-train: .*{message}"):
            guard.on_run_start(as_hydra_composes([*common, *change.split()]))
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    guard.on_run_start(as_hydra_composes([*common, "resume=auto", "trainer.max_steps=4"]))
    assert run.resolve() in FolderLock.held
    guard.on_run_start(as_hydra_composes([*tiny("psnr_rrdb23"), f"hydra.run.dir={tmp_path}/new/${{name}}"]))
    assert (tmp_path / "new" / "psnr_rrdb23").resolve() in FolderLock.held
    # What is wrong with the rest is said by the run itself.
    guard.on_run_start(as_hydra_composes([*tiny("psnr_rrdb23"), f"hydra.run.dir={tmp_path}/n", "crop=${oops}"]))


def test_a_sweep_is_refused_or_held(
    configure: Callable[..., DictConfig], tiny: Callable[[str], list[str]], tmp_path: Path
) -> None:
    train(configure("psnr_rrdb23", f"output_dir={tmp_path}/sweep/0"))
    common = [*tiny("psnr_rrdb23"), f"hydra.sweep.dir={tmp_path}/sweep"]
    with pytest.raises(SystemExit, match=r"holds a training already \(0/.*hydra\.sweep\.dir=.*sweep_2"):
        RunFolderGuard().on_multirun_start(as_hydra_composes(common))
    RunFolderGuard().on_multirun_start(as_hydra_composes([*common, "resume=auto"]))
    assert (tmp_path / "sweep").resolve() in FolderLock.held


def test_a_file_with_a_shipped_name_is_told(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "conf"
    mine = tmp_path / "mine"
    shutil.copytree(shipped, mine)  # as it is, it says nothing else
    source = {"path": str(mine), "schema": "file", "provider": "command-line"}
    config = OmegaConf.create({"hydra": {"runtime": {"config_sources": [source]}}})
    (mine / "experiment" / "of_my_own.yaml").write_text("name: x")
    check_shipped_names(config)
    (mine / "experiment" / "finetune.yaml").write_text("name: x")
    with pytest.raises(ValueError, match=r"experiment/finetune\.yaml has the name of .*experiment/my_finetune\.yaml"):
        check_shipped_names(config)
