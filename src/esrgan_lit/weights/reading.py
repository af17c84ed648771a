"""Open weight files, whatever they are called: what a file is, is read from its first bytes.

Nothing in a file is ever executed: PyTorch files are read with ``weights_only=True``.
"""

import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from esrgan_lit.networks.hub import origin_of
from esrgan_lit.weights.layouts import Architecture, State, WeightsError, canonical, infer_architecture

# Where programs put a state dict in what they save, inside the file's dictionary …
_WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model", "generator", "netG", "net_g")

# … and before the names of its tensors. Averaged weights come first.
_PREFIXES = ("ema.", "generator_ema.", "generator.", "net_g.", "netG.", "module.", "_orig_mod.")
_AVERAGED = ("params_ema", "ema.", "generator_ema.")
_AGAIN = "copy or download it again"

# First bytes of files that are no weights, what they are, and what to do.
_OTHER_FILES: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file that it stands for", "run `git lfs pull` beside it"),
    (b"\x89PNG", "a PNG image", "give a file of weights"),
    (b"\xff\xd8\xff", "a JPEG image", "give a file of weights"),
    (b"GIF8", "a GIF image", "give a file of weights"),
    (b"RIFF", "a WebP image or another RIFF file", "give a file of weights"),
    (b"BM", "a BMP image", "give a file of weights"),
    (b"II*\0", "a TIFF image", "give a file of weights"),
    (b"MM\0*", "a TIFF image", "give a file of weights"),
    (b"%PDF", "a PDF document", "give a file of weights"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"\x89HDF", "an HDF5 file, as Keras writes them", "give weights of PyTorch"),
    (b"7767517", "an ncnn network (.param)", "give the PyTorch weights that it was made from"),
    (b"<?xml", "an XML file, such as OpenVINO's", "give the PyTorch weights that it was made from"),
)


class Weights(NamedTuple):
    """A generator as a file holds it.

    Attributes:
        architecture: the class's name and its constructor's arguments.
        state: tensors by the library's own names, in float32, on the CPU.
        metadata: what the file says of its origin, such as training data, steps and license.
    """

    architecture: Architecture
    state: State
    metadata: dict[str, str]


def read_file(path: Path, ema: bool = True) -> Weights:
    """Read a generator's weights.

    Args:
        path: the file.
        ema: averaged weights where the file has both, rather than the last ones.

    Raises:
        WeightsError: when it holds no generator, with what it looks like instead.
    """
    content, header = _open(path)
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not weights; give a state dict or a checkpoint")
    state = _tensors(content, ema)
    state = {key: value.float() if value.is_floating_point() else value for key, value in canonical(state).items()}
    architecture = header.get("architecture") or content.get("architecture")
    if isinstance(architecture, str):
        architecture = _json_or_none(architecture)
    inside = content.get("metadata")  # of our own .pth files
    metadata = origin_of({**header, **inside} if isinstance(inside, Mapping) else header)
    if "config" in content and "global_step" in content:  # a training checkpoint of this library
        metadata |= _describe_training(content)
    if not isinstance(architecture, Mapping) or "name" not in architecture:
        try:
            architecture = infer_architecture(state)
        except WeightsError as error:
            raise WeightsError(
                f"{path} holds {error}. Give a checkpoint of this library, or the weights of an RRDBNet (ESRGAN) or "
                "of an MSRResNet"
            ) from error
    return Weights(dict(architecture), state, metadata)


