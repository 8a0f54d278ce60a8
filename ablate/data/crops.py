"""Random crops and flips of a batch of square images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.data.clock import Draws
from ablate.data.rows import rows_from

_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_TRIES = 10


def pad_crop(images: Tensor, padding: int, draws: Draws) -> Tensor:
    """Pad with zeros on every side and crop at a random place, one for each image.

    Args:
        images: (N, C, H, W).
        padding: in pixels, on each side.
        draws: the batch's random numbers.

    Returns:
        (N, C, H, W).

    Source: He et al., Deep Residual Learning, arXiv 1512.03385, Section 4.2.
    """
    count, channels, height, width = images.shape
    top, left = draws.integers(2 * padding + 1, columns=2)[:, :, None, None].unbind(1)
    padded = F.pad(images, (padding,) * 4)
    tall, wide = padded.shape[-2:]
    plane = torch.arange(count * channels, device=images.device).view(count, channels, 1)
    row = torch.arange(height, device=images.device)
    return rows_from(padded, (plane * tall + top + row) * wide + left, width)


def random_flip(images: Tensor, draws: Draws) -> Tensor:
    """Mirror each image left to right with probability 1/2: (N, C, H, W)."""
    chosen = draws.chance(0.5)
    both = torch.cat([images, images.flip(-1)])  # to choose whole images is cheap, pixels is not
    return both.index_select(
        0, torch.arange(len(images), device=images.device) + chosen * len(images)
    )


def resized_crop(images: Tensor, draws: Draws) -> Tensor:
    """Crop a random part of each image and resize it to the image's size (bilinear).

    The part has 8 to 100% of the area and an aspect ratio of 3/4 to 4/3; of ten candidates the
    first that fits is taken, as in torchvision's RandomResizedCrop.

    Args:
        images: (N, C, H, W), uint8.
        draws: the batch's random numbers.

    Returns:
        (N, C, H, W), uint8.

    Source: Szegedy et al., Going Deeper with Convolutions, arXiv 1409.4842, Section 6.
    """
    height, width = images.shape[-2:]
    tall, wide = _first_fit(height, width, draws)
    top, left = draws.uniform(columns=2).unbind(1)
    top = (top * (height - tall + 1)).floor()
    left = (left * (width - wide + 1)).floor()
    # The centre and half-extent of the part, in units where the image spans [-1, 1].
    theta = images.new_zeros((len(images), 2, 3), dtype=torch.float32)
    theta[:, 0, 0], theta[:, 1, 1] = wide / width, tall / height
    theta[:, 0, 2] = (2 * left + wide) / width - 1
    theta[:, 1, 2] = (2 * top + tall) / height - 1
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    resized = F.grid_sample(
        images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return resized.round_().to(torch.uint8)


def _first_fit(height: int, width: int, draws: Draws) -> tuple[Tensor, Tensor]:
    """Height and width of each image's part: the first candidate that fits, else all of it."""
    area = draws.uniform(*_AREA, columns=_TRIES) * height * width
    ratio = draws.uniform(math.log(_RATIO[0]), math.log(_RATIO[1]), columns=_TRIES).exp()
    wide, tall = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (wide >= 1) & (tall >= 1) & (wide <= width) & (tall <= height)
    first = fits.float().argmax(1, keepdim=True)
    found = fits.any(1)
    return (
        torch.where(found, tall.gather(1, first)[:, 0], float(height)),
        torch.where(found, wide.gather(1, first)[:, 0], float(width)),
    )
