"""A trial's data as `fit` reads it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from ablate.config import DataConfig, TrainConfig
from ablate.data import DataModule


class LazyLoader:
    """A loader of whole steps, whose pass begins at its first batch.

    Lightning opens the first pass of a session before the hooks that say which epoch it is, and
    would take a last step from fewer micro-batches than `accumulate`.
    """

    def __init__(self, loader: Any, accumulate: int) -> None:
        self.loader = loader
        self.accumulate = accumulate

    def __len__(self) -> int:
        batches = len(self.loader)
        # An epoch of less than one step is that step.
        return batches - batches % self.accumulate or batches

    def __iter__(self) -> Iterator[Any]:
        yield from islice(self.loader, len(self))


class TrialData(DataModule):
    """The data module, evaluated every epoch on `val` (if any is held out) and on `train`."""

    def __init__(self, data: DataConfig, train: TrainConfig, seed: int) -> None:
        super().__init__(data, train, seed)
        held_out = data.val_fraction > 0
        self.eval_names: tuple[str, ...] = ("val", "train") if held_out else ("train",)

    def train_dataloader(self) -> Any:
        return LazyLoader(super().train_dataloader(), self.recipe.accumulate)

    def val_dataloader(self) -> Any:
        loaders: list[Any] = [self.train_eval_dataloader()]
        if "val" in self.eval_names:
            loaders.insert(0, super().val_dataloader())
        return loaders
