"""The terms that came after ESRGAN, each against NumPy or its authors' definition; and finite on flat images."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from omegaconf import DictConfig
from torch import Tensor, nn
from torchvision import models

from esrgan_lit.degradations.blur import sharpen
from esrgan_lit.degradations.pairs import Pair
from esrgan_lit.losses.artifacts import ArtifactLoss
from esrgan_lit.losses.gradient import GradientLoss
from esrgan_lit.losses.learned import DistsLoss, LpipsLoss
from esrgan_lit.losses.perceptual import PerceptualLoss
from esrgan_lit.metrics.metric import MetricOptions
from esrgan_lit.metrics.registry import make_metric
from esrgan_lit.training.trainer import prepare, train

FIVE = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}


def images(count: int = 2, side: int = 24, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    torch.manual_seed(4)
    return tuple(torch.rand(2, 3, side, side, dtype=dtype) for _ in range(count))


@pytest.fixture(scope="module")
def vgg16_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VGG16's features, of random values: torchvision's are not at hand."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save(nn.ModuleDict({"features": models.vgg16(init_weights=False).features}).state_dict(), path)
    return path


@pytest.fixture
def small_vgg16(monkeypatch: pytest.MonkeyPatch) -> None:
    """No classifier of 500 MB is built."""

    class Features(nn.Module):
        def __init__(self, **_: Any) -> None:
            super().__init__()
            self.features = models.vgg.make_layers(models.vgg.cfgs["D"])

    monkeypatch.setattr(models, "vgg16", Features)


def test_gradient_loss_is_the_authors_definition() -> None:
    """Central differences by the kernels of SPSR's released code, zeros beyond the edge, ε 1e-6."""

    def magnitude(image: Tensor) -> np.ndarray:
        padded = np.pad(image.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = sliding_window_view(padded, (3, 3), (2, 3))
        vertical = (windows * np.array([[0, -1, 0], [0, 0, 0], [0, 1, 0]])).sum((-1, -2))
        horizontal = (windows * np.array([[0, 0, 0], [-1, 0, 1], [0, 0, 0]])).sum((-1, -2))
        return np.sqrt(vertical**2 + horizontal**2 + 1e-6)

    output, target = images()
    wanted = np.abs(magnitude(output) - magnitude(target)).mean()
    assert GradientLoss()(output, target).item() == pytest.approx(wanted, abs=1e-12)


def test_artifact_loss_is_the_authors_definition() -> None:
    output, target, average = images(3)
    made, truth, smooth = (image.numpy() for image in (output, target, average))
    residual, of_average = (np.abs(truth - each).sum(1) for each in (made, smooth))
    padded = np.pad(residual, ((0, 0), (3, 3), (3, 3)), mode="reflect")
    local = sliding_window_view(padded, (7, 7), (1, 2)).var((-1, -2), ddof=1)
    weights = local * residual.var((1, 2), ddof=1)[:, None, None] ** 0.2
    weights[residual < of_average] = 0
    wanted = np.abs(weights[:, None] * made - weights[:, None] * truth).mean()
    assert 0 < (weights == 0).mean() < 1
    output.requires_grad_()
    loss = ArtifactLoss()(output, target, average)
    assert loss.item() == pytest.approx(wanted, abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, output)  # the map is a constant
    np.testing.assert_allclose(gradient, weights[:, None] * np.sign(made - truth) / made.size, atol=1e-15)


def test_perceptual_loss_of_several_layers_is_their_weighted_sum() -> None:
    output, target = images(side=32, dtype=torch.float32)
    together = PerceptualLoss(FIVE, weights="untrained")
    alone = {name: PerceptualLoss(name, weights="untrained")(output, target) for name in FIVE}
    assert together(output, target).item() == pytest.approx(
        sum(weight * alone[name].item() for name, weight in FIVE.items()), rel=1e-5
    )
    for wrong, message in (({"conv9_9": 1}, "layer 'conv9_9' is not in vgg19"), ({}, "layer is an empty mapping")):
        with pytest.raises(ValueError, match=message):
            PerceptualLoss(wrong, weights="untrained")


@pytest.mark.usefixtures("small_vgg16")
@pytest.mark.parametrize("name", ["lpips", "dists"])
def test_learned_losses_are_the_metrics(name: str, vgg16_file: Path) -> None:
    """On images of whole levels, which the metrics round to; with gradients."""
    output, target = ((image * 255).round() / 255 for image in images(side=64, dtype=torch.float32))
    options = MetricOptions(lpips_network="vgg", lpips_weights=vgg16_file, dists_weights=vgg16_file)
    wanted = make_metric(name, 4, options).score(output, target, output).mean()
    term = LpipsLoss(weights=vgg16_file) if name == "lpips" else DistsLoss(vgg16_file)
    output.requires_grad_()
    loss = term(output, target)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert torch.autograd.grad(loss, output)[0].abs().sum() > 0
    assert not term.state_dict()
    assert not list(term.parameters())


@pytest.mark.usefixtures("small_vgg16")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["gradient", "artifacts", "perceptual", "lpips", "dists"])
def test_gradients_on_flat_images_are_finite(name: str, dtype: torch.dtype, vgg16_file: Path) -> None:
    """Where roots and powers have infinite slopes; the output in half precision, under autocast."""
    make: dict[str, Callable[[], nn.Module]] = {
        "gradient": GradientLoss,
        "artifacts": ArtifactLoss,
        "perceptual": lambda: PerceptualLoss({"conv1_2": 0.1, "conv2_2": 1}, weights="untrained"),
        "lpips": lambda: LpipsLoss(weights=vgg16_file),
        "dists": lambda: DistsLoss(vgg16_file),
    }
    term = make[name]()
    for level, difference in ((0.0, 0.0), (0.5, 0.0), (0.0, 0.25)):
        target = torch.full((1, 3, 16, 16), level)
        output = (target + difference).to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype):
            loss = term(output, target, *([target] if name == "artifacts" else []))
        (gradient,) = torch.autograd.grad(loss, output)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_sharpening_is_the_unsharp_mask_of_its_formula() -> None:
    """design/real_world.md §3, by a dense Gaussian of 51² taps."""
    torch.manual_seed(0)
    image = F.interpolate(torch.rand(1, 3, 12, 10), scale_factor=8, mode="bicubic").clamp(0, 1)
    taps = torch.arange(51.0) - 25
    line = torch.exp(-taps.square() / (2 * 8.0**2))
    kernel = (line[:, None] * line / line.sum() ** 2).expand(3, 1, 51, 51)

    def gaussian(x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (25, 25, 25, 25), mode="reflect"), kernel, groups=3)

    residual = image - gaussian(image)
    mask = gaussian((residual.abs() * 255 > 10).float())
    wanted = mask * (image + 0.5 * residual).clamp(0, 1) + (1 - mask) * image
    assert 0.1 < mask.mean() < 0.95
    torch.testing.assert_close(sharpen(image), wanted, rtol=0, atol=1e-5)


