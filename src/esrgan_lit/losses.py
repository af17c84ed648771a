"""The terms of ESRGAN's losses, unweighted (Wang et al. 2018, §3.2–3.4). Stages weigh, sum and log them."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self, cast

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
import torchvision
from torch import Tensor, nn

Mean = Callable[[Tensor], Tensor]
PixelLoss = nn.L1Loss  # L1 of Eq. 3: mean absolute error over all samples of all images


class RelativisticAverageLoss:
    """Relativistic average GAN loss (Eqs. 1 and 2; Jolicoeur-Martineau 2018).

    Args:
        halved: multiply both losses by ½, as the released code did (the released weights' λ = 5e-3 includes it); the
            paper's formula has no such factor.
        detach_means: cut the gradient through the opponent's mean in the discriminator's loss, as BasicSR and mmagic
            do; the paper's gradient flows through both.

    The methods take logits of any shape, and ``mean``, which gives E[·] over the mini-batch: with several ranks the
    caller passes a mean over all of them, or else the loss would depend on the number of GPUs.
    """

    def __init__(self, halved: bool = True, detach_means: bool = False) -> None:
        self.factor = 0.5 if halved else 1.0
        self.detach_means = detach_means

    def discriminator(self, real: Tensor, fake: Tensor, mean: Mean = torch.mean) -> Tensor:
        """L_D^Ra (Eq. 1): real should look more real than the average fake, fake less real than the average real."""
        mean_of = (lambda logits: mean(logits).detach()) if self.detach_means else mean
        return self.factor * relativistic_loss(real, fake, mean_of)

    def generator(self, real: Tensor, fake: Tensor, mean: Mean = torch.mean) -> Tensor:
        """L_G^Ra (Eq. 2): the same with the roles exchanged."""
        return self.factor * relativistic_loss(fake, real, mean)

    def believed(self, real: Tensor, fake: Tensor, mean: Mean = torch.mean) -> tuple[Tensor, Tensor]:
        """Whether the discriminator finds each real and each fake image more real than the average of the others."""
        return real > mean(fake), fake > mean(real)


class StandardLoss:
    """The standard GAN loss as SRGAN has it: binary cross-entropy, non-saturating for the generator."""

    def discriminator(self, real: Tensor, fake: Tensor, mean: Mean = torch.mean) -> Tensor:
        """−log D(real) − log(1 − D(fake)); ``mean`` is not needed."""
        return _cross_entropy(real, 1) + _cross_entropy(fake, 0)

    def generator(self, real: Tensor, fake: Tensor, mean: Mean = torch.mean) -> Tensor:
        """−log D(fake); ``real`` and ``mean`` are not needed."""
        return _cross_entropy(fake, 1)

    def believed(self, real: Tensor, fake: Tensor, mean: Mean = torch.mean) -> tuple[Tensor, Tensor]:
        """Whether the discriminator takes each real and each fake image for real; ``mean`` is not needed."""
        return real > 0, fake > 0


def relativistic_loss(more_real: Tensor, less_real: Tensor, mean: Mean = torch.mean) -> Tensor:
    """Cross-entropy of "each ``more_real`` is more real than the mean ``less_real``, and the reverse".

    D calls it with (real, fake): Eq. 1. G calls it with (fake, real): Eq. 2.

    Args:
        more_real: logits that should come out above the other's mean.
        less_real: logits that should come out below the other's mean.
        mean: E[·] over the (global) mini-batch.
    """
    return _cross_entropy(more_real - mean(less_real), 1) + _cross_entropy(less_real - mean(more_real), 0)


def _cross_entropy(logits: Tensor, target: int) -> Tensor:
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


VggName = Literal["vgg16", "vgg19"]


class PerceptualLoss(nn.Module):
    """L1 distance of features of a frozen VGG network (§3.3), before the activation by default.

    Args:
        layer: convolution whose features are compared, ``conv1_1`` … ``conv5_4`` (``conv5_3`` for VGG16).
        before_activation: take the features before the ReLU (the paper's), or after (SRGAN's).
        network: ``vgg19``, or ``vgg16`` for the MINC variant of the PIRM challenge.
        weights: ``imagenet`` (torchvision's, downloaded on first use), ``untrained`` (random: fixed by ``seed``), or
            the path of a state dict with torchvision's keys (``features.0.weight`` …) or those of the authors' MINC
            file (``conv11.weight`` …), which may hold only the layers up to ``layer``.
        normalize: subtract the ImageNet mean and divide by its standard deviation (MINC's network wants neither).
        seed: of the untrained weights.

    The VGG network is kept out of every state dict: it never changes and would triple the checkpoints.

    Raises:
        ValueError: for a layer that the network does not have, or a file without the layers needed.
        OSError: when torchvision's weights cannot be downloaded.
    """

    def __init__(
        self,
        layer: str = "conv5_4",
        before_activation: bool = True,
        network: VggName = "vgg19",
        weights: str | Path = "imagenet",
        normalize: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        names = vgg_layers(network)
        if layer not in names:
            raise ValueError(f"layer {layer!r} is not in {network}; use one of {', '.join(names)}")
        # Cutting right behind the tap also keeps torchvision's in-place ReLUs from overwriting it.
        depth = names[layer] + (1 if before_activation else 2)
        # In a tuple the network is no submodule: no state dict, optimizer or DDP reducer ever sees it.
        self._features = (_vgg_features(network, depth, weights, seed).eval().requires_grad_(False),)
        mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if normalize else ((0.0,) * 3, (1.0,) * 3)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean absolute difference of the features of two (batch, 3, height, width) RGB images in [0, 1]."""
        with torch.no_grad():
            wanted = self.features(target)
        return F.l1_loss(self.features(output), wanted)

    def features(self, image: Tensor) -> Tensor:
        """Features of (batch, 3, height, width) RGB images in [0, 1] at the chosen layer."""
        return self._features[0]((image - self.mean) / self.std)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._features[0]._apply(fn, recurse)  # what moves or converts this module moves the network too
        return super()._apply(fn, recurse)


def vgg_layers(network: VggName) -> dict[str, int]:
    """Names of the convolutions of a VGG network, with their index in torchvision's ``features``."""
    builders = {"vgg16": torchvision.models.vgg16, "vgg19": torchvision.models.vgg19}
    if network not in builders:
        raise ValueError(f"network {network!r} is not known; use vgg16 or vgg19")
    with torch.device("meta"):
        layers = cast(nn.Sequential, builders[network]().features)
    names, block, position = {}, 1, 1
    for index, module in enumerate(layers):
        if isinstance(module, nn.MaxPool2d):
            block, position = block + 1, 1
        elif isinstance(module, nn.Conv2d):
            names[f"conv{block}_{position}"] = index
            position += 1
    return names


def _vgg_features(network: VggName, depth: int, weights: str | Path, seed: int) -> nn.Sequential:
    builder, imagenet = {
        "vgg16": (torchvision.models.vgg16, torchvision.models.VGG16_Weights.IMAGENET1K_V1),
        "vgg19": (torchvision.models.vgg19, torchvision.models.VGG19_Weights.IMAGENET1K_V1),
    }[network]
    with torch.device("meta"):
        features = builder().features[:depth]
    features = features.to_empty(device="cpu")
    if weights == "untrained":
        generator = torch.Generator().manual_seed(seed)
        for module in features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
                nn.init.zeros_(cast(Tensor, module.bias))
        return features
    if weights == "imagenet":
        try:
            state = imagenet.get_state_dict(progress=True, check_hash=True)
        except OSError as error:
            raise OSError(
                f"the ImageNet weights of {network} could not be downloaded ({error}). Download {imagenet.url} by hand "
                "and name the file (stage.perceptual.weights=FILE), or leave the term out (stage/perceptual=none)"
            ) from error
    else:
        if not Path(weights).is_file():
            raise ValueError(
                f"perceptual weights {str(weights)!r} is no file; give the path of a state dict with torchvision's "
                "keys (features.0.weight …) or MINC's (conv11.weight …), 'imagenet' or 'untrained'"
            )
        state = torch.load(weights, map_location="cpu", weights_only=True)
    wanted = features.state_dict()
    # conv1_1 is features.0 to torchvision, conv11 in the authors' MINC file.
    indices = {name.replace("_", ""): str(index) for name, index in vgg_layers(network).items()}
    parts = {key: key.removeprefix("features.").partition(".") for key in state}
    state = {f"{indices.get(layer, layer)}.{kind}": state[key] for key, (layer, _, kind) in parts.items()}
    missing = [key for key in wanted if key not in state]
    if missing:
        last = max((name for name, index in vgg_layers(network).items() if f"{index}.weight" in state), default="none")
        raise ValueError(
            f"perceptual weights {str(weights)!r} lack features.{missing[0]} and {len(missing) - 1} more of the "
            f"{len(wanted)} tensors needed; use a layer that the file holds (its deepest is {last}) or a fuller file"
        )
    features.load_state_dict({key: state[key] for key in wanted})
    return features
