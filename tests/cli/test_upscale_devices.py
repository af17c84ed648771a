"""Several devices at once: the same bytes, and a process that is killed costs the image that it was at."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from conftest import make_photograph
from esrgan_lit import RRDBNet, save_generator
from esrgan_lit.cli import upscale_run
from esrgan_lit.cli.upscale import main
from esrgan_lit.images.picture import Picture

# A network of somebody's own, which ends its process at images of 13 rows.
KILLED = """
import os

from esrgan_lit import RRDBNet


class Killed(RRDBNet):
    def forward(self, image):
        if image.shape[-2] == 13 or image.shape[-1] == 13:
            os._exit(7)
        return super().forward(image)

    def head(self, image):
        if 13 in image.shape:
            os._exit(7)
        return super().head(image)
"""


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., None]:
    """Enlarge ``tmp_path/photos``, five photographs and one that is none, to a folder beside it."""
    save_generator(RRDBNet(4, 1, 8, 4), tmp_path / "net.safetensors")
    (tmp_path / "photos").mkdir()
    for rows in range(11, 16):
        Image.fromarray(make_photograph(rows, 20, rows)).save(tmp_path / "photos" / f"{rows}.png")

    def upscale(output: str, *options: str) -> None:
        given = ["--checkpoint", str(tmp_path / "net.safetensors"), "--engine", "torch"]
        main([str(tmp_path / "photos"), "-o", str(tmp_path / output), *given, *options])

    return upscale


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_several_processes_make_the_same_bytes(
    call: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("one", "--device", "cpu")
    (tmp_path / "photos" / "bad.png").write_bytes((tmp_path / "photos" / "15.png").read_bytes()[:200])
    with pytest.raises(SystemExit, match=r"1 of 6 images failed:\n.*bad\.png"):
        call("several", "--devices", "cpu:2")
    assert contents(tmp_path / "several") == contents(tmp_path / "one")
    capsys.readouterr()
    (tmp_path / "photos" / "bad.png").unlink()
    call("several")
    assert "5 of 5 outputs were made with these settings before and stay" in capsys.readouterr().err


def test_small_images_are_computed_one_a_core_with_the_same_bytes(
    call: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, enlarged = [], upscale_run._enlarged

    def observed(*given: Any) -> Picture:
        threads.append((threading.current_thread(), torch.get_num_threads()))
        return enlarged(*given)

    before = torch.get_num_threads()
    call("one", "--device", "cpu", "--max-memory", "8G")  # one image at a time
    (tmp_path / "photos" / "bad.png").write_bytes((tmp_path / "photos" / "15.png").read_bytes()[:200])
    monkeypatch.setattr(upscale_run, "_enlarged", observed)
    torch.set_num_threads(2)
    try:
        with pytest.raises(SystemExit, match=r"1 of 6 images failed:\n.*bad\.png"):
            call("several", "--device", "cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert {number for _, number in threads} == {1}
    assert threading.main_thread() not in {thread for thread, _ in threads}
    assert len(contents(tmp_path / "several")) == 5
    assert contents(tmp_path / "several") == contents(tmp_path / "one")


@pytest.mark.parametrize(
    ("devices", "rule"),
    [
        ("gpu", "names no devices; give all, numbers of GPUs such as 0,1, or cpu:4"),
        ("cpu:0", "names no devices"),
        ("0,98", "there is no GPU .*98, PyTorch finds"),
        ("", "names no devices"),
    ],
)
def test_devices_that_there_are_not(call: Callable[..., None], tmp_path: Path, devices: str, rule: str) -> None:
    with pytest.raises(SystemExit, match=rule):
        call("out", "--devices", devices)
    assert not (tmp_path / "out").exists()


def test_a_killed_process_costs_the_image_that_it_was_at(
    call: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "killed_network.py").write_text(KILLED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    from killed_network import Killed  # pyright: ignore[reportMissingImports]

    save_generator(Killed(4, 1, 8, 4), tmp_path / "net.safetensors")
    own = ("--import", "killed_network")
    with pytest.raises(SystemExit, match=r"13\.png: the process on cpu ended at it \(exit code 7\)"):
        call("out", "--devices", "cpu:2", *own)
    made = contents(tmp_path / "out").keys()
    assert "13.png" not in made
    assert len(made) >= 3  # what it had read ahead is named as well


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "cuda:x"])
def test_a_device_that_there_is_not_is_said_in_one_line(call: Callable[..., None], device: str) -> None:
    with pytest.raises(
        SystemExit, match=rf"--device {device} cannot be used here \(.*\); use cpu, cuda, cuda:1 or mps$"
    ):
        call("out", "--device", device)
