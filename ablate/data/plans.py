"""Which images stand in which batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ablate.data.clock import Clock, Share

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Planned:
    """One process's part of one global batch.

    Args:
        indices: which images.
        place: position of the first of them in the epoch, counted over all processes.
    """

    indices: Indices
    place: int


class Plan(Protocol):
    """The batches of one pass over a split, as one process sees them."""

    def __len__(self) -> int: ...

    def batches(self) -> Iterator[Planned]:
        """This process's part of each batch, in order."""


@dataclass(frozen=True)
class TrainPlan:
    """Shuffled global batches of one size, anew in every epoch.

    An incomplete last batch is dropped, unless the split is smaller than one batch: then the
    whole split is the only batch (cut to a multiple of the processes).

    With repeated augmentation an epoch has as many images as without, but only 1 / repeats of
    them, each `repeats` times in one batch (arXiv 1901.09335, as DeiT uses it); copies of an
    image lie far apart in the batch, so that processes share them and mixing pairs others.

    Args:
        indices: images of the split.
        batch_size: images of a global batch.
        clock: seed and epoch of the shuffle.
        share: of this process.
        repeats: views of an image.
    """

    indices: Indices
    batch_size: int
    clock: Clock
    share: Share
    repeats: int = 1

    def __len__(self) -> int:
        return max(len(self.indices) // self.batch_size, 1)

    def batches(self) -> Iterator[Planned]:
        """This process's part of each global batch of the clock's epoch."""
        order = self.clock.rng("shuffle").permutation(self.indices)
        size = min(self.batch_size, len(order) // self.share.world * self.share.world)
        order = order.repeat(self.repeats)[: len(self) * size]
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            views = [batch[first :: self.repeats] for first in range(self.repeats)]
            part = np.split(np.concatenate(views), self.share.world)[self.share.rank]
            yield Planned(part, start + self.share.rank * len(part))


@dataclass(frozen=True)
class EvalPlan:
    """All images once, in order, in batches of nearly one size.

    Batches differ by at most one image, so that every process has a part of each.

    Args:
        indices: images of the split.
        batch_size: most images of a global batch.
        share: of this process.
    """

    indices: Indices
    batch_size: int
    share: Share

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def batches(self) -> Iterator[Planned]:
        """This process's part of each global batch."""
        for batch in np.array_split(self.indices, len(self)) if len(self.indices) else ():
            yield Planned(np.array_split(batch, self.share.world)[self.share.rank], place=0)
