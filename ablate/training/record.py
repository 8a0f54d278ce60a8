"""What a run writes down after every epoch: its rows, then nothing is lost."""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from ablate.files import write_atomic
from ablate.training.checkpoint import next_slot
from ablate.training.module import ImageClassifier
from ablate.training.outcomes import Interrupted, TimedOut
from ablate.training.randomness import reseed

log = logging.getLogger(__name__)

METRICS = (
    "epoch",
    "train_loss_running",
    "train_loss",
    "train_top1",
    "val_loss",
    "val_top1",
    "lr",
)
TIMING = ("epoch", "seconds", "images_per_second")
Row = dict[str, Any]


def write_rows(
    path: Path, columns: Sequence[str], rows: Sequence[Row], *, durable: bool = False
) -> None:
    """Write a CSV whole, by atomic rename; numbers read back to the same bits, None is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue(), durable=durable, one_writer=True)


class EpochSeeds(Callback):
    """Reseeds everything at the start of an epoch, and tells the data which epoch it is."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        reseed(self.seed, trainer.current_epoch, trainer.global_rank)
        trainer.datamodule.set_epoch(trainer.current_epoch)  # type: ignore[attr-defined]


class Limits(Callback):
    """Ends training at `max_steps`, and a run that takes longer than its timeout.

    Args:
        spent: seconds of the run's earlier sessions.
        started: `time.monotonic()` at the start of this session.
    """

    def __init__(
        self, max_steps: int | None, timeout_minutes: float | None, spent: float, started: float
    ) -> None:
        self.max_steps = max_steps
        self.timeout_minutes = timeout_minutes
        self.deadline = None
        if timeout_minutes is not None:
            self.deadline = started + 60 * timeout_minutes - spent

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if self.max_steps is not None and trainer.global_step >= self.max_steps:
            trainer.should_stop = True
        if self.deadline is not None and time.monotonic() > self.deadline:
            assert self.timeout_minutes is not None
            raise TimedOut(self.timeout_minutes, trainer.current_epoch)


class RunRecord(Callback):
    """Rows, checkpoint and news at the end of every epoch.

    The rows are part of the checkpoint, and the CSV files are written from them: cutting them
    back to the epoch of a checkpoint is loading it. An epoch's seconds run from the end of the one
    before to its own rows: training, evaluation and the saving of the epoch before.

    Args:
        folder: of the run.
        key: of the trial, kept in the checkpoint.
        epochs: of the whole run.
        started: `time.monotonic()` at the start of this session.
        current: the checkpoint that this session starts from.
        on_epoch: is given the new row, with `seconds`, `images_per_second` and `epochs`.
        should_stop: asked after every epoch.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        epochs: int,
        *,
        started: float,
        current: Path | None = None,
        on_epoch: Callable[[Mapping[str, Any]], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        self.folder = folder
        self.key = key
        self.epochs = epochs
        self.current = current
        self.on_epoch = on_epoch
        self.should_stop = should_stop
        self.metrics: list[Row] = []
        self.timing: list[Row] = []
        self.steps = 0
        self.images = 0
        self.train_seconds = 0.0
        self.spent = 0.0
        self.started = self._mark = self._train_start = self._train_end = started

    @property
    def state_key(self) -> str:
        return "ablate"

    def state_dict(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "metrics": self.metrics,
            "timing": self.timing,
            "steps": self.steps,
            "images": self.images,
            "train_seconds": self.train_seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.metrics = list(state_dict["metrics"])
        self.timing = list(state_dict["timing"])
        self.steps = state_dict["steps"]
        self.images = state_dict["images"]
        self.train_seconds = state_dict["train_seconds"]
        self.spent = sum(row["seconds"] for row in self.timing)

    @property
    def seconds(self) -> float:
        """Wall-clock of the run until now: the saved epochs of earlier sessions and this one."""
        return self.spent + time.monotonic() - self.started

    @property
    def images_per_second(self) -> float:
        """Training images by the seconds of the training steps, evaluation left out."""
        return self.images / self.train_seconds

    def write(self, *, durable: bool = False) -> None:
        """Write metrics.csv and timing.csv as far as the checkpoint goes."""
        write_rows(self.folder / "metrics.csv", METRICS, self.metrics, durable=durable)
        write_rows(self.folder / "timing.csv", TIMING, self.timing, durable=durable)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.write()
        self._mark = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._train_start = time.monotonic()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._train_end = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        self._add_rows(trainer, pl_module)
        target = self.folder / next_slot(self.current)
        trainer.save_checkpoint(target, weights_only=False)
        self.current = target
        if trainer.is_global_zero:
            self._tell()
        stop = self.should_stop is not None and self.should_stop()
        if trainer.strategy.broadcast(stop):
            raise Interrupted(trainer.current_epoch + 1)

    def _tell(self) -> None:
        self.write()
        news = {**self.metrics[-1], **self.timing[-1], "epochs": self.epochs}
        log.info("%s", ", ".join(f"{name} {value}" for name, value in news.items()))
        if self.on_epoch is not None:
            self.on_epoch(news)

    def _add_rows(self, trainer: pl.Trainer, module: ImageClassifier) -> None:
        epoch = trainer.current_epoch + 1
        measured = module.measured
        row: Row = {name: measured.get(name) for name in METRICS}
        row["epoch"] = epoch
        row["train_loss_running"] = module.running.means(trainer.strategy)["loss"]
        row["lr"] = module.last_lr
        self.metrics.append(row)
        now = time.monotonic()
        train_seconds = self._train_end - self._train_start
        images = module.running.images * trainer.world_size
        self.timing.append(
            {
                "epoch": epoch,
                "seconds": now - self._mark,
                "images_per_second": images / train_seconds,
            }
        )
        self._mark = now
        self.images += images
        self.train_seconds += train_seconds
        self.steps = trainer.global_step
