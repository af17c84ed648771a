"""Releases by name, from a server on this machine, from the cache, and where there is no network."""

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from shutil import copy
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from esrgan_lit import RRDBNet, load_generator
from esrgan_lit.cli.upscale import main
from esrgan_lit.downloads import FetchError, RemoteFile
from esrgan_lit.training.trainer import prepare
from esrgan_lit.weights import releases


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[RRDBNet, list[str]]]:
    """A release "tiny_x4" on a local server; gives its network and the requests so far."""
    generator = RRDBNet(4, 1, 8, 4)
    (tmp_path / "server").mkdir()
    torch.save(generator.state_dict(), tmp_path / "server" / "tiny.pth")
    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path / "server"))

        def log_message(self, *arguments: Any) -> None:
            requests.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    checksum = hashlib.sha256((tmp_path / "server" / "tiny.pth").read_bytes()).hexdigest()
    file = RemoteFile(f"http://127.0.0.1:{server.server_port}/tiny.pth", checksum=f"sha256:{checksum[:8]}")
    release = releases.Release("tests", 4, "nothing", "CC0", "https://example.org", (file,))
    monkeypatch.setitem(releases.RELEASES, "tiny_x4", release)
    monkeypatch.setenv("ESRGAN_WEIGHTS", str(tmp_path / "cache"))
    yield generator, requests
    server.shutdown()
    server.server_close()


def test_a_release_is_downloaded_once_and_says_its_origin(released: tuple[RRDBNet, list[str]], tmp_path: Path) -> None:
    generator, requests = released
    for name in ("tiny_x4", "Tiny_x4"):
        loaded = load_generator(name)
        assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in generator.state_dict().items())
        assert loaded.metadata["license"] == "CC0"
        assert loaded.metadata["training_data"] == "nothing"
    assert len(requests) == 1
    assert {path.name for path in (tmp_path / "cache").iterdir()} >= {"tiny.pth"}


def test_images_are_enlarged_with_a_release_by_its_name(
    released: tuple[RRDBNet, list[str]], tmp_path: Path, photograph_folder: Path
) -> None:
    source, output = photograph_folder / "a.png", tmp_path / "large.png"
    main([str(source), "-o", str(output), "--checkpoint", "tiny_x4", "--engine", "torch", "--device", "cpu"])
    assert len(released[1]) == 1
    assert output.is_file()
    with pytest.raises(SystemExit, match="did you mean tiny_x4"):
        main([str(source), "-o", str(tmp_path / "other.png"), "--checkpoint", "tiny_x5"])


def test_a_photograph_alone_is_enough(
    released: tuple[RRDBNet, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    photograph_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny = releases.RELEASES["tiny_x4"]
    monkeypatch.setitem(releases.RELEASES, "realesrgan_x4plus", tiny)
    monkeypatch.setitem(releases.RELEASES, "realesrnet_x4plus", tiny)
    engine = ["--engine", "torch", "--device", "cpu"]
    source = photograph_folder / "a.png"
    main([str(source), *engine])
    said = capsys.readouterr().err
    assert "weights: realesrgan_x4plus" in said
    assert f"downloaded once to {tmp_path / 'cache'} (size not known, {tiny.files[0].checksum}; license: CC0)" in said
    with Image.open(source) as small, Image.open(source.with_name("a_x4.png")) as large:
        assert large.size == (4 * small.width, 4 * small.height)
    main([str(source), *engine, "--outscale", "2.5", "--format", "jpg"])
    assert "downloaded" not in capsys.readouterr().err
    assert source.with_name("a_x2.5.jpg").is_file()
    folder = tmp_path / "photographs"
    (folder / "below").mkdir(parents=True)
    copy(source, folder / "below")
    monkeypatch.chdir(folder)
    main([".", *engine, "--alpha", "0.5"])
    assert (tmp_path / "photographs_x4" / "below" / "a.png").is_file()
    assert len(released[1]) == 1
    for inputs, rule in ((["*.png"], "is a pattern, whose outputs go to a folder; add -o FOLDER"), (["a", "b"], None)):
        with pytest.raises(SystemExit, match=rule):
            main([*inputs, *engine])
    assert "2 inputs go to a folder: add -o FOLDER" in capsys.readouterr().err


def test_the_list_says_when_to_take_which(
    released: tuple[RRDBNet, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_generator("tiny_x4")
    with pytest.raises(SystemExit) as ended:
        main(["--list"])
    assert not ended.value.code
    lines = {line.split(" ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines.keys() >= releases.RELEASES.keys()
    assert "nothing" in lines["tiny_x4"]  # is to be downloaded
    assert "67 MB" in lines["realesrgan_x4plus"]
    assert "(the default)" in lines["realesrgan_x4plus"]


def test_other_files_are_refused(released: tuple[RRDBNet, list[str]], tmp_path: Path) -> None:
    (tmp_path / "server" / "tiny.pth").write_bytes(b"another file")
    with pytest.raises(FetchError, match=r"has sha256 \w+ instead of \w+: it is another file\. It is kept as"):
        load_generator("tiny_x4")
    assert [path.name for path in (tmp_path / "cache").glob("tiny*")] == ["tiny.pth.rejected"]
    (tmp_path / "cache" / "tiny.pth").write_bytes(b"put here by hand")
    with pytest.raises(FetchError, match=r"it is another file\. Remove it to have it downloaded"):
        load_generator("tiny_x4")


def test_without_a_network_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, released: tuple[RRDBNet, list[str]]
) -> None:
    release = releases.RELEASES["tiny_x4"]
    dead = replace(release.files[0], address="http://127.0.0.1:9/tiny.pth")
    monkeypatch.setitem(releases.RELEASES, "tiny_x4", replace(release, files=(dead,)))
    with pytest.raises(FetchError) as caught:
        load_generator("tiny_x4")
    for part in (
        "tiny_x4 could not be downloaded",
        "no answer",
        f"http://127.0.0.1:9/tiny.pth (size not known) as {tmp_path / 'cache' / 'tiny.pth'}",
        "License: CC0",
    ):
        assert part in str(caught.value)
    # and what it says to do works
    (tmp_path / "cache" / "tiny.pth").write_bytes((tmp_path / "server" / "tiny.pth").read_bytes())
    assert load_generator("tiny_x4").scale == 4


def test_the_gan_stage_starts_from_a_release(
    released: tuple[RRDBNet, list[str]], configure: Callable[..., DictConfig]
) -> None:
    generator, _ = released
    overrides = ("stage.start_from=tiny_x4", "generator.growth=4", "generator.width=8")
    _, stage, _ = prepare(configure("gan_rrdb23", *overrides))
    state = stage.generator.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in generator.state_dict().items())


def test_the_catalogue_is_consistent() -> None:
    for name, release in releases.RELEASES.items():
        assert name == name.lower()
        assert name.endswith(f"x{release.scale}") or f"_x{release.scale}plus" in name
        assert release.license
        assert release.training_data
        for archive in release.files:
            kind, _, digits = (archive.checksum or "").partition(":")
            assert kind == "sha256"
            assert len(digits) in (8, 64)
            assert set(digits) <= set("0123456789abcdef")
            assert archive.address.startswith("https://")
            if len(digits) == 8:  # the authors put it into the name
                assert digits in archive.address
            assert archive.file_name.endswith(".pth")
