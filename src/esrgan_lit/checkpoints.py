"""Weights of generators: reading training checkpoints and weight files, writing slim ones, network interpolation."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from esrgan_lit.networks import UPSAMPLING_STEPS, Generator, RRDBNet, SRResNet

GENERATORS = {"RRDBNet": RRDBNet, "SRResNet": SRResNet}

Architecture = dict[str, Any]


class WeightsError(ValueError):
    """A file that holds no generator this library can build, or another one than asked for."""


def build_generator(architecture: Architecture) -> Generator:
    """Build a generator from its ``architecture``: the class's name and its constructor's arguments."""
    arguments = dict(architecture)
    name = arguments.pop("name", None)
    if name not in GENERATORS:
        raise WeightsError(f"architecture {name!r} is not known; known are {', '.join(GENERATORS)}")
    return GENERATORS[name](**arguments)


def load_generator(path: str | Path, ema: bool = True) -> Generator:
    """Load a generator, ready to use.

    Args:
        path: a checkpoint of either stage, a slim ``.safetensors`` file, or a ``.pth`` state dict with BasicSR's or
            MSRResNet's keys, whose architecture is read from its shapes.
        ema: take the averaged weights of a training checkpoint that has them, rather than the last ones.

    Returns:
        The network in evaluation mode, in float32, on the CPU. Its ``scale`` and ``architecture`` say what it is.

    Raises:
        WeightsError: when the file holds no generator.
        FileNotFoundError: when there is no such file.
    """
    architecture, state = read_weights(path, ema)
    generator = build_generator(architecture)
    _load(generator, state, path)
    return generator.eval()


def load_weights_into(generator: Generator, path: str | Path) -> None:
    """Load a file's weights (averaged ones where it has them) into a generator that was built already.

    Raises:
        WeightsError: when the architectures differ, naming what differs.
    """
    architecture, state = read_weights(path)
    differences = differing_fields(architecture, generator.architecture)
    if differences:
        listing = ", ".join(f"{key} is {theirs} in the file and {ours} here" for key, theirs, ours in differences)
        raise WeightsError(
            f"{path} holds another architecture: {listing}. "
            "Choose the generator that it was trained with (generator=…), or another file"
        )
    _load(generator, state, path)


def save_generator(generator: Generator, path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write a generator's weights as a slim safetensors file: whole, or not at all.

    Args:
        generator: an :class:`RRDBNet` or :class:`SRResNet`.
        path: must end in ``.safetensors``.
        metadata: further entries for the file's header.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} does not end in .safetensors; name it {path.with_suffix('.safetensors').name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"architecture": json.dumps(generator.architecture), **(metadata or {})}
    state = {key: value.detach().cpu().contiguous() for key, value in generator.state_dict().items()}
    unfinished = path.with_name(f".{path.name}.partial")
    try:
        save_file(state, unfinished, header)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


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
    differences = differing_fields(psnr.architecture, gan.architecture)
    if differences:
        listing = ", ".join(f"{key} is {first} in one and {second} in the other" for key, first, second in differences)
        raise WeightsError(f"networks of different architectures cannot be interpolated: {listing}")
    blended = copy.deepcopy(gan)
    state = psnr.state_dict()
    with torch.no_grad():
        for key, value in blended.state_dict().items():
            if value.is_floating_point():
                value.copy_((1 - alpha) * state[key] + alpha * value)
    return blended.eval()


def differing_fields(first: Architecture, second: Architecture) -> list[tuple[str, Any, Any]]:
    """(field, value in the first, value in the second) where two architectures differ."""
    if first.get("name") != second.get("name"):
        return [("name", first.get("name"), second.get("name"))]
    keys = [*first, *(key for key in second if key not in first)]
    return [(key, first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)]


def read_weights(path: str | Path, ema: bool = True) -> tuple[Architecture, dict[str, Tensor]]:
    """Read a file's architecture and its generator's state dict (float32, on the CPU)."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; give a checkpoint (.ckpt) or weights (.safetensors, .pth)")
    if path.suffix == ".safetensors":
        architecture, state = _read_safetensors(path)
    else:
        architecture, state = _read_pickle(path, ema)
    architecture = architecture or infer_architecture(state, path)
    return architecture, {key: _as_float32(value) for key, value in state.items()}


def infer_architecture(state: dict[str, Tensor], path: Path) -> Architecture:
    """Read the architecture from the names and shapes of a state dict."""
    shapes = {key: tuple(value.shape) for key, value in state.items() if isinstance(value, Tensor)}
    dense, plain = shapes.get("body.0.rdb1.conv1.weight"), shapes.get("body.0.conv1.weight")
    if not (dense or plain) or "conv_first.weight" not in shapes or "conv_last.weight" not in shapes:
        held = ", ".join(list(state)[:3]) or "nothing"
        raise WeightsError(
            f"{path} holds no generator that is known here (it begins with {held}); give a checkpoint of this "
            "library, or a state dict with BasicSR's keys (conv_first, body.0.rdb1.conv1 …)"
        )
    width, given = shapes["conv_first.weight"][:2]
    channels = shapes["conv_last.weight"][0]
    if given != channels:
        raise WeightsError(
            f"{path} takes {given} channels and gives {channels}: a network with pixel-unshuffled input, "
            "which is not read yet; use a ×4 model"
        )
    common = {"blocks": 1 + max(int(key.split(".")[1]) for key in shapes if key.startswith("body.")), "width": width}
    if dense:
        # A single upsampling convolution serves ×2 and ×3 alike; ×2 is by far the more common.
        scale = {0: 1, 1: 2, 2: 4, 3: 8}[sum(f"conv_up{number}.weight" in shapes for number in (1, 2, 3))]
        return {
            "name": "RRDBNet", "scale": scale, **common, "growth": dense[0], "channels": channels, "bicubic_skip": False
        }  # fmt: skip
    factors = tuple(
        round((shapes[f"upconv{number}.weight"][0] / width) ** 0.5)
        for number in (1, 2, 3)
        if f"upconv{number}.weight" in shapes
    )
    scale = next((scale for scale, steps in UPSAMPLING_STEPS.items() if steps == factors), None)
    return {
        "name": "SRResNet", "scale": scale, **common, "channels": channels, "batch_norm": "body.0.bn1.weight" in shapes
    }  # fmt: skip


def _read_safetensors(path: Path) -> tuple[Architecture | None, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            architecture = (file.metadata() or {}).get("architecture")
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise WeightsError(f"{path} is no whole safetensors file ({error}); copy or download it again") from error
    return (json.loads(architecture) if architecture else None), state


def _read_pickle(path: Path, ema: bool) -> tuple[Architecture | None, dict[str, Tensor]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a file that is none of its own
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path} is no whole PyTorch file ({reason}); copy or download it again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not weights; give a state dict or a checkpoint")
    if "state_dict" in content:  # a training checkpoint
        state = content["state_dict"]
        prefix = "ema." if ema and any(key.startswith("ema.") for key in state) else "generator."
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        return content.get("architecture"), state
    for wrapper in ("params_ema", "params"):
        if wrapper in content:
            return None, content[wrapper]
    return None, content


def _load(generator: Generator, state: dict[str, Tensor], path: str | Path) -> None:
    try:
        generator.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit its architecture: {error}") from error


def _as_float32(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
