"""Operations on pixels that are a table of 256 entries for each channel of each image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType

import torch
from torch import Tensor


def grey(images: Tensor) -> Tensor:
    """ITU-R 601 luma, whole numbers: (N, 1, H, W), float32, from (N, 3, H, W) uint8."""
    weights = torch.tensor([0.2989, 0.587, 0.114], device=images.device).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True).floor_()


def channel_tables(images: Tensor, names: Sequence[str], level: Tensor) -> Tensor:
    """The table of each image's operation.

    Args:
        images: (N, 3, H, W), uint8.
        names: of the operations, N keys of `TABLES`; equal ones stand together.
        level: their parameters, (N,).

    Returns:
        (N, 3, 256), uint8: entry v of a channel is what its pixels of value v become.
    """
    tables = []
    start = 0
    for name, same in groupby(names):
        stop = start + len(list(same))
        tables.append(TABLES[name](images[start:stop], level[start:stop].view(-1, 1, 1)))
        start = stop
    return torch.cat(tables).clamp_(0, 255).to(torch.uint8)


def _values(images: Tensor) -> Tensor:
    """0, ..., 255 for every channel: (N, 3, 256), float32."""
    values = torch.arange(256, dtype=torch.float32, device=images.device)
    return values.expand(len(images), 3, 256)


def _brightness(images: Tensor, level: Tensor) -> Tensor:
    return _values(images) * (1 + level)


def _contrast(images: Tensor, level: Tensor) -> Tensor:
    mean = grey(images).mean((1, 2, 3)).view(-1, 1, 1)
    return torch.lerp(mean.expand(-1, 3, 256), _values(images), 1 + level)


def _posterize(images: Tensor, level: Tensor) -> Tensor:
    """Keep the upper `level` bits."""
    step = torch.pow(2.0, 8 - level)
    return (_values(images) / step).floor() * step


def _solarize(images: Tensor, level: Tensor) -> Tensor:
    """Invert what is at or above the threshold `level`."""
    values = _values(images)
    return torch.where(values >= level, 255 - values, values)


def _autocontrast(images: Tensor, level: Tensor) -> Tensor:
    """Stretch each channel to 0..255; a channel of one value stays."""
    low = images.amin((2, 3)).float()[:, :, None]
    high = images.amax((2, 3)).float()[:, :, None]
    stretched = (_values(images) - low) / (high - low).clamp(min=1) * 255
    return torch.where(high > low, stretched, _values(images))


def _equalize(images: Tensor, level: Tensor) -> Tensor:
    """Spread each channel's values evenly over its pixels, in whole numbers as PIL does."""
    pixels = images.flatten(2).long()
    counts = torch.zeros(*pixels.shape[:2], 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(2, pixels, torch.ones_like(pixels))
    last = counts.gather(2, pixels.amax(2, keepdim=True))  # pixels of the largest value
    step = (pixels.shape[2] - last).div(255, rounding_mode="floor")
    below = counts.cumsum(2) - counts
    spread = (below + step.div(2, rounding_mode="floor")).div(
        step.clamp(min=1), rounding_mode="floor"
    )
    return torch.where(step > 0, spread.float(), _values(images))


TABLES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {
        "Brightness": _brightness,
        "Contrast": _contrast,
        "Posterize": _posterize,
        "Solarize": _solarize,
        "AutoContrast": _autocontrast,
        "Equalize": _equalize,
    }
)
"""Name -> (images (N, 3, H, W) uint8, level (N, 1, 1)) -> table (N, 3, 256), float32, in order."""
