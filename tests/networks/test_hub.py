"""Folders of the Hugging Face Hub: written, read, read by its own mix-in, uploaded to a stand-in."""

import json
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin

from esrgan_lit import RRDBNet, SRResNet, load_generator
from esrgan_lit.networks.generator import Generator

ORIGIN = {"training_data": "DIV2K", "steps": "400000", "license": "CC BY 4.0", "metrics": "PSNR-Y (dB) 30.40"}


@pytest.mark.parametrize(
    "generator", [RRDBNet(2, 1, 8, 4, unshuffle=2), SRResNet(4, 1, 8, batch_norm=True)], ids=["RRDBNet", "SRResNet"]
)
def test_folders_come_back_as_they_were(generator: Generator, tmp_path: Path) -> None:
    folder = generator.save_pretrained(tmp_path / "net", ORIGIN)
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    for loaded in (type(generator).from_pretrained(folder), load_generator(folder)):
        assert loaded.architecture == generator.architecture
        assert not loaded.training
        state = loaded.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in generator.state_dict().items())
        assert loaded.metadata == ORIGIN
    assert json.loads((folder / "config.json").read_text()) == generator.architecture


def test_the_hubs_own_mixin_reads_our_folders_and_we_read_its(tmp_path: Path) -> None:
    class Theirs(PyTorchModelHubMixin, torch.nn.Module):
        """A network as the Hub's users write them, with our layers inside."""

        def __init__(self, name: str = "RRDBNet", **arguments: int) -> None:
            super().__init__()
            for key, module in RRDBNet(**arguments).named_children():
                self.add_module(key, module)

    generator = RRDBNet(4, 1, 8, 4)
    generator.save_pretrained(tmp_path / "ours")
    theirs = Theirs.from_pretrained(tmp_path / "ours")
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in generator.state_dict().items())
    theirs.save_pretrained(tmp_path / "theirs")
    ours = RRDBNet.from_pretrained(tmp_path / "theirs")
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in generator.state_dict().items())


def test_the_card_says_what_is_known(tmp_path: Path) -> None:
    generator = RRDBNet(4, 1, 8, 4)
    card = ModelCard.load(generator.save_pretrained(tmp_path / "a", ORIGIN) / "README.md")
    assert card.data.library_name == "esrgan_lit"
    assert card.data.license_name == "CC BY 4.0"
    assert card.data.pipeline_tag == "image-to-image"
    assert {"super-resolution", "esrgan", "x4"} <= set(card.data.tags)
    assert card.data.metrics == ["psnr"]
    assert card.data.base_model is None
    based = generator.save_pretrained(tmp_path / "c", {**ORIGIN, "base_model": "me/psnr"}) / "README.md"
    assert ModelCard.load(based).data.base_model == "me/psnr"
    for line in (
        "| scale | 4 |",
        "| Training data | DIV2K |",
        "| Iterations | 400000 |",
        "iteration | PSNR-Y (dB) 30.40 |",
        "RRDBNet.from_pretrained",
    ):
        assert line in card.text
    plain = (generator.save_pretrained(tmp_path / "b") / "README.md").read_text()
    assert "Training data and License are not stated" in plain


def test_uploads_are_what_a_folder_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Api:
        def create_repo(self, repository: str, private: bool, exist_ok: bool) -> None:
            calls.append((repository, private, exist_ok))

        def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> str:
            calls.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))
            return "https://example.org/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert RRDBNet(4, 1, 8, 4).push_to_hub("me/net", ORIGIN) == "https://example.org/commit/1"
    assert calls == [("me/net", False, True), ("me/net", ["README.md", "config.json", "model.safetensors"])]


def test_downloads_come_from_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RRDBNet(4, 1, 8, 4).save_pretrained(tmp_path / "cached")
    asked = []

    def snapshot_download(repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    RRDBNet.from_pretrained("me/net", revision="v1")
    assert asked == [("me/net", "v1", ["model.safetensors", "config.json"])]


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SRResNet(4, 1, 8).save_pretrained(tmp_path / "net")
    with pytest.raises(ValueError, match=r"holds an SRResNet, not an RRDBNet; use SRResNet\.from_pretrained"):
        RRDBNet.from_pretrained(folder)
    (folder / "config.json").write_text('{"name": "SRResNet", "scale": 4, "blocks": 2, "width": 8}')
    with pytest.raises(ValueError, match=r"does not fit its config\.json"):
        SRResNet.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        SRResNet.from_pretrained(folder)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"needs huggingface_hub: pip install 'esrgan_lit\[hub\]'"):
        RRDBNet.from_pretrained("me/net")
