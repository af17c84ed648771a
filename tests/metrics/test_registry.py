"""Metrics by name: protocols, what they say when they cannot be had, and what they compute then."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.image.dists import DISTSNetwork
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchvision import models
from torchvision.models import alexnet, squeezenet1_1
from torchvision.models.vgg import cfgs, make_layers

from conftest import make_photograph
from esrgan_lit.images.levels import to_batch
from esrgan_lit.losses.perceptual import PerceptualLoss
from esrgan_lit.metrics import niqe
from esrgan_lit.metrics.learned import VGG_TAPS
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


def test_vgg_distance_equals_its_formula() -> None:
    metric = make_metric("vgg", 4, MetricOptions(vgg_weights="untrained"))
    images = [to_batch(make_photograph(40, 48, seed)) for seed in (0, 1)]
    expected = 0.0
    for layer in VGG_TAPS:
        one, two = (PerceptualLoss(layer, False, weights="untrained").features(image)[0].numpy() for image in images)
        one, two = (features / np.linalg.norm(features, axis=0) for features in (one, two))
        expected += np.square(one - two).sum(0).mean()
    assert float(metric(*images, images[0])) == pytest.approx(expected, rel=1e-5)
    assert float(metric(images[0], images[0], images[0])) == 0
    assert float(metric(*images[::-1], images[0])) == pytest.approx(expected, rel=1e-5)  # with another truth


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
    with pytest.raises(MetricUnavailableError, match=f"nowhere is no file; give .*metrics.{name}"):
        make_metric(name, 4, options)


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that stands at the address of NIQE's parameters, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(niqe, "PARAMETERS", replace(niqe.PARAMETERS, address=f"file://{tmp_path}/niqe.npz", size=None))
    return tmp_path / "niqe.npz"


def test_without_a_network_niqe_says_where_its_parameters_go(offered: Path, tmp_path: Path) -> None:
    place = tmp_path / "esrgan_lit" / "metrics" / "niqe.npz"
    with pytest.raises(MetricUnavailableError, match=rf"(?s)no answer.*niqe\.npz .* as {place}.*niqe_parameters=FILE"):
        make_metric("niqe", 4)
    np.savez(place, mu_pris_param=np.ones((1, FEATURES)), cov_pris_param=np.eye(FEATURES))
    with pytest.raises(MetricUnavailableError, match=r"(?s)no answer.*niqe_parameters=FILE"):
        make_metric("niqe", 4)
    (aside,) = set(place.parent.glob("niqe.npz*")) - {*place.parent.glob("*.lock")}  # it is another file
    right = MetricOptions(niqe_parameters=aside)  # what the user names is the user's choice
    assert make_metric("niqe", 4, right).title == "NIQE"


def test_another_file_than_niqes_is_not_kept(offered: Path, tmp_path: Path) -> None:
    offered.write_text("login page")
    with pytest.raises(MetricUnavailableError, match="another file"):
        make_metric("niqe", 4)
    left = (tmp_path / "esrgan_lit" / "metrics").glob("niqe*")
    assert [path.name for path in left] == ["niqe.npz.rejected"]


class Payload:
    """An object whose reading would run a program."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_lpips_takes_weights_from_a_file_and_says_whose(tmp_path: Path, images: tuple[Tensor, Tensor, Tensor]) -> None:
    torch.save(squeezenet1_1().state_dict(), tmp_path / "mine.pth")
    options = MetricOptions(lpips_network="squeeze", lpips_weights=tmp_path / "mine.pth")
    metric = make_metric("lpips", 4, options)
    assert "OTHER WEIGHTS" in metric.protocol
    output, truth, low_res = images
    assert (metric(output, truth, low_res) > 0).all()
    assert metric(truth + 0.4 / 255, truth, low_res).abs().max() == 0
    with pytest.raises(MetricUnavailableError, match="does not hold its ImageNet weights"):
        make_metric("lpips", 4, replace(options, lpips_network="alex"))
    with pytest.raises(ValueError, match="lpips_network 'resnet' is not known"):
        replace(options, lpips_network="resnet")
    with pytest.raises(ValueError, match=r"metrics\.niqe_border -1 is negative; use 0 or more, or null"):
        MetricOptions(niqe_border=-1)


