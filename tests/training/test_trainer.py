"""``esrgan-train`` as a user meets it: runs, resumed runs, and what it says about bad input."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, open_dict
from PIL import Image

from esrgan_lit import imresize
from esrgan_lit.cli.train import run
from esrgan_lit.images.reading import read_image
from esrgan_lit.training.trainer import train


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # the resumed run writes to a folder of its own
@pytest.mark.parametrize("experiment", ["psnr_rrdb23", "gan_rrdb23"])
def test_same_seed_same_weights_and_resume_goes_on_exactly(
    configure: Callable[..., DictConfig], tmp_path: Path, experiment: str
) -> None:
    def weights(last: Path) -> dict[str, torch.Tensor]:
        return torch.load(last, weights_only=True)["state_dict"]

    steps = ["trainer.max_steps=4"]
    whole = weights(train(configure(experiment, *steps)))
    part = train(configure(experiment, f"output_dir={tmp_path}/part"))
    resumed = weights(train(configure(experiment, *steps, f"output_dir={tmp_path}/resumed", f"resume={part}")))
    assert whole.keys() == resumed.keys()
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key
    assert any(not torch.equal(whole[key], value) for key, value in weights(part).items())


def test_a_run_leaves_log_panels_and_checkpoints(configure: Callable[..., DictConfig], tmp_path: Path) -> None:
    train(configure("psnr_rrdb23", "trainer.max_steps=3"))  # the last step is not one of validation
    run = tmp_path / "run"
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    header, *rows = (run / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    assert {"train/pixel", "val/psnr_y", "val/ssim_y", "val/psnr_y_without_ema"} <= set(header.split(","))
    assert len(rows) >= 3
    with Image.open(run / "panels" / "step_0000002_a.png") as panel:
        assert panel.size == (4 * 88, 68)  # a.png is 90×70, cut to multiples of 4
    assert_shows_training_pairs(run / "panels" / "training_pairs.png")


def assert_shows_training_pairs(path: Path) -> None:
    """High resolution on the right, on the left what bicubic makes of it, in blocks of equal pixels."""
    pairs = read_image(path)
    low_res, high_res = np.split(pairs, 2, axis=1)
    assert len(pairs) % high_res.shape[1] == 0  # a square row each
    assert len(pairs) >= high_res.shape[1]
    side = high_res.shape[1]
    for top in range(0, len(pairs), side):
        small = low_res[top : top + side : 4, ::4]
        assert np.array_equal(small.repeat(4, 0).repeat(4, 1), low_res[top : top + side])
        inner = np.abs(imresize(high_res[top : top + side], 1 / 4).astype(int) - small)[2:-2, 2:-2]
        assert inner.max() <= 1  # flips come after shrinking, and round differently


def test_wandb_is_offline_without_a_key(
    configure: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "")  # as good as none
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    train(configure("psnr_rrdb23", "logger=wandb"))
    assert list((tmp_path / "run").rglob("offline-run-*/*.wandb"))
    assert (tmp_path / "run" / "csv" / "version_0" / "metrics.csv").is_file()


def test_messages_for_bad_configurations(configure: Callable[..., DictConfig], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="crop=130 does not fit scale 4; give crop=128 or crop=132"):
        train(configure("psnr_rrdb23", "crop=130"))
    with pytest.raises(ValueError, match="crop=48 does not fit scale 4 and the discriminator; give crop=32 or crop=64"):
        train(configure("gan_rrdb23", "crop=48"))
    with pytest.raises(ValueError, match=r"stage\.start_from is not set"):
        train(configure("gan_rrdb23", "stage.start_from=null"))
    with pytest.raises(ValueError, match=r"resume: none\.ckpt is no file"):
        train(configure("psnr_rrdb23", "resume=none.ckpt"))
    with pytest.raises(ValueError, match=r"takes no ema_dcay; did you mean ema_decay\?"):
        train(configure("psnr_rrdb23", "+stage.ema_dcay=0.9"))
    config = configure("psnr_rrdb23")
    with open_dict(config):
        config.trianer = {"max_steps": 3}
    with pytest.raises(ValueError, match="'trianer' is not known; did you mean trainer"):
        train(config)
    assert not (tmp_path / "run").exists()


def run_command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "esrgan-train"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_refusals_are_plain_and_say_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_composed(*overrides: str) -> None:
        with initialize_config_module("esrgan_lit.conf", version_base="1.3"):
            run(compose("train", ["output_dir=run", *overrides]), "hydra.run.dir=run")

    monkeypatch.chdir(tmp_path)
    if not torch.accelerator.is_available():
        with pytest.raises(SystemExit, match="finds no GPU here; train on the CPU with trainer=cpu"):
            run_composed("+experiment=psnr_rrdb23")
    with pytest.raises(SystemExit, match=r"\+experiment=psnr_rrdb23"):
        run_composed()
    with pytest.raises(ConfigCompositionException, match="ema_decya"):
        run_composed("stage.ema_decya=0.9")


@pytest.mark.slow
def test_the_command_in_another_folder(tmp_path: Path, photograph_folder: Path) -> None:
    """No data: what to put where. Then an experiment of the user's own, in their own folder."""
    result = run_command("+experiment=psnr_rrdb23", "trainer=cpu", folder=tmp_path)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert "datasets/DIV2K/DIV2K_train_HR does not exist" in result.stderr
    assert "data.train=[FOLDER,…]" in result.stderr

    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "my_photographs.yaml").write_text(
        f"""# @package _global_
defaults:
  - override /data: folder
  - override /trainer: cpu
  - override /logger: csv
name: mine
crop: 32
generator: {{blocks: 1, width: 8, growth: 4}}
data: {{train: ["{photograph_folder}"], batch: 2, workers: 1}}
trainer: {{max_steps: 2}}
"""
    )
    # The module is the command too.
    command = [sys.executable, "-m", "esrgan_lit.cli.train", "--config-dir", "mine", "+experiment=my_photographs"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert list((tmp_path / "runs" / "mine").glob("*/checkpoints/last.ckpt"))


LDL = ["+stage.losses.artifacts._target_=esrgan_lit.ArtifactLoss", "stage.ema_decay=0.5"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("psnr", []),
        ("gan", []),
        ("gan", ["stage.discriminator.batch_norm=none"]),
        ("gan", ["stage/discriminator=unet", "stage.sharpened=[pixel]", *LDL]),
    ],
    ids=["psnr", "gan", "gan without BN", "real-world"],
)
def test_two_processes_equal_one_at_double_the_batch(
    configure: Callable[..., DictConfig],
    tiny: Callable[[str], list[str]],
    tmp_path: Path,
    stage: str,
    changes: list[str],
) -> None:
    """Weights, optimizers, logged terms, and the validation means of an odd number of images over two ranks."""
    common = ["trainer.precision=64-true", "data.validation=${data.train}", *changes]
    train(configure(f"{stage}_rrdb23", *common, "data.batch=4", f"output_dir={tmp_path}/1"))
    two = ["trainer.devices=2", "trainer.strategy=ddp", "data.batch=2", f"output_dir={tmp_path}/2"]
    result = run_command(*tiny(f"{stage}_rrdb23"), *common, *two, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    states, logs = [], []
    for folder in (tmp_path / "1", tmp_path / "2"):
        content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        assert content["global_step"] == 2
        optimizers = {
            f"{number}.{parameter}.{name}": value
            for number, optimizer in enumerate(content["optimizer_states"])
            for parameter, state in optimizer["state"].items()
            for name, value in state.items()
        }
        states.append({key: value for key, value in content["state_dict"].items() if key != "counts"} | optimizers)
        logs.append((folder / "csv" / "version_0" / "metrics.csv").read_text().splitlines())
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-9, atol=1e-9, msg=key)
    (header, *_, one), (_, *_, two) = logs
    assert "val/psnr_y" in header
    assert [float(value) for value in two.split(",") if value] == pytest.approx(
        [float(value) for value in one.split(",") if value], rel=1e-6
    )
