"""Sizes and layouts of the networks, against the published counts and an independent implementation."""

from pathlib import Path

import pytest
import torch
from torch import nn

from esrgan_lit import Discriminator, RRDBNet, SRResNet
from esrgan_lit.networks import scaled_init_


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("blocks", "parameters"), [(23, 16_697_987), (16, 11_662_019), (6, 4_467_779)])
def test_rrdbnet_has_the_published_number_of_parameters(blocks: int, parameters: int) -> None:
    assert count(RRDBNet(blocks=blocks)) == parameters


def test_other_networks_have_the_published_number_of_parameters() -> None:
    assert count(SRResNet()) == 1_517_571
    assert count(Discriminator()) == 14_499_401


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(
    ("network", "options"),
    [(RRDBNet, {"growth": 4}), (RRDBNet, {"bicubic_skip": True}), (SRResNet, {}), (SRResNet, {"batch_norm": True})],
)
def test_generators_enlarge_by_their_scale(network: type[nn.Module], options: dict, scale: int) -> None:
    generator = network(scale=scale, blocks=1, width=8, **options)
    assert generator(torch.rand(2, 3, 7, 10)).shape == (2, 3, 7 * scale, 10 * scale)


def test_rrdbnet_equals_an_independent_implementation() -> None:
    spandrel = pytest.importorskip("spandrel")
    ours = RRDBNet(blocks=2)
    for parameter in ours.parameters():  # initialised, the blocks contribute too little to see a mistake in them
        nn.init.normal_(parameter, std=0.05)
    theirs = spandrel.ModelLoader().load_from_state_dict(ours.state_dict()).model
    image = torch.rand(1, 3, 12, 17)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image))


def test_real_weights_equal_an_independent_implementation(real_weights: Path) -> None:
    spandrel = pytest.importorskip("spandrel")
    state = torch.load(real_weights / "RealESRGAN_x4plus_anime_6B_fp16.pth", weights_only=True)
    state = {key: value.float() for key, value in state.items()}
    ours = RRDBNet(blocks=6)
    ours.load_state_dict(state)
    theirs = spandrel.ModelLoader().load_from_state_dict(dict(state)).model.float()
    image = torch.rand(1, 3, 24, 20)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), atol=1e-5, rtol=0)


def test_scaled_init_is_a_tenth_of_kaiming_and_has_no_bias() -> None:
    conv = nn.Conv2d(64, 64, 3)
    scaled_init_(conv, 0.1)
    kaiming = (2 / (64 * 9)) ** 0.5
    assert conv.weight.std().item() == pytest.approx(0.1 * kaiming, rel=0.05)
    assert conv.bias is not None
    assert not conv.bias.any()


def test_batch_norm_switch() -> None:
    assert not [module for module in SRResNet(blocks=2).modules() if isinstance(module, nn.BatchNorm2d)]
    with_norm = SRResNet(blocks=2, batch_norm=True)
    assert len([module for module in with_norm.modules() if isinstance(module, nn.BatchNorm2d)]) == 4
    nn.init.zeros_(with_norm.conv_last.weight)
    assert not with_norm(torch.rand(1, 3, 8, 8)).any()  # no image skip: nothing but conv_last reaches the output


@pytest.mark.parametrize("crop", [32, 64, 96, 128])
def test_discriminator_gives_a_logit_per_image(crop: int) -> None:
    assert Discriminator(crop=crop, width=4)(torch.rand(2, 3, crop, crop)).shape == (2, 1)


def test_refusals_name_value_rule_and_remedy() -> None:
    with pytest.raises(ValueError, match=r"scale 5 is not supported; use one of 1, 2, 3, 4, 8"):
        RRDBNet(scale=5)
    with pytest.raises(ValueError, match=r"crop 100 is not a multiple of 32.*use 96 or 128"):
        Discriminator(crop=100)
    with pytest.raises(ValueError, match=r"64×64 crops was given 96×96"):
        Discriminator(crop=64, width=4)(torch.rand(2, 3, 96, 96))
