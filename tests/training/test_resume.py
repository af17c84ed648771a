"""Resumed runs: from the right checkpoint, under the settings as they are now, with nothing overwritten."""

import csv
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from esrgan_lit.training.changes import differences
from esrgan_lit.training.checkpointing import find_checkpoint
from esrgan_lit.training.trainer import train

Configure = Callable[..., DictConfig]


def slow(*values: Any) -> Any:
    """Leave a case to ``make test``."""
    return pytest.param(*values, marks=pytest.mark.slow)


STEPS = ["trainer.max_steps=4", "trainer.val_check_interval=2"]


def sums(folder: Path) -> dict[str, str]:
    """Checksums of every file of a run, but for the lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".training")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def rates(folder: Path, name: str = "learning_rate") -> dict[int, float]:
    """The learning rate that each iteration was done with, by the iterations done before it."""
    found = {}
    for log in sorted(folder.glob("csv/version_*/metrics.csv")):
        with log.open(newline="") as file:
            found |= {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row.get(name)}
    return found


@pytest.fixture
def finished(configure: Configure, tmp_path: Path) -> Path:
    """A PSNR run of four iterations with half a cosine; two validations."""
    train(configure("psnr_rrdb23", *STEPS, "stage/scheduler=cosine"))
    return tmp_path / "run"


# --- nothing is overwritten ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{run}", *map(slow, ["{run}/", "{run}/../run", "{link}"])])
def test_a_run_is_not_begun_over_another(configure: Configure, finished: Path, form: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(finished)
    before = sums(finished)
    folder = form.format(run=finished, link=tmp_path / "link")
    with pytest.raises(ValueError, match=r"holds a training already.*resume=auto; or begin another elsewhere.*_2"):
        train(configure("psnr_rrdb23", *STEPS, f"output_dir={folder}"))
    with pytest.raises(ValueError, match="holds a training already"):
        train(configure("psnr_rrdb23", f"stage.start_from={finished}/checkpoints/last.ckpt"))
    assert sums(finished) == before


def test_an_older_checkpoint_is_not_resumed_over_a_run(configure: Configure, finished: Path, tmp_path: Path) -> None:
    older = load(finished / "checkpoints" / "last.ckpt") | {"global_step": 2}
    for path in (tmp_path / "older.ckpt", finished / "checkpoints" / "older.ckpt"):
        torch.save(older, path)
        before = sums(finished)
        with pytest.raises(ValueError, match=r"has come to iteration 4 .*resume=auto; or the latter elsewhere"):
            train(configure("psnr_rrdb23", *STEPS, f"resume={path}"))
        assert sums(finished) == before


def test_a_finished_run_is_left_as_it_is(configure: Configure, finished: Path) -> None:
    before = sums(finished)
    last = train(configure("psnr_rrdb23", *STEPS, "stage/scheduler=cosine", "resume=auto"))
    assert last == finished / "checkpoints" / "last.ckpt"
    assert sums(finished) == before


def praise(folder: Path) -> None:
    """Have a run's best checkpoint be one that no training of these tests comes near."""
    for path in (folder / "checkpoints").glob("*.ckpt"):
        content = load(path)
        for state in content["callbacks"].values():
            if state.get("monitor") == "val/psnr_y":
                state |= {"best_model_score": torch.tensor(45.17), "kth_value": torch.tensor(45.17)}
                state["best_k_models"] = dict.fromkeys(state["best_k_models"], torch.tensor(45.17))
        torch.save(content, path)


