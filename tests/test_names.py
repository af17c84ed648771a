"""Every command takes folders whose files are called anything that a disk allows, and can say so."""

import csv
import io
import logging
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from PIL import Image

from conftest import make_photograph
from esrgan_lit import RRDBNet, load_generator, save_generator
from esrgan_lit.cli import evaluate_run
from esrgan_lit.cli.data import main as data_main
from esrgan_lit.cli.export import export_main
from esrgan_lit.cli.interpolate import interpolate_main
from esrgan_lit.cli.report import main as report_main
from esrgan_lit.cli.upscale import main as upscale_main
from esrgan_lit.training.trainer import fit, prepare

NAMES = [
    "caf\udce9",  # é in Latin-1, which is no UTF-8
    "$x^2$",
    r"$\frac{$",
    "n" * 251,
    "two\nlines",
    "{{data}} {% x %}",
    "<!--<script>alert(1)",
    "q'\"`",
    "-rf",
    " leading",
    "trailing ",
    "100% #a?b&c;d",
    "a=b,c",
    "[x]*?",
    "~",
    "back\\slash",
    "esc\x1b[31mred\x07",
    "tab\t",
    "smile😀",
    "שלום",
    "\u202egnp",
    "e\u0301",
    "١٢٣",
]


@pytest.fixture(autouse=True)
def unlogged() -> Iterator[None]:
    """Log nothing: pytest-xdist's workers cannot send a log with names that are not UTF-8, and end."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """Photographs with all these names, in a folder that is called such, too."""
    folder = tmp_path / "photos {{x}} $y^$ caf\udce9"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        Image.fromarray(make_photograph(48, 52, number)).save(folder / f"{name}.png")
    return folder


def run(command: Callable[..., None], *arguments: str | Path) -> str:
    """Run a command that must end well; return what it printed."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            command([str(argument) for argument in arguments])
        except SystemExit as stopped:
            if stopped.code:
                pytest.fail(str(stopped.code))
    return said.getvalue()


def refused(command: Callable[..., None], *arguments: str | Path) -> str:
    """Run a command that must end with code 1; return its message, or what it printed."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said), pytest.raises(SystemExit) as stopped:
        command([str(argument) for argument in arguments])
    return said.getvalue() if stopped.value.code == 1 else str(stopped.value.code)


def test_data_check(named: Path, tmp_path: Path) -> None:
    (named / "bad\udcff\n.png").write_text("no image")
    said = refused(data_main, "check", named, "--crop", "32", "--csv", tmp_path / "check.csv")
    assert f"{len(NAMES)} of {len(NAMES) + 1} images can be used" in said
    assert "bad" in (tmp_path / "check.csv").read_text(encoding="utf-8")


def test_data_pack(named: Path, tmp_path: Path) -> None:
    for _ in range(2):
        said = run(data_main, "pack", named, "-o", tmp_path / "packed \udcff {{x}}")
        assert f"{len(NAMES)} images" in said
    (named / "bad\udcff\n.png").write_text("no image")
    assert "bad" in refused(data_main, "pack", named, "-o", tmp_path / "other")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "network {{x}} $y^$ caf\udce9\n.safetensors"
    save_generator(RRDBNet(scale=2, blocks=1, width=8, growth=4), path)
    return path


def test_upscale(named: Path, network: Path, tmp_path: Path) -> None:
    for _ in range(2):  # and again, by the record
        said = run(upscale_main, named, "-o", tmp_path / "out \udcff", "--checkpoint", network, "--engine", "torch")
    assert {path.stem for path in (tmp_path / "out \udcff").glob("[!.]*.png")} == set(NAMES)
    assert "were made with these settings before" in said


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_export_and_interpolate(suffix: str, network: Path, tmp_path: Path) -> None:
    out = tmp_path / f"-caf\udce9 $x^$ {{{{y}}}}\n{suffix}"
    run(export_main, network, f"--output={out}")
    assert out.is_file()
    if suffix != ".pt":  # weights again
        blend = out.with_suffix(".blend.safetensors")
        run(interpolate_main, network, out, "--alpha", "0.5", "-o", blend)
        assert load_generator(blend).scale == 2


def test_evaluate(named: Path, network: Path, tmp_path: Path) -> None:
    with initialize_config_module("esrgan_lit.conf", version_base="1.3"):
        config = compose("evaluate", ["metrics.names=[psnr_y]", "crop=16", "crops=1", "scale=2"])
    for name in NAMES[9:]:  # drawing takes its time
        (named / f"{name}.png").unlink()
    out = tmp_path / "out $x^$ {{y}}"
    config.output_dir, config.hr, config.weights = str(out), str(named), {"{{mine}} $x^$ <!--": str(network)}
    with redirect_stdout(io.StringIO()):  # for pytest-xdist, again
        evaluate_run.run(config, evaluate_run.prepare(config))
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["image"] for row in rows} - {""}) == len(list(named.iterdir()))
    assert (out / "index.html").is_file()


def test_train_and_report(named: Path, tmp_path: Path, configure: Callable[..., DictConfig]) -> None:
    config = configure("psnr_rrdb23")
    out = tmp_path / "run $x^$ {{y}} caf\udce9\n"
    config.output_dir, config.data.train, config.data.validation = str(out), [str(named)], [str(named)]
    fit(config, *prepare(config))
    assert load_generator(out / "checkpoints" / "last.ckpt").scale == 4
    run(report_main, out)
    assert (out / "report.html").is_file()
