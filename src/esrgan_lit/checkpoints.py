"""Weights of generators: from files and releases, into slim files, blended with others."""

import copy
import difflib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from esrgan_lit import pretrained
from esrgan_lit.files import written_whole
from esrgan_lit.hub import WEIGHTS
from esrgan_lit.layouts import Architecture, WeightsError
from esrgan_lit.networks import Generator, RRDBNet, SRResNet
from esrgan_lit.weight_files import Weights, read_file

GENERATORS = {"RRDBNet": RRDBNet, "SRResNet": SRResNet}

UNRELATED = 0.9
"""From this :func:`distance` on, two networks are taken not to share an ancestor.

Measured on RRDB blocks of two published networks, RealSR_DF2K_x4 and RealESRGAN_x4plus_anime_6B, whose first
convolutions (cosine 0.93) show a common ancestor, and which were trained far from it, on other data with other losses:
0.81 to 0.83 between blocks of one number, 0.95 to 0.99 between blocks of different numbers.
``benchmarks/ancestors.py`` measures small networks: 0.50 to 0.86 from a network to what was fine-tuned from it, 0.996
and more between others.
"""


def build_generator(architecture: Architecture) -> Generator:
    """Build a generator from its ``architecture``: the class's name and its constructor's arguments."""
    arguments = dict(architecture)
    name = arguments.pop("name", None)
    if name not in GENERATORS:
        raise WeightsError(f"architecture {name!r} is not known; known are {', '.join(GENERATORS)}")
    try:
        return GENERATORS[name](**arguments)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"architecture {architecture} cannot be built: {error}") from error


def load_generator(source: str | Path, ema: bool = True) -> Generator:
    """Load a generator, ready to use. What a file is, is read from its content, and its architecture from its shapes.

    Args:
        source: a checkpoint of either stage; a file of weights (``.safetensors``, ``.pth``, ``.pt``, ``.ckpt``) with
            the names of BasicSR, of the ESRGAN repository in its new or old form, or of mmagic, bare or wrapped; a
            folder that ``save_pretrained`` wrote; or a release by its name, such as ``esrgan_x4``.
        ema: take the averaged weights of a file that has both, rather than the last ones.

    Returns:
        The network in evaluation mode, in float32, on the CPU. Its ``scale`` and ``architecture`` say what it is, its
        ``metadata`` where it comes from.

    Raises:
        WeightsError: when the file holds no generator, with what it looks like instead.
        FileNotFoundError: when there is neither such a file nor such a release.
        FetchError: when a release cannot be downloaded, with what to do.
    """
    weights = read_weights(source, ema)
    with torch.device("meta"):  # no time for an initialisation that would be overwritten
        generator = build_generator(weights.architecture)
    _fill(generator, weights, source)
    return generator.eval()


def load_weights_into(generator: Generator, source: str | Path) -> None:
    """Load weights (averaged ones where there are) from what :func:`load_generator` takes into a generator.

    Raises:
        WeightsError: when the architectures differ, naming what differs.
    """
    weights = read_weights(source)
    with torch.device("meta"):
        architecture = build_generator(weights.architecture).architecture  # with the defaults of older files
    differences = differing_fields(architecture, generator.architecture)
    if differences:
        listing = ", ".join(f"{key} is {theirs} in the file and {ours} here" for key, theirs, ours in differences)
        raise WeightsError(
            f"{source} holds another architecture: {listing}. "
            "Choose the generator that it was trained with (generator=…), or another file"
        )
    _fill(generator, weights, source)


def read_weights(source: str | Path, ema: bool = True) -> Weights:
    """Read architecture, state dict and metadata of what :func:`load_generator` takes."""
    path = Path(source)
    if path.is_file():
        return read_file(path, ema)
    if path.is_dir():
        if not (path / WEIGHTS).is_file():
            raise FileNotFoundError(
                f"{path} is a folder without {WEIGHTS}; give a file, or a folder of save_pretrained"
            )
        return read_file(path / WEIGHTS, ema)
    name = str(source).lower()
    if name in pretrained.RELEASES:
        weights = read_file(pretrained.fetch(name), ema)
        return weights._replace(metadata={**weights.metadata, **pretrained.metadata(name)})
    near = difflib.get_close_matches(name, pretrained.RELEASES, 1)
    hint = f"did you mean {near[0]}?" if near else f"known releases are {', '.join(pretrained.RELEASES)}"
    raise FileNotFoundError(
        f"{source} is no file, and no release is called so ({hint}); "
        "give a checkpoint (.ckpt), weights (.safetensors, .pth), or the name of a release"
    )


