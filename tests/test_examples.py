"""The programs of examples/: each runs to its end, and its weights are used by another part."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from esrgan_lit import RRDBNet, load_generator, save_generator
from esrgan_lit.inference.upscaler import Upscaler

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec",
    "ignore:.*does not have many workers",
    "ignore:You defined a `validation_step` but have no",
    "ignore:Total length of `list` across ranks is zero",
)


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("own_*.py")))
def test_it_trains_and_its_weights_load(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [name])
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](["--iterations", "2"])
    generator = load_generator(f"{name}.safetensors")
    low_res = torch.rand(1, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert generator(low_res).shape == (1, 3, 32, 36)


def test_a_shaken_hand_depends_on_the_sample_alone() -> None:
    degradation = runpy.run_path(str(EXAMPLES / "own_degradation.py"))["ShakenHand"]()
    image = torch.randint(256, (3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(degradation.degrade(image, 3), degradation.degrade(image, 3))
    assert not torch.equal(degradation.degrade(image, 3), degradation.degrade(image, 4))


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_enlarges_a_folder(tmp_path: Path, photograph_folder: Path) -> None:
    ray = pytest.importorskip("ray")
    save_generator(RRDBNet(4, 1, 8, 4), tmp_path / "net.safetensors")
    upscaler = Upscaler(load_generator(tmp_path / "net.safetensors"))
    expected = [upscaler(np.asarray(Image.open(path))) for path in photograph_folder.rglob("*.png")]
    arguments = [str(photograph_folder), str(tmp_path / "large"), "--checkpoint", str(tmp_path / "net.safetensors")]
    try:
        runpy.run_path(str(EXAMPLES / "upscale_with_ray.py"))["main"](arguments)
    finally:
        ray.shutdown()
    made = [np.asarray(Image.open(path)) for path in (tmp_path / "large").iterdir()]
    assert sorted(image.tobytes() for image in made) == sorted(image.tobytes() for image in expected)
