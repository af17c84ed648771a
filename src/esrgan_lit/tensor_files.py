"""Read files of tensors, whatever they are called: what a file is, is read from its first bytes.

Nothing in a file is ever run, and what it claims to hold is checked against its size. Every ``torch.load`` of a file
that a user names is here; ``tests/test_tensor_files.py`` holds the sources to that.
"""

import os
import re
import reprlib
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from esrgan_lit.inert_objects import ALLOWED

_AGAIN = "copy or download it again"
_COMPRESSION = 10  # weights hardly shrink: a file that unpacks to more times its size is made to fill the memory

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
    (b"\x93NUMPY", "a NumPy array (.npy)", "give weights of PyTorch"),
    (b"\x89HDF", "an HDF5 file, as Keras writes them", "give weights of PyTorch"),
    (b"7767517", "an ncnn network (.param)", "give the PyTorch weights that it was made from"),
    (b"<?xml", "an XML file, such as OpenVINO's", "give the PyTorch weights that it was made from"),
)


class WeightsError(ValueError):
    """A file that holds no weights, or others than asked for; the message names the file."""


class TensorFile(NamedTuple):
    """What is in a file.

    Attributes:
        content: usually a dictionary, with tensors somewhere in it; of a safetensors file its tensors by name.
        header: of a safetensors file, else empty.
        held: bytes that the file has room for: no more can be in its tensors.
    """

    content: Any
    header: dict[str, str]
    held: int


def open_tensors(path: Path) -> TensorFile:
    """Read a safetensors file or one of PyTorch's.

    Raises:
        WeightsError: when it is another kind of file, damaged, or holds objects that only a program could read.
        OSError: when it cannot be read.
    """
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
    if begin[257:262] == b"ustar":
        raise WeightsError(f"{path} is a tar archive; unpack it first")
    if begin.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise WeightsError(f"{path} is an HTML page, such as a login or an error; download the file behind it")
    if begin.startswith(b"PK"):
        return _read_zip(path, size)
    if begin.startswith(b"\x80") or begin.startswith(b"}q"):
        return TensorFile(_read_pickle(path), {}, size)
    if begin[:1] == b"\x08" and begin[2:3] == b"\x12":  # ir_version, then producer_name
        raise WeightsError(f"{path} is an ONNX network; give the PyTorch weights that it was made from")
    raise WeightsError(
        f"{path} is neither a safetensors nor a PyTorch file (it begins with {begin[:8]!r}); {_AGAIN} if it should be"
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a flat state dict: a file of tensors by name, and nothing else is looked at.

    Raises:
        WeightsError: as :func:`open_tensors`; when there are no tensors, or none that can be used.
        OSError: when it cannot be read.
    """
    content, _, held = open_tensors(path)
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not weights; give a state dict")
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise WeightsError(f"{path} holds no tensors; give a state dict")
    return usable(state, held, path)


@contextmanager
def tensors_only() -> Iterator[None]:
    """Let ``torch.load`` read nothing but tensors, whatever a library asks it for."""
    with patch.dict(os.environ, TORCH_FORCE_WEIGHTS_ONLY_LOAD="1"):
        os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)  # both together are an error
        yield


def usable(state: Mapping[str, Tensor], held: int, path: str | Path) -> dict[str, Tensor]:
    """Return tensors as plain ones in memory, those of any floating type in float32.

    Args:
        state: tensors by name, as a file has them.
        held: bytes that can be in the file.
        path: of the file, for messages.

    Raises:
        WeightsError: for a tensor of another kind (sparse, quantized, complex, without values), for more values than
            the file can hold, and for values that are NaN or infinite in float32, by the tensor's name.
    """
    for name, value in state.items():
        plain = value.layout == torch.strided and not value.is_nested and value.device.type == "cpu"
        if not plain or value.is_quantized or value.is_complex():
            kind = "quantized" if value.is_quantized else f"{value.layout} {value.dtype} on {value.device}"
            raise WeightsError(
                f"{path}: {shown(name)} is no plain tensor ({kind.replace('torch.', '')}); "
                "save the network as ordinary float weights first"
            )
    claimed = sum(value.numel() * value.element_size() for value in state.values())
    if claimed > held:
        raise WeightsError(f"{path} claims {claimed:,} bytes of tensors and has room for {held:,}: it is forged")
    converted = {name: value.detach().float() if value.is_floating_point() else value for name, value in state.items()}
    check_finite(converted, path)
    return converted


def check_finite(state: Mapping[str, Tensor], source: str | Path) -> None:
    """Raise WeightsError where values are NaN or infinite, with the first tensor's name and their number.

    Args:
        state: tensors by name.
        source: what they are of, for the message.
    """
    for name, value in state.items():
        if not value.is_floating_point() or value.is_meta:
            continue
        wrong = value.numel() - int(value.isfinite().sum())
        if wrong:
            raise WeightsError(
                f"{source}: {wrong:,} of {value.numel():,} values of {shown(name)} are NaN or infinite, so that every "
                "image would be; they overflowed in training or in float16: take an earlier checkpoint"
            )


def find_misfit(network: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """Return in what a state dict does not fit a network, or None: missing tensors, other shapes, other kinds.

    Tensors that the network does not have are none of this; counters of batches may be missing.
    """
    expected = network.state_dict()
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        return f"it has no {shown(missing[0])}" + (f" and {len(missing) - 1} more are missing" * (len(missing) > 1))
    for key, value in expected.items():
        if key not in state:
            continue
        there = state[key]
        if there.shape != value.shape:
            sizes = ("×".join(map(str, shape)) or "one number" for shape in (there.shape, value.shape))
            return f"{key} is {next(sizes)} and has to be {next(sizes)}"
        if there.is_floating_point() != value.is_floating_point():
            return f"{key} is of {there.dtype}, not of {value.dtype}".replace("torch.", "")
    return None


def shown(value: object, longest: int = 100) -> str:
    """Return a name or value out of a file for one line of a message: short, nothing in it unprintable."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    text = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _read_safetensors(path: Path, size: int, header: int) -> TensorFile:
    try:
        with _utf8_name(path) as name, safe_open(name, framework="pt") as file:
            content = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dictionary)
            return TensorFile(content, dict(file.metadata() or {}), size)
    except Exception as error:  # SafetensorError; and for types that PyTorch has not, whatever its bindings raise
        reason = f"its header has {header} bytes, the whole file {size}" if header + 8 > size else shown(str(error))
        kind = "whole" if isinstance(error, SafetensorError) else "usable"
        raise WeightsError(f"{path} is no {kind} safetensors file ({reason}); {_AGAIN}") from error


