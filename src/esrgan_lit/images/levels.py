"""The conversions between levels (0 … 255) and tensors in [0, 1]."""

import numpy as np
import torch
from torch import Tensor


def to_batch(image: np.ndarray) -> Tensor:
    """uint8 (height, width, 3) → float32 (1, 3, height, width) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).unsqueeze(0).float() / 255


def to_image(batch: Tensor) -> np.ndarray:
    """(1, 3, height, width) → uint8 (height, width, 3), clamped to [0, 1] and rounded."""
    levels = (batch.squeeze(0).float().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())


def to_unit(levels: Tensor) -> Tensor:
    """Convert uint8 to float32 in [0, 1]."""
    return levels.float().div_(255)
