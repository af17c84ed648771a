"""Weights as other programs leave them: any names around them, any shapes, what else is in their files."""

import argparse
import itertools
import zipfile
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from spandrel.architectures.ESRGAN import ESRGAN
from test_load import prefixed, same_weights, zeros
from torch import Tensor

from esrgan_lit import RRDBNet, SRResNet, load_generator, save_generator
from esrgan_lit.networks.building import build_within
from esrgan_lit.networks.generator import Generator
from esrgan_lit.tensor_files import WeightsError, find_misfit
from esrgan_lit.weights.layouts import canonical, in_layout, infer_architecture
from esrgan_lit.weights.load import load_weights_into
from esrgan_lit.weights.reading import build_generator

SHARED = Path(__file__).parents[3] / "shared" / "cases"
State = dict[str, Tensor]

BESIDE = torch.zeros(2)

# What stands around a state dict. Of those with two generators, the other one is all zeros.
AROUND = {
    "a trainer's own keys": lambda s: {
        "epoch": 3,
        "generator_state_dict": s,
        "discriminator_state_dict": {"a": BESIDE},
    },
    "weights": lambda s: {"weights": s},
    "module twice": lambda s: prefixed("module.module.", s),
    "compiled": lambda s: prefixed("_orig_mod.", s),
    "compiled inside": lambda s: {"model": prefixed("module._orig_mod.", s)},
    "Lightning": lambda s: {"state_dict": prefixed("model.", s), "optimizer_states": [], "callbacks": {}},
    "Lightning, compiled": lambda s: {"state_dict": prefixed("model._orig_mod.", s)},
    "a name of one's own": lambda s: prefixed("upscaler.net.", s),
    "netG in model": lambda s: {"model": {"netG": s, "netD": {"conv0.weight": BESIDE}}},
    "deep": lambda s: {"a": {"b": {"c": {"d": {"net": s}}}}},
    "EMA of its own name": lambda s: {"g": zeros(s), "g_ema": s},
    "EMA first": lambda s: {"ema_model": prefixed("module.", s), "model": zeros(s)},
    "EMA by prefix": lambda s: prefixed("netG.", zeros(s)) | prefixed("netG_ema.module.", s),
    "optimizer beside": lambda s: {"net": s, "optim": {"state": {0: {"exp_avg": BESIDE}}, "param_groups": [{"lr": 1}]}},
    "numbers of NumPy": lambda s: {"state_dict": s, "psnr": np.float64(30), "step": np.int64(3), "mean": np.ones(3)},
    "a list": lambda s: [{"lr": 1}, s, 3],
    "a list inside": lambda s: {"models": [{"netD": {"a": BESIDE}}, prefixed("module.", s)], "iter": 5},
    "OmegaConf's": lambda s: {"hyper_parameters": OmegaConf.create({"a": [1, {"b": 2.5}], "c": None}), "state_dict": s},
    "a dictionary with a default": lambda s: {"nets": defaultdict(list, {"g": s})},
    "a time": lambda s: {"at": datetime(2020, 1, 1), "model": s, "best": torch.device("cpu"), "names": {"a", "b"}},
    "arguments": lambda s: {"state_dict": s, "args": argparse.Namespace(lr=1), "folder": Path("a/b")},
    "an architecture of another program": lambda s: {"architecture": {"name": "ESRGAN", "nf": 8}, "params": s},
    "another program's path of a class": lambda s: {"architecture": {"name": "basicsr.archs.RRDBNet"}, "params": s},
    "an architecture that is a text": lambda s: {"architecture": "RRDB 4x", "state_dict": s},
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("layout", ["basicsr", "esrgan", "old"])
def test_generators_are_found_whatever_stands_around_them(layout: str, around: str, tmp_path: Path) -> None:
    generator = RRDBNet(4, 2, 8, 4)
    state = in_layout(generator.state_dict(), layout)
    torch.save(AROUND[around](state), tmp_path / "net.pth")
    loaded = load_generator(tmp_path / "net.pth")
    assert loaded.architecture == generator.architecture
    assert same_weights(loaded, generator)


def test_an_srresnet_is_found_as_well(tmp_path: Path) -> None:
    generator = SRResNet(4, 2, 8, batch_norm=True)
    state = {key: value for key, value in generator.state_dict().items() if "num_batches" not in key}  # before 2018
    torch.save({"nets": {"G": prefixed("module.", state)}}, tmp_path / "net.pth")
    assert same_weights(load_generator(tmp_path / "net.pth"), generator)


def test_what_is_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = RRDBNet(4, 1, 8, 4).state_dict()
    torch.save(state | {"step": torch.tensor(3), "loss.vgg.0.weight": torch.zeros(3)}, tmp_path / "extra.pth")
    load_generator(tmp_path / "extra.pth")
    assert "extra.pth: not part of the generator and left out: step, loss.vgg.0.weight" in caplog.text
    caplog.clear()
    torch.save({"best": state, "newest": state | {"conv_last.bias": torch.ones(3)}}, tmp_path / "two.pth")
    load_generator(tmp_path / "two.pth")
    assert caplog.messages == [f"{tmp_path / 'two.pth'} holds several generators: best is read, not newest"]
    caplog.clear()
    torch.save({"architecture": {"name": "MyGAN"}, "params": state}, tmp_path / "named.pth")
    load_generator(tmp_path / "named.pth")
    assert "architecture MyGAN is not known here; it is read from the shapes" in caplog.messages[0]


@pytest.mark.parametrize("extra", ["body.0.attention.weight", "conv_up3.weight", "conv_first.weight_g"])
def test_layers_that_would_change_the_image_are_refused(extra: str, tmp_path: Path) -> None:
    torch.save(RRDBNet(4, 1, 8, 4).state_dict() | {extra: torch.zeros(8, 8, 3, 3)}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=rf"net\.pth holds an?.*({extra}|RRDBNet)"):
        load_generator(tmp_path / "net.pth")


def test_an_architecture_of_a_users_module_is_not_guessed(tmp_path: Path) -> None:
    """Its class may compute something else with the same names."""
    content = {"architecture": {"name": "mine.Sharper", "scale": 4}, "params": RRDBNet(4, 1, 8, 4).state_dict()}
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"net\.pth: architecture 'mine\.Sharper' is not known; import its module"):
        load_generator(tmp_path / "net.pth")


