"""Real-ESRGAN's discriminator against its definition by torch's own layers, and its trainings against a plain loop."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.utils import spectral_norm
from torch.utils.data import DataLoader

from esrgan_lit import GanStage, RRDBNet, UNetDiscriminator
from esrgan_lit.degradations.pairs import Pair
from esrgan_lit.losses.adversarial import RelativisticAverageLoss, StandardLoss
from esrgan_lit.tensor_files import WeightsError
from esrgan_lit.training.trainer import train

ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.9, 0.99))


class Reference(nn.Module):
    """The network as design/real_world.md §5 states it, with torch's own hook as public files were made with."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        widths = [(width, 2 * width), (2 * width, 4 * width), (4 * width, 8 * width)]
        back = [(8 * width, 4 * width), (4 * width, 2 * width), (2 * width, width), (width, width), (width, width)]
        self.conv0 = nn.Conv2d(3, width, 3, 1, 1)
        for number, pair in enumerate(widths, 1):
            self.add_module(f"conv{number}", spectral_norm(nn.Conv2d(*pair, 4, 2, 1, bias=False)))
        for number, pair in enumerate(back, 4):
            self.add_module(f"conv{number}", spectral_norm(nn.Conv2d(*pair, 3, 1, 1, bias=False)))
        self.conv9 = nn.Conv2d(width, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for number in range(4):
            x = F.leaky_relu(getattr(self, f"conv{number}")(x), 0.2)
            skips.append(x)
        for number, skip in zip((4, 5, 6), skips[2::-1], strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = F.leaky_relu(getattr(self, f"conv{number}")(x), 0.2) + skip
        for number in (7, 8):
            x = F.leaky_relu(getattr(self, f"conv{number}")(x), 0.2)
        return self.conv9(x)


def unet_and_reference() -> tuple[UNetDiscriminator, Reference]:
    torch.manual_seed(5)
    reference = Reference().double()
    ours = UNetDiscriminator(width=4).double()
    ours.load_state_dict(reference.state_dict())  # strict: the names are the public files'
    return ours, reference


def pairs(steps: int) -> list[Pair]:
    torch.manual_seed(1)
    return [Pair(torch.rand(2, 3, 6, 6).double(), torch.rand(2, 3, 24, 24).double()) for _ in range(steps)]


def bce(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def plain_loop(generator: nn.Module, discriminator: nn.Module, kind: str, steps: int) -> None:
    """The public order of work: every loss has forwards of its own."""
    adam_g, adam_d = ADAM(generator.parameters()), ADAM(discriminator.parameters())
    for low_res, high_res in pairs(steps):
        fake = generator(low_res)
        discriminator.requires_grad_(False)
        if kind == "standard":
            loss = bce(discriminator(fake), 1)
        else:
            real_logits, fake_logits = discriminator(high_res), discriminator(fake)
            loss = (bce(real_logits - fake_logits.mean(), 0) + bce(fake_logits - real_logits.mean(), 1)) / 2
        adam_g.zero_grad()
        (0.1 * loss + (fake - high_res).abs().mean()).backward()
        adam_g.step()
        discriminator.requires_grad_(True)
        real_logits, fake_logits = discriminator(high_res), discriminator(fake.detach())
        if kind == "standard":
            loss = bce(real_logits, 1) + bce(fake_logits, 0)
        else:
            loss = (bce(real_logits - fake_logits.mean(), 1) + bce(fake_logits - real_logits.mean(), 0)) / 2
        adam_d.zero_grad()
        loss.backward()
        adam_d.step()


def gan_stage(discriminator: nn.Module, adversarial: Any, **more: Any) -> GanStage:
    torch.manual_seed(3)
    return GanStage(
        RRDBNet(4, 1, 8, 4),
        discriminator,
        perceptual=None,
        adversarial=adversarial,
        loss_weights={"pixel": 1.0, "adversarial": 0.1},
        optimizer=ADAM,
        discriminator_optimizer=ADAM,
        scheduler=None,
        discriminator_scheduler=None,
        start_from="scratch",
        **more,
    )


def fit(stage: L.LightningModule, steps: int) -> L.Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", precision="64-true", max_steps=steps, **quiet)
    trainer.fit(stage, DataLoader(pairs(steps), batch_size=None))
    return trainer


def test_it_has_the_published_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in UNetDiscriminator().parameters()) == 4_376_897


@pytest.mark.parametrize("training", [True, False])
def test_it_equals_its_definition_forward_after_forward(training: bool) -> None:
    ours, reference = (network.train(training) for network in unet_and_reference())
    for _ in range(3):
        x = torch.rand(1, 3, 16, 24).double()
        torch.testing.assert_close(ours(x), reference(x), rtol=0, atol=1e-12)
    for key, value in reference.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*defined a `validation_step`", "ignore:.*many workers")
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("kind", ["standard", "relativistic"])
def test_gan_steps_equal_a_plain_loops(kind: str, steps: int) -> None:
    """Parameters of both networks, and u and v: the power iteration advances as often."""
    ours, reference = unet_and_reference()
    stage = gan_stage(ours, StandardLoss() if kind == "standard" else RelativisticAverageLoss())
    generator = copy.deepcopy(stage.generator).double()
    plain_loop(generator, reference, kind, steps)
    forwards: list[int] = []
    ours.register_forward_hook(lambda *_: forwards.append(1))
    fit(stage, steps)
    assert len(forwards) == steps * (3 if kind == "standard" else 4)
    for made, wanted in ((stage.generator, generator), (stage.discriminator, reference)):
        for key, value in wanted.state_dict().items():
            torch.testing.assert_close(made.state_dict()[key], value, rtol=0, atol=1e-10, msg=key)


@pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*defined a `validation_step`", "ignore:.*many workers")
def test_trained_alone_it_equals_a_plain_loop_of_its_own(tmp_path: Path) -> None:
    ours, reference = unet_and_reference()
    stage = gan_stage(ours, StandardLoss(), discriminator_warmup=3)
    generator = copy.deepcopy(stage.generator).double()
    adam = ADAM(reference.parameters())
    for low_res, high_res in pairs(3):
        with torch.no_grad():
            fake = generator(low_res)
        adam.zero_grad()
        (bce(reference(high_res), 1) + bce(reference(fake), 0)).backward()
        adam.step()
    trainer = fit(stage, 3)
    for key, value in reference.state_dict().items():
        torch.testing.assert_close(stage.discriminator.state_dict()[key], value, rtol=0, atol=1e-10, msg=key)
    trainer.save_checkpoint(tmp_path / "python.ckpt", weights_only=False)  # which holds no configuration
    again = GanStage.load_from_checkpoint(tmp_path / "python.ckpt")
    assert torch.equal(again.discriminator.conv8.weight_v, stage.discriminator.conv8.weight_v.float())


@pytest.mark.slow
def test_compiled_in_one_graph_it_is_the_same() -> None:
    ours = unet_and_reference()[0]
    plain = copy.deepcopy(ours)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        x = torch.rand(1, 3, 16, 16).double()
        results = []
        for network, run in ((ours, compiled), (plain, plain)):
            logits = run(x)
            results.append([logits, *torch.autograd.grad(logits.sin().sum(), list(network.parameters()))])
        torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.conv3.weight_u, plain.conv3.weight_u, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (37, 50), (15, 24)])
