"""Both stages on images that are not RGB, from the configuration to what is made with the checkpoint."""

import logging
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from omegaconf import DictConfig
from PIL import Image

from conftest import make_photograph
from esrgan_lit.inference.upscaler import Upscaler
from esrgan_lit.losses.perceptual import PerceptualLoss
from esrgan_lit.networks.rrdbnet import RRDBNet
from esrgan_lit.training.stages import PsnrStage
from esrgan_lit.training.trainer import prepare, train
from esrgan_lit.weights.export import export_generator
from esrgan_lit.weights.load import load_generator


@pytest.fixture(params=[1, 4, 5])
def images(request: pytest.FixtureRequest, photograph_folder: Path) -> int:
    """Replace the folder's photographs by ones of so many channels, in files whose content tells; return the number."""
    for path in [*photograph_folder.rglob("*.png")]:
        image = np.dstack([make_photograph(*np.asarray(Image.open(path)).shape[:2], seed) for seed in (0, 1)])
        deep = image[..., : request.param].astype(np.uint16) * 257 + 1
        if request.param == 1:
            path.write_bytes(bytes(imagecodecs.png_encode(deep[..., 0])))
        elif request.param == 4:
            tifffile.imwrite(path, deep, photometric="rgb", extrasamples=["unspecified"])
        else:
            with path.open("wb") as file:
                np.save(file, deep)
    return request.param


def of_gan(configure: Callable[..., DictConfig], channels: int, *overrides: str) -> DictConfig:
    chosen = ["stage.perceptual.channels=[0,2,4]"] if channels == 5 else []
    return configure("gan_rrdb23", f"channels={channels}", "stage.ema_decay=0.5", *chosen, *overrides)


def test_both_stages_train_resume_and_upscale(
    images: int, configure: Callable[..., DictConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = "stage.validation.metrics=[psnr_y,ssim_y,niqe,lpips]"
    with caplog.at_level(logging.WARNING):
        first = train(configure("psnr_rrdb23", f"channels={images}", asked, f"output_dir={tmp_path}/psnr"))
    told = [record.message for record in caplog.records if "left out" in record.message]
    assert told == [
        f"images of {images} channels are no RGB: PSNR and SSIM are of the channels themselves, psnr and ssim; "
        "left out: niqe, lpips"
    ]
    assert (first.parent / "best.ckpt").is_file()  # by val/psnr, in place of val/psnr_y
    gan = of_gan(configure, images, f"stage.start_from={first}", f"output_dir={tmp_path}/whole")
    whole = torch.load(train(gan), weights_only=True)
    train(of_gan(configure, images, f"stage.start_from={first}", f"output_dir={tmp_path}/cut", "trainer.max_steps=1"))
    last = train(of_gan(configure, images, f"output_dir={tmp_path}/cut", "resume=auto"))
    resumed = torch.load(last, weights_only=True)
    assert all(torch.equal(value, resumed["state_dict"][key]) for key, value in whole["state_dict"].items())
    panel = np.asarray(Image.open(next((tmp_path / "whole" / "panels").glob("step_*_a.png"))))
    rows = {1: 1, 4: 2, 5: 3}[images]
    assert panel.shape[2] == 3
    assert panel.shape[0] % rows == 0
    generator = load_generator(tmp_path / "whole" / "checkpoints" / "last.ckpt")
    image = np.random.default_rng(0).integers(0, 65536, (70, 80, images), np.uint16)
    large = Upscaler(generator, "torch", "cpu")(image, bands=True)
    tiles = Upscaler(generator, "torch", "cpu", tile=64, overlap=99)(image, bands=True)
    assert large.shape == (280, 320, images)
    assert large.dtype == np.uint16
    assert np.abs(large.astype(int) - tiles).max() <= 1
    exported = export_generator(generator, tmp_path / "net.safetensors").files[0]
    again = Upscaler(load_generator(exported), "torch", "cpu")(image, bands=True)
    assert np.array_equal(again, large)


DISAGREEING = {
    "data.channels=1": "data.channels=1 and channels=3 differ; leave data.channels out and give channels=1",
    "channels=0": "channels=0 is too small; give 1 or more",
    "channels=gray": "channels=gray does not fit; give a whole number",
    "channels=5": r"images have 5; choose three, or one, such as 'stage.perceptual.channels=\[0,1,2\]'",
}


@pytest.mark.parametrize("override", DISAGREEING)
def test_channels_that_do_not_fit_are_refused(configure: Callable[..., DictConfig], override: str) -> None:
    with pytest.raises(ValueError, match=DISAGREEING[override]):
        prepare(configure("gan_rrdb23", override))


def test_a_bound_on_the_rmse_is_refused(configure: Callable[..., DictConfig]) -> None:
    with pytest.raises(ValueError, match=r"rmse_at_most=16 is of the Y channel of RGB.*rmse_at_most=null"):
        prepare(configure("psnr_rrdb23", "channels=1", "stage.validation.rmse_at_most=16"))


def test_a_stage_in_python_measures_the_channels_of_its_network() -> None:
    assert [*PsnrStage(RRDBNet(blocks=1, width=8, growth=4, channels=4)).validation.metrics] == ["psnr", "ssim"]


def test_vgg_sees_gray_thrice_and_the_first_three_of_four_or_the_chosen() -> None:
    term = PerceptualLoss("conv1_2", weights="untrained")
    image = torch.rand(1, 5, 16, 16)
    assert torch.equal(term.features(image[:, :1]), term.features(image[:, :1].expand(-1, 3, -1, -1)))
    assert torch.equal(term.features(image[:, :4]), term.features(image[:, :3]))
    chosen = PerceptualLoss("conv1_2", weights="untrained", channels=[4, 0, 2])
    assert torch.equal(chosen.features(image), term.features(image[:, [4, 0, 2]]))
    with pytest.raises(ValueError, match=r"VGG sees three channels, and images have 5; choose three"):
        term.features(image)
    with pytest.raises(ValueError, match=r"channels=\[4, 0, 2\] of images of 4 channels"):
        chosen.features(image[:, :4])
    with pytest.raises(ValueError, match=r"channels \[0, 1\] are not three, or one"):
        PerceptualLoss("conv1_2", weights="untrained", channels=[0, 1])
