"""The perceptual loss (Wang et al. 2018, §3.3)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
import torchvision
from torch import Tensor, nn

from esrgan_lit.downloads import fetch_imagenet
from esrgan_lit.losses.frozen import FrozenNetwork
from esrgan_lit.tensor_files import WeightsError, find_misfit, read_state

VggName = Literal["vgg16", "vgg19"]


class PerceptualLoss(FrozenNetwork):
    """L1 distance of features of a frozen VGG network (§3.3), before the activation by default.

    Args:
        layer: convolution whose features are compared, ``conv1_1`` … ``conv5_4`` (``conv5_3`` for VGG16); or several
            with their weights, as Real-ESRGAN has them (Wang et al. 2021, §4.1): Σ weight · E|φ(output) − φ(target)|.
        before_activation: take the features before the ReLU (the paper's), or after (SRGAN's).
        network: ``vgg19``, or ``vgg16`` for the MINC variant of the PIRM challenge.
        weights: ``imagenet`` (torchvision's, downloaded on first use), ``untrained`` (random: fixed by ``seed``), or
            the path of a state dict with torchvision's keys (``features.0.weight`` …) or those of the authors' MINC
            file (``conv11.weight`` …), which may hold only the layers up to ``layer``.
        normalize: subtract the ImageNet mean and divide by its standard deviation (MINC's network wants neither).
        seed: of the untrained weights.
        channels: which of an image's channels VGG sees, from 0: three, or one that is repeated; None for the usual.

    VGG sees three channels. Of RGB those are all, of gray the one repeated, of four (RGBA, RGB and near infrared) the
    first three: the fourth is left to the pixel term and the discriminator. Of others ``channels`` must choose.

    The VGG network is kept out of every state dict: it never changes and would triple the checkpoints.

    Raises:
        ValueError: for a layer that the network does not have, or a file without the layers needed.
        OSError: when torchvision's weights cannot be downloaded.
    """

    def __init__(
        self,
        layer: str | Mapping[str, float] = "conv5_4",
        before_activation: bool = True,
        network: VggName = "vgg19",
        weights: str | Path = "imagenet",
        normalize: bool = True,
        seed: int = 0,
        channels: Sequence[int] | None = None,
    ) -> None:
        if channels is not None and (len(channels) not in (1, 3) or min(channels) < 0):
            raise ValueError(f"channels {list(channels)} are not three, or one, from 0; give for example [0, 1, 2]")
        names = vgg_layers(network)
        layers = {layer: 1.0} if isinstance(layer, str) else dict(layer)
        for name in layers:
            if name not in names:
                raise ValueError(f"layer {name!r} is not in {network}; use one of {', '.join(names)}")
        if not layers:
            raise ValueError("layer is an empty mapping; give one or more, such as {conv5_4: 1}")
        # Cutting right behind the tap also keeps torchvision's in-place ReLUs from overwriting it.
        depth = max(names[name] for name in layers) + (1 if before_activation else 2)
        super().__init__(_vgg_features(network, depth, weights, seed))
        self.channels = channels
        self._names = {index: name for name, index in names.items()}
        self.layers = None if isinstance(layer, str) else layers
        self.before_activation = before_activation
        mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if normalize else ((0.0,) * 3, (1.0,) * 3)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean absolute difference of the features of two (batch, channels, height, width) images in [0, 1]."""
        if self.layers is not None:
            with torch.no_grad():
                wanted_at = self._at_layers(target)
            made_at = self._at_layers(output)
            weighed = [weight * F.l1_loss(made_at[name], wanted_at[name]) for name, weight in self.layers.items()]
            return torch.stack(weighed).sum()
        with torch.no_grad():
            wanted = self.features(target)
        return F.l1_loss(self.features(output), wanted)

    def _at_layers(self, image: Tensor) -> dict[str, Tensor]:
        layers = self.layers or {}
        maps = {name: each for name, each in self.every_layer(image) if name in layers}
        return maps if self.before_activation else {name: F.relu(each) for name, each in maps.items()}

    def features(self, image: Tensor) -> Tensor:
        """Features of (batch, channels, height, width) images in [0, 1] at the chosen layer."""
        return self._frozen[0](self._normalized(image))

    def _normalized(self, image: Tensor) -> Tensor:
        """Return what VGG sees: (batch, 3, height, width)."""
        count = image.shape[1]
        if self.channels is not None:
            if max(self.channels) >= count:
                raise ValueError(f"stage.perceptual.channels={list(self.channels)} of images of {count} channels")
            image = image[:, list(self.channels)]
        elif count not in (1, 3, 4):
            raise ValueError(
                f"VGG sees three channels, and images have {count}; choose three, or one, such as "
                "'stage.perceptual.channels=[0,1,2]', or leave the term out, stage/perceptual=none"
            )
        return (image[:, :3] - self.mean) / self.std  # one channel is broadcast

    def every_layer(self, image: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Name and features before the activation of every convolution up to the chosen one, in order.

        Args:
            image: (batch, channels, height, width) in [0, 1].
        """
        maps = self._normalized(image)
        for index, module in enumerate(cast(nn.Sequential, self._frozen[0])):
            # Not the network's own ReLU, which would overwrite what was given out.
            maps = F.relu(maps) if isinstance(module, nn.ReLU) else module(maps)
            if index in self._names:
                yield self._names[index], maps


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