def save_generator(generator: Generator, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a generator's weights as a slim safetensors file: whole, or not at all.

    Args:
        generator: an :class:`RRDBNet` or :class:`SRResNet`.
        path: must end in ``.safetensors``.
        metadata: further entries for the file's header, beside those of the generator's own file.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} does not end in .safetensors; name it {path.with_suffix('.safetensors').name}")
    header = {"architecture": json.dumps(generator.architecture), **generator.metadata, **(metadata or {})}
    state = {key: value.detach().cpu().contiguous() for key, value in generator.state_dict().items()}
    with written_whole(path) as unfinished:
        unfinished.write_bytes(save(state, header))  # with the usual permissions, unlike save_file


def interpolate(psnr: Generator, gan: Generator, alpha: float) -> Generator:
    """Network interpolation: θ = (1 − α) θ_PSNR + α θ_GAN over every parameter (Wang et al. 2018, Eq. 4).

    Args:
        psnr: the generator at α = 0.
        gan: the generator at α = 1, of the same architecture.
        alpha: in [0, 1].

    Returns:
        A new generator in evaluation mode.

    Raises:
        ValueError: for an α outside [0, 1].
        WeightsError: for generators of different architectures, naming what differs.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha {alpha} is not in [0, 1]; 0 is the PSNR network, 1 the GAN network")
    return blend([psnr, gan], [1 - alpha, alpha])


def blend(generators: Sequence[Generator], weights: Sequence[float]) -> Generator:
    """Network interpolation of any number of networks: θ = Σ wᵢ θᵢ over every parameter.

    Args:
        generators: of one architecture.
        weights: one for each, none negative, with sum 1 (to 1e-6).

    Returns:
        A new generator in evaluation mode. Counters (of batch normalisation) are those of the heaviest.

    Raises:
        ValueError: for other weights.
        WeightsError: for generators of different architectures, naming what differs.
    """
    if len(weights) != len(generators) or not generators:
        raise ValueError(f"{len(weights)} weights for {len(generators)} networks; give one for each")
    if not all(weight >= 0 for weight in weights) or not math.isclose(math.fsum(weights), 1, abs_tol=1e-6):
        raise ValueError(
            f"weights {', '.join(map(str, weights))} have the sum {math.fsum(weights):g}; "
            "give numbers of at least 0 whose sum is 1"
        )
    for other in generators[1:]:
        if differences := differing_fields(generators[0].architecture, other.architecture):
            listing = ", ".join(f"{key} is {one} in one and {two} in the other" for key, one, two in differences)
            raise WeightsError(f"networks of different architectures cannot be interpolated: {listing}")
    blended = copy.deepcopy(generators[max(range(len(weights)), key=weights.__getitem__)])
    blended.metadata = {}
    states = [generator.state_dict() for generator in generators]
    with torch.no_grad():
        for key, value in blended.state_dict().items():
            if value.is_floating_point():
                parts = (weight * state[key] for weight, state in zip(weights, states, strict=True) if weight)
                value.copy_(sum(parts, torch.zeros_like(value)))
    return blended.eval()


def distance(first: Generator, second: Generator) -> float:
    """How far apart the weights of two networks of one architecture are: ‖a − b‖ / √(‖a‖² + ‖b‖²).

    0 for equal weights, about 1 for networks trained from independent initialisations (whose weights are orthogonal),
    small where one was fine-tuned from the other. Over the kernels only: the biases are few and close to 0.
    """
    apart = together = 0.0
    other = second.state_dict()
    for key, value in first.state_dict().items():
        if value.ndim == 4:
            apart += float((value.double() - other[key].double()).square().sum())
            together += float(value.double().square().sum() + other[key].double().square().sum())
    return math.sqrt(apart / together) if together else 0.0


def differing_fields(first: Architecture, second: Architecture) -> list[tuple[str, Any, Any]]:
    """(field, value in the first, value in the second) where two architectures differ."""
    if first.get("name") != second.get("name"):
        return [("name", first.get("name"), second.get("name"))]
    keys = [*first, *(key for key in second if key not in first)]
    return [(key, first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)]


def _fill(generator: Generator, weights: Weights, source: str | Path) -> None:
    try:
        meta = next(generator.parameters()).is_meta
        generator.load_state_dict(weights.state, assign=meta)
    except RuntimeError as error:
        raise WeightsError(f"{source} does not fit its architecture: {error}") from error
    generator.metadata = weights.metadata
