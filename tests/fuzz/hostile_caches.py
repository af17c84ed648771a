"""Damaged caches in the user's folder, and journals: made anew, or refused with the remedy."""

import functools
import hashlib
import http.server
import json
import os
import shutil
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from esrgan_lit.cli.data import main as data_main
from esrgan_lit.cli.report import main as report_main
from esrgan_lit.cli.upscale import main as upscale_main
from esrgan_lit.data.packed import PackedImages
from esrgan_lit.data.photographs import check_images, sort_out
from esrgan_lit.degradations.bicubic import Bicubic
from esrgan_lit.downloads import RemoteFile, fetch_file
from esrgan_lit.evaluation.evaluate import evaluate
from esrgan_lit.evaluation.methods import bicubic
from esrgan_lit.evaluation.test_sets import open_sets
from esrgan_lit.files import cache_folder
from esrgan_lit.images.listing import list_images
from esrgan_lit.images.reading import read_image
from esrgan_lit.inference import winograd_library
from esrgan_lit.metrics.metric import MetricOptions
from esrgan_lit.metrics.registry import make_metric
from hostile_data import _sources
from hostile_pictures import whole
from judging import Kind, files_below, tiny_network
from mutations import Random, damage, forge, odd_value, pick


def hostile_bytes(random: Random, folder: Path) -> Path:
    """Write what a damaged file may be: the consumers put it in the place of one that they wrote."""
    path = folder / "hostile"
    np.save(path.with_suffix(".seed.npy"), random.integers(0, 2**31, 1))
    path.write_bytes(b"")
    return path


def _damaged(path: Path, whole_one: bytes) -> bytes:
    """Return a damage of what was whole, decided by the case."""
    random = np.random.default_rng(np.load(path.with_suffix(".seed.npy")))
    how = random.random()
    if how < 0.15:
        return pick(
            random,
            (b"", b"\0" * 1000, b"null", b"[]", b"{}", b"[[1]]", b'"text"', b"1", b"\xff\xfe\xff", b"[" * 3000),
        )
    try:
        content = json.loads(whole_one)
    except ValueError:
        return damage(whole_one, random)
    if how < 0.5:
        return damage(whole_one, random)
    try:
        return json.dumps(forge(content, random, odd_value)).encode(errors="replace")
    except (ValueError, TypeError, RecursionError):  # contains itself
        return b"[" * 3000


def _damage_file(path: Path, victim: Path) -> None:
    victim.write_bytes(_damaged(path, victim.read_bytes()))


# Caches


@cache
def _compiled() -> bytes:
    """Return the compiled engine; from now on it is copied in place of compiling."""
    winograd_library.library.cache_clear()
    winograd_library.library()
    [library] = (cache_folder() / "winograd").glob("*.so")
    content = library.read_bytes()
    kept, compiler = cache_folder() / "kept.so", cache_folder() / "compiler"
    kept.write_bytes(content)
    compiler.write_text(
        f'#!/bin/sh\nfor last; do [ "$before" = -o ] && cp "{kept}" "$last"; before=$last; done\nexit 0\n'
    )
    compiler.chmod(0o755)
    os.environ["CXX"] = str(compiler)
    return content


def _engine(path: Path) -> None:
    _compiled()
    winograd_library.library.cache_clear()
    winograd_library.library()
    for victim in (cache_folder() / "winograd").glob("*.so"):
        victim.unlink()  # a loaded library must not change beneath its process
        victim.write_bytes(_damaged(path, _compiled()))
    winograd_library.library.cache_clear()
    try:
        assert winograd_library.library().group_size() > 0
    finally:
        for victim in (cache_folder() / "winograd").glob("*.so"):
            victim.unlink()


def _verdicts(path: Path) -> None:
    files = list_images([_sources()], "FOLDER")
    shutil.rmtree(cache_folder() / "surveys", ignore_errors=True)
    expected = check_images(files, "refuse")
    for victim in (cache_folder() / "surveys").glob("*.json"):
        _damage_file(path, victim)
    assert sort_out(files) == (expected, []), "other photographs than there are"


def _evaluation(which: str) -> Callable[[Path], None]:
    def consume(path: Path) -> None:
        remembered = path.parents[1] / "cache"
        sets = open_sets({"set": {"hr": str(_sources())}}, Bicubic(4), path.parent)
        run = functools.partial(
            evaluate, sets, [bicubic(4)], [make_metric("psnr_y", 4, MetricOptions(border=0))], remembered, 1
        )
        expected = [result.values for result in run()]
        [victim, *_] = sorted((remembered / which).iterdir())
        _damage_file(path, victim)
        for _ in range(2):
            found = [result.values for result in run()]
            if which == "outputs" or all(isinstance(one["psnr_y"], float) for one in found):
                continue
            raise AssertionError(f"{found} instead of {expected}")

    return consume


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@cache
def _served() -> tuple[Path, str]:
    folder = cache_folder() / "served"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "remote.bin").write_bytes(np.random.default_rng(0).bytes(5000))
    os.environ["no_proxy"] = "127.0.0.1"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Silent, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return folder / "remote.bin", f"http://127.0.0.1:{server.server_port}/remote.bin"


