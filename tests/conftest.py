"""What the tests share: small photographs made on the spot, and real data where it stands beside the checkout."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from PIL import Image

pytest_plugins = ["misbehaving_server"]
SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Give each test the same random numbers, whichever tests its process ran before."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow tests, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def testsets() -> Path:
    """Set5 and Set14, with low-resolution images that MATLAB made."""
    if not (SHARED / "testsets").is_dir():
        pytest.skip("no testsets beside this checkout")
    return SHARED / "testsets"


@pytest.fixture(scope="session")
def real_weights() -> Path:
    """Weights that others trained."""
    if not (SHARED / "weights").is_dir():
        pytest.skip("no weights beside this checkout")
    return SHARED / "weights"


def make_photograph(height: int, width: int, seed: int) -> np.ndarray:
    """Make a uint8 RGB image with gradients, edges and texture."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(x / random.uniform(2, 20) + y / random.uniform(2, 20) + phase) for phase in range(3)]
    image = np.stack(waves, -1) + random.normal(0, 8, (height, width, 3))
    image[height // 3 : height // 2, width // 3 :] += 60
    return np.clip(image, 0, 255).astype(np.uint8)


def assert_same_levels(image: np.ndarray, expected: np.ndarray, share: float = 1e-3) -> None:
    """Two images are equal but for rounding: one level, in few samples (kernels sum in another order by the shape)."""
    differences = np.abs(image.astype(np.int64) - expected.astype(np.int64))
    assert image.shape == expected.shape
    assert differences.max() <= 1
    assert (differences > 0).mean() <= share


def assert_stands_alone(page: Path) -> str:
    """A page asks for no other file and for nothing from a network; returns its text."""
    text = page.read_text(encoding="utf-8")
    # What is fetched; the names of XML's vocabularies are not addresses.
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)[^"']+|url\((?!#)[^)]*\)|@import|fetch\(""", text)
    assert not re.findall(r"https?://(?!www\.w3\.org)", text)
    return text


@pytest.fixture
def photograph_folder(tmp_path: Path) -> Path:
    """Three photographs of different sizes, none a multiple of 4, one in a subfolder."""
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    for number, (name, size) in enumerate({"a.png": (70, 90), "b.png": (83, 77), "more/c.png": (101, 66)}.items()):
        Image.fromarray(make_photograph(*size, seed=number)).save(folder / name)
    return folder


def is_gan(experiment: str) -> bool:
    """Whether an experiment is of the GAN stage."""
    return not re.search("psnr|realesrnet|patch_sizes", experiment)


@pytest.fixture
def tiny(photograph_folder: Path, tmp_path: Path) -> Callable[[str], list[str]]:
    """Overrides that shrink a shipped experiment: tiny parts, a folder of small photographs, two steps on the CPU."""

    def overrides(experiment: str) -> list[str]:
        shrunk = [
            f"+experiment={experiment}",
            f"output_dir={tmp_path}/run",
            "data=folder",
            f"data.train=[{photograph_folder}]",
            f"data.validation=[{photograph_folder}/a.png]",
            "data.workers=0",
            "data.batch=2",
            "crop=32",
            "generator.blocks=1",
            "generator.width=8",
            "trainer=cpu",
            "trainer.max_steps=2",
            "trainer.val_check_interval=2",
            "trainer.log_every_n_steps=1",
            "logger=csv",
        ]
        if not is_gan(experiment):
            shrunk += ["stage.start_from=scratch"] if "realesrnet" in experiment else []
        else:
            shrunk += ["stage.start_from=scratch", "stage.discriminator.width=4"]
            shrunk += ["stage/perceptual=vgg19"] if "quickstart" in experiment else []  # which has none
            several = re.search("realesrgan|ldl|restore", experiment)
            deep = [f"~stage.perceptual.layer.{name}" for name in ("conv3_4", "conv4_4", "conv5_4")]
            shrunk += ["stage.perceptual.weights=untrained", *(deep if several else ["stage.perceptual.layer=conv1_2"])]
        if experiment == "gan_pirm":  # NIQE's parameters would have to be downloaded
            shrunk += ["stage.validation.metrics=[psnr_y,rmse]", "trainer.callbacks.best.monitor=val/rmse_bounded"]
        if "ablation_after" in experiment:  # and LPIPS's
            shrunk += ["stage.validation.metrics=[psnr_y,ssim_y]"]
        if experiment == "finetune":
            shrunk += [f"data.cache={tmp_path}/packed"]
        return shrunk

    return overrides


@pytest.fixture
def configure(tiny: Callable[[str], list[str]]) -> Callable[..., DictConfig]:
    """Compose a shipped experiment, shrunk, with further overrides."""

    def compose_tiny(experiment: str, *overrides: str) -> DictConfig:
        # Parts that are chosen otherwise have other options.
        absent = {"stage/perceptual=none": "stage.perceptual.", "~generator": "generator."}
        dropped = tuple(options for choice, options in absent.items() if choice in overrides)
        shrunk = [override for override in tiny(experiment) if not override.startswith(dropped)]
        with initialize_config_module("esrgan_lit.conf", version_base="1.3"):
            return compose("train", [*shrunk, *overrides])

    return compose_tiny
