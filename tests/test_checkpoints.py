"""Weights: what is read, written, blended and refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from esrgan_lit import RRDBNet, SRResNet, interpolate, load_generator, save_generator
from esrgan_lit.checkpoints import WeightsError, load_weights_into

GENERATORS: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (RRDBNet, {"growth": 4}),
    (RRDBNet, {"bicubic_skip": True, "scale": 3}),
    (SRResNet, {"scale": 8}),
    (SRResNet, {"batch_norm": True}),
]


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


@pytest.mark.parametrize(("network", "options"), GENERATORS)
def test_slim_files_come_back_as_they_were(network: type[nn.Module], options: dict, tmp_path: Path) -> None:
    generator = network(blocks=2, width=8, **options)
    save_generator(generator, tmp_path / "net.safetensors", {"note": "mine"})
    loaded = load_generator(tmp_path / "net.safetensors")
    assert type(loaded) is network
    assert loaded.architecture == generator.architecture
    assert same_weights(loaded, generator)
    assert not loaded.training
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        assert file.metadata()["note"] == "mine"


@pytest.mark.parametrize("wrapper", [None, "params", "params_ema"])
@pytest.mark.parametrize(
    "generator",
    [RRDBNet(s, 2, 8, 4) for s in (1, 2, 4, 8)]
    + [SRResNet(s, 2, 8, batch_norm=bn) for s in (1, 2, 3, 4, 8) for bn in (False, True)],
    ids=lambda g: f"{type(g).__name__}-x{g.scale}",
)
def test_the_architecture_is_read_from_shapes(generator: nn.Module, wrapper: str | None, tmp_path: Path) -> None:
    state = generator.half().state_dict()
    torch.save({wrapper: state} if wrapper else state, tmp_path / "net.pth")
    loaded = load_generator(tmp_path / "net.pth")
    assert loaded.architecture == generator.architecture
    assert same_weights(loaded, generator.float())


def test_real_weights_are_read(real_weights: Path) -> None:
    assert load_generator(real_weights / "RealSR_DF2K_x4_fp16.pth").architecture == RRDBNet().architecture
    assert load_generator(real_weights / "RealESRGAN_x4plus_anime_6B_fp16.pth").architecture["blocks"] == 6


def test_interpolation_is_linear_in_every_parameter() -> None:
    psnr, gan = SRResNet(4, 1, 8, batch_norm=True), SRResNet(4, 1, 8, batch_norm=True)
    gan.body[0].bn1.running_mean += 3
    before = {key: value.clone() for key, value in gan.state_dict().items()}
    blended = interpolate(psnr, gan, 0.8)
    for key, value in blended.state_dict().items():
        if not value.is_floating_point():  # BatchNorm's counter of batches
            continue
        torch.testing.assert_close(value, 0.2 * psnr.state_dict()[key] + 0.8 * gan.state_dict()[key])
    assert all(torch.equal(before[key], value) for key, value in gan.state_dict().items())
    assert same_weights(interpolate(psnr, gan, 0), psnr)
    assert same_weights(interpolate(psnr, gan, 1), gan)


def test_interpolation_refuses_other_alphas_and_architectures() -> None:
    with pytest.raises(ValueError, match=r"alpha 1.5 is not in \[0, 1\]"):
        interpolate(RRDBNet(4, 1, 8), RRDBNet(4, 1, 8), 1.5)
    with pytest.raises(WeightsError, match="blocks is 1 in one and 2 in the other"):
        interpolate(RRDBNet(4, 1, 8), RRDBNet(4, 2, 8), 0.5)
    with pytest.raises(WeightsError, match="name is RRDBNet in one and SRResNet in the other"):
        interpolate(RRDBNet(4, 1, 8), SRResNet(4, 1, 8), 0.5)


def test_another_architecture_is_refused_naming_what_differs(tmp_path: Path) -> None:
    save_generator(RRDBNet(4, 2, 8, 4), tmp_path / "net.safetensors")
    with pytest.raises(WeightsError, match=r"blocks is 2 in the file and 1 here, growth is 4 in the file and 8 here"):
        load_weights_into(RRDBNet(4, 1, 8, 8), tmp_path / "net.safetensors")


def test_files_that_hold_no_generator_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no file"):
        load_generator(tmp_path / "none.ckpt")
    (tmp_path / "page.pth").write_text("<html>")
    with pytest.raises(WeightsError, match="no whole PyTorch file"):
        load_generator(tmp_path / "page.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{")
    with pytest.raises(WeightsError, match="no whole safetensors file"):
        load_generator(tmp_path / "cut.safetensors")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "vgg.pth")
    with pytest.raises(WeightsError, match=r"no generator .*begins with features\.0\.weight"):
        load_generator(tmp_path / "vgg.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list"):
        load_generator(tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"name it net\.safetensors"):
        save_generator(RRDBNet(4, 1, 8), tmp_path / "net.pth")