# Architectures. spandrel's networks are another program's, with other code.


@pytest.mark.parametrize("layout", ["old", "basicsr"])
@pytest.mark.parametrize(
    "given",
    [{"scale": 16}, {"plus": True}, {"in_nc": 1}, {"in_nc": 1, "out_nc": 1}, {"in_nc": 4, "out_nc": 4}, {"out_nc": 1},
     {"in_nc": 4}, {"in_nc": 12, "shuffle_factor": 2}, {"in_nc": 48, "shuffle_factor": 4, "plus": True}],
    ids=str,
)  # fmt: skip
def test_other_shapes_give_the_pixels_of_spandrel(given: dict[str, Any], layout: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = ESRGAN(num_filters=8, num_blocks=1, **given).eval()
    state = theirs.state_dict()
    torch.save(state if layout == "old" else canonical(state), tmp_path / "net.pth")
    ours = load_generator(tmp_path / "net.pth")
    channels = given.get("in_nc", 3) // given.get("shuffle_factor", 1) ** 2
    assert (ours.channels, ours.out_channels) == (channels, given.get("out_nc", 3))
    image = torch.rand(1, channels, 8, 12)
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs(image), atol=1e-6, rtol=1e-5)
    save_generator(ours, tmp_path / "again.safetensors")
    assert load_generator(tmp_path / "again.safetensors").architecture == ours.architecture


