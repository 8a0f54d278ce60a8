"""Operations of RandAugment on the values of pixels.

Each takes images (N, 3, H, W) uint8, sorted by operation; how many there are of each operation;
and a level for each image, (N,).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ablate.data.warps import Levels


def blend(images: Tensor, sizes: Sequence[int], level: Levels) -> Tensor:
    """Brightness, Contrast, Color, Sharpness: away from, or towards, what the image starts from.

    That is black, its mean grey, its greys, its blur: `start + (1 + level) (image - start)`.
    """
    pixels = images.float()
    start = torch.zeros_like(pixels)
    _, flat, greys, blurred = torch.split(start, list(sizes))
    first, last = sizes[0], sizes[0] + sizes[1] + sizes[2]
    luma = grey(pixels[first:last])
    flat.copy_(luma[: sizes[1]].mean((2, 3), keepdim=True))
    greys.copy_(luma[sizes[1] :])
    _blur(pixels[last:], blurred)
    factor = torch.from_numpy(1 + level).to(images.device)[:, None, None, None]
    return torch.lerp(start, pixels, factor).clamp_(0, 255).to(torch.uint8)


def grey(pixels: Tensor) -> Tensor:
    """ITU-R 601 luma, whole numbers: (N, 1, H, W), from (N, 3, H, W), float32."""
    red, green, blue = pixels[:, 0:1], pixels[:, 1:2], pixels[:, 2:3]
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def _blur(pixels: Tensor, result: Tensor) -> None:
    """A 3x3 blur, into `result`; the border has no blur and stays as it is."""
    rows = (pixels[..., :-2, :] + pixels[..., 1:-1, :]).add_(pixels[..., 2:, :])
    sums = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:])  # of 3x3
    sums.add_(pixels[..., 1:-1, 1:-1], alpha=4).div_(13).round_()  # the centre weighs 5 of 13
    result.copy_(pixels)[..., 1:-1, 1:-1] = sums


def posterize(images: Tensor, sizes: Sequence[int], level: Levels) -> Tensor:
    """Keep the upper `level` bits."""
    kept = torch.from_numpy((256 - np.exp2(8 - level)).astype(np.uint8))
    return images & kept.to(images.device)[:, None, None, None]


def solarize(images: Tensor, sizes: Sequence[int], level: Levels) -> Tensor:
    """Invert what is at or above the threshold `level`."""
    threshold = torch.from_numpy(np.ceil(level).astype(np.uint8))
    above = images >= threshold.to(images.device)[:, None, None, None]
    return images ^ above.view(torch.uint8).neg_()  # with 255, or 0


def stretch(images: Tensor, sizes: Sequence[int], level: Levels) -> Tensor:
    """AutoContrast, Equalize: look each pixel up in a table of its channel."""
    places = images.flatten(2).long()
    tables = torch.cat([_autocontrast(places[: sizes[0]]), _equalize(places[sizes[0] :])])
    return tables.gather(2, places).view_as(images)


def _autocontrast(places: Tensor) -> Tensor:
    """Stretch each channel to 0..255; a channel of one value stays.

    Args:
        places: pixels of each channel, (N, 3, H * W), int64.

    Returns:
        (N, 3, 256), uint8: entry v is what the channel's pixels of value v become.
    """
    low, high = places.aminmax(dim=2, keepdim=True)
    values = torch.arange(256, dtype=torch.float32, device=places.device)
    stretched = (values - low).div_(high - low).mul_(255).clamp_(0, 255)
    return torch.where(high > low, stretched, values).to(torch.uint8)


def _equalize(places: Tensor) -> Tensor:
    """Spread each channel's values evenly over its pixels, in whole numbers as PIL does.

    Args:
        places: (N, 3, H * W), int64.

    Returns:
        (N, 3, 256), uint8, as for `_autocontrast`.
    """
    one = torch.ones(1, dtype=torch.int32, device=places.device)
    counts = one.new_zeros(*places.shape[:2], 256).scatter_add_(2, places, one.expand_as(places))
    last = counts.gather(2, places.amax(2, keepdim=True))  # pixels of the largest value
    step = (places.shape[2] - last).float().div_(255).floor_()
    below = counts.cumsum(2, dtype=torch.int32) - counts
    spread = (below + (step / 2).floor_()).div_(step).clamp_(0, 255)  # cut off below; whole: exact
    values = torch.arange(256, dtype=torch.float32, device=places.device)
    return torch.where(step > 0, spread, values).to(torch.uint8)