@pytest.mark.parametrize(
    "how", ["moved", *map(slow, ["stays", "copied with other times", "resumed from an older one"])]
)
def test_best_gives_way_to_no_worse_one(configure: Configure, finished: Path, tmp_path: Path, how: str) -> None:
    praise(finished)
    folder = finished
    if how == "moved":
        folder = finished.rename(tmp_path / "renamed")
    if how == "copied with other times":
        folder = tmp_path / "copy"
        shutil.copytree(finished, folder)
        for number, path in enumerate(sorted((folder / "checkpoints").iterdir(), reverse=True)):
            os.utime(path, (number * 1000, number * 1000))
    if how == "resumed from an older one":  # whose own state knows of no best
        (folder / "checkpoints" / "last.ckpt").unlink()
        older = load(folder / "checkpoints" / "previous.ckpt")
        older["callbacks"] = {key: state for key, state in older["callbacks"].items() if "psnr" not in key}
        torch.save(older, folder / "checkpoints" / "previous.ckpt")
    before = sums(folder)["checkpoints/best.ckpt"]
    train(configure("psnr_rrdb23", "trainer.max_steps=8", STEPS[1], "resume=auto", f"output_dir={folder}"))
    assert sums(folder)["checkpoints/best.ckpt"] == before
    assert load(folder / "checkpoints" / "last.ckpt")["global_step"] == 8
    states = load(folder / "checkpoints" / "last.ckpt")["callbacks"]
    assert str(tmp_path) not in str(states)


def test_a_missing_best_is_written_again(configure: Configure, finished: Path) -> None:
    (finished / "checkpoints" / "best.ckpt").unlink()
    train(configure("psnr_rrdb23", "trainer.max_steps=6", STEPS[1], "resume=auto"))
    assert load(finished / "checkpoints" / "best.ckpt")["global_step"] == 6


@pytest.mark.parametrize(
    "change",
    [
        ["trainer.callbacks.best.monitor=val/ssim_y"],
        slow(["data.validation=[{photographs}/b.png]"]),
        slow(["data.boundary=replicate"]),
        slow(["stage.validation.metrics=[psnr_y,ssim_y,rmse]", "stage.validation.rmse_at_most=200"]),
        ["content"],
    ],
)
def test_the_best_of_another_ranking_is_kept_beside(
    configure: Configure, finished: Path, photograph_folder: Path, change: list[str]
) -> None:
    before = sums(finished)["checkpoints/best.ckpt"]
    change = [each.format(photographs=photograph_folder) for each in change]
    if "rmse_at_most" in str(change):
        change.append("trainer.callbacks.best.monitor=val/psnr_y_bounded")
    if change == ["content"]:  # another image in the file's place
        Image.fromarray(np.zeros((68, 88, 3), np.uint8)).save(photograph_folder / "a.png")
        change = []
    train(configure("psnr_rrdb23", "trainer.max_steps=6", STEPS[1], "resume=auto", *change))
    after = sums(finished)
    assert after["checkpoints/best_until_0000004.ckpt"] == before
    assert load(finished / "checkpoints" / "best.ckpt")["global_step"] == 6


