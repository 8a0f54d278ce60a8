"""Random erasing: a rectangle of noise in each image."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ablate.data.clock import Draws

_AREA = (0.02, 1 / 3)
_RATIO = (0.3, 10 / 3)


def random_erasing(
    images: Tensor, probability: float, draws: Draws, noise: np.random.Generator
) -> None:
    """Fill, in place, a random rectangle of each image with normal noise, with a probability.

    Args:
        images: (N, C, H, W), normalised.
        probability: that an image has a part erased.
        draws: the batch's random numbers.
        noise: the same at every step of an epoch.

    Source: Zhong et al., arXiv 1708.04896, in DeiT's form: noise of each pixel's own, 2 to 33% of
    the area, aspect ratio 0.3 to 3.3. Departures: a rectangle that does not fit is cut to the
    image instead of drawn again; and the noise is a window, at a random place for each image, of
    one field per epoch, four times as large as an image.
    """
    height, width = images.shape[-2:]
    draws = draws.on_host()
    erased = draws.chance(probability)
    area = draws.uniform(*_AREA) * height * width
    ratio = draws.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])).exp()
    tall, wide = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    tall, wide = tall.clamp(1, height), wide.clamp(1, width)
    place = draws.uniform(columns=2)
    top = (place[:, 0] * (height - tall + 1)).floor()
    left = (place[:, 1] * (width - wide + 1)).floor()
    window = draws.integers(min(height, width) + 1, columns=2)

    chosen = erased.nonzero()[:, 0]
    inside = _between(top, tall, height)[chosen, None, :, None]
    inside = inside & _between(left, wide, width)[chosen, None, None, :]
    field = noise.standard_normal((images.shape[1], 2 * height, 2 * width), dtype=np.float32)
    windows = torch.from_numpy(field).unfold(1, height, 1).unfold(2, width, 1)
    filled = windows[:, window[chosen, 0], window[chosen, 1]].transpose(0, 1)  # (E, C, H, W)
    device, place = images.device, chosen.to(images.device)
    erased_images = images.index_select(0, place)
    images[place] = torch.where(inside.to(device), filled.to(device), erased_images)


def _between(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Which of `size` places lie in [start, start + length): (N, size)."""
    places = torch.arange(size)
    return (places >= start[:, None]) & (places < (start + length)[:, None])
