"""What is made for others, reports, exports and cards, does not say who made it, on which machine, with which keys."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from PIL import Image

from conftest import make_photograph
from esrgan_lit import load_generator
from esrgan_lit.cli import evaluate_run
from esrgan_lit.cli.compare import main as compare
from esrgan_lit.cli.export import export_main
from esrgan_lit.cli.interpolate import interpolate_main
from esrgan_lit.cli.report import main as report
from esrgan_lit.files import anonymous
from esrgan_lit.training.trainer import train

USER, SECRETS = "marked-user-77", ("marked-secret-1", "marked-secret-2")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, a user's name and secrets that would be found anywhere."""
    folder = tmp_path / "homes" / USER
    (folder / "photos").mkdir(parents=True)
    for number in range(2):
        Image.fromarray(make_photograph(48, 52, number)).save(folder / "photos" / f"{number}.png")
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, USER)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(folder))
    for name, value in zip(("HF_TOKEN", "AWS_SECRET_ACCESS_KEY"), SECRETS, strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def checkpoint(home: Path, configure: Callable[..., DictConfig]) -> Path:
    """The last checkpoint of a training in that home."""
    photos, run = home / "photos", home / "runs" / "mine"
    config = configure("quickstart_psnr", f"output_dir={run}", f"data.train=[{photos}]", f"data.validation=[{photos}]")
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text(f"- data.train=[{photos}]\n- stage.start_from=/mnt/{USER}/x.ckpt\n")
    (run / "train.log").write_text(f"[now][x][WARNING] - {photos}/0.png is odd\n")
    return train(config)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files in a folder, those in archives unpacked."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            found[str(path)] = path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    found |= {f"{path} {name}": archive.read(name) for name in archive.namelist()}
    return found


def assert_private(folder: Path, *further: str, least: int = 1) -> None:
    files = contents(folder)
    assert len(files) >= least
    said = [
        (name, word)
        for name, content in files.items()
        for word in (USER, *SECRETS, *further)
        if word.encode() in content
    ]
    assert said == []


def test_reports_and_evaluations_name_no_home(home: Path, checkpoint: Path, tmp_path: Path) -> None:
    run, out = checkpoint.parents[1], tmp_path / "out"
    report([str(run), "-o", str(out / "one")])
    report([str(run), str(run), "-o", str(out / "several")])
    photos = home / "photos"
    changes = [f"hr={photos}", f"weights={{ours: {checkpoint}}}", "metrics.names=[psnr_y]", "device=cpu", "crop=16"]
    with initialize_config_module("esrgan_lit.conf", version_base="1.3"):
        config = compose("evaluate", [*changes, f"output_dir={out}/evaluation", f"cache={tmp_path}/cache"])
    evaluate_run.run(config, evaluate_run.prepare(config))
    compare([str(checkpoint), str(checkpoint), "--images", str(photos), "-o", str(out / "comparison")])
    assert_private(out, least=12)
    page = (out / "one" / "report.html").read_text(encoding="utf-8")
    assert "~/photos" in page  # it was there to be hidden
    assert "/mnt/USER/x.ckpt" in page
    assert "~/photos/0.png is odd" in page
    # A run's own folder keeps its paths, which it resumes by, but no secret.
    assert not [word for content in contents(run).values() for word in SECRETS if word.encode() in content]


def test_weights_and_cards_name_no_home(home: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    photograph = str(next((home / "photos").iterdir()))
    entry = ["--openmodeldb", "--address", "https://example.org", "--pictures", photograph]
    export_main([str(checkpoint), "-o", str(out / "x.safetensors"), *entry])
    assert '"dataset": "~/photos"' in (out / "4x-x.json").read_text(encoding="utf-8")
    interpolate_main([str(checkpoint), str(checkpoint), "--alpha", "0.5", "-o", str(out / "blend.safetensors")])
    generator = load_generator(checkpoint)
    generator.save_pretrained(out / "hub")
    assert generator.metadata["training_data"] == "~/photos"
    assert_private(out, least=8)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt", ".pt2", ".onnx", ".xml", ".param"])
def test_programs_name_neither_home_nor_the_sources_they_come_from(
    home: Path, checkpoint: Path, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / "out" / f"x{suffix}"
    export_main([str(checkpoint), "-o", str(path)])
    sources = [str(Path(torch.__file__).parent), str(Path(evaluate_run.__file__).parents[1])]
    assert_private(path.parent, *sources)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{home}", "~"),
        ("{home}/a {home}:{home}", "~/a ~:~"),
        ("['{home}/a b']", "['~/a b']"),
        ("file://{home}/x", "file://~/x"),
        ("{home}s/x and {home}-2 and {home}.old", "{home}s/x and {home}-2 and {home}.old"),
        ("/mnt{home}/x", "/mnt{parent}/USER/x"),
        (f"/data/{USER}/x and {USER}", f"/data/USER/x and {USER}"),
        (f"/data/{USER}s", f"/data/{USER}s"),
    ],
)
def test_only_the_home_folder_and_the_name_in_paths_are_left_out(home: Path, text: str, expected: str) -> None:
    assert anonymous(text.format(home=home)) == expected.format(home=home, parent=home.parent)


def test_a_home_that_is_the_root_leaves_paths_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    monkeypatch.setenv("LOGNAME", "root")
    assert anonymous("/data/x /root") == "/data/x /root"