def test_the_furthest_of_the_whole_checkpoints_is_taken(
    finished: Path, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever else lies there, and whatever the files' times."""
    folder = finished / "checkpoints"
    whole = load(folder / "last.ckpt")
    torch.save([1, 2], folder / "list.ckpt")
    torch.save({"state_dict": {}, "fn": os.system}, folder / "foreign.ckpt")
    torch.save({**whole, "global_step": "many"}, folder / "text.ckpt")
    torch.save({**whole, "state_dict": {1: 2}, "global_step": 9}, folder / "numbers.ckpt")
    torch.save({**whole, "config": [1], "global_step": 9}, folder / "config.ckpt")
    other = {**whole["config"], "generator": {**whole["config"]["generator"], "width": 999}}
    torch.save({**whole, "config": other, "global_step": 9}, folder / "network.ckpt")
    (folder / "folder.ckpt").mkdir()
    os.mkfifo(folder / "pipe.ckpt")
    (folder / "empty.ckpt").touch()
    (folder / os.fsdecode(b"\xff.ckpt")).write_bytes(b"no")
    (folder / "a\nb = {{x}}.ckpt").write_bytes(b"no")
    os.utime(folder / "last.ckpt", (0, 0))
    assert train(configure("psnr_rrdb23", "trainer.max_steps=4", STEPS[1], "resume=auto")) == folder / "last.ckpt"
    names = ("list", "foreign", "text", "numbers", "config", "network", "folder", "pipe", "empty", "{{x}}")
    for name in names:
        assert f"{name}.ckpt is passed over" in caplog.text
    assert find_checkpoint(folder) == folder / "network.ckpt"  # whole, and another run's


# --- what is configured happens, or is refused by name -------------------------------------------------------------


def half_cosine(rate: float, step: int, steps: int) -> float:
    return rate * (1 + np.cos(np.pi * step / steps)) / 2


def halved(rate: float, step: int, milestones: list[int]) -> float:
    return rate * 0.5 ** sum(step >= milestone for milestone in milestones)


def test_a_longer_cosine_goes_on_where_it_would_be(configure: Configure, finished: Path) -> None:
    """And does not climb again, as PyTorch's own restored state would have it."""
    train(configure("psnr_rrdb23", "trainer.max_steps=8", STEPS[1], "stage/scheduler=cosine", "resume=auto"))
    logged = rates(finished)
    expected = {step: half_cosine(2e-4, step, 8 if step > 3 else 4) for step in range(8)}
    assert logged == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("overrides", "rate"),
    [
        (["stage.optimizer.lr=1e-5", "stage/scheduler=cosine"], lambda step: half_cosine(1e-5, step, 6)),
        slow(["stage.scheduler.milestones=[2,5]"], lambda step: halved(2e-4, step, [2, 5])),
        slow(["stage.optimizer.lr=4e-4", "stage.scheduler.milestones=[5]"], lambda step: halved(4e-4, step, [5])),
    ],
)
def test_another_rate_and_schedule_take_effect(
    configure: Configure, finished: Path, overrides: list[str], rate: Callable[[int], float]
) -> None:
    before = load(finished / "checkpoints" / "last.ckpt")["state_dict"]
    train(configure("psnr_rrdb23", "trainer.max_steps=6", STEPS[1], "resume=auto", *overrides))
    logged = rates(finished)
    assert [logged[4], logged[5]] == pytest.approx([rate(4), rate(5)], abs=1e-12)
    after = load(finished / "checkpoints" / "last.ckpt")
    assert any(not torch.equal(value, after["state_dict"][key]) for key, value in before.items())
    # The next resume finds what it was given, and changes nothing more.
    (state,) = after["lr_schedulers"]
    assert state["last_epoch"] == 6
    assert after["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(rate(6), abs=1e-12)


def test_many_settings_change_at_once(configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of a GAN: everything that is applied, one training."""
    train(configure("gan_rrdb23", *STEPS, "trainer.callbacks.periodic.every_n_train_steps=1000"))
    changed = [
        *("stage.optimizer.lr=3e-5", "stage.discriminator_optimizer.lr=5e-5", "stage.optimizer.betas=[0.8,0.99]"),
        *("stage/scheduler=cosine", "trainer.max_steps=6", "data.batch=3", "seed=7", "data.augment=false"),
        *("stage.loss_weights.adversarial=0.1", "stage/adversarial=standard", "stage/perceptual=none"),
        *("+stage.losses.mse._target_=torch.nn.MSELoss", "stage.ema_decay=0.5", "stage.options.clip_norm=1"),
        *("stage.discriminator.batch_norm=per_rank", "trainer.log_every_n_steps=2", "trainer.callbacks.panels=null"),
    ]
    train(configure("gan_rrdb23", STEPS[1], "resume=auto", *changed))
    content = load(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert content["global_step"] == 6
    generator, discriminator = (state["param_groups"][0] for state in content["optimizer_states"])
    assert list(generator["betas"]) == [0.8, 0.99]
    assert (generator["initial_lr"], discriminator["initial_lr"]) == (3e-5, 5e-5)
    assert "learning rate 7.5e-06, 1.25e-05 (was 0.0001, 0.0001)" in caplog.text
    assert "data.batch=3 (was 2)" in caplog.text
    header = (tmp_path / "run" / "csv" / "version_1" / "metrics.csv").read_text().splitlines()[0]
    assert "train/mse" in header
    assert "train/perceptual" not in header


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["generator.width=16"], r"generator\.width was 8 and is 16\. Give the first again, or begin anew"),
        slow(*(["generator.bicubic_skip=true"], r"generator\.bicubic_skip was False and is True")),
        slow(*(["stage.optimizer._target_=torch.optim.SGD"], r"optimizer\._target_ was Adam and is SGD")),
        slow(*(["stage.ema_decay=null"], r"stage\.ema_decay was 0\.999 and is None")),
        slow(*(["stage.start_from=esrgan_x4"], r"stage\.start_from was scratch and is esrgan_x4")),
        (["trainer.max_steps=3"], r"trainer\.max_steps=3 is less than the 4 iterations"),
        (["+experiment=other"], r"stage\._target_ was PsnrStage and is GanStage"),
    ],
)
def test_settings_that_cannot_change_are_refused_and_nothing_is_written(
    configure: Configure, tmp_path: Path, overrides: list[str], message: str
) -> None:
    train(configure("psnr_rrdb23", *STEPS, "stage.start_from=scratch"))
    before = sums(tmp_path / "run")
    experiment = "psnr_rrdb23"
    if overrides == ["+experiment=other"]:
        experiment, overrides = "gan_rrdb23", []
    with pytest.raises(ValueError, match=message) as refused:
        train(configure(experiment, *STEPS, "resume=auto", *overrides))
    assert "stage.start_from=" in str(refused.value)
    assert sums(tmp_path / "run") == before


@pytest.mark.slow
def test_the_same_command_again_and_again(configure: Configure, finished: Path, tmp_path: Path) -> None:
    """With the weights that a run began from, which may be left out later, and must not be others."""
    begun = [STEPS[1], f"stage.start_from={finished}/checkpoints/last.ckpt", f"output_dir={tmp_path}/next"]
    for steps, command in ((2, begun), (4, begun), (6, [STEPS[1], begun[2]]), (8, begun)):
        train(configure("psnr_rrdb23", *command, f"trainer.max_steps={steps}", "resume=auto"))
    assert load(tmp_path / "next" / "checkpoints" / "last.ckpt")["global_step"] == 8
    with pytest.raises(ValueError, match=r"stage\.start_from was .*last\.ckpt and is .*best\.ckpt"):
        train(configure("psnr_rrdb23", begun[2], f"stage.start_from={finished}/checkpoints/best.ckpt", "resume=auto"))


def test_a_checkpoint_of_before_is_resumed_from(configure: Configure, finished: Path) -> None:
    """With absolute paths, the names that classes had, settings that came and went, and no digest of the images."""
    for path in (finished / "checkpoints").glob("*.ckpt"):
        content = load(path)
        content.pop("PairDataModule")
        content["config"]["generator"]["_target_"] = "esrgan_lit.models.RRDBNet"
        content["config"]["stage"]["gone"] = 1
        del content["config"]["stage"]["options"]
        for state in content["callbacks"].values():
            if "dirpath" in state:
                state["dirpath"] = "/elsewhere/checkpoints"
                state["best_k_models"] = {f"/elsewhere/{name}": score for name, score in state["best_k_models"].items()}
        torch.save(content, path)
    before = sums(finished)["checkpoints/best.ckpt"]
    praise(finished)
    praised = sums(finished)["checkpoints/best.ckpt"]
    assert praised != before
    train(configure("psnr_rrdb23", "trainer.max_steps=6", STEPS[1], "stage/scheduler=cosine", "resume=auto"))
    assert sums(finished)["checkpoints/best.ckpt"] == praised


def test_changes_see_through_moved_folders_and_modules() -> None:
    theirs = {"output_dir": "/a", "x": {"path": "/a/c", "_target_": "one.Two"}, "y": 1, "resume": None}
    ours = {"output_dir": "/b", "x": {"path": "/b/c", "_target_": "other.Two"}, "y": 2, "z": 3, "resume": "auto"}
    assert differences(theirs, ours) == {"y": (1, 2), "z": ("(absent)", 3)}
