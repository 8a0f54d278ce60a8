"""Sums over the batches of one pass, kept on the device: no step waits for a number."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Tally:
    """Image-weighted means over one pass of a split.

    The per-batch sums stay on the device; `means` copies them to the CPU once and adds them in
    float64, in the order in which they came.
    """

    def __init__(self, *names: str) -> None:
        self.names = names
        self._sums: list[Tensor] = []
        self._images: list[int] = []

    def reset(self) -> None:
        """Forget every batch."""
        self._sums.clear()
        self._images.clear()

    def add(self, images: int, *sums: Tensor) -> None:
        """Add the sums over one batch of `images` images, in the order of the names."""
        self._sums.append(torch.stack([value.detach().float() for value in sums]))
        self._images.append(images)

    @property
    def images(self) -> int:
        """Images so far, on this process."""
        return sum(self._images)

    def means(self, strategy: Any = None) -> dict[str, float]:
        """The means by name, over all processes of `strategy` (a Lightning strategy) if given."""
        totals = torch.zeros(len(self.names) + 1, dtype=torch.float64)
        if self._sums:
            totals[:-1] = torch.stack(self._sums).cpu().double().sum(0)
            totals[-1] = self.images
        if strategy is not None:
            totals = _sum_over_processes(totals, strategy)
        *sums, images = totals.tolist()
        return {
            name: total / images if images else float("nan")
            for name, total in zip(self.names, sums, strict=True)
        }


def _sum_over_processes(totals: Tensor, strategy: Any) -> Tensor:
    reduced = strategy.reduce(totals.to(strategy.root_device), reduce_op="sum")
    return torch.as_tensor(reduced).cpu()


def score(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over a batch: cross-entropy (no smoothing), top-1 hits and top-5 hits in percent.

    Logits in bf16 tie now and then: top-1 is of the first of equals, as the prediction is.

    Args:
        logits: (N, classes).
        labels: class indices (N,).
    """
    loss = F.cross_entropy(logits.float(), labels, reduction="sum")
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = ranked == labels[:, None]
    first = logits.argmax(dim=1) == labels
    return loss, 100.0 * first.sum(), 100.0 * hits.sum()