def _download(which: str) -> Callable[[Path], None]:
    def consume(path: Path) -> None:
        source, address = _served()
        content = source.read_bytes()
        file = RemoteFile(address, len(content), "sha256:" + hashlib.sha256(content).hexdigest(), called="hostile")
        folder = cache_folder() / "fetched"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if which == "fetched":
            (folder / "hostile").write_bytes(_damaged(path, content))
        else:
            (folder / "hostile.partial").write_bytes(_damaged(path, content))
            (folder / "hostile.partial.version").write_bytes(_damaged(path, b'"tag"'))
        try:
            fetch_file([file], folder, "it", "", timeout=2, attempts=2, pause=0)
        except OSError:
            fetch_file([file], folder, "it", "", timeout=2, attempts=2, pause=0)  # the remedy: run again
        assert (folder / "hostile").read_bytes() == content

    return consume


CACHES = Kind(
    "caches",
    hostile_bytes,
    {
        "compiled engine": _engine,
        "verdicts on images": _verdicts,
        "evaluation's scores": _evaluation("scores"),
        "evaluation's outputs": _evaluation("outputs"),
        "fetched file": _download("fetched"),
        "half a download": _download("partial"),
    },
)

# Journals


def _upscale_journal(path: Path) -> None:
    pictures, out = path.parent / "pictures", path.parents[1] / "out"
    pictures.mkdir()
    for number in range(2):
        (pictures / f"{number}.png").write_bytes(whole()["rgb.png"])
    command = [str(pictures), "-o", str(out), "--checkpoint", str(tiny_network()), "--engine", "torch"]
    upscale_main(command)
    _damage_file(path, out / ".esrgan-upscale.jsonl")
    made = {name: (out / name).read_bytes() for name in ("0.png", "1.png")}
    try:
        upscale_main(command)
    except SystemExit as stopped:
        if "--overwrite" not in str(stopped.code):
            raise
        # It no longer knows them for its own, and says so.
        upscale_main([*command, "--overwrite"])
    assert {name: (out / name).read_bytes() for name in made} == made
    upscale_main(command)


def _packing_journal(path: Path) -> None:
    target = path.parents[1] / "packed"
    data_main_pack = functools.partial(data_main, ["pack", str(_sources()), "-o", str(target)])
    _leave(data_main_pack)
    manifest = target / "manifest.json"
    lines = "".join(json.dumps(record) + "\n" for record in json.loads(manifest.read_text())["images"])
    manifest.unlink()
    (target / "progress.jsonl").write_bytes(_damaged(path, lines.encode()))
    _leave(data_main_pack)
    for image, photo in zip(PackedImages(target).images(), list_images([_sources()], "FOLDER"), strict=True):
        np.testing.assert_array_equal(image.pixels(), read_image(photo))


def _leave(command: Callable[[], None]) -> None:
    try:
        command()
    except SystemExit as stopped:
        if stopped.code:
            raise


_METRICS = "epoch,step,train/pixel,val/psnr_y\n" + "".join(f"0,{step},0.{step},{20 + step}\n" for step in range(9))
_SETTINGS = "trainer:\n  max_steps: 9\nstage:\n  _target_: esrgan_lit.PsnrStage\ngenerator: {blocks: 2}\nname: fuzz\n"


def _report(which: str) -> Callable[[Path], None]:
    def consume(path: Path) -> None:
        folder = path.parents[1] / "run"
        files: dict[str, Any] = {
            "csv/version_0/metrics.csv": _METRICS.encode(),
            "csv/version_0/hparams.yaml": _SETTINGS.encode(),
            ".hydra/config.yaml": _SETTINGS.encode(),
            ".hydra/overrides.yaml": b"- +experiment=psnr_rrdb23\n- seed=1\n",
            "panels/step_3_a.png": whole()["rgb.png"],
            "train.log": b"[2026-11-25 10:00:00][x][WARNING] - said\n",
            "failure.txt": b"it failed",
        }
        for name, content in files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(_damaged(path, content) if name.endswith(which) else content)
        report_main([str(folder)])
        assert (folder / "report.html").is_file(), files_below(folder)

    return consume


JOURNALS = Kind(
    "journals",
    hostile_bytes,
    {
        "esrgan-upscale's": _upscale_journal,
        "esrgan-data pack's": _packing_journal,
        "a run's CSV": _report("metrics.csv"),
        "a run's settings": _report(".yaml"),
        "a run's panels and logs": _report((".png", ".log", ".txt")),  # pyright: ignore[reportArgumentType]
    },
)
