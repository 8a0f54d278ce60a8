"""A trial's data as `fit` reads it."""

from __future__ import annotations

from typing import Any

from ablate.config import DataConfig, TrainConfig
from ablate.data import DataModule


class TrialData(DataModule):
    """The data module, evaluated every epoch on `val` (if any is held out) and on `train`."""

    def __init__(self, data: DataConfig, train: TrainConfig, seed: int) -> None:
        super().__init__(data, train, seed)
        held_out = data.val_fraction > 0
        self.eval_names: tuple[str, ...] = ("val", "train") if held_out else ("train",)

    def val_dataloader(self) -> Any:
        """The loaders that `eval_names` name."""
        loaders = [self.train_eval_dataloader()]
        if "val" in self.eval_names:
            loaders.insert(0, super().val_dataloader())
        return loaders
