"""The walks of CONTRIBUTING.md, as they stand there: their files are written, their commands run, shrunk."""

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from conftest import assert_same_levels, make_photograph
from esrgan_lit import Upscaler, load_generator
from esrgan_lit.cli import evaluate_run, upscale
from esrgan_lit.degradations.bicubic import Bicubic
from esrgan_lit.images.reading import read_image
from esrgan_lit.inference.memory import Plan
from esrgan_lit.reports.runs import Run
from esrgan_lit.training.trainer import prepare, train

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WALKS = dict(re.findall(r"^## Add a (\w+)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
BLOCKS = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Return the command lines of a text's blocks, as words."""
    lines = [line for language, block in BLOCKS.findall(text) if language == "bash" for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of all walks, where Python finds them."""
    (tmp_path / "mine").mkdir()
    for language, block in BLOCKS.findall(TEXT):
        if language == "python":
            name = re.match(r"# (mine/\w+\.py)\n", block)
            assert name, block
            (tmp_path / name[1]).write_text(block, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)


def run_train(walk: str, configure: Callable[..., DictConfig], tmp_path: Path) -> list[Path]:
    """Train as each of a walk's commands says, shrunk, each in a folder of its own; return the last checkpoints."""
    lasts = []
    for name, experiment, *overrides in [words for words in commands(WALKS[walk]) if words[0] == "esrgan-train"]:
        folder = f"output_dir={tmp_path}/{name}_{len(lasts)}"
        lasts.append(train(configure(experiment.removeprefix("+experiment="), *overrides, folder)))
    return lasts


def test_every_target_is_one_of_the_makefiles() -> None:
    targets = set(re.findall(r"^(\w+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = [words[1] for words in commands(TEXT) if words[0] == "make" and len(words) > 1]
    assert named == ["check", "test"]
    assert set(named) < targets


def test_pre_commit_has_the_ruff_that_make_lint_has() -> None:
    pinned = re.search(r"^ruff==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned
    assert f"rev: v{pinned[1]}\n" in (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")


@pytest.mark.usefixtures("mine")
def test_add_a_loss(configure: Callable[..., DictConfig], tmp_path: Path) -> None:
    beside, alone = (Run(last.parents[1]).curves for last in run_train("loss", configure, tmp_path))
    assert {"train/pixel", "train/charbonnier"} <= beside.keys()
    assert "train/pixel" not in alone
    first = [curves["train/charbonnier"][0] for curves in (beside, alone)]
    assert first[0] == first[1]  # raw, and both start alike


@pytest.mark.usefixtures("mine")
def test_add_a_generator(
    configure: Callable[..., DictConfig], tmp_path: Path, photograph_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (last,) = run_train("generator", configure, tmp_path)
    (words,) = [words for words in commands(WALKS["generator"]) if words[0] == "esrgan-upscale"]
    _, _, *given = [str(last) if word.endswith("last.ckpt") else word for word in words]
    monkeypatch.chdir(tmp_path)
    upscale.main([str(photograph_folder), *given, "--engine", "torch", "--device", "cpu"])
    generator = load_generator(last).eval()
    assert type(generator).__name__ == "Plain"
    image = read_image(photograph_folder / "a.png")
    with torch.inference_mode():
        whole = generator(torch.from_numpy(image / 255).permute(2, 0, 1)[None].float())[0].permute(1, 2, 0)
    expected = (whole.clamp(0, 1) * 255).round().byte().numpy()
    assert_same_levels(read_image(tmp_path / "enlarged" / "a.png"), expected)
    upscaler = Upscaler(generator, "torch", "cpu")
    monkeypatch.setattr(upscaler, "_plan", lambda height, width, budget: Plan(22, 16, 0))  # in strips
    assert_same_levels(upscaler(image), expected)


@pytest.mark.usefixtures("mine")
def test_add_a_metric(configure: Callable[..., DictConfig], tmp_path: Path, photograph_folder: Path) -> None:
    (last,) = run_train("metric", configure, tmp_path)
    assert "val/gradient_error" in Run(last.parents[1]).curves
    ((_, _, names),) = [words for words in commands(WALKS["metric"]) if words[0] == "esrgan-evaluate"]
    with initialize_config_module("esrgan_lit.conf", version_base="1.3"):
        changes = [names, f"hr={photograph_folder}", f"output_dir={tmp_path}/out", f"cache={tmp_path}/cache"]
        config = compose("evaluate", changes)
    folder = evaluate_run.run(config, evaluate_run.prepare(config))
    assert "gradient error" in (folder / "results.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("mine")
def test_add_a_degradation(configure: Callable[..., DictConfig], tmp_path: Path) -> None:
    run_train("degradation", configure, tmp_path)
    ((_, _, override),) = commands(WALKS["degradation"])
    _, _, data = prepare(configure("psnr_rrdb23", override))
    degradation, scale = data.degradation, data.degradation.scale
    whole = torch.from_numpy(make_photograph(100, 120, 0)).permute(2, 0, 1)
    top, left, side, margin = 40, 44, 24, degradation.margin
    crop = whole[:, top - margin : top + side + margin, left - margin : left + side + margin]
    inset = margin // scale
    expected = degradation(whole)[:, top // scale :, left // scale :][:, : side // scale, : side // scale]
    assert torch.equal(degradation(crop)[:, inset:-inset, inset:-inset], expected)
    assert not torch.equal(expected, Bicubic(scale)(whole)[:, top // scale :, left // scale :][:, :6, :6])
    with pytest.raises(ValueError, match=r"data\.degradation has scale 2, not 4; give it \$\{scale\}"):
        prepare(configure("psnr_rrdb23", override.replace('"${scale}"', "2")))
