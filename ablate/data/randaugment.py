"""RandAugment on a batch: every image has its own operations, images of one kind share a kernel.

The fourteen operations fall into five kinds, so that a round costs five kernels however the batch's
images are spread over them. On small images it is the number of calls that takes the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ablate.data.clock import Draws
from ablate.data.pixels import blend, posterize, solarize, stretch
from ablate.data.warps import Levels, warp

BINS = 30
"""Magnitudes are 0 to 30, as torchvision's 31 bins."""

Floats = NDArray[np.float64]
Level = Callable[[Floats], Floats]


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
    _Operation("TranslateX", lambda share: 150 / 331 * share, signed=True),
    _Operation("ShearY", lambda share: 0.3 * share, signed=True),
    _Operation("TranslateY", lambda share: 150 / 331 * share, signed=True),
    _Operation("Rotate", lambda share: np.radians(30 * share), signed=True),
    _Operation("Posterize", lambda share: 8 - np.round(4 * share)),
    _Operation("Solarize", lambda share: 255 * (1 - share)),
    _Operation("AutoContrast"),
    _Operation("Equalize"),
    _Operation("Brightness", lambda share: 0.9 * share, signed=True),
    _Operation("Contrast", lambda share: 0.9 * share, signed=True),
    _Operation("Color", lambda share: 0.9 * share, signed=True),
    _Operation("Sharpness", lambda share: 0.9 * share, signed=True),
)
"""In the order of the kinds, so that a sorted batch falls into one slice a kind."""

NAMES = tuple(operation.name for operation in OPERATIONS)
_SIGNED = np.array([operation.signed for operation in OPERATIONS])

Kernel = Callable[[Tensor, Sequence[int], Levels], Tensor]
"""(images (N, 3, S, S) uint8 sorted by operation, how many each has, level (N,)) -> images."""

_KERNELS: tuple[tuple[int, Kernel], ...] = (
    (1, lambda images, sizes, level: images),  # Identity
    (5, warp),  # shears, translations and Rotate
    (1, posterize),
    (1, solarize),
    (2, stretch),  # AutoContrast and Equalize
    (4, blend),  # Brightness, Contrast, Color and Sharpness
)
"""How many operations of the list, in its order, a kernel computes."""


def randaugment(
    images: Tensor, ops: int, magnitude: float, draws: Draws, std: float = 0.0
) -> Tensor:
    """Apply `ops` random operations to each image, one after the other.

    Args:
        images: (N, 3, S, S), uint8.
        ops: operations an image.
        magnitude: 0 to 30.
        draws: the batch's random numbers.
        std: of normal noise on the magnitude of each operation, which stays in 0 to 30.

    Returns:
        (N, 3, S, S), uint8.

    Source: Cubuk et al., arXiv 1909.13719; operations, ranges and signs of torchvision's
    RandAugment; the noise is timm's `mstd`. Departure: warps are bilinear (torchvision's default
    is nearest). timm counts magnitudes to 10: its rand-m9-mstd0.5 is magnitude 27, std 1.5 here
    (its operations differ a little, and it applies each with probability 1/2).
    """
    host = draws.on_host()
    shape = (len(images), ops)
    choice = host.integers(len(OPERATIONS), columns=ops).numpy().reshape(shape)
    negative = host.chance(0.5, columns=ops).numpy().reshape(shape)
    share = np.full((1, 1), magnitude / BINS)
    if std:
        noise = host.normal(columns=ops).numpy().reshape(shape)
        share = (magnitude + std * noise).clip(0, BINS) / BINS
    level = _levels(choice, share) * np.where(negative & _SIGNED[choice], -1, 1)
    for column in range(ops):
        images = apply(images, choice[:, column], level[:, column])
    return images


def _levels(choice: NDArray[np.int64], share: Floats) -> Floats:
    """Parameters of operations, (N, ops), at one share of the largest magnitude or (N, ops)."""
    table = np.stack([operation.level(share) for operation in OPERATIONS])
    levels: Floats = np.choose(choice, table)
    return levels


def apply(images: Tensor, choice: NDArray[np.int64], level: Floats) -> Tensor:
    """Apply one operation to each image.

    Args:
        images: (N, 3, S, S), uint8.
        choice: index into `OPERATIONS`, (N,).
        level: the operation's parameter, (N,).

    Returns:
        (N, 3, S, S), uint8.
    """
    order = choice.argsort(kind="stable")
    levels: Levels = level[order].astype(np.float32)
    images = images.index_select(0, torch.from_numpy(order).to(images.device))
    counts = np.bincount(choice, minlength=len(OPERATIONS)).tolist()
    changed, first, start = [], 0, 0
    for operations, kernel in _KERNELS:
        sizes = counts[first : first + operations]
        part = slice(start, start + sum(sizes))
        if part.start < part.stop:
            changed.append(kernel(images[part], sizes, levels[part]))
        first, start = first + operations, part.stop
    back = torch.from_numpy(order.argsort()).to(images.device)
    return torch.cat(changed).index_select(0, back)
