"""Shears, translations and rotations of a batch, bilinear; outside of an image is black."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Levels = NDArray[np.float32]


def warp(images: Tensor, sizes: Sequence[int], level: Levels) -> Tensor:
    """ShearX, TranslateX, ShearY, TranslateY, Rotate: each image through its own affine map.

    Args:
        images: (N, 3, S, S), uint8, sorted by operation.
        sizes: images of each operation.
        level: slope of a shear, share of the side, angle in radians; (N,).
    """
    side = images.shape[-1]
    theta = torch.from_numpy(warp_matrices(sizes, level, side)).to(images.device)[..., None, None]
    places = (torch.arange(side, device=images.device) * 2 + 1) / side - 1  # of pixel centres
    rows = torch.addcmul(theta[:, :, 2], theta[:, :, 1], places[:, None])  # (N, 2, S, 1)
    grid = torch.addcmul(rows, theta[:, :, 0], places)  # (N, 2, S, S): x and y in planes
    warped = F.grid_sample(images.float(), grid.permute(0, 2, 3, 1), align_corners=False)
    return warped.round_().to(torch.uint8)


def warp_matrices(sizes: Sequence[int], level: Levels, side: int) -> NDArray[np.float32]:
    """From places in the result to places in the image, both in [-1, 1]: (N, 2, 3).

    Shears hold the upper left corner, rotation the centre; translations are whole pixels.
    """
    theta = np.zeros((len(level), 2, 3), dtype=np.float32)
    theta[:, 0, 0] = theta[:, 1, 1] = 1
    ends = np.cumsum(sizes)
    for axis in range(2):
        shear, shift = (slice(ends[i] - sizes[i], ends[i]) for i in (2 * axis, 2 * axis + 1))
        theta[shear, axis, 1 - axis] = theta[shear, axis, 2] = level[shear]
        theta[shift, axis, 2] = -np.trunc(level[shift] * side) * 2 / side
    turned, angle = theta[ends[3] :], level[ends[3] :]
    turned[:, 0, 0] = turned[:, 1, 1] = np.cos(angle)
    turned[:, 1, 0] = np.sin(angle)
    turned[:, 0, 1] = -turned[:, 1, 0]
    return theta
