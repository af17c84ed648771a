"""Training from Python: the same as the command, once, and never over a run of other settings."""

from pathlib import Path

import pytest
import torch

from esrgan_lit.training import quickstart

# The last iteration is no multiple of the interval, so that the checkpoint before the last is an earlier one.
TINY = ("generator.blocks=1", "generator.width=8", "data.batch=2", "crop=32", "trainer.max_steps=3")
TINY = (*TINY, "data.validation=null", "trainer.log_every_n_steps=1")
TWICE = "trainer.val_check_interval=2"


def test_a_run_is_done_once_and_refuses_other_settings(tmp_path: Path) -> None:
    overrides = ("+experiment=quickstart_psnr", *TINY)
    last = quickstart.run(tmp_path / "a", *overrides)
    assert last == tmp_path / "a" / "checkpoints" / "last.ckpt"
    written = last.stat().st_mtime_ns
    assert quickstart.run(tmp_path / "a", *overrides) == last
    assert last.stat().st_mtime_ns == written
    for change, said in {
        "generator.width=16": "generator.width was 8 and is 16",
        "stage.loss_weights.pixel=2": "stage.loss_weights.pixel was .* and is 2",
        f"stage.start_from={last}": "stage.start_from was .* and is .*last.ckpt",
    }.items():
        with pytest.raises(ValueError, match=rf"holds a run of other settings \({said}"):
            quickstart.run(tmp_path / "a", *overrides, change)


def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path: Path) -> None:
    overrides = ("+experiment=quickstart_psnr", *TINY, TWICE)
    last = quickstart.run(tmp_path / "a", *overrides)
    whole = torch.load(last, weights_only=True)
    last.unlink()
    assert torch.load(last.with_name("previous.ckpt"), weights_only=True)["global_step"] == 2
    quickstart.run(tmp_path / "a", *overrides)
    again = torch.load(last, weights_only=True)
    assert (again["global_step"], again["state_dict"].keys()) == (3, whole["state_dict"].keys())
    assert all(torch.equal(again["state_dict"][key], value) for key, value in whole["state_dict"].items())


def test_networks_are_those_of_make_quickstart_or_are_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, tuple[str, ...]]] = []

    def run(folder: Path, *overrides: str) -> Path:
        asked.append((folder, overrides))
        return folder / "checkpoints" / "last.ckpt"

    monkeypatch.setattr(quickstart, "run", run)
    psnr, gan = quickstart.networks(tmp_path, (12, 8))
    assert [folder for folder, _ in asked] == [tmp_path / "quickstart_short" / stage for stage in ("psnr", "gan")]
    assert "trainer.max_steps=8" in asked[1][1]
    assert f"stage.start_from='{psnr}'" in asked[1][1]
    for stage in ("psnr", "gan"):
        (tmp_path / "quickstart" / stage / "checkpoints").mkdir(parents=True)
        torch.save({}, tmp_path / "quickstart" / stage / "checkpoints" / "last.ckpt")
    assert quickstart.networks(tmp_path)[1] == tmp_path / "quickstart" / "gan" / "checkpoints" / "last.ckpt"
    assert len(asked) == 2
    assert gan.parts[-3] == "gan"
