"""Weights: what is read and refused, slim files, blends."""

import copy
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from spandrel import ModelLoader
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.SwinIR import SwinIR
from torch import Tensor, nn
from torchvision.models import vgg11

from esrgan_lit import Discriminator, RRDBNet, SRResNet, blend, interpolate, load_generator, save_generator
from esrgan_lit.networks.generator import Generator
from esrgan_lit.weights.interpolate import UNRELATED, distance
from esrgan_lit.weights.layouts import WeightsError, canonical, in_layout
from esrgan_lit.weights.load import load_weights_into, read_weights

GENERATORS: list[tuple[type[Generator], dict[str, Any]]] = [
    (RRDBNet, {"growth": 4}),
    (RRDBNet, {"bicubic_skip": True, "scale": 3}),
    (RRDBNet, {"unshuffle": 4, "scale": 1}),
    (SRResNet, {"scale": 8}),
    (SRResNet, {"batch_norm": True}),
]
RRDBNETS = [RRDBNet(s, 2, 8, 4, unshuffle=u) for s, u in ((1, 1), (2, 1), (4, 1), (8, 1), (2, 2), (1, 4))]
SRRESNETS = [SRResNet(s, 2, 8, batch_norm=bn) for s in (1, 2, 3, 4, 8) for bn in (False, True)]

# How files in the wild hold a state dict. Prefixes stand before every name.
WRAPPERS = {
    "bare": lambda state: state,
    "params": lambda state: {"params": state},
    "params_ema": lambda state: {"params_ema": state},
    "both": lambda state: {"params": zeros(state), "params_ema": state},
    "state_dict": lambda state: {"state_dict": state, "meta": {"iter": 5}},
    "module": lambda state: prefixed("module.", state),
    "generator": lambda state: prefixed("generator.", state) | {"discriminator.conv.weight": torch.zeros(1, 1, 3, 3)},
    "mmagic": lambda state: {
        "meta": {"iter": 5},
        "state_dict": prefixed("generator.", zeros(state))
        | prefixed("generator_ema.", state)
        | {"step_counter": torch.tensor(1), "data_preprocessor.mean": torch.zeros(3, 1, 1)},
    },
}


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def zeros(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.zeros_like(value) for key, value in state.items()}


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


@pytest.mark.parametrize(("network", "options"), GENERATORS)
def test_slim_files_come_back_as_they_were(network: type[Generator], options: dict, tmp_path: Path) -> None:
    generator = network(blocks=2, width=8, **options)
    save_generator(generator, tmp_path / "net.safetensors", {"note": "mine"})
    loaded = load_generator(tmp_path / "net.safetensors")
    assert type(loaded) is network
    assert loaded.architecture == generator.architecture
    assert same_weights(loaded, generator)
    assert not loaded.training
    assert loaded.metadata == {"note": "mine"}
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        assert file.metadata()["note"] == "mine"


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("layout", ["basicsr", "esrgan", "old"])
def test_every_layout_is_read_in_every_wrapper(layout: str, wrapper: str, tmp_path: Path) -> None:
    generator = RRDBNet(4, 2, 8, 4)
    torch.save(WRAPPERS[wrapper](in_layout(generator.state_dict(), layout)), tmp_path / "net.pth")
    loaded = load_generator(tmp_path / "net.pth")
    assert loaded.architecture == generator.architecture
    assert same_weights(loaded, generator)


@pytest.mark.parametrize("layout", ["basicsr", "esrgan", "old"])
@pytest.mark.parametrize("generator", RRDBNETS, ids=lambda g: f"x{g.scale}-{g.unshuffle}")
def test_the_architecture_is_read_from_shapes(generator: RRDBNet, layout: str, tmp_path: Path) -> None:
    torch.save(in_layout(generator.state_dict(), layout), tmp_path / "net.pth")
    loaded = load_generator(tmp_path / "net.pth")
    assert loaded.architecture == generator.architecture
    assert same_weights(loaded, generator)


