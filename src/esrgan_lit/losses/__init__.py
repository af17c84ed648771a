"""The terms of ESRGAN's losses, unweighted (Wang et al. 2018, §3.2–3.4). Stages weigh, sum and log them."""

from importlib import import_module
from typing import Any

# Configurations of users' own name these classes here, as the shipped ones did.
_MODULES = {
    "PerceptualLoss": "perceptual",
    "RelativisticAverageLoss": "adversarial",
    "StandardLoss": "adversarial",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
