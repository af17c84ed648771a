"""Sizes and layouts of the networks, against the published counts and an independent implementation."""

import copy
import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

from esrgan_lit import Discriminator, RRDBNet, SRResNet
from esrgan_lit.networks.dense_block import ResidualDenseBlock
from esrgan_lit.networks.generator import Generator
from esrgan_lit.networks.layers import scaled_init_


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
    ours = rough(RRDBNet(blocks=2))
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


def rough(network: nn.Module) -> nn.Module:
    """Weights of which every layer shows in the output: as initialised, the blocks contribute next to nothing."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    return network


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dense_block_in_one_buffer_has_the_bits_of_the_usual_one(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    block = rough(ResidualDenseBlock(16, 8)).to(dtype=dtype, memory_format=layout)
    x = torch.randn(3, 16, 10, 9, dtype=dtype).to(memory_format=layout).requires_grad_()
    results = []
    for forward in (block, block.concatenating):
        y = forward(x)
        results.append([y, *torch.autograd.grad(y.sin().sum(), [x, *block.parameters()])])
    assert all(torch.equal(ours, usual) for ours, usual in zip(*results, strict=True))


def test_generator_keeps_a_third_of_the_memory_for_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(network: nn.Module) -> int:
        storages: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            output = network.body(network.conv_first(torch.rand(1, 3, 32, 32)))
        weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
        assert output.requires_grad
        return sum(size for pointer, size in storages.items() if pointer not in weights)

    network = RRDBNet(blocks=23)
    ours = kept(network)
    monkeypatch.setattr(ResidualDenseBlock, "with_skip", lambda block, x: (x, block.concatenating(x)))
    assert ours <= 0.35 * kept(network)


def test_a_dense_blocks_skip_alone_has_its_gradient() -> None:
    block = ResidualDenseBlock(8, 4)
    x = torch.rand(1, 8, 5, 6, requires_grad=True)
    block.with_skip(x)[0].sum().backward()
    assert x.grad is not None
    assert (x.grad == 1).all()
    assert all(parameter.grad is None for parameter in block.parameters())


def test_autocast_gives_gradients_in_float32() -> None:
    network = rough(RRDBNet(4, 1, 8, 4))
    with torch.autocast("cpu", torch.bfloat16):
        output = network(torch.rand(1, 3, 8, 8))
    output.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("options", [{"growth": 4}, {"growth": 4, "bicubic_skip": True}, {}, {"batch_norm": True}])
def test_the_tail_sees_no_further_than_it_says(scale: int, options: dict) -> None:
    kind = RRDBNet if "growth" in options else SRResNet
    generator = rough(kind(scale=scale, blocks=1, width=8, **options)).double().eval()
    low_res = torch.rand(1, 3, 16, 9, dtype=torch.float64)
    with torch.no_grad():
        head, features = generator.trunk(generator.head(low_res))
        whole = generator.tail(features, head)
        reach = generator.tail_reach
        rows = slice(6 - reach, 9 + reach)
        strip = generator.tail(features[:, :, rows], generator.head(low_res[:, :, rows]))
        if (skip := generator.image_skip(low_res)) is not None:
            whole += skip
            strip += generator.image_skip(low_res[:, :, rows])
    torch.testing.assert_close(
        strip[:, :, reach * scale : (reach + 3) * scale], whole[:, :, 6 * scale : 9 * scale], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    "generator",
    [RRDBNet(2, 3, 8, 4), SRResNet(2, 3, 8), SRResNet(2, 3, 8, batch_norm=True)],
    ids=lambda generator: generator.architecture["name"],
)
def test_blocks_and_the_whole_network_see_as_far_as_they_say(generator: Generator) -> None:
    generator = rough(generator).double().eval()
    blocks = generator.blocks[:1], generator
    for part, reach, channels in ((blocks[0], generator.block_reach, 8), (blocks[1], generator.receptive_field, 3)):
        side = 2 * reach + 3
        x = torch.rand(1, channels, side, side, dtype=torch.float64, requires_grad=True)
        y = part(x)
        middle = y.shape[2] // 2
        y[..., middle, middle].sum().backward()
        seen = x.grad.abs().sum((0, 1)).nonzero()
        assert reach >= (seen - side // 2).abs().max() >= reach - 1  # the tail sees a part of its last pixel


@pytest.mark.parametrize(("scale", "unshuffle"), [(2, 2), (1, 4), (1, 2)])
def test_unshuffling_networks_equal_an_independent_implementation(scale: int, unshuffle: int) -> None:
    spandrel = pytest.importorskip("spandrel")
    ours = rough(RRDBNet(scale=scale, blocks=1, unshuffle=unshuffle))
    theirs = spandrel.ModelLoader().load_from_state_dict(ours.state_dict())
    assert theirs.scale == scale
    image = torch.rand(1, 3, 13, 18)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs.model(image))


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


@pytest.mark.parametrize("options", [{"scale": 2, "blocks": 1}, {"scale": 3, "blocks": 1, "width": 8}])
@pytest.mark.parametrize("kind", [RRDBNet, SRResNet])
def test_the_architecture_builds_the_same_network(kind: type[Generator], options: dict[str, int]) -> None:
    generator = kind(**options)
    arguments = dict(generator.architecture)
    assert arguments.pop("name") == kind.__name__
    assert arguments == {**{n: p.default for n, p in inspect.signature(kind).parameters.items()}, **options}
    assert kind(**arguments).architecture == generator.architecture == copy.deepcopy(generator).architecture
    assert kind(*arguments.values()).architecture == generator.architecture


def test_a_generator_says_how_far_it_sees() -> None:
    class Blind(Generator):
        pass

    with pytest.raises(TypeError, match="Blind does not say how far it sees; give the class block_reach"):
        Blind(scale=2)


def test_refusals_name_value_rule_and_remedy() -> None:
    for make, value in (
        (lambda: RRDBNet(blocks=-1), "blocks -1"),
        (lambda: RRDBNet(blocks=0), "blocks 0"),
        (lambda: RRDBNet(width=0), "width 0"),
        (lambda: RRDBNet(growth=2.5), r"growth 2\.5"),
        (lambda: RRDBNet(scale=0), "scale 0"),
        (lambda: RRDBNet(channels=0), "channels 0"),
        (lambda: RRDBNet(unshuffle=0), "unshuffle 0"),
        (lambda: SRResNet(blocks=-1), "blocks -1"),
        (lambda: SRResNet(width=-8), "width -8"),
        (lambda: Discriminator(width=0), "width 0"),
        (lambda: Discriminator(channels=-3), "channels -3"),
    ):
        with pytest.raises(ValueError, match=f"{value} is too small or not whole; use a whole number of at least 1"):
            make()
    with pytest.raises(ValueError, match=r"scale 5 is not supported; use one of 1, 2, 3, 4, 8"):
        SRResNet(scale=5)
    with pytest.raises(ValueError, match=r"scale 5 is not supported; use one of 1, 2, 3, 4, 8"):
        RRDBNet(scale=5)
    with pytest.raises(ValueError, match=r"crop 100 is not a multiple of 32.*use 96 or 128"):
        Discriminator(crop=100)
    with pytest.raises(ValueError, match=r"64×64 crops was given 96×96"):
        Discriminator(crop=64, width=4)(torch.rand(2, 3, 96, 96))
