"""What stands for the other objects that checkpoints hold beside tensors: numbers, or things that do nothing.

Their own classes are never looked up, so that nothing of a file is run. Any object that is not here is refused.
"""

import struct
from typing import Any


class _Inert:
    """Stands for an object that is not looked at: takes its arguments and its state, and does nothing."""

    def __new__(cls, *arguments: Any, **named: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _NumpyType(_Inert):
    """A NumPy dtype: its code such as ``f8``, and its byte order."""


def _numpy_scalar(kind: Any, data: Any) -> Any:
    """Return a NumPy scalar as Python's number where it is one."""
    code = kind.arguments[0] if isinstance(kind, _NumpyType) and kind.arguments else None
    if not isinstance(code, str) or code not in _NUMBERS or not isinstance(data, bytes):
        return _Inert(kind, data)
    state = getattr(kind, "state", None)
    order = ">" if isinstance(state, tuple) and state[1:2] == (">",) else "<"
    return struct.unpack(order + _NUMBERS[code], data)[0]


def _inert(*arguments: Any) -> _Inert:
    return _Inert(*arguments)


def _dictionary(*arguments: Any) -> dict[Any, Any]:
    """Return a dictionary for one with a default."""
    return {}


_NUMBERS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "b1": "?"}
_NUMBERS |= {"u8": "Q", "u4": "I", "u2": "H", "u1": "B"}  # NumPy's codes, and those of the struct module


# NumPy's arrays, and what programs keep their options in.
_INERT = [
    "numpy.ndarray",
    "argparse.Namespace",
    "datetime.datetime",
    "typing.Any",
    *(f"builtins.{kind}" for kind in ("bool", "dict", "float", "int", "list", "str")),
    *(f"pathlib.{kind}" for kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"pathlib._local.{kind}" for kind in ("PosixPath", "WindowsPath")),
    *(f"omegaconf.{kind}" for kind in ("base.ContainerMetadata", "base.Metadata", "dictconfig.DictConfig")),
    *(f"omegaconf.{kind}" for kind in ("listconfig.ListConfig", "nodes.AnyNode")),
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
]

ALLOWED: list[Any] = [  # for torch.serialization.safe_globals: what is made, for which name
    (_NumpyType, "numpy.dtype"),
    *((_numpy_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_inert, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    (_dictionary, "collections.defaultdict"),
    *((_Inert, name) for name in _INERT),
]
