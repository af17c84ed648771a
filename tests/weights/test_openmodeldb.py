"""``esrgan-export --openmodeldb``: entries that the catalogue takes, of what is known and of nothing else."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from omegaconf import DictConfig

from conftest import make_photograph
from esrgan_lit import RRDBNet, SRResNet, load_generator, save_generator, upscale
from esrgan_lit.cli.export import export_main
from esrgan_lit.images.reading import read_image
from esrgan_lit.images.writing import save_image
from esrgan_lit.training.trainer import train

# OpenModelDB's src/lib/schema.ts and model-props.ts: types, bounds, patterns and what must be there.
COUNT = {"type": "integer", "minimum": 1}
NAME = {"type": "string", "pattern": "^[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*$"}
TEXT = {"type": "string", "minLength": 1}
RESOURCE = {
    "type": "object",
    "required": ["platform", "type", "urls"],
    "properties": {
        "platform": {"enum": ["pytorch", "onnx", "ncnn"]},
        "type": {"enum": ["pth", "safetensors", "onnx"]},
        "size": COUNT,
        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "urls": {"type": "array", "items": TEXT, "minItems": 1},
    },
    "additionalProperties": False,
}
PAIR = {
    "type": "object",
    "required": ["type", "LR", "SR"],
    "properties": {"type": {"const": "paired"}, "LR": TEXT, "SR": TEXT},
    "additionalProperties": False,
}
SCHEMA = {
    "type": "object",
    "required": [
        *("name", "author", "tags", "description", "date", "architecture", "scale", "inputChannels"),
        *("outputChannels", "resources", "images"),
    ],
    "properties": {
        "name": TEXT,
        "author": {"oneOf": [NAME, {"type": "array", "items": NAME, "minItems": 1}]},
        "license": {"type": "string", "pattern": "^[A-Za-z0-9.-]+( OR [A-Za-z0-9.-]+)*$"},
        "tags": {"type": "array", "items": NAME, "minItems": 1},
        "description": TEXT,
        "date": {"type": "string", "pattern": r"^\d{4}-(?:0[1-9]|1[012])-(?:0[1-9]|[12][0-9]|3[01])$"},
        "architecture": {"enum": ["esrgan", "esrgan+", "sr-res-net"]},
        "size": {"type": "array", "items": TEXT},
        "scale": {"type": "integer", "minimum": 1, "maximum": 16},
        "inputChannels": {"type": "integer", "minimum": 1, "maximum": 4},
        "outputChannels": {"type": "integer", "minimum": 1, "maximum": 4},
        "resources": {"type": "array", "items": RESOURCE, "minItems": 1},
        "images": {"type": "array", "items": PAIR},
        "dataset": TEXT,
        "datasetSize": COUNT,
        "trainingIterations": COUNT,
        "trainingBatchSize": COUNT,
        "trainingHRSize": COUNT,
        "trainingOTF": {"type": "boolean"},
    },
    "additionalProperties": False,
}
SAID = ["--author", "some-one", "--tag", "photo", "--description", "For photographs.", "--date", "2026-01-31"]


def entry_of(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_trainings_entry_is_valid_and_says_what_its_checkpoint_knows(
    configure: Callable[..., DictConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = train(configure("psnr_rrdb23", "degradation=realesrgan", "data.batch=3"))
    save_image(make_photograph(12, 10, 0), tmp_path / "private name.png")
    out = tmp_path / "out"
    given = ["--license", "CC-BY-4.0", "--address", "https://example.org/v1/", "--training-data", "DF2K"]
    pictures = ["--pictures", str(tmp_path / "private name.png")]
    export_main([str(checkpoint), "-o", f"{out}/4x_mine v2.pth", "--openmodeldb", *SAID, *given, *pictures])
    assert "left out" not in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == [
        *("4x-mine-v2-1-LR.png", "4x-mine-v2-1-SR.png", "4x-mine-v2.json", "4x_mine v2.pth")
    ]
    entry = entry_of(out)
    jsonschema.validate(entry, SCHEMA)
    generator = load_generator(checkpoint)
    content = (out / "4x_mine v2.pth").read_bytes()
    assert entry["resources"] == [
        {
            "platform": "pytorch",
            "type": "pth",
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "urls": ["https://example.org/v1/4x_mine%20v2.pth"],
        }
    ]
    expected = {
        "architecture": "esrgan",
        "size": [
            f"{generator.architecture['width']}nf",
            f"{generator.architecture['blocks']}nb",
        ],  # of the usual growth
        "scale": 4,
        "inputChannels": 3,
        "trainingIterations": int(generator.metadata["steps"]),
        "trainingBatchSize": 3,
        "trainingOTF": True,
        "dataset": "DF2K",
        "license": "CC-BY-4.0",
        "author": "some-one",
    }
    assert {key: entry.get(key) for key in expected} == expected
    assert "RealEsrganDegradation" in entry["description"]
    (pair,) = entry["images"]
    low_res = read_image(out / Path(pair["LR"]).name)
    assert (low_res == make_photograph(12, 10, 0)).all()
    assert (read_image(out / Path(pair["SR"]).name) == upscale(low_res, generator)).all()


def test_what_nobody_says_is_left_out_and_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_generator(RRDBNet(2, 1, 8, 32, channels=1, unshuffle=2), tmp_path / "net.safetensors")
    export_main([str(tmp_path / "net.safetensors"), "-o", f"{tmp_path}/out/net.pth", "--openmodeldb"])
    entry = entry_of(tmp_path / "out")
    assert (tmp_path / "out" / "2x-net.json").is_file()
    assert entry.keys() == {
        *("name", "architecture", "size", "scale", "inputChannels", "outputChannels", "resources", "images")
    }
    assert (entry["architecture"], entry["size"], entry["inputChannels"]) == ("esrgan", ["8nf", "1nb"], 1)
    said = capsys.readouterr().out
    for option in ("--author NAME", "--license SPDX-ID", "--tag TAG", "--description TEXT", "--date", "--address"):
        assert option in said


def test_an_architecture_that_others_would_read_wrongly_gets_no_name(tmp_path: Path) -> None:
    for name, network, expected in (
        ("skip", RRDBNet(4, 1, 8, 4, bicubic_skip=True), None),
        ("plus", RRDBNet(4, 1, 8, 32, plus=True), "esrgan+"),
        ("res", SRResNet(4, 1, 8), "sr-res-net"),
        ("norm", SRResNet(4, 1, 8, batch_norm=True), None),
    ):
        save_generator(network, tmp_path / "net.safetensors")
        out = tmp_path / name / "net.safetensors"
        export_main([str(tmp_path / "net.safetensors"), "-o", str(out), "--openmodeldb"])
        assert entry_of(out.parent).get("architecture") == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-o", "net.xml", "--openmodeldb"], "the catalogue lists .pth, .safetensors, .onnx"),
        (["-o", "net.pth", "--author", "me"], "goes with --openmodeldb"),
        (["-o", "net.pth", "--openmodeldb", "--author", "Some One"], "letters, digits and single hyphens"),
        (["-o", "net.pth", "--openmodeldb", "--date", "31.1.2026"], "is no day; give it as 2026-01-31"),
        (["-o", "net.pth", "--openmodeldb", "--address", "here"], "is no address"),
        (["-o", "net.pth", "--openmodeldb", "--pictures", "nowhere.png"], "nowhere.png does not exist"),
        (["-o", "網.pth", "--openmodeldb"], "give --name NAME"),
    ],
)
def test_what_cannot_be_an_entry_is_said_before_anything_is_written(
    arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_generator(RRDBNet(4, 1, 8, 4), tmp_path / "a.safetensors")
    with pytest.raises(SystemExit, match=expected):
        export_main(["a.safetensors", *arguments])
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_an_entry_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    save_generator(RRDBNet(4, 1, 8, 4), tmp_path / "a.safetensors")
    (tmp_path / "4x-net.json").write_text("mine")
    arguments = [str(tmp_path / "a.safetensors"), "-o", f"{tmp_path}/net.pth", "--openmodeldb"]
    with pytest.raises(SystemExit, match=r"4x-net\.json"):
        export_main(arguments)
    assert not (tmp_path / "net.pth").exists()
    export_main([*arguments, "--overwrite"])
    assert entry_of(tmp_path)["scale"] == 4
