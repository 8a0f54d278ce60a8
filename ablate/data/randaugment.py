"""RandAugment on a batch: every image has its own operations, images of one kind share a kernel.

The fourteen operations fall into four kinds, so that a batch costs four kernels a round however
its images are spread: warps (one affine sampling), tables (each channel through 256 entries),
colour (blend with grey) and sharpness (blend with a blur).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.data.clock import Draws
from ablate.data.tables import TABLES, channel_tables, grey

BINS = 30
"""Magnitudes are 0 to 30, as torchvision's 31 bins."""

Level = Callable[[float], float]


@dataclass(frozen=True)
class _Operation:
    """One operation of RandAugment.

    Args:
        name: torchvision's.
        level: from magnitude / 30 to the parameter (translation as a share of the side).
        signed: the parameter's sign is random.
    """

    name: str
    level: Level = lambda share: share
    signed: bool = False


OPERATIONS = (
    _Operation("Identity"),
    _Operation("ShearX", lambda share: 0.3 * share, signed=True),
    _Operation("ShearY", lambda share: 0.3 * share, signed=True),
    _Operation("TranslateX", lambda share: 150 / 331 * share, signed=True),
    _Operation("TranslateY", lambda share: 150 / 331 * share, signed=True),
    _Operation("Rotate", lambda share: math.radians(30 * share), signed=True),
    _Operation("Brightness", lambda share: 0.9 * share, signed=True),
    _Operation("Contrast", lambda share: 0.9 * share, signed=True),
    _Operation("Posterize", lambda share: 8 - round(4 * share)),
    _Operation("Solarize", lambda share: 255 * (1 - share)),
    _Operation("AutoContrast"),
    _Operation("Equalize"),
    _Operation("Color", lambda share: 0.9 * share, signed=True),
    _Operation("Sharpness", lambda share: 0.9 * share, signed=True),
)
"""In the order of the kinds, so that a sorted batch falls into one slice a kind."""

NAMES = tuple(operation.name for operation in OPERATIONS)
WARPS = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


def randaugment(images: Tensor, ops: int, magnitude: int, draws: Draws) -> Tensor:
    """Apply `ops` random operations to each image, one after the other.

    Args:
        images: (N, 3, S, S), uint8.
        ops: operations an image.
        magnitude: 0 to 30.
        draws: the batch's random numbers.

    Returns:
        (N, 3, S, S), uint8.

    Source: Cubuk et al., arXiv 1909.13719; operations, ranges and signs of torchvision's
    RandAugment. Departure: warps are bilinear (torchvision's default is nearest).
    """
    host = draws.on_host()
    levels = torch.tensor([operation.level(magnitude / BINS) for operation in OPERATIONS])
    signed = torch.tensor([operation.signed for operation in OPERATIONS])
    for _ in range(ops):
        choice = host.integers(len(OPERATIONS))
        negative = host.chance(0.5) & signed[choice]
        images = apply(images, choice, torch.where(negative, -levels[choice], levels[choice]))
    return images


def apply(images: Tensor, choice: Tensor, level: Tensor) -> Tensor:
    """Apply one operation to each image.

    Args:
        images: (N, 3, S, S), uint8.
        choice: index into `OPERATIONS`, (N,), on the CPU.
        level: the operation's parameter, (N,), on the CPU.

    Returns:
        (N, 3, S, S), uint8.
    """
    order = choice.argsort(stable=True)
    choice, level = choice[order], level[order]
    changed = images.index_select(0, order.to(images.device))
    for names, kernel in _KERNELS:
        first, last = NAMES.index(names[0]), NAMES.index(names[-1])
        start, stop = torch.searchsorted(choice, torch.tensor([first, last + 1])).tolist()
        if start < stop:
            part = slice(start, stop)
            changed[part] = kernel(changed[part], choice[part], level[part])
    return changed.index_select(0, order.argsort().to(images.device))


def _warp(images: Tensor, choice: Tensor, level: Tensor) -> Tensor:
    """Sample each image through its own affine map, bilinear; outside is black."""
    side = images.shape[-1]
    theta = warp_matrices(choice, level, side).to(images.device)[:, None, None]
    places = (torch.arange(side, device=images.device) * 2 + 1) / side - 1  # of pixel centres
    x, y = places.view(1, 1, side, 1), places.view(1, side, 1, 1)
    grid = theta[..., 0] * x + theta[..., 1] * y + theta[..., 2]  # (N, S, S, 2)
    sampled = F.grid_sample(images.float(), grid, mode="bilinear", align_corners=False)
    return sampled.round_().to(torch.uint8)


def warp_matrices(choice: Tensor, level: Tensor, side: int) -> Tensor:
    """From places in the result to places in the image, both in [-1, 1]: (N, 2, 3).

    Shears hold the upper left corner, rotation the centre; translations are whole pixels.
    """
    theta = torch.eye(2, 3).repeat(len(choice), 1, 1)
    pixels = (level * side).trunc() * 2 / side
    shear_x, shear_y, shift_x, shift_y, turn = (choice == NAMES.index(name) for name in WARPS)
    theta[:, 0, 1] += shear_x * level - turn * level.sin()
    theta[:, 1, 0] += shear_y * level + turn * level.sin()
    theta[:, 0, 2] += shear_x * level - shift_x * pixels
    theta[:, 1, 2] += shear_y * level - shift_y * pixels
    theta[:, 0, 0] += turn * (level.cos() - 1)
    theta[:, 1, 1] += turn * (level.cos() - 1)
    return theta


def _tables(images: Tensor, choice: Tensor, level: Tensor) -> Tensor:
    """Look each pixel up in the table of its image's operation and its channel."""
    names = [NAMES[index] for index in choice.tolist()]
    tables = channel_tables(images, names, level.to(images.device))
    return tables.gather(2, images.flatten(2).long()).view_as(images)


def _colour(images: Tensor, choice: Tensor, level: Tensor) -> Tensor:
    return _blend(grey(images), images, level)


def _sharpness(images: Tensor, choice: Tensor, level: Tensor) -> Tensor:
    """Away from, or towards, a 3x3 blur; the border has no blur and stays as it is."""
    pixels = images.float()
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    sums = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]  # of 3x3
    centre = pixels[..., 1:-1, 1:-1]
    blurred = pixels.clone()
    blurred[..., 1:-1, 1:-1] = ((sums + 4 * centre) / 13).round_()  # the centre weighs 5 of 13
    return _blend(blurred, images, level)


def _blend(start: Tensor, images: Tensor, level: Tensor) -> Tensor:
    """From `start` at level -1 over the image at 0 and beyond it: (N, 3, S, S), uint8."""
    factor = 1 + level.to(images.device)[:, None, None, None]
    return (
        torch.lerp(start.expand_as(images), images.float(), factor).clamp_(0, 255).to(torch.uint8)
    )


_KERNELS: tuple[tuple[tuple[str, ...], Callable[[Tensor, Tensor, Tensor], Tensor]], ...] = (
    (WARPS, _warp),
    (tuple(TABLES), _tables),
    (("Color",), _colour),
    (("Sharpness",), _sharpness),
)
