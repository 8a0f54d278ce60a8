"""A trial's data as `fit` reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ablate.config import DataConfig, TrainConfig
from ablate.data import DataModule


class LazyLoader:
    """A loader whose pass begins at its first batch.

    Lightning opens the first pass of a session before the hooks that say which epoch it is.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        yield from self.loader


class TrialData(DataModule):
    """The data module, evaluated every epoch on `val` (if any is held out) and on `train`."""

    def __init__(self, data: DataConfig, train: TrainConfig, seed: int) -> None:
        super().__init__(data, train, seed)
        held_out = data.val_fraction > 0
        self.eval_names: tuple[str, ...] = ("val", "train") if held_out else ("train",)

    def train_dataloader(self) -> LazyLoader:
        return LazyLoader(super().train_dataloader())

    def val_dataloader(self) -> list[Any]:
        loaders = [self.train_eval_dataloader()]
        if "val" in self.eval_names:
            loaders.insert(0, super().val_dataloader())
        return loaders
