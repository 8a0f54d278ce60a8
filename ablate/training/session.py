"""Train one trial in its folder, or go on where an earlier session of it was stopped."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from ablate.config import TrialConfig, TrialResult
from ablate.errors import ResultsError
from ablate.training import devices
from ablate.training.checkpoint import ChecksummedIO, Saved, newest
from ablate.training.evaluate import measure_result
from ablate.training.initial import load_initial
from ablate.training.loaders import TrialData
from ablate.training.module import ImageClassifier, create_module
from ablate.training.randomness import INITIAL, reseed
from ablate.training.record import EpochSeeds, Limits, RunRecord
from ablate.training.surroundings import (
    KeepSigterm,
    deterministic_kernels,
    known_warnings,
    log_to,
    own_signals,
    torch_threads,
)

log = logging.getLogger(__name__)

OnEpoch = Callable[[Mapping[str, Any]], None]
_PRECISIONS: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def fit(
    trial: TrialConfig,
    folder: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    on_epoch: OnEpoch | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrialResult:
    """Train a trial to its end and measure it; goes on from the last whole checkpoint in `folder`.

    On a CPU, with the same number of threads, a run that was killed at any moment and resumed ends
    bit for bit like one that was not: weights, metrics.csv and predictions.npz.

    Args:
        trial: with its data resolved.
        folder: of the run; gets metrics.csv, timing.csv, checkpoint-{a,b}.pt, predictions.npz and
            log.txt.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        threads: CPU threads (default: torch's own number).
        on_epoch: called after every epoch with its row, `seconds`, `images_per_second` and
            `epochs` (of the whole run).
        should_stop: asked after every epoch.

    Raises:
        Diverged: the loss became NaN or infinite.
        Interrupted: `should_stop` said so; the epoch is finished and saved.
        TimedOut: the trial took longer than `train.timeout_minutes`.
        AblateError: the trial cannot be trained as asked (data, device, precision, weights).
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = devices.choose(device, trial.train)
    if place.launches:
        from ablate.training.launch import fit_in_processes

        return fit_in_processes(trial, folder, device, threads, on_epoch, should_stop)
    with ExitStack() as stack:
        for surrounding in (
            log_to(folder / "log.txt"),
            own_signals(),
            known_warnings(),
            torch_threads(threads),
            deterministic_kernels(trial.train.deterministic),
        ):
            stack.enter_context(surrounding)
        return _Session(trial, folder, place).run(on_epoch, should_stop)


@dataclass
class _Session:
    trial: TrialConfig
    folder: Path
    place: devices.Place

    def run(self, on_epoch: OnEpoch | None, should_stop: Callable[[], bool] | None) -> TrialResult:
        started = time.monotonic()
        self.place.reset_peak_memory()
        trial, train = self.trial, self.trial.train
        data = TrialData(trial.data, train, trial.seed)
        saved = self._saved()
        module = self._module(data, saved)
        record = RunRecord(
            self.folder,
            trial.key,
            self._epochs(data),
            started=started,
            current=saved.path if saved else None,
            on_epoch=on_epoch,
            should_stop=should_stop,
        )
        if saved:
            record.load_state_dict(saved.content["callbacks"][record.state_key])
        limits = Limits(train.max_steps, train.timeout_minutes, record.spent, started)
        trainer = self._trainer(record.epochs, [EpochSeeds(trial.seed), limits, record])
        if len(record.metrics) < record.epochs:
            trainer.fit(
                module,
                datamodule=data,
                ckpt_path=saved.path if saved else None,
                weights_only=True,
            )
        elif saved:
            module.load_state_dict(saved.content["state_dict"])
        return measure_result(trial, self.folder, self.place, trainer, module, data, record)

    def _saved(self) -> Saved | None:
        saved = newest(self.folder)
        if saved is None:
            return None
        key = saved.content["callbacks"]["ablate"]["key"]
        if key != self.trial.key:
            raise ResultsError(
                f"{saved.path} belongs to trial {key[:12]}, but this is {self.trial.key[:12]}"
            )
        log.info("going on from %s, %d epochs", saved.path.name, saved.epoch)
        return saved

    def _module(self, data: TrialData, saved: Saved | None) -> ImageClassifier:
        reseed(self.trial.seed, INITIAL)
        module = create_module(self.trial, num_classes=data.num_classes)
        module.eval_names = data.eval_names
        if saved is None:
            report = load_initial(module.network, self.trial.train, self.folder.parent)
            if report is not None:
                log.info("weights from %s: %s", self.trial.train.init_from, report)
        if self.trial.train.compile:
            module.network.compile()
        return module

    def _epochs(self, data: TrialData) -> int:
        train = self.trial.train
        if train.max_steps is None:
            assert train.epochs is not None
            return train.epochs
        steps_per_epoch = math.ceil(len(data.train_dataloader()) / train.accumulate)
        return math.ceil(train.max_steps / steps_per_epoch)

    def _trainer(self, epochs: int, callbacks: list[pl.Callback]) -> pl.Trainer:
        train = self.trial.train
        # a trial stays on one node, whichever job it runs in: Lightning is not to ask Slurm
        plugins: list[Any] = [ChecksummedIO(), LightningEnvironment()]
        return pl.Trainer(
            accelerator=self.place.accelerator,
            devices=self.place.devices,
            strategy=train.strategy,
            precision=_PRECISIONS[train.precision],
            max_epochs=epochs,
            accumulate_grad_batches=train.accumulate,
            gradient_clip_val=train.clip_norm,
            callbacks=[KeepSigterm(), *callbacks],
            plugins=plugins,
            deterministic=train.deterministic,
            default_root_dir=self.folder,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
