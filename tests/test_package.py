"""The wheel: what is in it works without the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import esrgan_lit

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]  # they share one


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content, as pip would lay it out."""
    folder = tmp_path_factory.mktemp("wheel")
    checkout = folder / "checkout"  # a build writes beside what it builds, and other tests run in ROOT meanwhile
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]  # sdist, then wheel
    built = subprocess.run([*build, str(checkout)], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_every_configuration_is_in_the_wheel(installed: Path) -> None:
    shipped = {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    assert shipped == {
        path.relative_to(installed / "esrgan_lit" / "conf") for path in (installed / "esrgan_lit").rglob("*.yaml")
    }
    assert (installed / "esrgan_lit" / "py.typed").is_file()
    for folder in ("reports/templates", "evaluation"):  # what is no Python there is data
        source = ROOT / "src" / "esrgan_lit" / folder
        data = {path.name for path in source.iterdir() if path.suffix in (".html", ".css", ".js", ".toml")}
        assert data
        assert data <= {path.name for path in (installed / "esrgan_lit" / folder).iterdir()}


def test_the_installed_command_composes_the_papers_experiment_in_any_folder(installed: Path, tmp_path: Path) -> None:
    code = "import esrgan_lit, esrgan_lit.cli.train as t, sys; print(esrgan_lit.__file__, file=sys.stderr); t.main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "--cfg", "job", "+experiment=gan_rrdb23"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stderr.startswith(str(installed))
    assert "blocks: 23" in result.stdout
    assert "adversarial: 0.005" in result.stdout


def test_the_version_is_the_installed_ones() -> None:
    assert esrgan_lit.__version__ == version("esrgan_lit")