@pytest.mark.parametrize("generator", SRRESNETS, ids=lambda g: f"x{g.scale}{'-bn' * g.batch_norm}")
def test_srresnets_are_read_with_the_names_of_three_programs(generator: SRResNet, tmp_path: Path) -> None:
    state = generator.state_dict()
    # mmagic's MSRResNet, and the SRResNet of the ESRGAN repository's training code
    mmagic = {
        key.replace("body.", "trunk_net.").replace("upconv1", "upsample1.upsample_conv")
        .replace("upconv2", "upsample2.upsample_conv").replace("upconv3", "upsample3.upsample_conv"): value
        for key, value in state.items()
    }  # fmt: skip
    mmsr = {key.replace("body.", "recon_trunk.").replace("conv_hr", "HRconv"): value for key, value in state.items()}
    for names in (state, prefixed("generator.", mmagic), mmsr):
        torch.save({"state_dict": names}, tmp_path / "net.pth")
        loaded = load_generator(tmp_path / "net.pth")
        assert loaded.architecture == generator.architecture
        assert same_weights(loaded, generator)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_suffix_form_and_precision_do_not_matter(dtype: torch.dtype, tmp_path: Path) -> None:
    generator = RRDBNet(4, 1, 8, 4).to(dtype)
    state = generator.state_dict()
    save_file(in_layout(state, "old"), tmp_path / "a.pth")  # named for what it is not
    torch.save(state, tmp_path / "b.safetensors")
    torch.save(state, tmp_path / "c.ckpt", _use_new_zipfile_serialization=False)
    torch.save(state, tmp_path / "d")
    for path in tmp_path.iterdir():
        assert same_weights(load_generator(path), copy.deepcopy(generator).float()), path


def test_the_last_weights_can_be_asked_for(tmp_path: Path) -> None:
    last, averaged = RRDBNet(4, 1, 8, 4), RRDBNet(4, 1, 8, 4)
    torch.save({"params": last.state_dict(), "params_ema": averaged.state_dict()}, tmp_path / "a.pth")
    both = prefixed("generator.", last.state_dict()) | prefixed("generator_ema.", averaged.state_dict())
    torch.save({"state_dict": both}, tmp_path / "b.pth")
    for path in (tmp_path / "a.pth", tmp_path / "b.pth"):
        assert same_weights(load_generator(path), averaged)
        assert same_weights(load_generator(path, ema=False), last)


def test_what_spandrel_makes_is_read(tmp_path: Path) -> None:
    """An independent implementation's own state dicts, in the old layout, with the same outputs."""
    for number, (scale, shuffle) in enumerate(((1, None), (2, None), (4, None), (8, None), (2, 2), (1, 4))):
        torch.manual_seed(number)
        factor = 1 if shuffle is None else shuffle
        theirs = ESRGAN(
            in_nc=3 * factor**2, num_filters=16, num_blocks=1, scale=scale * factor, shuffle_factor=shuffle
        ).eval()  # fmt: skip
        torch.save(theirs.state_dict(), tmp_path / "net.pth")
        ours = load_generator(tmp_path / "net.pth")
        assert (ours.scale, ours.unshuffle) == (scale, factor)
        image = torch.rand(1, 3, 12, 16)
        with torch.inference_mode():
            torch.testing.assert_close(ours(image), theirs(image), atol=1e-6, rtol=1e-6)


def test_real_weights_are_read(real_weights: Path) -> None:
    assert load_generator(real_weights / "RealSR_DF2K_x4_fp16.pth").architecture == RRDBNet().architecture
    assert load_generator(real_weights / "RealESRGAN_x4plus_anime_6B_fp16.pth").architecture["blocks"] == 6


def test_real_weights_in_every_layout_give_the_pixels_of_spandrel(real_weights: Path, tmp_path: Path) -> None:
    source = real_weights / "RealESRGAN_x4plus_anime_6B_fp16.pth"
    image = torch.rand(1, 3, 13, 17)
    with torch.inference_mode():
        expected = ModelLoader().load_from_file(source).model.eval().float()(image)
        for layout in ("basicsr", "esrgan", "old"):
            state = in_layout(torch.load(source, weights_only=True), layout)
            torch.save({"params_ema": state}, tmp_path / "net.pth")
            torch.testing.assert_close(load_generator(tmp_path / "net.pth")(image), expected, atol=1e-5, rtol=0)


def test_layouts_are_translated_there_and_back() -> None:
    for generator in RRDBNETS:
        state = generator.state_dict()
        for layout in ("basicsr", "esrgan", "old"):
            assert canonical(in_layout(state, layout)).keys() == state.keys()


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


def test_many_networks_are_blended_by_their_weights() -> None:
    networks = [RRDBNet(4, 1, 8, 4) for _ in range(3)]
    blended = blend(networks, [0.2, 0.3, 0.5]).state_dict()
    for key, value in blended.items():
        parts = [network.state_dict()[key] for network in networks]
        torch.testing.assert_close(value, 0.2 * parts[0] + 0.3 * parts[1] + 0.5 * parts[2])
    with pytest.raises(ValueError, match=r"weights 0.2, 0.3, 0.4 have the sum 0.9"):
        blend(networks, [0.2, 0.3, 0.4])
    with pytest.raises(ValueError, match=r"weights -0.5, 1, 0.5 have the sum 1; give numbers of at least 0"):
        blend(networks, [-0.5, 1, 0.5])
    with pytest.raises(ValueError, match="2 weights for 3 networks"):
        blend(networks, [0.5, 0.5])


