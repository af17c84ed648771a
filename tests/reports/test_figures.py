"""The paper's figures: their numbers against NumPy and SciPy, their pictures by what is in them."""

import io
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import wasserstein_distance

from conftest import assert_same_levels, make_photograph
from esrgan_lit import RRDBNet, imresize, interpolate, psnr_y, save_generator, upscale
from esrgan_lit.images.levels import to_batch
from esrgan_lit.images.writing import save_image
from esrgan_lit.losses.perceptual import PerceptualLoss
from esrgan_lit.reports import alpha_series, figures
from esrgan_lit.reports.comparison import read_output
from esrgan_lit.reports.plots import pyplot


def networks() -> tuple[RRDBNet, RRDBNet]:
    torch.manual_seed(0)
    psnr, gan = (RRDBNet(4, 1, 8, 4, bicubic_skip=True).eval() for _ in range(2))
    with torch.no_grad():
        for parameter in gan.parameters():
            parameter.mul_(3)
    return psnr, gan


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def test_every_layers_features_are_those_of_the_loss_at_that_layer() -> None:
    image = to_batch(make_photograph(48, 40, 1))
    deepest = PerceptualLoss("conv2_2", weights="untrained")
    found = dict(deepest.every_layer(image))
    assert list(found) == ["conv1_1", "conv1_2", "conv2_1", "conv2_2"]
    for layer in ("conv1_2", "conv2_2"):
        assert torch.equal(found[layer], PerceptualLoss(layer, weights="untrained").features(image))


def test_activity_counts_what_the_relu_leaves() -> None:
    image = make_photograph(48, 40, 2)
    perceptual = PerceptualLoss("conv2_1", weights="untrained")
    rows = figures.activity(image, perceptual)
    after = PerceptualLoss("conv2_1", weights="untrained", before_activation=False).features(to_batch(image))[0].numpy()
    last = rows[-1]
    assert (last.layer, last.shape) == ("conv2_1", (128, 24, 20))
    assert last.after == pytest.approx(np.count_nonzero(after) / after.size, abs=1e-6)
    assert last.silent == pytest.approx(1 - after.any((1, 2)).mean(), abs=1e-6)
    assert last.before > 0.99 > 0.7 > last.after
    assert f"| {last.after:.2%} |" in figures.activity_table(rows).markdown()


