"""Enlarging one image with one call."""

from pathlib import Path
from typing import overload
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from esrgan_lit.images.pillow import pixels_of
from esrgan_lit.images.reading import read_picture
from esrgan_lit.inference.pixels import check_image
from esrgan_lit.inference.upscaler import Upscaler
from esrgan_lit.networks.generator import Generator

_KEPT = 2  # prepared engines: of a PSNR and a GAN network; each holds transformed weights
_prepared: WeakKeyDictionary[Generator, Upscaler] = WeakKeyDictionary()


@overload
def upscale(image: Image.Image, generator: Generator) -> Image.Image: ...
@overload
def upscale(image: np.ndarray | str | Path, generator: Generator) -> np.ndarray: ...
def upscale(image: np.ndarray | Image.Image | str | Path, generator: Generator) -> np.ndarray | Image.Image:
    """Enlarge one image, where the generator's parameters are, with the engine that ``esrgan-upscale`` takes.

    Args:
        image: uint8, uint16, or float32 in [0, 1]: gray (height, width), or (height, width, channels) with 1 channel
            (gray), 2 (gray and alpha), 3 (RGB), 4 (RGB and alpha) or as many as the network takes; or a Pillow image,
            or the path of an image file. Both are turned upright as their EXIF says.
        generator: for example of ``load_generator``; it is left as it is. What was made ready for it is kept for the
            next image, for the last two generators, until their weights change. For other options make an
            :class:`Upscaler`.

    Returns:
        A Pillow image for a Pillow image, with its color profile; else an array (scale · height, scale · width, …), of
        the image's dtype and channels, clamped and rounded.

    Raises:
        TypeError: when an array is neither uint8 nor uint16 nor float32.
        ValueError: when it has another shape, or values outside [0, 1].
        OSError: when a file cannot be read.
    """
    if isinstance(image, Image.Image):
        pixels, profile = pixels_of(ImageOps.exif_transpose(image), image.info.get("icc_profile"), [])
        enlarged = Image.fromarray(_upscaler(generator)(pixels))
        if profile:
            enlarged.info["icc_profile"] = profile
        return enlarged
    bands = False
    if isinstance(image, str | Path):
        picture = read_picture(Path(image), bands=generator.channels != 3)
        image, bands = picture.pixels, picture.bands
    check_image(image)  # before engines are made
    return _upscaler(generator)(image, bands=bands)


def _upscaler(generator: Generator) -> Upscaler:
    """Return the generator's prepared engine, made now where there is none or its weights are others."""
    upscaler = _prepared.pop(generator, None)
    if upscaler is None or not _same_weights(generator, upscaler.generator):
        del upscaler  # its memory is free before the next one's is taken
        upscaler = Upscaler(generator, device=next(generator.parameters()).device)
    _prepared[generator] = upscaler
    while len(_prepared) > _KEPT:
        del _prepared[next(iter(_prepared))]  # the one that was used longest ago
    return upscaler


def _same_weights(generator: Generator, copy: Generator) -> bool:
    copied = copy.state_dict()
    return all(_equal(value, copied[key]) for key, value in generator.state_dict().items())


def _equal(value: Tensor, copied: Tensor) -> bool:
    if value.device.type == "cpu" and value.dtype == copied.dtype:
        return np.array_equal(value.numpy(), copied.numpy())  # a tenth of the time that torch.equal takes
    return value.device == copied.device and torch.equal(value.to(copied.dtype), copied)