def test_interpolation_refuses_other_alphas_and_architectures() -> None:
    with pytest.raises(ValueError, match=r"alpha 1.5 is not in \[0, 1\]"):
        interpolate(RRDBNet(4, 1, 8), RRDBNet(4, 1, 8), 1.5)
    with pytest.raises(WeightsError, match="blocks is 1 in one and 2 in the other"):
        interpolate(RRDBNet(4, 1, 8), RRDBNet(4, 2, 8), 0.5)
    with pytest.raises(WeightsError, match="name is RRDBNet in one and SRResNet in the other"):
        interpolate(RRDBNet(4, 1, 8), SRResNet(4, 1, 8), 0.5)


def test_the_distance_tells_fine_tuned_networks_from_independent_ones() -> None:
    torch.manual_seed(0)
    first, second = RRDBNet(4, 2, 16, 8), RRDBNet(4, 2, 16, 8)
    tuned = copy.deepcopy(first)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter += 0.5 * parameter.std(correction=0) * torch.randn_like(parameter)
    assert distance(first, first) == 0
    assert distance(first, tuned) < UNRELATED < distance(first, second)
    assert distance(first, second) == pytest.approx(1, abs=0.05)  # independent weights are orthogonal


def test_another_architecture_is_refused_naming_what_differs(tmp_path: Path) -> None:
    save_generator(RRDBNet(4, 2, 8, 4), tmp_path / "net.safetensors")
    with pytest.raises(WeightsError, match=r"blocks is 2 in the file and 1 here, growth is 4 in the file and 8 here"):
        load_weights_into(RRDBNet(4, 1, 8, 8), tmp_path / "net.safetensors")


def test_files_from_before_unshuffle_fill_a_network(tmp_path: Path) -> None:
    generator = RRDBNet(4, 1, 8, 4)
    older = {key: value for key, value in generator.architecture.items() if key != "unshuffle"}
    save_generator(generator, tmp_path / "net.safetensors", {"architecture": json.dumps(older)})
    filled = RRDBNet(4, 1, 8, 4)
    load_weights_into(filled, tmp_path / "net.safetensors")
    assert same_weights(filled, generator)


def test_files_from_before_license_was_spelled_so_say_theirs(tmp_path: Path) -> None:
    generator = RRDBNet(4, 1, 8, 4)
    save_generator(generator, tmp_path / "a.safetensors", {"licence": "CC0"})
    torch.save({"params": generator.state_dict(), "metadata": {"licence": "CC0"}}, tmp_path / "b.pth")
    for path in tmp_path.iterdir():
        assert load_generator(path).metadata == {"license": "CC0"}


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


