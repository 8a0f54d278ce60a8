"""Loaders: a plan of batches, and a way to get their pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ablate.data.clock import Clock
from ablate.data.plans import Plan, Planned

Batch = tuple[Tensor, Tensor]


class Fetcher(Protocol):
    """Gets the pixels of planned batches."""

    def fetch(self, batches: Iterable[Planned]) -> Iterator[Batch]:
        """Images (N, 3, H, W) uint8 and labels (N,) int64 of each batch, in order."""


@dataclass(frozen=True)
class ArrayFetcher:
    """From a memory-mapped array: a batch is one gather, in this process.

    Args:
        pixels: (M, 3, H, W), uint8.
        labels: (M,), int64.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def fetch(self, batches: Iterable[Planned]) -> Iterator[Batch]:
        """One gather a batch."""
        for batch in batches:
            images, labels = self.pixels[batch.indices], self.labels[batch.indices]
            yield torch.from_numpy(images), torch.from_numpy(labels)


class Loader:
    """An iterable of batches with a length, for Lightning's Trainer or a plain loop.

    It is its own `sampler`, which is where Lightning tells the epoch before each one starts;
    `batch_sampler` is what Lightning looks at besides.

    Args:
        plan: which images.
        fetcher: their pixels.
        clock: moved by `set_epoch`; iterating starts its steps anew. None for evaluation.
    """

    def __init__(self, plan: Plan, fetcher: Fetcher, clock: Clock | None = None) -> None:
        self.plan = plan
        self.fetcher = fetcher
        self.clock = clock
        self.batch_sampler = None

    @property
    def sampler(self) -> Loader:
        """Itself: it has `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is, counted from 0."""
        if self.clock is not None:
            self.clock.epoch = epoch

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: Lightning opens the first pass before it says which epoch it is.
        if self.clock is not None:
            self.clock.step = 0
        yield from self.fetcher.fetch(self.plan.batches())
