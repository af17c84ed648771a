"""ESRGAN (Wang et al. 2018): train, interpolate and use super-resolution networks.

Names are imported when first used, so that ``import esrgan_lit`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esrgan_lit.checkpoints import blend, interpolate, load_generator, save_generator
    from esrgan_lit.data.module import PairDataModule
    from esrgan_lit.export import export_generator
    from esrgan_lit.inference import upscale
    from esrgan_lit.metrics import psnr_y, ssim_y
    from esrgan_lit.networks import Discriminator, RRDBNet, SRResNet
    from esrgan_lit.resize import imresize
    from esrgan_lit.stages import GanStage, PsnrStage

__all__ = [
    "Discriminator",
    "GanStage",
    "PairDataModule",
    "PsnrStage",
    "RRDBNet",
    "SRResNet",
    "blend",
    "export_generator",
    "imresize",
    "interpolate",
    "load_generator",
    "psnr_y",
    "save_generator",
    "ssim_y",
    "upscale",
]

_MODULES = {
    "checkpoints": ("blend", "interpolate", "load_generator", "save_generator"),
    "data.module": ("PairDataModule",),
    "export": ("export_generator",),
    "inference": ("upscale",),
    "metrics": ("psnr_y", "ssim_y"),
    "networks": ("Discriminator", "RRDBNet", "SRResNet"),
    "resize": ("imresize",),
    "stages": ("GanStage", "PsnrStage"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