def _describe_training(checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """Return what a training checkpoint says of itself, as a safetensors header holds it: strings, no whole paths."""
    config = checkpoint["config"] if isinstance(checkpoint["config"], Mapping) else {}
    data = config.get("data", {})
    metadata = {"steps": str(checkpoint["global_step"])}
    if isinstance(data, Mapping) and (sources := data.get("train")):
        sources = sources if isinstance(sources, list | tuple) else [sources]
        named = [
            "/".join(Path(source).parts[-2:]) if isinstance(source, str) else f"{source.get('_target_')}"
            for source in sources
            if isinstance(source, str | Mapping)
        ]
        metadata["training_data"] = ", ".join(dict.fromkeys(named))
    scores = {}
    for callback in checkpoint.get("callbacks", {}).values():
        if isinstance(callback, Mapping) and callback.get("monitor") and callback.get("current_score") is not None:
            scores[callback["monitor"]] = float(callback["current_score"])
    if scores:
        metadata["metrics"] = json.dumps(scores)
    if config.get("name"):
        metadata["experiment"] = str(config["name"])
    return metadata


# Opening


def _open(path: Path) -> tuple[Any, dict[str, str]]:
    """Return what is in a file, and the header of a safetensors file."""
    with path.open("rb") as file:
        begin = file.read(4096)
    size = path.stat().st_size
    if not begin:
        raise WeightsError(f"{path} is empty; {_AGAIN}")
    if begin[4:9] == b"\0\0\0\0{":  # a length below 4 GB, then JSON; first, since a length may look like anything
        return _read_safetensors(path, size, int.from_bytes(begin[:8], "little"))
    for magic, what, remedy in _OTHER_FILES:
        if begin.startswith(magic):
            raise WeightsError(f"{path} is {what}; {remedy}")
    if begin.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise WeightsError(f"{path} is an HTML page, such as a login or an error; download the file behind it")
    if begin.startswith(b"PK"):
        return _read_zip(path), {}
    if begin.startswith(b"\x80") or begin.startswith(b"}q"):
        return _read_pickle(path), {}
    if begin[:1] == b"\x08" and begin[2:3] == b"\x12":  # ir_version, then producer_name
        raise WeightsError(f"{path} is an ONNX network; give the PyTorch weights that it was made from")
    raise WeightsError(
        f"{path} is neither a safetensors nor a PyTorch file (it begins with {begin[:8]!r}); {_AGAIN} if it should be"
    )


def _read_safetensors(path: Path, size: int, header: int) -> tuple[State, dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        reason = f"its header has {header} bytes, the whole file {size}" if header + 8 > size else error
        raise WeightsError(f"{path} is no whole safetensors file ({reason}); {_AGAIN}") from error


def _read_zip(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise WeightsError(f"{path} is no whole PyTorch file, it ends too early ({error}); {_AGAIN}") from error
    if any(name.startswith("models/") for name in names):
        raise WeightsError(f"{path} is a program of torch.export (.pt2); give the weights that it was made from")
    if "constants.pkl" in names:
        raise WeightsError(f"{path} is a TorchScript program; give the weights that it was made from")
    if "data.pkl" not in names:
        raise WeightsError(f"{path} is a ZIP archive without weights of PyTorch; unpack it first")
    return _read_pickle(path)


def _read_pickle(path: Path) -> Any:
    try:
        # By the path, PyTorch would go by the suffix. What it warns of, it then refuses or reads.
        with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a file that is none of its own
        found = re.search(r"(GLOBAL [\w.]+|[Uu]nsupported (class|operand|global) [\w. ]+)", str(error))
        if found or "Weights only load failed" in str(error):
            raise WeightsError(
                f"{path} holds other Python objects than tensors{f' ({found[0].strip()})' if found else ''}, and "
                "reading them could run any program. If you trust its origin, take the tensors out where its own "
                "program runs: torch.save({'state_dict': content['state_dict']}, FILE)"
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is no whole PyTorch file ({reason}); {_AGAIN}") from error


# What programs wrap weights in


def _tensors(content: Mapping[str, Any], ema: bool) -> State:
    """Return the generator's tensors, out of dictionaries in dictionaries and without prefixes."""
    while wrapper := next((name for name in _ordered(_WRAPPERS, ema) if isinstance(content.get(name), Mapping)), None):
        content = content[wrapper]
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    while prefix := next((p for p in _ordered(_PREFIXES, ema) if any(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return state


def _ordered(names: tuple[str, ...], ema: bool) -> list[str]:
    """Return the names with those of averaged weights first, or last."""
    return sorted(names, key=lambda name: (name in _AVERAGED) != ema)


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None