class Payload:
    """An object whose reading would run a program."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


def make_refused(kind: str, path: Path) -> None:
    generator = RRDBNet(4, 1, 8, 4)
    text = {
        "LFS pointer": "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 67040989\n",
        "HTML page": "\n<!DOCTYPE html><html><title>Sign in</title></html>",
        "empty": "",
        "text": "these are no weights",
        "ncnn": "7767517\n3 3\n",
        "OpenVINO": "<?xml version='1.0'?><net/>",
    }
    states = {
        "discriminator": lambda: Discriminator(32, 8).state_dict(),
        "VGG": lambda: vgg11(init_weights=False).features.state_dict(prefix="features."),
        "VGG style": lambda: {"conv0_0.weight": torch.zeros(64, 3, 3, 3), "bn0_1.weight": torch.zeros(64)},
        "U-Net": lambda: {"conv0.weight": torch.zeros(64, 3, 3, 3), "conv1.weight_orig": torch.zeros(128, 64, 4, 4)},
        "SwinIR": lambda: SwinIR(depths=[2], num_heads=[2], embed_dim=16, window_size=8).state_dict(),
        "Compact": lambda: Compact(num_feat=8, num_conv=2).state_dict(),
        "EDSR": lambda: {"head.0.weight": torch.zeros(64, 3, 3, 3), "body.0.body.0.weight": torch.zeros(64, 64, 3, 3)},
        "part": lambda: {key: v for key, v in generator.state_dict().items() if not key.startswith("conv_last")},
        "no tensors": lambda: {"epoch": 5},
    }
    if kind in text:
        path.write_text(text[kind])
    elif kind in states:
        torch.save(states[kind](), path)
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "program":
        torch.save({"state_dict": generator.state_dict(), "extra": Payload()}, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"weights": Payload()}))
    elif kind == "image":
        Image.new("RGB", (8, 8)).save(path, "png")
    elif kind == "ONNX":
        path.write_bytes(b"\x08\x0a\x12\x07pytorch\x1a\x062.15.0")
    elif kind == "TorchScript":
        torch.save({}, path)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("net/constants.pkl", b"")
    elif kind == "cut .pth":
        torch.save(generator.state_dict(), path)
        truncated(path)
    elif kind == "cut legacy .pth":
        torch.save(generator.state_dict(), path, _use_new_zipfile_serialization=False)
        truncated(path)
    elif kind == "cut .safetensors":
        save_file(generator.state_dict(), path)
        truncated(path)
    elif kind == "cut header":
        path.write_bytes(b"\x40\0\0\0\0\0\0\0{")


REFUSALS = {
    "LFS pointer": r"is a Git LFS pointer.*git lfs pull",
    "HTML page": r"is an HTML page",
    "empty": r"is empty; copy or download it again",
    "text": r"is neither a safetensors nor a PyTorch file \(it begins with b'these ar'\)",
    "ncnn": r"is an ncnn network",
    "OpenVINO": r"is an XML file, such as OpenVINO's",
    "discriminator": r"holds a discriminator \(VGG style, this library's\)",
    "VGG": r"holds a VGG \(8 convolutions\), which the perceptual loss uses",
    "VGG style": r"holds a discriminator \(VGG style\)",
    "U-Net": r"holds a discriminator \(U-Net with spectral normalization",
    "SwinIR": r"holds SwinIR, or another transformer",
    "Compact": r"holds SRVGGNetCompact",
    "EDSR": r"holds EDSR, RCAN or another of that family",
    "part": r"holds a part of an RRDBNet, without conv_last",
    "no tensors": r"holds no tensors",
    "list": r"holds a list, not weights",
    "program": r"other Python objects than tensors \(GLOBAL print\), and reading .*take the tensors out",
    "pickle": r"holds other Python objects than tensors.*could run any program",
    "image": r"is a PNG image",
    "ONNX": r"is an ONNX network",
    "TorchScript": r"is a TorchScript program",
    "cut .pth": r"is no whole PyTorch file, it ends too early",
    "cut legacy .pth": r"is no whole PyTorch file",
    "cut .safetensors": r"is no whole safetensors file",
    "cut header": r"no whole safetensors file \(its header has 64 bytes, the whole file 9\)",
}


@pytest.mark.filterwarnings("ignore:torch.meshgrid")  # of spandrel's SwinIR
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", REFUSALS)
def test_files_that_hold_no_generator_are_refused_with_what_they_are(
    kind: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"net{suffix}"
    make_refused(kind, path)
    with pytest.raises(WeightsError, match=REFUSALS[kind]) as caught:
        load_generator(path)
    assert str(path) in str(caught.value)
    assert "run" not in capsys.readouterr().out.split()  # nothing in it was executed


def test_missing_files_and_wrong_suffixes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no file, and no release is called so"):
        load_generator(tmp_path / "none.ckpt")
    with pytest.raises(FileNotFoundError, match="did you mean esrgan_psnr_x4"):
        load_generator("ersgan_psnr_x4")
    with pytest.raises(FileNotFoundError, match=r"is a folder without model\.safetensors"):
        load_generator(tmp_path)
    with pytest.raises(ValueError, match=r"name it net\.safetensors"):
        save_generator(RRDBNet(4, 1, 8), tmp_path / "net.pth")


def test_a_checkpoint_says_how_it_was_trained(tmp_path: Path) -> None:
    generator = RRDBNet(4, 1, 8, 4)
    content = {
        "state_dict": prefixed("generator.", generator.state_dict()),
        "architecture": generator.architecture,
        "global_step": 7,
        "config": {"name": "mine", "data": {"train": ["/home/somebody/photos/DIV2K/DIV2K_train_HR"]}},
        "validated_at": 7,
        "figures": {"PSNR-Y (dB)": "30.50", "SSIM-Y": "0.8123"},
    }
    torch.save(content, tmp_path / "a.ckpt")
    metadata = read_weights(tmp_path / "a.ckpt").metadata
    assert metadata == {
        "steps": "7",
        "training_data": "DIV2K/DIV2K_train_HR",  # and nothing of whose machine it was
        "metrics": "PSNR-Y (dB) 30.50, SSIM-Y 0.8123",
        "experiment": "mine",
    }