@pytest.mark.parametrize("layout", ["basicsr", "esrgan", "old"])
def test_an_explicit_scale_tells_three_from_two(layout: str, tmp_path: Path) -> None:
    theirs = ESRGAN(num_filters=8, num_blocks=1, scale=3).eval()
    torch.save(in_layout(canonical(theirs.state_dict()), layout), tmp_path / "net.pth")
    assert load_generator(tmp_path / "net.pth").scale == 2
    ours = load_generator(tmp_path / "net.pth", scale=3)
    image = torch.rand(1, 3, 8, 12)
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs(image), atol=1e-6, rtol=1e-5)
    with pytest.raises(WeightsError, match=r"net\.pth enlarges 2 times, not 4 times; leave the scale out"):
        load_generator(tmp_path / "net.pth", scale=4)
    started = RRDBNet(3, 1, 8, 32)
    load_weights_into(started, tmp_path / "net.pth")
    assert same_weights(started, ours)


def test_esrgan_plus_has_noise_in_training_only() -> None:
    network = RRDBNet(4, 1, 8, 4, plus=True)
    image = torch.rand(1, 3, 8, 8)
    assert not torch.equal(network(image), network(image))
    assert torch.equal(network.eval()(image), network(image))
    network.train()(image).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("blocks", [6, 12, 16, 23])
def test_census_of_the_shapes_that_are_published(blocks: int) -> None:
    """64, 48 and 32 features, ×1 to ×16, by all names; without memory for their weights."""
    for features, scale in itertools.product((64, 48, 32), (1, 2, 4, 8, 16)):
        with torch.device("meta"):
            theirs = ESRGAN(num_filters=features, num_blocks=1, scale=scale).state_dict()
        last = {key: value for key, value in theirs.items() if key.startswith("model.1.sub.1.")}
        block = {key: value for key, value in theirs.items() if key.startswith("model.1.sub.0.")}
        old = {key: value for key, value in theirs.items() if key not in last}
        for number in range(blocks):
            old |= {key.replace("sub.0.", f"sub.{number}."): value for key, value in block.items()}
        old |= {key.replace("sub.1.", f"sub.{blocks}."): value for key, value in last.items()}
        for layout in ("old", "esrgan", "basicsr"):
            state = canonical(in_layout(canonical(old), layout))
            architecture = infer_architecture(state)
            assert (architecture["width"], architecture["blocks"], architecture["scale"]) == (features, blocks, scale)
        if (features, scale) in ((64, 4), (32, 16)):
            assert find_misfit(build_generator(architecture, len(state)), state) is None


@pytest.mark.parametrize("name", sorted(path.name for path in SHARED.glob("weights/*")))
def test_collected_weights(name: str, caplog: pytest.LogCaptureFixture) -> None:
    if name == "nan.pth":
        with pytest.raises(WeightsError, match=r"nan\.pth: 1 of 432 values of conv_last\.weight are NaN or infinite"):
            load_generator(SHARED / "weights" / name)
        return
    generator = load_generator(SHARED / "weights" / name)
    assert (generator.architecture["width"], generator.architecture["blocks"], generator.scale) == (16, 1, 4)
    assert bool(caplog.messages) == (name in ("extra_key.pth", "arch_foreign.pth"))


@pytest.mark.parametrize("name", sorted(path.name for path in SHARED.glob("networks/*")))
def test_collected_networks(name: str) -> None:
    assert load_generator(SHARED / "networks" / name).architecture["width"] == 8


# Weights that lie


def contains_itself(state: State) -> dict[str, Any]:
    content: dict[str, Any] = {"epoch": 3}
    content["state_dict"] = content["model"] = content
    return content


def claims(**fields: Any) -> Any:
    stated = {"name": "RRDBNet", "scale": 4, "blocks": 1, "width": 8, "growth": 4, "channels": 3}
    return lambda state: {"architecture": {**stated, **fields}, "params": state}


