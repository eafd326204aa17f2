"""Camera images as reward models take them."""

import numpy as np
import torch
from torchvision.transforms.v2 import functional


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return RGB pixels (H, W, 3) uint8 as (height, width, 3), as LeRobot's HIL-SERL resizes.

    The whole image is kept and its aspect is not, see `ImageCropResizeProcessorStep`. Frames for
    training and for predictions go through here, so that a model sees what it was trained on.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    return functional.resize(planes, [height, width]).permute(1, 2, 0).contiguous().numpy()


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """Return RGB pixels (H, W, 3) uint8 as (3, H, W) float32 in 0 to 1."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 255.0
