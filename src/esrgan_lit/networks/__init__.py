"""The generators and the discriminator of ESRGAN (Wang et al. 2018, arXiv:1809.00219)."""

from importlib import import_module
from typing import Any

# Configurations of users' own name these classes here, as the shipped ones did.
_MODULES = {
    "Discriminator": "discriminator",
    "RRDBNet": "rrdbnet",
    "SRResNet": "srresnet",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
