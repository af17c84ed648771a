"""The perceptual loss (Wang et al. 2018, §3.3)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Self, cast

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
import torchvision
from torch import Tensor, nn

from esrgan_lit.downloads import fetch_imagenet
from esrgan_lit.tensor_files import WeightsError, find_misfit, read_state

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
        self.network: VggName = network
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

    def every_layer(self, image: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Name and features before the activation of every convolution up to the chosen one, in order.

        Args:
            image: (batch, 3, height, width) RGB in [0, 1].
        """
        names = {index: name for name, index in vgg_layers(self.network).items()}
        maps = (image - self.mean) / self.std
        for index, module in enumerate(self._features[0]):
            # Not the network's own ReLU, which would overwrite what was given out.
            maps = F.relu(maps) if isinstance(module, nn.ReLU) else module(maps)
            if index in names:
                yield names[index], maps

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
        remedy = "or name the file (stage.perceptual.weights=FILE), or leave the term out (stage/perceptual=none)"
        weights = fetch_imagenet(imagenet.url, remedy)
    elif not Path(weights).is_file():
        raise ValueError(
            f"perceptual weights {str(weights)!r} is no file; give the path of a state dict with torchvision's "
            "keys (features.0.weight …) or MINC's (conv11.weight …), 'imagenet' or 'untrained'"
        )
    try:
        state = read_state(Path(weights))
    except WeightsError as error:
        raise ValueError(f"perceptual weights {error}") from error
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
    if misfit := find_misfit(features, state):
        raise ValueError(f"perceptual weights {str(weights)!r} are not of {network}: {misfit}")
    features.load_state_dict({key: state[key] for key in wanted})
    return features
