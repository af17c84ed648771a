"""Metrics by name: protocols, what they say when they cannot be had, and what they compute then."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import squeezenet1_1
from torchvision.models.vgg import cfgs, make_layers

from conftest import make_photograph
from esrgan_lit.files import UnavailableError
from esrgan_lit.images.levels import to_batch
from esrgan_lit.metrics import registry
from esrgan_lit.metrics.metric import MetricOptions, MetricUnavailableError
from esrgan_lit.metrics.niqe import FEATURES
from esrgan_lit.metrics.registry import METRICS, make_metric


@pytest.fixture
def parameters(tmp_path: Path) -> Path:
    """NIQE parameters, made up."""
    path = tmp_path / "parameters.npz"
    np.savez(path, mu_pris_param=np.ones((1, FEATURES)), cov_pris_param=np.eye(FEATURES))
    return path


@pytest.fixture
def images() -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, truths and low-resolution images, two of each."""
    stacks = []
    for height, width, seeds in ((104, 200, (1, 2)), (104, 200, (3, 4)), (26, 50, (5, 6))):
        stacks.append(torch.cat([to_batch(make_photograph(height, width, seed)) for seed in seeds]))
    return stacks[0], stacks[1], stacks[2]


@pytest.mark.parametrize("name", ["psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "rmse", "consistency", "niqe"])
def test_a_metric_gives_one_value_per_image_and_says_how(
    name: str, images: tuple[Tensor, Tensor, Tensor], parameters: Path
) -> None:
    metric = make_metric(name, 4, MetricOptions(niqe_parameters=parameters))
    together = metric(*images)
    assert together.shape == (2,)
    for at in range(2):
        assert metric(*(batch[at : at + 1] for batch in images)).item() == pytest.approx(together[at].item(), rel=1e-12)
    assert "low-resolution" in metric.protocol if name == "consistency" else "4 border pixels shaved" in metric.protocol
    if name not in ("consistency", "niqe"):
        wider = make_metric(name, 4, MetricOptions(border=0))
        assert "no border shaved" in wider.protocol
        assert not torch.equal(wider(*images), together)


def test_the_figure_of_a_set_is_the_mean_and_of_rmse_the_root_mean_square() -> None:
    assert make_metric("psnr_y", 4).pool([20.0, 30.0]) == 25
    assert make_metric("rmse", 4).pool([3.0, 4.0]) == pytest.approx(math.sqrt(12.5))
    assert math.isnan(make_metric("rmse", 4).pool([]))
    assert make_metric("psnr_y", 4).format(math.nan) == "–"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="'pnsr' is not known; known are psnr_y"):
        make_metric("pnsr", 4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("niqe", MetricOptions(niqe_parameters="nowhere")),
        ("lpips", MetricOptions(lpips_weights="nowhere")),
        ("dists", MetricOptions(dists_weights="nowhere")),
    ],
)
def test_missing_weights_are_said(name: str, options: MetricOptions) -> None:
    with pytest.raises(MetricUnavailableError, match=f"nowhere is no file; give .* as metrics.{name}"):
        make_metric(name, 4, options)


def test_without_a_network_niqe_says_where_its_parameters_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UnavailableError("no answer")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(registry, "download", fail)
    place = tmp_path / "esrgan_lit" / "metrics" / "niqe_pris_params.npz"
    with pytest.raises(MetricUnavailableError, match=f"no answer.*put it at {place}.*metrics.niqe_parameters=FILE"):
        make_metric("niqe", 4)
    np.savez(place, mu_pris_param=np.ones((1, FEATURES)), cov_pris_param=np.eye(FEATURES))
    assert make_metric("niqe", 4).title == "NIQE"


def test_another_file_than_the_catalogues_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        registry, "download", lambda archive, destination, *_, **__: destination.write_text("login page")
    )
    with pytest.raises(MetricUnavailableError, match="another file"):
        make_metric("niqe", 4)
    assert not list((tmp_path / "esrgan_lit" / "metrics").glob("niqe*"))


def test_lpips_takes_weights_from_a_file_and_says_whose(tmp_path: Path, images: tuple[Tensor, Tensor, Tensor]) -> None:
    usual = torch.hub.get_dir()
    torch.save(squeezenet1_1().state_dict(), tmp_path / "mine.pth")
    options = MetricOptions(lpips_network="squeeze", lpips_weights=tmp_path / "mine.pth")
    metric = make_metric("lpips", 4, options)
    assert "OTHER WEIGHTS" in metric.protocol
    output, truth, low_res = images
    assert (metric(output, truth, low_res) > 0).all()
    assert metric(truth + 0.4 / 255, truth, low_res).abs().max() == 0
    assert torch.hub.get_dir() == usual
    with pytest.raises(MetricUnavailableError, match="does not hold its ImageNet weights"):
        make_metric("lpips", 4, options._replace(lpips_network="alex"))
    with pytest.raises(ValueError, match="lpips_network 'resnet' is not known"):
        make_metric("lpips", 4, options._replace(lpips_network="resnet"))


def test_dists_sees_differences(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, images: tuple[Tensor, Tensor, Tensor]
) -> None:
    """VGG16 without the classifier that DISTS does not use, which would take half a gigabyte."""
    layers: nn.Module = make_layers(cfgs["D"])
    monkeypatch.setattr("torchmetrics.functional.image.dists.vgg16", lambda weights: SimpleNamespace(features=layers))
    (tmp_path / "vgg16.pth").touch()
    metric = make_metric("dists", 4, MetricOptions(dists_weights=tmp_path / "vgg16.pth"))
    output, truth, low_res = images
    assert (metric(output, truth, low_res) > 1e-3).all()
    assert metric(truth, truth, low_res).abs().max() < 1e-5


def test_pi_is_made_of_ma_and_niqe_where_pyiqa_is_installed(
    monkeypatch: pytest.MonkeyPatch, parameters: Path, images: tuple[Tensor, Tensor, Tensor]
) -> None:
    options = MetricOptions(niqe_parameters=parameters)
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(MetricUnavailableError, match="pip install pyiqa"):
        make_metric("pi", 4, options)
    fake = SimpleNamespace(
        __version__="1.2", create_metric=lambda name, device: lambda image: 10 * image.mean((1, 2, 3))
    )
    monkeypatch.setitem(sys.modules, "pyiqa", fake)
    values = {name: make_metric(name, 4, options)(*images) for name in ("ma", "niqe", "pi")}
    torch.testing.assert_close(values["pi"], (10 - values["ma"] + values["niqe"]) / 2)
    shaved = images[0][..., 4:-4, 4:-4]
    torch.testing.assert_close(values["ma"], 10 * shaved.double().mean((1, 2, 3)), rtol=1e-5, atol=0)


def test_every_metric_says_which_way_is_better() -> None:
    higher = {"psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "consistency"}
    assert {name for name in higher if make_metric(name, 4).higher_is_better} == higher
    assert not make_metric("rmse", 4).higher_is_better
    assert higher < METRICS.keys()
