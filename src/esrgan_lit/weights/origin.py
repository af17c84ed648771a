"""What files of weights say of themselves: training data, iterations, figures, license."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esrgan_lit.files import anonymous
from esrgan_lit.networks.hub import origin_of
from esrgan_lit.tensor_files import shown


def describe(content: Mapping[Any, Any], header: Mapping[str, str], measured: bool) -> dict[str, str]:
    """Return what a file says of its origin, as a safetensors header holds it: strings.

    Args:
        content: of the file.
        header: of a safetensors file.
        measured: whether the weights that are taken are those that the file's figures were measured with.
    """
    inside = content.get("metadata")  # of our own .pth files
    said = {**header, **inside} if isinstance(inside, Mapping) else header
    metadata = origin_of({str(key): str(value) for key, value in said.items() if isinstance(value, str | int | float)})
    if isinstance(content.get("config"), Mapping) and isinstance(content.get("global_step"), int):
        metadata |= _describe_training(content, measured)
    return {_encodable(key): _encodable(value) for key, value in metadata.items()}


def _encodable(text: str) -> str:
    return text.encode(errors="replace").decode()  # pickles may hold halves of characters, and headers may not


def _describe_pairs(config: Mapping[Any, Any]) -> dict[str, str]:
    """Return how the low resolution was made, and how large crops and batches were; what is not plain stays unsaid."""
    data, trainer, said = config.get("data"), config.get("trainer"), {}
    if isinstance(data, Mapping) and "degradation" in data:
        made = data["degradation"]
        target = made.get("_target_") if isinstance(made, Mapping) else None
        name = "MATLAB's bicubic" if made is None else target.rpartition(".")[2] if isinstance(target, str) else ""
        said["degradation"] = {"GivenPairs": "given pairs"}.get(name, name)
    if isinstance(data, Mapping) and isinstance(trainer, Mapping):
        given = data.get("batch"), trainer.get("devices"), trainer.get("num_nodes", 1)
        counts = [count for count in given if isinstance(count, int) and count > 0]
        if len(counts) == len(given):
            said["batch"] = str(math.prod(counts))
        if isinstance(crop := data.get("crop"), int):
            said["crop"] = str(crop)
    return {key: value for key, value in said.items() if value}


def _describe_training(checkpoint: Mapping[Any, Any], measured: bool) -> dict[str, str]:
    """Return what a training checkpoint of this library says of itself: no whole paths, its own iteration's figures."""
    config, steps = checkpoint["config"], checkpoint["global_step"]
    metadata = {"steps": str(steps)}
    data = config.get("data")
    if isinstance(data, Mapping) and (sources := data.get("train")):
        sources = sources if isinstance(sources, list | tuple) else [sources]
        named = [
            "/".join(Path(anonymous(source)).parts[-2:]) if isinstance(source, str) else f"{source.get('_target_')}"
            for source in sources
            if isinstance(source, str | Mapping)
        ]
        metadata["training_data"] = ", ".join(dict.fromkeys(named))
    metadata |= _describe_pairs(config)
    figures = checkpoint.get("figures")
    if measured and isinstance(figures, Mapping) and figures and checkpoint.get("validated_at") == steps:
        metadata["metrics"] = ", ".join(f"{shown(name)} {shown(value)}" for name, value in figures.items())
    if isinstance(name := config.get("name"), str):
        metadata["experiment"] = name
    return metadata
