"""ESRGAN (Wang et al. 2018): train, interpolate and use super-resolution networks.

Names are imported when first used, so that ``import esrgan_lit`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esrgan_lit.data.module import PairDataModule
    from esrgan_lit.inference.upscale import upscale
    from esrgan_lit.inference.upscaler import Upscaler
    from esrgan_lit.metrics.fidelity import psnr_y, ssim_y
    from esrgan_lit.networks.discriminator import Discriminator
    from esrgan_lit.networks.generator import Generator
    from esrgan_lit.networks.rrdbnet import RRDBNet
    from esrgan_lit.networks.srresnet import SRResNet
    from esrgan_lit.networks.unet_discriminator import UNetDiscriminator
    from esrgan_lit.resize import imresize
    from esrgan_lit.training.stages import GanStage, PsnrStage
    from esrgan_lit.weights.export import export_generator
    from esrgan_lit.weights.interpolate import blend, interpolate
    from esrgan_lit.weights.load import load_generator, save_generator

__version__: str

__all__ = [
    "Discriminator",
    "GanStage",
    "Generator",
    "PairDataModule",
    "PsnrStage",
    "RRDBNet",
    "SRResNet",
    "UNetDiscriminator",
    "Upscaler",
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
    "data.module": ("PairDataModule",),
    "inference.upscale": ("upscale",),
    "inference.upscaler": ("Upscaler",),
    "metrics.fidelity": ("psnr_y", "ssim_y"),
    "networks.discriminator": ("Discriminator",),
    "networks.generator": ("Generator",),
    "networks.rrdbnet": ("RRDBNet",),
    "networks.srresnet": ("SRResNet",),
    "networks.unet_discriminator": ("UNetDiscriminator",),
    "resize": ("imresize",),
    "training.stages": ("GanStage", "PsnrStage"),
    "weights.export": ("export_generator",),
    "weights.interpolate": ("blend", "interpolate"),
    "weights.load": ("load_generator", "save_generator"),
}

# What the shipped configurations name, beside the names above: by these names, so that files can move.
_CONFIGURED = {
    "data.demo": ("photographs",),
    "degradations.blur": ("BlurKernels",),
    "degradations.bsrgan": ("BsrganDegradation",),
    "degradations.given": ("GivenPairs",),
    "degradations.parity": ("RealEsrganParity",),
    "degradations.real_esrgan": ("DegradationPass", "RealEsrganDegradation"),
    "losses.adversarial": ("RelativisticAverageLoss", "StandardLoss"),
    "losses.artifacts": ("ArtifactLoss",),
    "losses.gradient": ("GradientLoss",),
    "losses.learned": ("DistsLoss", "LpipsLoss"),
    "losses.perceptual": ("PerceptualLoss",),
    "metrics.metric": ("MetricOptions",),
    "training.callbacks": ("ImagePanels", "TrainingHealth"),
    "training.checkpointing": ("AtomicCheckpointIO",),
    "training.csv_log": ("TolerantCsvLogger",),
    "training.optimizer_step": ("StepOptions",),
    "training.run_folder": ("RunFolderGuard",),
    "training.signals": ("StopOnSignal",),
    "training.validation": ("Validation",),
    "training.wandb": ("wandb_logger",),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("esrgan_lit")
    for modules in (_MODULES, _CONFIGURED):
        for module, names in modules.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
