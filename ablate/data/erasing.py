"""Random erasing: a rectangle of noise in each image."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ablate.data.clock import Clock, Draws
from ablate.data.rows import rows_from

_AREA = (0.02, 1 / 3)
_RATIO = (0.3, 10 / 3)
Floats = NDArray[np.float32]


def random_erasing(images: Tensor, probability: float, draws: Draws, clock: Clock) -> None:
    """Fill, in place, a random rectangle of each image with normal noise, with a probability.

    Args:
        images: (N, C, H, W), normalised.
        probability: that an image has a part erased.
        draws: the batch's random numbers.
        clock: its seed and epoch are those of the noise.

    Source: Zhong et al., arXiv 1708.04896, in DeiT's form: noise of each pixel's own, 2 to 33% of
    the area, aspect ratio 0.3 to 3.3. Departures: a rectangle that does not fit is cut to the
    image instead of drawn again; and the noise is a window, at a random place for each image, of
    one field per epoch, four times as large as an image.
    """
    height, width = images.shape[-2:]
    draws = draws.on_host()
    erased = draws.chance(probability)
    area = draws.uniform(*_AREA).numpy() * height * width
    ratio = np.exp(draws.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])).numpy())
    tall = np.sqrt(area * ratio).round().clip(1, height)
    wide = np.sqrt(area / ratio).round().clip(1, width)
    place = draws.uniform(columns=2).numpy()
    rows = _between(place[:, 0], tall, height)
    columns = _between(place[:, 1], wide, width)
    window = draws.integers(min(height, width) + 1, columns=2)

    chosen = erased.nonzero()[:, 0]
    inside = torch.from_numpy(rows[:, :, None] & columns[:, None])[chosen, None]  # (E, 1, H, W)
    field = _field(clock.seed, clock.epoch, (images.shape[1], 2 * height, 2 * width))
    noise = _windows(field, window[chosen], height, width).to(images.device)
    chosen = chosen.to(images.device)
    kept = images.index_select(0, chosen)
    images.index_copy_(0, chosen, torch.where(inside.to(images.device), noise, kept))


@lru_cache(maxsize=1)
def _field(seed: int, epoch: int, shape: tuple[int, ...]) -> Tensor:
    """The normal noise of an epoch, float32; every step takes its windows from it."""
    noise = Clock(seed, epoch).rng("noise").standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(noise)


def _windows(field: Tensor, corners: Tensor, height: int, width: int) -> Tensor:
    """Parts of the field, (E, C, H, W), at corners (E, 2) of row and column."""
    channels, tall, wide = field.shape
    row, plane = torch.arange(height), torch.arange(channels)[:, None]
    top, left = corners[:, :, None, None].unbind(1)
    return rows_from(field, (plane * tall + top + row) * wide + left, width)


def _between(place: Floats, length: Floats, size: int) -> NDArray[np.bool_]:
    """Which pixels lie in an interval whose place among all is in [0, 1): (N, size)."""
    start = np.floor(place * (size - length + 1))[:, None]
    pixels = np.arange(size)
    inside: NDArray[np.bool_] = (pixels >= start) & (pixels < start + length[:, None])
    return inside