class Seen(nn.Module):
    """A term that notes its target."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        self.target = target
        return (output - target).abs().mean()


def test_named_terms_see_the_sharpened_target_and_the_discriminator_does_not(
    configure: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, stage, _ = prepare(configure("realesrgan_rrdb23"))
    calls: list[Tensor] = []
    monkeypatch.setattr("esrgan_lit.training.base_stage.sharpen", lambda image: calls.append(image) or sharpen(image))
    for name in ("pixel", "perceptual", "plain"):
        stage.losses[name] = Seen()
    judged: list[Tensor] = []
    stage.discriminator.register_forward_pre_hook(lambda _, inputs: judged.append(inputs[0]))
    monkeypatch.setattr(type(stage), "_means", lambda self, real, fake: (real.mean(), fake.mean()))
    high_res = F.interpolate(torch.rand(1, 3, 4, 4), scale_factor=8)
    output = torch.rand_like(high_res).requires_grad_()
    stage.raw_terms(output, Pair(torch.rand(1, 3, 8, 8), high_res))
    wanted = sharpen(high_res)
    assert (wanted - high_res).abs().max() > 0.01
    assert torch.equal(stage.losses["pixel"].target, wanted)
    assert stage.losses["perceptual"].target is stage.losses["pixel"].target
    assert stage.losses["plain"].target is high_res
    assert len(calls) == 1
    assert [each is high_res for each in judged] == [False, True, False]


def test_what_the_terms_cannot_be_is_said(configure: Callable[..., DictConfig], caplog: Any, vgg16_file: Path) -> None:
    with pytest.raises(ValueError, match=r"stage.sharpened has 'texture', which is no term .* pixel, perceptual"):
        prepare(configure("gan_rrdb23", "stage.sharpened=[texture]"))
    with pytest.raises(ValueError, match=r"stage.losses.artifacts compares .*give stage.ema_decay=0.999"):
        prepare(configure("gan_rrdb23_ldl", "stage.ema_decay=null"))


@pytest.mark.usefixtures("small_vgg16")
def test_a_metric_that_is_trained_for_and_ranked_by_is_warned_of(
    configure: Callable[..., DictConfig], caplog: pytest.LogCaptureFixture, vgg16_file: Path
) -> None:
    changes = [
        f"+stage.losses.learned={{_target_: esrgan_lit.LpipsLoss, weights: {vgg16_file}}}",
        "+stage.loss_weights.learned=0.1",
        "stage.validation.metrics=[psnr_y,lpips]",
        "+stage.validation.options.lpips_network=vgg",
        f"stage.validation.options.lpips_weights={vgg16_file}",
    ]
    ranked = ["trainer.callbacks.best.monitor=val/lpips", "trainer.callbacks.best.mode=min"]
    with caplog.at_level(logging.WARNING):
        prepare(configure("psnr_rrdb23", *changes, *ranked))
    assert "stage.losses.learned trains the network for LPIPS, by which val/lpips ranks" in caplog.text
    caplog.clear()
    train(configure("psnr_rrdb23", *changes))
    assert "trains the network for" not in caplog.text
