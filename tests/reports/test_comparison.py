"""``esrgan-compare``: its table against the metrics, and its pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_photograph
from esrgan_lit import RRDBNet, imresize, interpolate, load_generator, psnr_y, save_generator, ssim_y, upscale
from esrgan_lit.cli.compare import main
from esrgan_lit.data import demo
from esrgan_lit.degradations.bicubic import crop_to_multiple
from esrgan_lit.images.levels import to_batch
from esrgan_lit.images.reading import read_image
from esrgan_lit.metrics.fidelity import gradient_energy
from esrgan_lit.reports.curves import running_mean
from esrgan_lit.reports.plots import most_different


def test_table_and_pictures(
    photograph_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checkpoints = []
    for stage in ("psnr", "gan"):
        checkpoints.append(tmp_path / stage / "checkpoints" / "net.safetensors")
        torch.manual_seed(len(checkpoints))
        save_generator(RRDBNet(4, 1, 8, 4, bicubic_skip=True), checkpoints[-1])
        log = tmp_path / stage / "csv" / "version_0" / "metrics.csv"
        log.parent.mkdir(parents=True)
        log.write_text("epoch,step,train/pixel,val/psnr_y\n0,0,0.5,\n0,1,0.4,\n0,1,,28.5\n")
    images = ["--images", str(photograph_folder)]
    main([*map(str, checkpoints), *images, "-o", str(tmp_path / "out")])

    table = (tmp_path / "out" / "table.md").read_text()
    assert table in capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    rows = {name: figures for name, *figures in rows[2:]}
    assert list(rows) == ["bicubic", "PSNR stage", "α = 0.2", "α = 0.4", "α = 0.6", "α = 0.8", "GAN stage"]
    psnr, gan = map(load_generator, checkpoints)
    methods = {
        "bicubic": lambda low_res: imresize(low_res, 4),
        "PSNR stage": lambda low_res: upscale(low_res, psnr),
        "α = 0.4": lambda low_res: upscale(low_res, interpolate(psnr, gan, 0.4)),
        "GAN stage": lambda low_res: upscale(low_res, gan),
    }
    for name, method in methods.items():
        values = []
        for path in photograph_folder.rglob("*.png"):
            truth = crop_to_multiple(read_image(path), 4)
            pair = to_batch(method(imresize(truth, 1 / 4))), to_batch(truth)
            sharpness = gradient_energy(pair[0]) / gradient_energy(pair[1])
            values.append([psnr_y(*pair, 4).item(), ssim_y(*pair, 4).item(), sharpness.item()])
        means = np.mean(values, axis=0)
        assert rows[name] == [f"{means[0]:.2f}", f"{means[1]:.4f}", f"{means[2]:.2f}"]
    for name in ("comparison.png", "curves.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 300


def test_the_crop_is_where_two_images_differ_most() -> None:
    flat = np.full((200, 300, 3), 128, np.uint8)
    image = flat.copy()
    image[96:160, 192:256] = make_photograph(64, 64, 0)
    assert most_different(flat, image, 64) == (96, 192)
    assert most_different(flat[:50, :50], image[:50, :50], 64) == (0, 0)


def test_the_running_mean_is_the_mean_of_its_neighbourhood() -> None:
    assert running_mean([1.0, 2.0, 6.0, 8.0], reach=1) == [1.5, 3.0, pytest.approx(16 / 3), 7.0]


def test_demo_photographs_are_there_and_held_out_ones_are_not_trained_on() -> None:
    train, held_out = demo.photographs("train"), demo.photographs("held_out")
    assert not set(train) & set(held_out)
    assert all(read_image(Path(path)).shape[2] == 3 for path in train + held_out)
