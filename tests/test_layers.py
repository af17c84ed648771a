"""Imports go down only: a folder knows the layers below it, never those above (the contract is in pyproject.toml)."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra.utils import get_class

import esrgan_lit


def test_imports_go_down_only() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run([linter], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    check = (
        "import sys, esrgan_lit; assert 'torch' not in sys.modules;"
        "esrgan_lit.RRDBNet, esrgan_lit.load_generator, esrgan_lit.upscale;"  # all that upscaling takes
        "training = {'hydra', 'lightning', 'torchvision', 'torchmetrics', 'kornia', 'wandb', 'jinja2', 'matplotlib'};"
        "assert not training & set(sys.modules), training & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.mark.parametrize(
    "name", ["networks.RRDBNet", "networks.SRResNet", "networks.Discriminator", "losses.StandardLoss"]
)
def test_configurations_of_before_find_their_classes(name: str) -> None:
    assert get_class(f"esrgan_lit.{name}") is getattr(esrgan_lit, name.split(".")[1])


def test_the_map_names_every_module() -> None:
    root = Path(__file__).parents[1]
    lines = [line.split() for line in (root / "docs" / "how_it_is_built.md").read_text(encoding="utf-8").splitlines()]
    mapped = [words[0] for words in lines if len(words) > 1 and words[0].endswith(".py")]
    modules = [path.name for path in (root / "src" / "esrgan_lit").rglob("*.py") if path.name != "__init__.py"]
    assert sorted(mapped) == sorted(modules)
