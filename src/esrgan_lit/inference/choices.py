"""Name what upscaling can be told. Nothing is imported, so that a command reads its options at once."""

from typing import Literal

EngineName = Literal["auto", "torch", "winograd"]
ENGINES: tuple[EngineName, ...] = ("auto", "torch", "winograd")
_EXPORTS = {"openvino": ".xml", "onnxruntime": ".onnx", "ncnn": ".param"}

Precision = Literal["auto", "fp32", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "fp16", "bf16")

BackProjection = Literal["gaussian", "reverse-filter"]
BACK_PROJECTIONS: tuple[BackProjection, ...] = ("gaussian", "reverse-filter")

AlphaMode = Literal["transparency", "separate", "ignore"]
ALPHA_MODES: tuple[AlphaMode, ...] = ("transparency", "separate", "ignore")

# Low-resolution pixels that tiles see beyond their own on each side. Measured on RealSR's weights and two photographs
# (192², tiles of 96): an overlap of 10 changes 16.6 % of the pixels by up to 24 levels, 16 8.6 % by up to 16, 32 0.65 %
# by 1, and 64 0.01 % by 1 (benchmarks/upscale.py --seams).
OVERLAP = 64


def check_engine(name: object) -> None:
    """Raise ValueError for the name of no engine."""
    if name in _EXPORTS:
        raise ValueError(
            f"{name} is no engine for upscaling any more: winograd is more than twice as fast. Use --engine auto, or "
            f"write the network for it with esrgan-export -o NAME{_EXPORTS[str(name)]}"
        )
    if name not in ENGINES:
        raise ValueError(f"engine {name!r} is not known; use one of {', '.join(ENGINES)}")