def changed(key: str, make: Any) -> Any:
    return lambda state: state | {key: make(state[key])}


def renamed(old: str, new: str) -> Any:
    return lambda state: {key.replace(old, new): value for key, value in state.items()}


LIES = {
    "contains itself": (contains_itself, "holds no tensors"),
    "300,000 blocks, it says": (claims(blocks=300_000), "more tensors than the 42"),
    "blocks of a forged name": (renamed("body.0", "body.299999"), "RRDBNet"),
    "one block of a forged name": (lambda s: s | renamed("body.0", "body.299999")(s), "(other|more) tensors than"),
    "blocks beyond numbers": (lambda s: s | renamed("body.0", "body." + "9" * 5000)(s), "unknown form of RRDBNet"),
    "blocks without numbers": (lambda s: s | {"body..weight": s["conv_last.weight"]}, "unknown form of RRDBNet"),
    "a billion wide": (claims(width=10**9), r"conv_first\.weight is 8×3×3×3 and has to be|cannot be built"),
    "wide beyond numbers": (claims(width=10**400), "cannot be built"),
    "negative": (claims(blocks=-1), "blocks -1 is too small"),
    "a text": (claims(blocks="1"), "blocks '1' is too small or not whole"),
    "a flag for a number": (claims(blocks=True), "blocks True is too small or not whole"),
    "a number for a flag": (claims(bicubic_skip=1), "bicubic_skip 1 is neither true nor false"),
    "a list for a number": (claims(width=[8]), r"width \[8\] is too small or not whole"),
    "a foreign argument": (claims(depth=3), "unexpected keyword argument 'depth'"),
    "other blocks than it has": (claims(blocks=2), "more tensors than"),
    "other growth than it has": (claims(growth=5), r"has to be 5×8×3×3"),
    "NaN": (changed("conv_last.bias", lambda t: t * torch.nan), r"3 of 3 values of conv_last\.bias are NaN"),
    "infinite in float32": (changed("conv_last.bias", lambda t: t.double() + 1e300), r"conv_last\.bias are NaN or inf"),
    "complex": (changed("conv_last.bias", lambda t: t.to(torch.complex64)), "conv_last.bias is of complex64"),
    "integers": (changed("conv_last.bias", lambda t: t.to(torch.int32)), "conv_last.bias is of int32, not of float32"),
    "sparse": (changed("conv_hr.weight", lambda t: t.to_sparse()), "conv_hr.weight is no plain tensor"),
    "quantized": (
        changed("conv_hr.weight", lambda t: torch.quantize_per_tensor(t, 1.0, 0, torch.qint8)), "is of qint8"
    ),
    "no values": (changed("conv_hr.weight", lambda t: t.to("meta")), "conv_hr.weight is no plain tensor"),
    "a number": (changed("conv_last.weight", lambda t: t.sum()), "RRDBNet"),
    "no channels": (changed("conv_first.weight", lambda t: t[:0]), "width 0 is too small"),
    "a kernel of 5": (
        changed("conv_hr.weight", lambda t: torch.zeros(8, 8, 5, 5)),
        r"conv_hr\.weight is 8×8×5×5 and has to be 8×8×3×3",
    ),
    "one value stretched": (
        lambda s: {k: v.flatten()[:1].clone().as_strided(v.shape, [0] * v.ndim) for k, v in s.items()},
        "claims|has room",
    ),
    "lines and colors in a name": (lambda s: renamed("conv_last", "\n\x1b[31mconv_last")(s), "part of an RRDBNet"),
    "names of numbers": (lambda s: dict(enumerate(s.values())), "no network that is known here"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*quantize")
@pytest.mark.parametrize("lie", LIES)
def test_weights_that_lie_are_refused_in_one_line_with_their_file(lie: str, tmp_path: Path) -> None:
    make, message = LIES[lie]
    path = tmp_path / "lie.pth"
    wide = RRDBNet(4, 1, 8, 4).state_dict() if lie != "one value stretched" else RRDBNet(4, 1, 64, 32).state_dict()
    torch.save(make(wide), path)
    with pytest.raises(WeightsError, match=message) as caught:
        load_generator(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 700
    assert "\x1b" not in str(caught.value)


def test_dictionaries_nested_100_000_times(tmp_path: Path) -> None:
    """As a pickle of its own making: Python's own recursion would end before."""
    depth = 100_000
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02" + b"}X\x01\0\0\0a" * depth + b"}" + b"s" * depth + b".")
        archive.writestr("net/version", "3\n")
    with pytest.raises(WeightsError, match=r"net\.pth holds no tensors"):
        load_generator(tmp_path / "net.pth")


@pytest.mark.parametrize("header", ["[" * 100_000, "null", "3", '{"name": {}}', '{"name": "RRDBNet", "blocks": 1e99}'])
def test_forged_headers_are_passed_over_or_refused(header: str, tmp_path: Path) -> None:
    save_generator(RRDBNet(4, 1, 8, 4), tmp_path / "net.safetensors", {"architecture": header})
    if "blocks" in header:
        with pytest.raises(WeightsError, match=r"net\.safetensors: architecture .* cannot be built"):
            load_generator(tmp_path / "net.safetensors")
    else:
        assert load_generator(tmp_path / "net.safetensors").architecture["blocks"] == 1


@pytest.mark.parametrize(
    "said",
    [{"metadata": {"license": ["CC0"], 3: "x"}}, {"config": 3, "global_step": "x"},
     {"config": {"data": 3}, "global_step": 1},
     {"config": {"data": {"train": {"a": 1}}, "name": 3}, "global_step": 1, "figures": [1], "validated_at": 1},
     {"metadata": 5, "callbacks": 3}, {"metadata": {"license": "\udc80", "\ud800": "x"}}],
    ids=str,
)  # fmt: skip
def test_what_a_file_says_of_itself_may_be_of_any_type(said: dict[str, Any], tmp_path: Path) -> None:
    torch.save({"params": RRDBNet(4, 1, 8, 4).state_dict(), **said}, tmp_path / "net.pth")
    metadata = load_generator(tmp_path / "net.pth").metadata
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in metadata.items())
    save_generator(load_generator(tmp_path / "net.pth"), tmp_path / "net.safetensors")


