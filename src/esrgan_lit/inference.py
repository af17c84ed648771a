"""Upscaling images with a trained generator."""

import numpy as np
import torch
from torch import Tensor, nn


def upscale(image: np.ndarray, generator: nn.Module) -> np.ndarray:
    """Enlarge one image.

    Args:
        image: uint8 RGB (height, width, 3).
        generator: for example of ``load_generator``; the image is moved to where its parameters are.

    Returns:
        uint8 RGB (scale · height, scale · width, 3), clamped and rounded.

    Raises:
        TypeError: when the image is not uint8.
        ValueError: when it does not have three channels in the last place.
    """
    if image.dtype != np.uint8:
        raise TypeError(f"image has dtype {image.dtype}; give uint8 levels 0 … 255")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image has shape {image.shape}; give RGB as (height, width, 3)")
    device = next(generator.parameters()).device
    return to_image(generate(generator, to_batch(image).to(device)))


@torch.inference_mode()
def generate(generator: nn.Module, low_res: Tensor) -> Tensor:
    """Run the generator on (batch, 3, height, width) in [0, 1], in evaluation mode and without gradients."""
    was_training = generator.training
    try:
        return generator.eval()(low_res)
    finally:
        generator.train(was_training)


def to_batch(image: np.ndarray) -> Tensor:
    """uint8 (height, width, 3) → float32 (1, 3, height, width) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).unsqueeze(0).float() / 255


def to_image(batch: Tensor) -> np.ndarray:
    """(1, 3, height, width) → uint8 (height, width, 3), clamped to [0, 1] and rounded."""
    levels = (batch.squeeze(0).float().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())
