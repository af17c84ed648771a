"""The losses against their formulas written in NumPy."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from esrgan_lit.losses.adversarial import RelativisticAverageLoss, StandardLoss
from esrgan_lit.losses.perceptual import PerceptualLoss, vgg_layers

REAL = np.array([[1.5], [-0.3], [2.0], [0.1]])
FAKE = np.array([[-1.0], [0.4], [0.9], [-2.2]])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def logits() -> tuple[torch.Tensor, ...]:
    """Of real and of generated images, and their means."""
    real, fake = torch.tensor(REAL, requires_grad=True), torch.tensor(FAKE, requires_grad=True)
    return real, fake, real.mean(), fake.mean()


@pytest.mark.parametrize(("halved", "factor"), [(True, 0.5), (False, 1.0)])
def test_relativistic_average_loss_is_equations_1_and_2(halved: bool, factor: float) -> None:
    loss = RelativisticAverageLoss(halved=halved)
    real_over_fake, fake_over_real = sigmoid(REAL - FAKE.mean()), sigmoid(FAKE - REAL.mean())
    equation_1 = -np.log(real_over_fake).mean() - np.log(1 - fake_over_real).mean()
    equation_2 = -np.log(1 - real_over_fake).mean() - np.log(fake_over_real).mean()
    assert loss.discriminator(*logits()).item() == pytest.approx(factor * equation_1, abs=1e-12)
    assert loss.generator(*logits()).item() == pytest.approx(factor * equation_2, abs=1e-12)


def test_standard_loss_is_srgans() -> None:
    discriminator = -np.log(sigmoid(REAL)).mean() - np.log(1 - sigmoid(FAKE)).mean()
    assert StandardLoss().discriminator(*logits()).item() == pytest.approx(discriminator, abs=1e-12)
    assert StandardLoss().generator(*logits()).item() == pytest.approx(-np.log(sigmoid(FAKE)).mean(), abs=1e-12)


def test_accuracy_is_the_share_of_images_on_their_side() -> None:
    """Above the other kind's mean (relativistic), or above 0 (standard)."""
    for loss, real_at, fake_at in (
        (RelativisticAverageLoss(), FAKE.mean(), REAL.mean()),
        (StandardLoss(), 0.0, 0.0),
    ):
        real, fake = loss.accuracy(*logits())
        assert (real.item(), fake.item()) == ((real_at < REAL).mean(), (fake_at >= FAKE).mean())


def test_detached_means_change_the_discriminators_gradient_only() -> None:
    gradients, values = {}, {}
    for detach in (False, True):
        loss = RelativisticAverageLoss(detach_means=detach)
        both = logits()
        values[detach] = loss.discriminator(*both)
        gradients[detach] = torch.autograd.grad(values[detach], both[:2])
        both = logits()
        gradients[detach] += torch.autograd.grad(loss.generator(*both), both[:2])
    torch.testing.assert_close(values[True], values[False])
    # ∂/∂real of ½·mean(softplus(−(real − E fake))) alone, the means held constant.
    alone = -0.5 * sigmoid(-(REAL - FAKE.mean())) / len(REAL)
    np.testing.assert_allclose(gradients[True][0].numpy(), alone, atol=1e-12)
    assert not np.allclose(gradients[False][0].numpy(), alone, atol=1e-3)
    torch.testing.assert_close(gradients[True][2:], gradients[False][2:])


def test_perceptual_loss_is_the_l1_distance_of_torchvisions_features() -> None:
    term = PerceptualLoss("conv2_2", weights="untrained", seed=3)
    torch.manual_seed(0)
    output, target = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    vgg = torchvision.models.vgg19().features[:8]
    vgg.load_state_dict(term._frozen[0].state_dict())
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalized = [(image - mean.view(3, 1, 1)) / std.view(3, 1, 1) for image in (output, target)]
    with torch.no_grad():
        expected = (vgg(normalized[0]) - vgg(normalized[1])).abs().mean()
    torch.testing.assert_close(term(output, target), expected)


def test_before_and_after_activation() -> None:
    image = torch.rand(1, 3, 32, 32)
    before = PerceptualLoss("conv2_2", True, weights="untrained").features(image)
    after = PerceptualLoss("conv2_2", False, weights="untrained").features(image)
    assert (before < 0).any()
    torch.testing.assert_close(before.relu(), after)


def test_layer_names_are_the_papers() -> None:
    layers = vgg_layers("vgg19")
    assert len(layers) == 16
    assert layers["conv5_4"] == 34
    assert list(vgg_layers("vgg16").items())[-1] == ("conv5_3", 28)


def test_the_vgg_network_is_frozen_and_in_no_state_dict() -> None:
    term = PerceptualLoss("conv1_2", weights="untrained")
    assert not list(term.parameters())
    assert not term.state_dict()
    assert term.double()._frozen[0][0].weight.dtype == torch.float64  # but it moves with the module
    output = torch.rand(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    term(output, torch.rand(1, 3, 32, 32, dtype=torch.float64)).backward()
    assert output.grad is not None
    assert term._frozen[0][0].weight.grad is None


def test_a_file_may_hold_only_the_layers_needed(tmp_path: Path) -> None:
    state = {f"features.{key}": value for key, value in torchvision.models.vgg19().features[:8].state_dict().items()}
    torch.save(state, tmp_path / "half.pth")
    term = PerceptualLoss("conv2_2", weights=tmp_path / "half.pth")
    torch.testing.assert_close(term._frozen[0][0].weight, state["features.0.weight"])
    with pytest.raises(ValueError, match=r"lack features\.10\.weight.*deepest is conv2_2"):
        PerceptualLoss("conv3_1", weights=tmp_path / "half.pth")
    with pytest.raises(ValueError, match="is no file"):
        PerceptualLoss(weights=tmp_path / "none.pth")
    with pytest.raises(ValueError, match="conv6_1"):
        PerceptualLoss("conv6_1")


def test_mincs_file_loads_under_its_own_names(tmp_path: Path) -> None:
    layers = vgg_layers("vgg16")
    theirs = torchvision.models.vgg16().features[:29].state_dict()
    names = {str(index): name.replace("_", "") for name, index in layers.items()}
    torch.save({names[key.split(".")[0]] + "." + key.split(".")[1]: theirs[key] for key in theirs}, tmp_path / "m.pth")
    term = PerceptualLoss("conv5_3", network="vgg16", weights=tmp_path / "m.pth", normalize=False)
    for key, value in term._frozen[0].state_dict().items():
        torch.testing.assert_close(value, theirs[key])
    image = torch.rand(1, 3, 16, 16)
    network = torchvision.models.vgg16().features[:29]
    network.load_state_dict(theirs)
    torch.testing.assert_close(term.features(image), network(image))


def test_real_vgg_weights_load(real_weights: Path) -> None:
    term = PerceptualLoss("conv3_4", weights=real_weights / "vgg19_conv1_1-conv3_4.pth")
    image = torch.rand(1, 3, 64, 64)
    assert term(image, image) == 0
    assert term(image, torch.rand(1, 3, 64, 64)) > 1
