"""The end of a run: the test split, read once, and the row."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from ablate import __version__
from ablate.config import TrialConfig, TrialResult
from ablate.files import write_atomic
from ablate.training.devices import Place
from ablate.training.initial import load_into
from ablate.training.loaders import TrialData
from ablate.training.module import ImageClassifier
from ablate.training.record import RunRecord


def measure_result(
    trial: TrialConfig,
    folder: Path,
    place: Place,
    trainer: pl.Trainer,
    module: ImageClassifier,
    data: TrialData,
    record: RunRecord,
) -> TrialResult:
    """Evaluate the final weights on `test`, write predictions.npz, and sum the run up."""
    trainer.test(module, datamodule=data, verbose=False)
    measured = dict(module.measured)
    predictions = gathered(module.predictions)
    sizes = {
        str(size): top1_at(size, trial, trainer, module, data) for size in trial.train.eval_sizes
    }
    if trainer.is_global_zero:
        write_predictions(folder / "predictions.npz", predictions)
        record.write(durable=True)
    last = record.metrics[-1]
    best = _best_validation(record)
    info = data.info
    return TrialResult(
        key=trial.key,
        seed=trial.seed,
        arch=trial.arch,
        top1=measured["test_top1"],
        top5=measured["test_top5"],
        test_loss=measured["test_loss"],
        train_top1=last["train_top1"],
        train_loss=last["train_loss"],
        val_top1=last["val_top1"],
        val_loss=last["val_loss"],
        best_val_top1=best.get("val_top1"),
        best_val_epoch=best.get("epoch"),
        params=sum(parameter.numel() for parameter in module.network.parameters()),
        macs=_macs(trial, data),
        epochs=record.epochs,
        steps=record.steps,
        train_images=info.train_images,
        test_images=info.test_images,
        dataset=info.name,
        image_size=trial.data.image_size,
        precision=trial.train.precision,
        device=place.name,
        threads=torch.get_num_threads() if place.accelerator == "cpu" else None,
        seconds=record.seconds,
        images_per_second=record.images_per_second,
        peak_memory_mb=place.peak_memory_mb,
        version=__version__,
        eval_sizes=sizes,
    )


def write_predictions(path: Path, predictions: Tensor) -> None:
    """Write label, prediction and confidence, (3, N), of the test images in the split's order."""
    label, predicted, confidence = predictions.numpy()
    buffer = io.BytesIO()
    np.savez(
        buffer,
        label=label.astype(np.int32),
        prediction=predicted.astype(np.int32),
        confidence=confidence.astype(np.float32),
    )
    write_atomic(path, buffer.getvalue(), one_writer=True)


def gathered(batches: list[Tensor]) -> Tensor:
    """The batches of all processes, (rows, N): a global batch is their parts in order of rank."""
    parts = [[batch.cpu() for batch in batches]]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts *= torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, parts[0])
    return torch.cat([part for batch in zip(*parts, strict=True) for part in batch], dim=1)


def top1_at(
    size: int, trial: TrialConfig, trainer: pl.Trainer, module: ImageClassifier, data: TrialData
) -> float:
    """Test top-1 of the same weights at another image size; position tables are resized."""
    from ablate.models import create_model

    network = create_model(trial.arch, num_classes=data.num_classes, image_size=size)
    load_into(network, module.network.state_dict())
    classifier = ImageClassifier(network, trial.train)
    trainer.test(classifier, datamodule=data.at_size(size), verbose=False)
    return classifier.measured["test_top1"]


def _best_validation(record: RunRecord) -> dict[str, Any]:
    rows = [row for row in record.metrics if row["val_top1"] is not None]
    # The first of equals.
    return max(rows, key=lambda row: row["val_top1"], default={})


def _macs(trial: TrialConfig, data: TrialData) -> int | None:
    from ablate.cost import profile

    cost = profile(trial.arch, image_size=trial.data.image_size, num_classes=data.num_classes)
    return int(cost.macs)