def test_feature_maps_are_drawn_and_a_deeper_layer_is_refused(tmp_path: Path) -> None:
    image, perceptual = make_photograph(48, 40, 3), PerceptualLoss("conv1_2", weights="untrained")
    figures.draw_feature_maps(image, perceptual, ["conv1_1", "conv1_2"], tmp_path / "maps.png", channels=2)
    assert min(size_of(tmp_path / "maps.png")) > 300
    figures.draw_activity({"a": figures.activity(image, perceptual)}, tmp_path / "activity.png")
    assert min(size_of(tmp_path / "activity.png")) > 300
    with pytest.raises(ValueError, match="layer conv2_1 is not among"):
        figures.draw_feature_maps(image, perceptual, ["conv2_1"], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize("sigma", [1.0, 4.0])
def test_brightness_is_the_histogram_of_the_filtered_grey_levels(sigma: float) -> None:
    image = make_photograph(60, 81, 4)
    grey = image @ np.array([0.2989, 0.5870, 0.1140])
    smooth = gaussian_filter(grey, sigma, mode="mirror", radius=round(3 * sigma))
    expected = np.bincount(np.clip(smooth.round(), 0, 255).astype(int).ravel(), minlength=256) / smooth.size
    np.testing.assert_allclose(figures.brightness(image, sigma).numpy(), expected, atol=1e-12)


def test_a_darker_image_is_found_darker_by_as_much() -> None:
    truth = np.clip(make_photograph(80, 90, 5), 40, 200)
    shift = figures.brightness_shift(truth - 7, truth)
    assert shift.mean == pytest.approx(-7, abs=0.01)
    assert shift.distance == pytest.approx(7, abs=0.01)
    other = make_photograph(80, 90, 6)
    levels = np.arange(256)
    expected = wasserstein_distance(levels, levels, figures.brightness(other), figures.brightness(truth))
    assert figures.brightness_shift(other, truth).distance == pytest.approx(expected, abs=1e-9)


def test_brightness_of_a_tiny_image_mirrors_no_further_than_it_is_wide(tmp_path: Path) -> None:
    assert figures.brightness(make_photograph(3, 5, 7)).sum() == pytest.approx(1)
    assert figures.brightness(np.full((1, 1, 3), 9, np.uint8)).argmax() == 9
    images = {"darker": np.full((30, 30, 3), 90, np.uint8)}
    shifts = figures.draw_brightness(images, np.full((30, 30, 3), 100, np.uint8), tmp_path / "brightness.png")
    assert shifts["darker"].mean == pytest.approx(-10)
    assert min(size_of(tmp_path / "brightness.png")) > 300


def test_the_alpha_series_interpolates_networks_and_images(tmp_path: Path) -> None:
    psnr, gan = networks()
    for name, network in (("psnr", psnr), ("gan", gan)):
        save_generator(network, tmp_path / f"{name}.safetensors")
    truth = make_photograph(96, 80, 8)
    save_image(truth, tmp_path / "photograph.png")
    low_res, alphas = imresize(truth, 1 / 4), [0, 0.5, 1]
    ends = [tmp_path / f"{name}.safetensors" for name in ("psnr", "gan")]
    report = alpha_series.alpha_series(*ends, [tmp_path / "photograph.png"], alphas, tmp_path / "cache")
    assert report.methods == ["α = 0", "α = 0.5 (networks)", "α = 0.5 (images)", "α = 1"]
    images = {method: read_output(report, "photograph", method) for method in report.methods}
    assert_same_levels(images["α = 0"], upscale(low_res, psnr))
    assert_same_levels(images["α = 1"], upscale(low_res, gan))
    assert_same_levels(images["α = 0.5 (networks)"], upscale(low_res, interpolate(psnr, gan, 0.5)))
    mean = (images["α = 0"].astype(float) + images["α = 1"]) / 2
    assert (images["α = 0.5 (images)"] == np.rint(mean)).all()
    assert (images["α = 0.5 (networks)"] != images["α = 0.5 (images)"]).any()
    expected = psnr_y(to_batch(images["α = 0.5 (networks)"]), to_batch(truth), 4).item()
    assert report.figures["α = 0.5 (networks)"]["psnr_y"] == pytest.approx(expected)

    out = tmp_path / "out"
    alpha_series.draw_alpha_series(report, alphas, out / "alpha.png", side=40)
    alpha_series.draw_tradeoff(report, alphas, out / "tradeoff.jpg")
    assert size_of(out / "alpha.png")[0] > 4 * 150  # three blends and the truth
    assert min(size_of(out / "tradeoff.jpg")) > 300
    assert {path.name for path in out.iterdir()} == {"alpha.png", "tradeoff.jpg"}


def test_a_notebooks_own_drawing_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []
    monkeypatch.setattr(matplotlib, "use", chosen.append)
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    pyplot()
    assert not chosen
    monkeypatch.delenv("MPLBACKEND")
    pyplot()
    assert chosen == ["agg"]


def test_the_slider_shows_networks_images_and_truth() -> None:
    psnr, gan = networks()
    truth = make_photograph(96, 80, 9)
    slider, image, _ = alpha_series.alpha_slider(psnr, gan, truth, side=32, zoom=1).children

    def shown() -> list[np.ndarray]:
        pixels = np.asarray(Image.open(io.BytesIO(image.value)))
        assert pixels.shape == (32, 96, 3)
        return [pixels[:, start : start + 32] for start in (0, 32, 64)]

    slider.value = 0
    start = shown()
    slider.value = 1
    end = shown()
    assert (start[0] != end[0]).any()
    places = [
        (top, left)
        for top in range(0, 96, 8)
        for left in range(0, 80, 8)
        if np.array_equal(truth[top : top + 32, left : left + 32], end[2])
    ]
    assert len(places) == 1
    (top, left) = places[0]
    low_res = imresize(truth, 1 / 4)
    for image_now, network in ((start[1], psnr), (end[1], gan)):
        assert np.array_equal(image_now, upscale(low_res, network)[top : top + 32, left : left + 32])
    with pytest.raises(ValueError, match="side 40 is not a multiple of 16; use 32"):
        alpha_series.alpha_slider(psnr, gan, truth, side=40)