def test_any_size_from_8_up_has_a_logit_per_pixel(height: int, width: int) -> None:
    assert UNetDiscriminator(width=4)(torch.rand(2, 3, height, width)).shape == (2, 1, height, width)


def test_a_smaller_image_is_refused() -> None:
    with pytest.raises(ValueError, match="was given 7×24; both sides must be 8 or more"):
        UNetDiscriminator(width=4)(torch.rand(1, 3, 7, 24))


def test_half_precision_computes_sigma_and_logits_in_full() -> None:
    ours, _ = unet_and_reference()
    ours = ours.float()
    before = copy.deepcopy(ours)
    x = torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        logits = ours(x)
    before(x)
    assert logits.dtype == torch.float32
    assert torch.equal(ours.conv5.weight_u, before.conv5.weight_u)


def test_public_files_start_it_and_others_are_refused(tmp_path: Path) -> None:
    _, reference = unet_and_reference()
    state = reference.float().state_dict()
    torch.save({"params": state}, tmp_path / "netD.pth")
    stage = gan_stage(UNetDiscriminator(4), StandardLoss(), discriminator_from=tmp_path / "netD.pth")
    for key, value in state.items():
        assert torch.equal(stage.discriminator.state_dict()[key], value)
    with pytest.raises(WeightsError, match=r"conv0.weight is 4×3×3×3 there and 8×3×3×3 here"):
        gan_stage(UNetDiscriminator(8), StandardLoss(), discriminator_from=tmp_path / "netD.pth")
    with pytest.raises(WeightsError, match=r"U-Net with spectral norm; give stage/discriminator=unet"):
        GanStage(RRDBNet(4, 1, 8, 4), start_from="scratch", perceptual=None, discriminator_from=tmp_path / "netD.pth")
    torch.save({"params": OrderedDict(list(state.items())[:-1])}, tmp_path / "cut.pth")
    with pytest.raises(WeightsError, match=r"conv9.bias is absent there"):
        gan_stage(UNetDiscriminator(4), StandardLoss(), discriminator_from=tmp_path / "cut.pth")


@pytest.mark.parametrize("adversarial", ["standard", "relativistic_average"])
def test_it_trains_by_one_override_and_is_made_anew_from_a_checkpoint(
    configure: Callable[..., DictConfig], adversarial: str
) -> None:
    last = train(configure("gan_rrdb23", "stage/discriminator=unet", f"stage/adversarial={adversarial}", "crop=36"))
    stage = GanStage.load_from_checkpoint(last)
    assert isinstance(stage.discriminator, UNetDiscriminator)
    state = torch.load(last, weights_only=True)["state_dict"]
    assert torch.equal(stage.discriminator.conv4.weight_u, state["discriminator.conv4.weight_u"])