@pytest.mark.parametrize(("name", "builder"), [("alex", alexnet), ("squeeze", squeezenet1_1)])
def test_lpips_is_torchmetrics_own(
    name: Literal["alex", "squeeze"],
    builder: Callable[[], nn.Module],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    images: tuple[Tensor, Tensor, Tensor],
) -> None:
    """As torchmetrics makes it from the same file, by its own way through torch.hub."""
    path = tmp_path / "checkpoints" / Path(getattr(models, WEIGHTS[name]).IMAGENET1K_V1.url).name
    path.parent.mkdir()
    torch.save(builder().state_dict(), path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    theirs = LearnedPerceptualImagePatchSimilarity(name, normalize=True).net.eval()
    ours = make_metric("lpips", 4, MetricOptions(lpips_network=name, lpips_weights=path))
    output, truth, low_res = images
    rounded = [(image * 255).round() / 255 for image in (output, truth)]
    with torch.no_grad():
        expected = theirs(*rounded, normalize=True).flatten().double()
    torch.testing.assert_close(ours(output, truth, low_res), expected, rtol=0, atol=0)


WEIGHTS = {"alex": "AlexNet_Weights", "squeeze": "SqueezeNet1_1_Weights"}


@pytest.mark.parametrize("setting", ["lpips_weights", "dists_weights"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_program_in_a_file_of_weights_is_not_run(setting: str, zipped: bool, tmp_path: Path) -> None:
    content = {"features.0.weight": torch.zeros(1), "extra": Payload(tmp_path / "has_run")}
    torch.save(content, tmp_path / "bad.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        MetricUnavailableError, match=rf"bad\.pth .*could run any program.*; give metrics\.{setting}=FILE"
    ):
        make_metric(setting.partition("_")[0], 4, MetricOptions(**{setting: tmp_path / "bad.pth"}))
    assert not (tmp_path / "has_run").exists()


def test_without_a_network_lpips_says_where_its_weights_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    place = tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth"
    with pytest.raises(MetricUnavailableError, match=rf"(?s)no answer.* as {place}\nor .*metrics\.lpips_weights=FILE"):
        make_metric("lpips", 4)
    place.write_bytes(b"another file")
    with pytest.raises(MetricUnavailableError, match="instead of 7be5be79: it is another file"):
        make_metric("lpips", 4)


def test_dists_sees_differences(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, images: tuple[Tensor, Tensor, Tensor]
) -> None:
    """VGG16 without the classifier that DISTS does not use, which would take half a gigabyte."""

    def features() -> nn.Sequential:
        return make_layers(cfgs["D"])

    torch.manual_seed(0)
    wanted = features()
    torch.save(wanted.state_dict(prefix="features."), tmp_path / "vgg16.pth")
    monkeypatch.setattr(models, "vgg16", lambda init_weights: SimpleNamespace(features=features()))
    metric = make_metric("dists", 4, MetricOptions(dists_weights=tmp_path / "vgg16.pth"))
    output, truth, low_res = images
    assert (metric(output, truth, low_res) > 1e-3).all()
    assert metric(truth, truth, low_res).abs().max() < 1e-5
    monkeypatch.setattr("torchmetrics.functional.image.dists.vgg16", lambda weights: SimpleNamespace(features=wanted))
    rounded = [(image * 255).round() / 255 for image in (output, truth)]
    theirs = DISTSNetwork().eval()(*rounded).flatten().double()  # as torchmetrics makes it from the same weights
    torch.testing.assert_close(metric(output, truth, low_res), theirs, rtol=0, atol=0)


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
