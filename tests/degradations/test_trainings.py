"""Trainings on every preset: at every scale, killed and resumed, on two processes, and of a class of one's own."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import DictConfig

from esrgan_lit.data.crops import CropDataset
from esrgan_lit.degradations.pairs import make_pairs
from esrgan_lit.training.signals import Interrupted
from esrgan_lit.training.trainer import train

OWN = '''
from dataclasses import dataclass

import torch

from esrgan_lit.degradations.chain import RandomDegradation, Steps
from esrgan_lit.resize import resize


@dataclass(frozen=True)
class MySteps(Steps):
    darker: float


@dataclass(frozen=True)
class Darker(RandomDegradation):
    """Shrink, and darken by a number that is drawn."""

    scale: int
    seed: int
    margin: int = 8
    most: float = 0.5

    def draw(self, random):
        return MySteps(int(random.integers(2**62)), float(random.uniform(0, self.most)))

    def apply(self, image, steps):
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(steps.noise_seed))
        return resize((image + noise / 50).double() * (1 - steps.darker), 1 / self.scale).float()
'''
MINE = "data.degradation={_target_: my_lab.chains.Darker, scale: '${scale}', seed: '${seed}'}"


@pytest.fixture
def my_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package of one's own."""
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab/__init__.py").touch()
    (tmp_path / "my_lab/chains.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield
    for name in [name for name in sys.modules if name.startswith("my_lab")]:
        del sys.modules[name]


def state(folder: Path) -> dict[str, Any]:
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return {"step": content["global_step"], **content["state_dict"]}


@pytest.mark.usefixtures("my_lab")
@pytest.mark.parametrize("change", ["degradation=realesrgan_parity data.degradation.pool=4", MINE])
def test_a_run_that_ended_early_goes_on_with_the_same_bits(
    configure: Callable[..., DictConfig], tmp_path: Path, change: str
) -> None:
    """Resumed where it was done, and where a signal ended it with a batch drawn that no iteration has used."""
    changes = [change] if change == MINE else change.split()

    def run_to(steps: int, folder: str, *more: str) -> None:
        given = [
            *more,
            "data.validation=${data.train}",
            f"trainer.max_steps={steps}",
            f"output_dir={tmp_path}/{folder}",
        ]
        given += ["trainer.val_check_interval=2", f"data.cache={tmp_path}/cache", "resume=auto"]
        train(configure("psnr_rrdb23", *changes, *given))

    run_to(7, "whole")
    run_to(3, "run")
    with pytest.raises(Interrupted):
        run_to(7, "run", "+trainer.callbacks.stop={_target_: accidents.Signal, name: SIGTERM, step: 4}")
    run_to(7, "run")
    whole, resumed = state(tmp_path / "whole"), state(tmp_path / "run")
    assert whole["step"] == 7
    assert all(torch.equal(torch.as_tensor(value), torch.as_tensor(resumed[key])) for key, value in whole.items())


@pytest.mark.usefixtures("my_lab")
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("preset", ["bicubic", "bsrgan", "light", "realesrgan", "realesrgan_parity", "mine"])
def test_every_preset_makes_pairs_at_every_scale(photograph_folder: Path, preset: str, scale: int) -> None:
    changes = ["data=folder", f"data.train=[{photograph_folder}]", f"scale={scale}", f"crop={8 * scale}"]
    changes += (
        [MINE.replace("seed: ", f"margin: {8 * scale}, seed: ")] if preset == "mine" else [f"degradation={preset}"]
    )
    with initialize_config_module("esrgan_lit.conf", version_base="1.3"):
        data = instantiate(compose("train", changes).data)
    data.setup("fit")
    crops = CropDataset(data.photographs, data.crop, data.degradation, 0, True, 8, False)
    low_res, high_res = make_pairs(crops.__getitems__([0, 1]), data.degradation)
    assert low_res.shape == (2, 3, 8, 8)
    assert high_res.shape == (2, 3, 8 * scale, 8 * scale)
    assert torch.equal(low_res, high_res) == (scale == 1 and preset == "bicubic")


@pytest.mark.parametrize("preset", ["realesrgan", "bsrgan"])
def test_a_network_restores_at_scale_1(configure: Callable[..., DictConfig], tmp_path: Path, preset: str) -> None:
    last = train(configure("psnr_rrdb23", f"degradation={preset}", "scale=1", f"data.cache={tmp_path}/cache"))
    assert torch.load(last, weights_only=True)["global_step"] == 2
