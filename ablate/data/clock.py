"""Where the randomness of data comes from: the trial's seed, the epoch and the step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

_STREAMS = {"shuffle": 0, "augment": 1, "noise": 2, "decode": 3}


@dataclass
class Clock:
    """The place in training; it moves, and every random number is a function of it.

    So an epoch can be iterated again, or be the first one after a resume, and is the same.

    Args:
        seed: of the trial.
        epoch: counted from 0.
        step: batches of this epoch that were transformed so far.
    """

    seed: int
    epoch: int = 0
    step: int = 0

    def rng(
        self, stream: Literal["shuffle", "augment", "noise", "decode"], *place: int
    ) -> np.random.Generator:
        """A generator for one purpose, at (seed, epoch) and, inside the epoch, `place`."""
        return np.random.default_rng([self.seed, self.epoch, _STREAMS[stream], *place])


@dataclass(frozen=True)
class Share:
    """The part of a global batch that one process works on.

    Args:
        rank: of this process.
        world: number of processes.
    """

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Draws:
    """Random numbers for a batch: drawn for every image of the global batch, kept for a share.

    Drawn on the CPU, so that all devices, and any number of processes, see the same ones.

    Args:
        rng: consumed in the order of the calls.
        count: images of this process; all processes have as many.
        share: which of them this process has.
        device: that the kept numbers are moved to.
    """

    rng: np.random.Generator
    count: int
    share: Share
    device: torch.device

    @property
    def total(self) -> int:
        """Images of the global batch."""
        return self.count * self.share.world

    def on_host(self) -> Draws:
        """The same stream with numbers on the CPU: choosing images by them waits for no device."""
        return replace(self, device=torch.device("cpu"))

    def uniform(self, low: float = 0.0, high: float = 1.0, columns: int = 1) -> Tensor:
        """Uniform in [low, high): float32, (N,), or (N, columns) for more than one column."""
        return self._kept(self.rng.uniform(low, high, (self.total, columns)).astype(np.float32))

    def integers(self, high: int, columns: int = 1) -> Tensor:
        """Uniform in {0, ..., high - 1}: int64, (N,), or (N, columns)."""
        return self._kept(self.rng.integers(high, size=(self.total, columns)))

    def chance(self, probability: float, columns: int = 1) -> Tensor:
        """True with a probability: bool, (N,), or (N, columns)."""
        return self._kept(self.rng.random((self.total, columns)) < probability)

    def normal(self, columns: int = 1) -> Tensor:
        """Standard normal: float32, (N,), or (N, columns)."""
        return self._kept(self.rng.standard_normal((self.total, columns), dtype=np.float32))

    def beta(self, alpha: float) -> Tensor:
        """Beta(alpha, alpha): float32, (N,)."""
        return self._kept(self.rng.beta(alpha, alpha, (self.total, 1)).astype(np.float32))

    def _kept(self, numbers: np.ndarray[tuple[int, int], np.dtype[np.generic]]) -> Tensor:
        start = self.share.rank * self.count
        kept = torch.from_numpy(numbers[start : start + self.count]).to(self.device)
        return kept[:, 0] if kept.shape[1] == 1 else kept