def test_networks_are_given_up_while_they_are_built() -> None:
    made = []

    def endless() -> Generator:
        network = RRDBNet(4, 1, 8, 4)
        for number in itertools.count():
            made.append(number)
            network.add_module(f"more{number}", torch.nn.Conv2d(1, 1, 1))
        raise AssertionError

    with pytest.raises(WeightsError, match="more tensors than the 50 of the file"):
        build_within(endless, 50)
    assert len(made) < 10


def test_figures_are_those_of_the_weights(tmp_path: Path) -> None:
    state = RRDBNet(4, 1, 8, 4).state_dict()
    content = {
        "state_dict": prefixed("generator.", state) | prefixed("ema.", state), "config": {}, "global_step": 600,
        "validated_at": 600, "figures": {"PSNR-Y (dB)": "27.50"},
        "callbacks": {"ModelCheckpoint": {"monitor": "val/psnr_y", "current_score": torch.tensor(30.25)}},  # of 150
    }  # fmt: skip
    torch.save(content, tmp_path / "own.ckpt")
    torch.save(content | {"validated_at": 450}, tmp_path / "between.ckpt")
    assert load_generator(tmp_path / "own.ckpt").metadata == {"steps": "600", "metrics": "PSNR-Y (dB) 27.50"}
    assert load_generator(tmp_path / "between.ckpt").metadata == {"steps": "600"}
    assert load_generator(tmp_path / "own.ckpt", ema=False).metadata == {
        "steps": "600"
    }  # measured with the averaged ones