@contextmanager
def _utf8_name(path: Path) -> Iterator[str]:
    """Give a name of a file for safetensors, which opens no other: of one that is no UTF-8 its number."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield str(path)


def _read_zip(path: Path, size: int) -> TensorFile:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError) as error:
        raise WeightsError(f"{path} is no whole PyTorch file, it ends too early ({error}); {_AGAIN}") from error
    names = [entry.filename.partition("/")[2] for entry in entries]
    if any(name.startswith("models/") for name in names):
        raise WeightsError(f"{path} is a program of torch.export (.pt2); give the weights that it was made from")
    if "constants.pkl" in names:
        raise WeightsError(f"{path} is a TorchScript program; give the weights that it was made from")
    if "data.pkl" not in names:
        raise WeightsError(f"{path} is a ZIP archive without weights of PyTorch; unpack it first")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > _COMPRESSION * size:
        raise WeightsError(f"{path} would unpack to {unpacked:,} bytes from {size:,}: it is forged; {_AGAIN}")
    return TensorFile(_read_pickle(path), {}, max(size, unpacked))


def _read_pickle(path: Path) -> Any:
    try:
        # By the path, PyTorch would go by the suffix. What it warns of, it then refuses or reads.
        with (
            path.open("rb") as file,
            warnings.catch_warnings(action="ignore"),
            torch.serialization.safe_globals(ALLOWED),
        ):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a file that is none of its own
        found = re.search(r"(GLOBAL [\w.]+|[Uu]nsupported (class|operand|global) [\w. ]+)", str(error))
        if found or "Weights only load failed" in str(error):
            raise WeightsError(
                f"{path} holds other Python objects than tensors{f' ({shown(found[0].strip())})' if found else ''}, "
                "and reading them could run any program. If you trust its origin, take the tensors out where its own "
                "program runs: torch.save({'state_dict': content['state_dict']}, FILE)"
            ) from error
        reason = shown(str(error).splitlines()[0]) if str(error) else type(error).__name__
        raise WeightsError(f"{path} is no whole PyTorch file ({reason}); {_AGAIN}") from error
