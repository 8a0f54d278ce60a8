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

    The images of an incomplete last step are dropped, unless the split is smaller than one step:
    then it is the only step (cut to a multiple of processes and micro-batches).

    With repeated augmentation an epoch has as many images as without, but only 1 / repeats of
    them, each `repeats` times in one batch (arXiv 1901.09335, as DeiT uses it); copies of an
    image lie far apart in the batch, so that processes share them and mixing pairs others.

    Args:
        indices: images of the split.
        step_size: images of an optimizer's step, over all processes.
        clock: seed and epoch of the shuffle.
        share: of this process.
        accumulate: batches of a step.
        repeats: views of an image.
    """

    indices: Indices
    step_size: int
    clock: Clock
    share: Share
    accumulate: int = 1
    repeats: int = 1

    @property
    def batch_size(self) -> int:
        """Images of a batch, over all processes; 0 where there are too few for one each."""
        unit = self.share.world * self.accumulate
        return min(self.step_size, len(self.indices)) // unit * self.share.world

    def __len__(self) -> int:
        return max(len(self.indices) // self.step_size, 1) * self.accumulate

    def batches(self) -> Iterator[Planned]:
        """This process's part of each global batch of the clock's epoch."""
        size = self.batch_size
        order = self.clock.rng("shuffle").permutation(self.indices)
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
