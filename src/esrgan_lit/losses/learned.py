"""Distances learned from people's judgments, LPIPS and DISTS: as losses, and their networks for the metrics."""

import re
from pathlib import Path
from typing import Literal, get_args
from unittest.mock import patch

from torch import Tensor, nn

from esrgan_lit.downloads import fetch_imagenet
from esrgan_lit.files import digest
from esrgan_lit.losses.frozen import FrozenNetwork
from esrgan_lit.private_api import without_autocast
from esrgan_lit.tensor_files import WeightsError, find_misfit, read_state

LpipsNetwork = Literal["alex", "vgg", "squeeze"]


class LpipsLoss(FrozenNetwork):
    """LPIPS 0.1 (Zhang et al. 2018, Eq. 1), by torchmetrics' parts: Σ over layers of mean ‖w ⊙ (ŷ − ŷ₀)‖² of features.

    ŷ are features of unit length over the channels. Computed in float32. Rank checkpoints by another metric: a network
    gets better by what it is trained for, whatever its images look like.

    Args:
        network: ``vgg``, which the authors recommend as a loss, ``alex``, which papers report, or ``squeeze``.
        weights: a file of torchvision's ImageNet weights; None downloads them on first use.

    Raises:
        ValueError: for a network that is not known, or a file that does not hold its weights.
        OSError: when torchvision's weights cannot be downloaded.
    """

    metric = "lpips"

    def __init__(self, network: LpipsNetwork = "vgg", weights: str | Path | None = None) -> None:
        if network not in get_args(LpipsNetwork):
            raise ValueError(f"network {network!r} of LPIPS is not known; use {', '.join(get_args(LpipsNetwork))}")
        super().__init__(lpips_network(network, weights, "stage.losses.lpips.weights=FILE")[0])

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean distance of (batch, 3, height, width) RGB images in [0, 1], 0-dimensional."""
        network = self._frozen[0]
        with without_autocast(output):
            return network(*_as_wide(network, output, target), normalize=True).mean()


class DistsLoss(FrozenNetwork):
    """DISTS (Ding et al. 2020, Eq. 7), by torchmetrics' parts: 1 − Σ α·l + β·s over the maps of VGG16 and the image.

    l compares the maps' means, s their covariance (Eqs. 5 and 6). Computed in float32. Rank checkpoints by another
    metric: a network gets better by what it is trained for, whatever its images look like.

    Args:
        weights: a file of torchvision's ImageNet weights of VGG16; None downloads them on first use.

    Raises:
        ValueError: for a file that does not hold them.
        OSError: when they cannot be downloaded.
    """

    metric = "dists"

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__(dists_network(weights, "stage.losses.dists.weights=FILE")[0])

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean distance of (batch, 3, height, width) RGB images in [0, 1], 0-dimensional."""
        network = self._frozen[0]
        with without_autocast(output):
            return network(*_as_wide(network, output, target), require_grad=True).mean()


def lpips_network(name: LpipsNetwork, weights: str | Path | None, setting: str) -> tuple[nn.Module, str, str]:
    """Build LPIPS of torchmetrics, with ImageNet weights that are read without being run.

    Args:
        name: of the network below.
        weights: a file; None downloads it.
        setting: what a file is given by, for messages.

    Returns:
        The network, frozen; the SHA-256 of its file; the address of torchvision's.

    Raises:
        ValueError: for a file that does not hold the weights.
        OSError: when they cannot be downloaded.
    """
    from torchmetrics.functional.image.lpips import _LPIPS
    from torchvision import models

    files = {
        "alex": models.AlexNet_Weights.IMAGENET1K_V1,
        "vgg": models.VGG16_Weights.IMAGENET1K_V1,
        "squeeze": models.SqueezeNet1_1_Weights.IMAGENET1K_V1,
    }
    address = files[name].url
    network = _LPIPS(net=name, pnet_rand=True)
    return network.requires_grad_(False), _load_imagenet(network.net, address, weights, setting), address


def dists_network(weights: str | Path | None, setting: str) -> tuple[nn.Module, str, str]:
    """Build DISTS of torchmetrics; see :func:`lpips_network`.

    Args:
        weights: a file; None downloads it.
        setting: what a file is given by, for messages.
    """
    from torchmetrics.functional.image import dists
    from torchvision import models

    # Its constructor has torchvision download and unpickle the weights of VGG16; here it gets the network without them.
    with patch.object(dists, "vgg16", lambda weights: models.vgg16(init_weights=False)):
        network = dists.DISTSNetwork()
    address = models.VGG16_Weights.IMAGENET1K_V1.url
    fingerprint = _load_imagenet(network, address, weights, setting)
    return network.eval().requires_grad_(False), fingerprint, address


def _as_wide(network: nn.Module, *images: Tensor) -> tuple[Tensor, ...]:
    return tuple(image.to(next(network.parameters()).dtype) for image in images)


def _load_imagenet(network: nn.Module, address: str, given: str | Path | None, setting: str) -> str:
    """Load torchvision's ImageNet weights, or a given file of such, into a network made of torchvision's layers.

    Returns:
        The SHA-256 of the file.
    """
    if given is not None and not Path(given).is_file():
        raise ValueError(f"{given} is no file; give {address.rsplit('/', 1)[1]} as {setting}")
    path = Path(given) if given is not None else fetch_imagenet(address, f"or name the file: {setting}")
    try:
        state = read_state(path)
    except WeightsError as error:
        raise ValueError(f"{error}; give {setting}") from error
    # Behind the names of torchmetrics' parts are torchvision's numbers: slice2.3.…, slices.1.3.…, stage1.0.…
    parts = {key: re.sub(r"^(slices\.\d|slice\d|stage\d)\.", "features.", key) for key in network.state_dict()}
    theirs = {key: name for key, name in parts.items() if name != key and not key.endswith(".filter")}
    own = network.state_dict() | {key: state[name] for key, name in theirs.items() if name in state}
    missing = [name for name in theirs.values() if name not in state]
    misfit = f"it has no {missing[0]}" if missing else find_misfit(network, own)
    if misfit:
        raise ValueError(f"{path} does not hold its ImageNet weights ({misfit}); give {setting}")
    network.load_state_dict(own)
    return digest(path)
