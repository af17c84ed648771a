"""The notebooks run; what is kept of their outputs is small, belongs to their cells and tells nothing of a machine."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conftest import SHARED
from esrgan_lit.data import demo
from esrgan_lit.training import quickstart

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
TINY = ("data.batch=2", "crop=32", "trainer.max_steps=4")  # the quickstart's generator, which notebook 4 goes on with
# An absolute path, a progress bar, an error, a warning.
TRACES = re.compile(r"(?<![\w:/.<&])/\w[\w.-]*/\w|\b[A-Z]:\\\\|\d+%\||it/s|Traceback|Warning")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with the quickstart's two networks, trained for four iterations."""
    runs = tmp_path_factory.mktemp("runs")
    tiny = (*TINY, "data.validation=null", "trainer.val_check_interval=4", "trainer.log_every_n_steps=1")
    psnr = quickstart.run(runs / "quickstart" / "psnr", "+experiment=quickstart_psnr", *tiny)
    start = f"stage.start_from='{psnr}'"
    quickstart.run(
        runs / "quickstart" / "gan", "+experiment=quickstart_gan", start, "stage.discriminator.width=4", *tiny
    )
    return runs


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with parts of the demo's photographs, in place of the whole ones, which notebook 4 takes."""
    folder = tmp_path_factory.mktemp("photographs")
    for number, path in enumerate(demo.photographs("held_out")):
        with Image.open(path) as photograph:
            photograph.crop((100, 80, 308, 284)).save(folder / f"{number}.png")
    return folder


def settings(name: str, runs: Path, photographs: Path) -> dict[str, Any]:
    """Return what a notebook's parameters are in the tests."""
    folder, photograph = str(photographs), str(photographs / "0.png")
    vgg = SHARED / "weights" / "vgg19_conv1_1-conv3_4.pth"
    weights = str(vgg) if vgg.is_file() else "untrained"
    niqe = SHARED / "metrics" / "niqe_pris_params.npz"
    if name.startswith("5") and not niqe.is_file():
        pytest.skip("no parameters of NIQE beside this checkout")
    special = {
        "1": {"PHOTOGRAPH": photograph, "TRUTHS": folder},
        "2": {"PHOTOGRAPH": photograph, "ALPHAS": [0, 0.5, 1]},
        "3": {"PHOTOGRAPHS": [photograph], "VGG": weights, "LAYER": "conv3_1"},
        "4": {"VGG": weights, "ITERATIONS": 2},
        "5": {"TRUTHS": folder, "NIQE_PARAMETERS": str(niqe), "ALPHAS": [0, 0.5, 1]},
        "7": {"PHOTOGRAPHS": [photograph], "SIDE": 96},
        "6": {"TRAIN": folder, "HELD_OUT": folder, "ITERATIONS": (8, 4)},
    }
    return {"RUNS": str(runs), **special.get(name[0], {})}


def outputs(notebook: dict[str, Any]) -> list[list[set[str]]]:
    """For each code cell, the kinds of its outputs."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [[set(output.get("data", {output["output_type"]: None})) for output in cell["outputs"]] for cell in cells]


@pytest.mark.slow
@pytest.mark.xdist_group("notebooks")  # they share two networks
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_gives_outputs_of_the_kinds_that_are_kept(
    name: str, runs: Path, photographs: Path, tmp_path: Path
) -> None:
    command = [sys.executable, str(FOLDER / "execute.py"), str(FOLDER / name), "--output", str(tmp_path)]
    for key, value in settings(name, runs, photographs).items():
        command += ["--set", f"{key}={value!r}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    executed = json.loads((tmp_path / name).read_text())
    kept = json.loads((FOLDER / name).read_text())
    assert [cell["source"] for cell in executed["cells"]] == [cell["source"] for cell in kept["cells"]]
    assert outputs(executed) == outputs(kept)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_kept_is_small_whole_and_tells_nothing_of_a_machine(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert len(text) < 300_000
    notebook = json.loads(text)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/jpeg" in kinds or "image/png" in kinds for cell in outputs(notebook) for kinds in cell)
    for cell in cells:
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr"
            shown = {kind: data for kind, data in output.get("data", {}).items() if not kind.startswith("image/")}
            found = TRACES.search(json.dumps([output.get("text"), shown], ensure_ascii=False))
            assert found is None, found
    assert notebook["metadata"].keys() == {"kernelspec", "language_info"}
