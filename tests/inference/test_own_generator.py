"""A generator of a user's own module trains, saves, loads, upscales and exports with no change here."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_photograph
from esrgan_lit import Generator, Upscaler, export_generator, load_generator, save_generator
from esrgan_lit.cli.train import main as train
from esrgan_lit.images.levels import to_batch
from esrgan_lit.images.reading import size_of
from esrgan_lit.inference import winograd_library
from esrgan_lit.inference.memory import Plan
from esrgan_lit.weights.layouts import WeightsError
from own_network import Doubler, GlobalDoubler

TESTS = Path(__file__).parents[1]


@pytest.fixture
def own() -> Generator:
    """With weights and statistics of which every one shows."""
    torch.manual_seed(0)
    generator = Doubler(depth=2)
    with torch.no_grad():
        for value in generator.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.2, 1.2) if value.ndim == 1 else value.normal_(std=value[0].numel() ** -0.5)
    return generator.eval()


def floats(upscaler: Upscaler, image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(upscaler._single(to_batch(image), 3, lambda done: None)).permute(2, 0, 1)[None]


def test_it_trains_by_its_target_and_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photographs").mkdir()
    for number in range(2):
        Image.fromarray(make_photograph(72, 64, number)).save(tmp_path / "photographs" / f"{number}.png")
    (tmp_path / "mine" / "generator").mkdir(parents=True)
    (tmp_path / "mine" / "generator" / "doubler.yaml").write_text("_target_: own_network.Doubler\ndepth: 1\n")
    options = ["--config-dir=mine", "generator=doubler", "scale=2", "data=folder", "data.train=[photographs]"]
    options += ["data.validation=[photographs]", "data.workers=0", "data.batch=2", "crop=32", "trainer=cpu"]
    options += ["trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1"]
    options += ["logger=csv", "hydra.run.dir=run"]
    monkeypatch.setattr(sys, "argv", ["esrgan-train", *options])
    train()
    generator = load_generator(next((tmp_path / "run").rglob("last.ckpt")))
    assert type(generator) is Doubler
    assert generator.architecture == {"name": "own_network.Doubler", "depth": 1, "features": 8}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".onnx"])
def test_it_is_exported_and_tried(own: Generator, suffix: str, tmp_path: Path) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
    exported = export_generator(own, tmp_path / f"own{suffix}")
    assert max(exported.differences.values()) < 1e-5


def test_names_that_other_programs_would_misread_are_refused(own: Generator, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"do not know the class own_network\.Doubler"):
        export_generator(own, tmp_path / "own.pth")


@pytest.mark.parametrize("engine", ["torch", "winograd"])
def test_strips_give_the_pixels_of_the_whole_image(
    own: Generator, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "winograd" and not winograd_library.available():
        pytest.skip("no C++ compiler")
    save_generator(own, tmp_path / "own.safetensors")
    loaded = load_generator(tmp_path / "own.safetensors")
    image = make_photograph(61, 23, 0)
    with torch.no_grad():
        expected = own(to_batch(image))
    upscaler = Upscaler(loaded, engine, "cpu")  # pyright: ignore[reportArgumentType]
    whole = floats(upscaler, image)
    bound = (2e-6 if engine == "torch" else 1e-5) * float(expected.abs().max())
    torch.testing.assert_close(whole, expected, rtol=0, atol=bound)
    monkeypatch.setattr(upscaler, "_plan", lambda height, width, budget: Plan(16, 5, 0))
    torch.testing.assert_close(floats(upscaler, image), whole, rtol=0, atol=bound)


def test_auto_knows_what_winograd_computes(own: Generator) -> None:
    if winograd_library.available():
        assert Upscaler(own, device="cpu").engine.name == "winograd"
    assert Upscaler(GlobalDoubler(), device="cpu").engine.name == "torch"


def test_folders_of_the_hub_and_the_card_name_its_module(own: Generator, tmp_path: Path) -> None:
    folder = own.save_pretrained(tmp_path / "own")
    assert "from own_network import Doubler" in (folder / "README.md").read_text()
    assert Doubler.from_pretrained(folder).architecture == own.architecture


def test_files_import_no_modules(own: Generator, tmp_path: Path) -> None:
    save_generator(own, tmp_path / "own.safetensors")
    Image.fromarray(make_photograph(12, 10, 0)).save(tmp_path / "small.png")
    arguments = ["small.png", "-o", "large.png", "--checkpoint", "own.safetensors", "--device", "cpu"]
    command = [sys.executable, "-c", "from esrgan_lit.cli.upscale import main; main()", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    remedy = "--import own_network"
    assert "architecture 'own_network.Doubler' is not known" in done.stderr
    assert remedy in done.stderr
    subprocess.run([*command, *remedy.split()], cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert size_of(tmp_path / "large.png") == (24, 20)


def test_other_names_are_refused(own: Generator) -> None:
    from esrgan_lit.weights.reading import build_generator

    for name, message in (("os.system", "import os"), ("Compact", "known are .*RRDBNet, SRResNet")):
        with pytest.raises(WeightsError, match=message):
            build_generator({"name": name}, tensors=10)
