"""``esrgan-app`` in a real browser, where Gradio, Playwright and a Chromium are there (extra ``app``)."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_photograph
from esrgan_lit import RRDBNet, save_generator
from esrgan_lit.cli.app import _remove_leftovers
from esrgan_lit.cli.app import main as app
from esrgan_lit.cli.upscale import main as upscale

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
OPTIONS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
WAIT = 60_000


class Running(NamedTuple):
    """A page that is served."""

    address: str
    folder: Path
    own: Path
    process: subprocess.Popen[str]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    pytest.importorskip("gradio", reason="Gradio is not installed")
    folder = tmp_path_factory.mktemp("app")
    for seed, name in enumerate(("soft", "sharp")):
        torch.manual_seed(seed)
        save_generator(RRDBNet(4, 1, 8, 4, bicubic_skip=True), folder / f"{name}.safetensors")
    Image.fromarray(make_photograph(60, 90, 0)).save(folder / "a photo.png", dpi=(72, 72))
    (folder / "text.png").write_text("no image at all")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "here").mkdir()
    command = [sys.executable, "-c", "from esrgan_lit.cli.app import main; main()", "--port", str(port)]
    command += ["--checkpoint", str(folder / "soft.safetensors"), str(folder / "sharp.safetensors")]
    environment = os.environ | {"ESRGAN_WEIGHTS": str(folder / "no releases")}
    process = subprocess.Popen(
        [*command, "--device", "cpu"], cwd=folder / "here", env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    said = process.stdout.readline()
    address, own = re.search(r"http\S+", said), re.search(r"\((.*)\)", said)
    assert address
    assert own
    yield Running(address[0], folder, Path(own[1]), process)
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield opened
        opened.close()


def drop(page: Any, path: Path) -> None:
    """Drop a file on the photograph's field, as a hand with a mouse does."""
    data = page.evaluate_handle(
        """([name, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], name, {type: 'image/png'}));
            return data;
        }""",
        [path.name, list(path.read_bytes())],
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event("#photo button", event, {"dataTransfer": data})


def says(page: Any, text: str) -> str:
    page.wait_for_function("text => document.querySelector('#said').innerText.includes(text)", arg=text, timeout=WAIT)
    return page.inner_text("#said")


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_a_photograph_is_dropped_enlarged_compared_and_downloaded(
    running: Running, browser: Any, tmp_path: Path
) -> None:
    context = browser.new_context(viewport={"width": 1400, "height": 900}, accept_downloads=True)
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(running.address)
    page.wait_for_selector("#photo button", timeout=WAIT)
    drop(page, running.folder / "a photo.png")
    assert re.search(r"90×60 becomes 360×240; about [\d,]+ MiB of [\d,]+ MiB, engine", says(page, "MiB of"))
    page.click("#go")
    says(page, "360×240, soft.safetensors")
    with page.expect_download(timeout=WAIT) as downloading:
        page.click("#load")
    assert downloading.value.suggested_filename == "a photo_x4.png"
    downloading.value.save_as(tmp_path / "from_page.png")
    command = [str(running.folder / "a photo.png"), "-o", str(tmp_path / "by_command.png")]
    upscale([*command, "--checkpoint", str(running.folder / "soft.safetensors"), "--device", "cpu"])
    pixels = [np.array(Image.open(tmp_path / name)) for name in ("from_page.png", "by_command.png")]
    assert np.array_equal(*pixels)

    page.click("#second input")
    page.click("[role=option] >> text=sharp.safetensors")
    box = page.locator("#alpha input[type=range]").bounding_box(timeout=WAIT)
    page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + box["height"] / 2)
    alpha = page.input_value("#alpha input[type=number]")
    assert 0.2 < float(alpha) < 0.4
    says(page, f"α = {alpha} is not computed yet")
    page.click("#go")
    says(page, f"360×240, α = {alpha} between soft.safetensors and sharp.safetensors")
    with page.expect_download(timeout=WAIT) as downloading:
        page.click("#load")
    downloading.value.save_as(tmp_path / "blend_from_page.png")
    ends = [str(running.folder / f"{name}.safetensors") for name in ("soft", "sharp")]
    command[-1] = str(tmp_path / "blend_by_command.png")
    upscale([*command, "--checkpoint", *ends, "--alpha", alpha, "--device", "cpu"])
    blended = [np.array(Image.open(tmp_path / f"blend_{name}.png")) for name in ("from_page", "by_command")]
    assert np.array_equal(*blended)
    assert not np.array_equal(blended[0], pixels[0])

    page.wait_for_selector("#slider img", timeout=WAIT)
    box = page.locator("#slider .slider-wrap").bounding_box()
    middle = page.locator("#slider .outer").first.bounding_box()
    page.mouse.move(middle["x"] + middle["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    moved = page.locator("#slider .outer").first.bounding_box()
    assert moved["x"] < middle["x"] - 50
    for width, height in ((1400, 900), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if folder := os.environ.get("ESRGAN_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/app_{width}.png", full_page=True)
    own = running.address.rstrip("/")
    assert [url for url in asked if not url.startswith((own, "data:", "blob:"))] == []
    context.close()


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_what_is_no_image_is_said_on_the_page(running: Running, browser: Any) -> None:
    page = browser.new_page()
    page.goto(running.address)
    page.wait_for_selector("#photo button", timeout=WAIT)
    drop(page, running.folder / "text.png")
    said = says(page, "Not enlarged")
    assert "text.png cannot be read as an image" in said
    assert str(running.folder) not in said
    page.close()


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_its_folder_is_removed_at_the_end_and_nothing_else_was_written(running: Running) -> None:
    assert running.own.is_dir()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(30) == 0
    assert not running.own.exists()
    assert not list((running.folder / "here").iterdir())


def test_the_folder_of_a_page_that_was_killed_is_removed_and_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    hold = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); input()"
    holders = []
    for name in ("killed", "served"):
        (tmp_path / f"esrgan-app-{name}").mkdir()
        command = [sys.executable, "-c", hold, str(tmp_path / f"esrgan-app-{name}" / "lock")]
        holders.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert holders[-1].stdout
        holders[-1].stdout.readline()
    (tmp_path / "esrgan-app-of-somebody").mkdir()
    holders[0].kill()
    holders[0].communicate()
    _remove_leftovers()
    holders[1].kill()
    holders[1].communicate()
    assert {path.name for path in tmp_path.iterdir()} == {"esrgan-app-served", "esrgan-app-of-somebody"}


def test_alphas_are_kept_and_pictures_are_blended_without_computing(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="Gradio is not installed")
    from esrgan_lit.cli.app_page import _OF_NETWORKS, _OF_PICTURES, Studio

    for seed, name in enumerate(("soft", "sharp")):
        torch.manual_seed(seed)
        save_generator(RRDBNet(4, 1, 8, 4, bicubic_skip=True), tmp_path / f"{name}.safetensors")
    Image.fromarray(make_photograph(12, 14, 0)).save(tmp_path / "photo.png")
    ends = ["soft.safetensors", "sharp.safetensors"]
    studio, told = Studio(tmp_path / "out", [str(tmp_path / name) for name in ends], "cpu", None), []

    def enlarged(alpha: float, way: str) -> np.ndarray:
        told.clear()
        return np.array(Image.open(studio.enlarge(str(tmp_path / "photo.png"), *ends, alpha, way, told.append))).astype(
            int
        )

    soft, sharp = enlarged(0, _OF_NETWORKS), enlarged(1, _OF_NETWORKS)
    assert told
    assert studio.known(str(tmp_path / "photo.png"), *ends, 0.3, _OF_PICTURES)
    assert not studio.known(str(tmp_path / "photo.png"), *ends, 0.3, _OF_NETWORKS)
    assert np.array_equal(enlarged(0.25, _OF_PICTURES), np.round(0.75 * soft + 0.25 * sharp))
    assert not told
    between = enlarged(0.25, _OF_NETWORKS)
    assert told
    assert np.array_equal(enlarged(0.25, _OF_NETWORKS), between)
    assert not told


def test_what_would_not_fit_is_refused_before_the_work(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="Gradio is not installed")
    from esrgan_lit.cli.app_page import Studio

    save_generator(RRDBNet(4, 1, 8, 4, bicubic_skip=True), tmp_path / "net.safetensors")
    Image.fromarray(make_photograph(12, 14, 0)).save(tmp_path / "photo.png")
    studio = Studio(tmp_path / "out", [str(tmp_path / "net.safetensors")], "cpu", 2**20)
    with pytest.raises(MemoryError, match=r"14×12 becomes 56×48, which takes .* it would not fit"):
        studio.enlarge(str(tmp_path / "photo.png"), "net.safetensors", "none", 0, "", print)


def test_options_that_cannot_be_are_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio", reason="Gradio is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit, match="choose another: --port"):
        app(["--port", str(taken.getsockname()[1])])
    with pytest.raises(SystemExit, match=r"--checkpoint nothing\.pth does not exist"):
        app(["--checkpoint", "nothing.pth"])
