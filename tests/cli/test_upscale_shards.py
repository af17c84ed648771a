"""Shards of ``esrgan-upscale``: each does its own images, all of them do what one process does."""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from filelock import FileLock
from PIL import Image

from conftest import make_photograph
from esrgan_lit import RRDBNet, save_generator
from esrgan_lit.cli import upscale
from esrgan_lit.cli.upscale import main
from esrgan_lit.cli.upscale_options import parse
from esrgan_lit.cli.upscale_record import Shard
from esrgan_lit.inference.upscaler import Upscaler
from esrgan_lit.networks.generator import Generator

SLURM = {"SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_STEP": "5"}


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., None]:
    """Enlarge ``tmp_path/photos``, eleven photographs in two folders, to a folder beside it."""
    save_generator(RRDBNet(4, 1, 8, 4), tmp_path / "net.safetensors")
    for number in range(11):
        path = tmp_path / "photos" / ("deep/er" if number % 3 else "") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_photograph(8 + number, 12, number)).save(path)

    def upscale(output: str, *options: str) -> None:
        given = ["--checkpoint", str(tmp_path / "net.safetensors"), "--engine", "torch", "--device", "cpu"]
        main([str(tmp_path / "photos"), "-o", str(tmp_path / output), *given, *options])

    return upscale


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def records(folder: Path) -> set[str]:
    return {path.name for path in folder.glob(".esrgan*.jsonl")}


def test_shards_make_what_one_process_makes_and_are_merged(
    call: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("whole")
    call("shards", "--shard", "1/3")
    done = contents(tmp_path / "shards")
    assert 0 < len(done) < 11
    with pytest.raises(SystemExit, match=rf"{11 - len(done)} of 11 outputs are missing, .*--shard 2/3, --shard 3/3$"):
        call("shards", "--merge")
    for shard in ("3/3", "2/3"):
        call("shards", "--shard", shard)
    assert contents(tmp_path / "shards") == contents(tmp_path / "whole")
    assert records(tmp_path / "shards") == {f".esrgan-upscale.{number}-of-3.jsonl" for number in (1, 2, 3)}
    capsys.readouterr()
    call("shards", "--merge")
    assert capsys.readouterr().out == "all 11 outputs are there\n"
    assert records(tmp_path / "shards") == {".esrgan-upscale.jsonl"}
    call("shards")  # and one process goes on with what they have made
    assert "11 of 11 outputs were made with these settings before and stay" in capsys.readouterr().err


def test_a_killed_shard_goes_on(
    call: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enlarge, calls = Upscaler.__call__, []

    def killed(*arguments: object) -> object:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return enlarge(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Upscaler, "__call__", killed)
    with pytest.raises(SystemExit):
        call("out", "--shard", "2/2")
    before = contents(tmp_path / "out")
    monkeypatch.setattr(Upscaler, "__call__", enlarge)
    capsys.readouterr()
    call("out", "--shard", "2/2")
    assert f"{len(before)} of {len(contents(tmp_path / 'out'))} outputs were made" in capsys.readouterr().err
    assert len(before) == 2


def test_two_runs_of_one_shard_and_a_merge_beside_one_are_refused(call: Callable[..., None], tmp_path: Path) -> None:
    for shard in ("1/2", "2/2"):
        call("out", "--shard", shard)
    shutil.rmtree(tmp_path / "out" / "deep")
    with FileLock(tmp_path / "out" / ".esrgan-upscale.1-of-2.jsonl.lock"):
        with pytest.raises(SystemExit, match=r"another esrgan-upscale writes to .* as shard 1/2; wait for it"):
            call("out", "--shard", "1/2")
        call("out", "--shard", "2/2")
        call("out", "--shard", "2/5")  # other shards go on
        call("out")
        with pytest.raises(SystemExit, match=r"1-of-2\.jsonl is still written to: wait until its shard has ended"):
            call("out", "--merge")


def test_what_another_process_made_before_it_let_the_lock_go_is_not_made_again(
    call: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = upscale.make_generator

    def late(options: argparse.Namespace) -> Generator:  # the plan is made, the lock is not held yet
        monkeypatch.setattr(upscale, "make_generator", make)
        call("out")
        return make(options)

    monkeypatch.setattr(upscale, "make_generator", late)
    call("out")
    lines = (tmp_path / "out" / ".esrgan-upscale.jsonl").read_text().splitlines()
    assert len(lines) == len(contents(tmp_path / "out")) == 11


# A shard's process, a fifth of a second slower for each image.
SLOWED = """
import time
from esrgan_lit.inference.upscaler import Upscaler
from esrgan_lit.cli.upscale import main

enlarge = Upscaler.__call__

def slowed(*given, **named):
    time.sleep(0.2)
    return enlarge(*given, **named)

Upscaler.__call__ = slowed
main()
"""


@pytest.mark.slow
def test_three_shards_killed_at_random_and_given_again_make_what_one_process_makes(
    call: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("whole")
    random, out, kills = Random(0), tmp_path / "shards", 0
    given = [str(tmp_path / "photos"), "-o", str(out), "--checkpoint", str(tmp_path / "net.safetensors")]
    command = [sys.executable, "-c", SLOWED, *given, "--engine", "torch", "--device", "cpu", "--max-memory", "8G"]
    for rounds in range(3):
        before = len(contents(out))
        running = [subprocess.Popen([*command, "--shard", f"{n}/3"], stderr=subprocess.DEVNULL) for n in (1, 2, 3)]
        while rounds < 2 and len(contents(out)) == before and any(each.poll() is None for each in running):
            time.sleep(0.02)
        for each in random.sample(running, 3) if rounds < 2 else []:
            time.sleep(random.uniform(0, 0.15))
            kills += each.poll() is None
            each.kill()
        codes = [each.wait() for each in running]
    assert kills >= 2
    assert codes == [0, 0, 0]
    call("shards", "--merge")
    assert "all 11 outputs are there" in capsys.readouterr().out
    assert contents(out) == contents(tmp_path / "whole")
    assert not list(out.rglob("*.partial*"))


def test_more_shards_than_images(call: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(1, 31):
        call("out", "--shard", f"{number}/30")
    assert ": 0 images" in capsys.readouterr().err
    call("out", "--merge")
    assert len(contents(tmp_path / "out")) == 11


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "-1/2", "1/0"])
def test_shards_that_there_are_not(call: Callable[..., None], capsys: pytest.CaptureFixture[str], shard: str) -> None:
    with pytest.raises(SystemExit):
        call("out", f"--shard={shard}")
    assert f"{shard} is no shard; use 1/8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({**SLURM, "SLURM_ARRAY_TASK_ID": "10"}, Shard(1, 3)),
        ({**SLURM, "SLURM_ARRAY_TASK_ID": "20"}, Shard(3, 3)),
        ({"SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_ID": "0"}, Shard(1, 4)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Shard(2, 2)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"SLURM_ARRAY_TASK_COUNT": "x", "WORLD_SIZE": "many"}, None),
        ({}, None),
    ],
)
def test_arrays_and_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: Shard | None
) -> None:
    for name in [*SLURM, "SLURM_ARRAY_TASK_ID", "RANK", "WORLD_SIZE"]:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert parse([str(tmp_path), "-o", "out"]).shard == expected
    assert parse([str(tmp_path), "-o", "out", "--shard", "1/1"]).shard == (1, 1)
    (tmp_path / "one.png").touch()  # a task of its own
    assert parse([os.fspath(tmp_path / "one.png"), "-o", "out"]).shard is None
