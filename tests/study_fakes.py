"""Trials that take no training: a study in memory, and `fit` functions that behave as told."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ablate.config import DataConfig, TrainConfig, TrialConfig, TrialResult
from ablate.study.owner import STALE_SECONDS
from ablate.study.search_parse import Search
from ablate.study.tuning import Tuning


@dataclass(frozen=True, kw_only=True)
class FakeVariant:
    name: str
    levels: Mapping[str, Any]
    arch: str
    data: DataConfig
    train: TrainConfig
    seeds: tuple[int, ...]

    @property
    def trials(self) -> tuple[TrialConfig, ...]:
        return tuple(
            TrialConfig(arch=self.arch, data=self.data, train=self.train, seed=seed)
            for seed in self.seeds
        )


@dataclass(frozen=True, kw_only=True)
class FakeStudy:
    raw: tuple[FakeVariant, ...]
    name: str = "fake"
    profile: str | None = None
    plugins: tuple[str, ...] = ()
    tune: Tuning | None = None
    search: Search | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.raw[0].seeds

    @property
    def full_name(self) -> str:
        return f"{self.name}.{self.profile}" if self.profile else self.name

    @property
    def cells(self) -> tuple[tuple[FakeVariant, TrialConfig], ...]:
        return tuple((variant, trial) for variant in self.raw for trial in variant.trials)

    def with_data(
        self, resolved: Mapping[DataConfig, DataConfig], classes: Mapping[str, int]
    ) -> FakeStudy:
        raw = tuple(replace(v, data=resolved.get(v.data, v.data)) for v in self.raw)
        return replace(self, raw=raw)


def fake_study(
    variants: int = 2, seeds: int = 2, *, name: str = "fake", epochs: int = 2, **more: Any
) -> FakeStudy:
    """A study of the factor `level` on the embedded digits."""
    return FakeStudy(
        name=name,
        raw=tuple(
            FakeVariant(
                name=f"level={number}",
                levels={"level": number},
                arch=f"fake{number}",
                data=DataConfig(),
                train=TrainConfig(epochs=epochs),
                seeds=tuple(range(seeds)),
            )
            for number in range(variants)
        ),
        **more,
    )


def fake_result(trial: TrialConfig, **more: Any) -> TrialResult:
    """A result that is a function of the trial alone."""
    top1 = 60 + int(trial.key[:4], 16) / 65536 * 20
    fields: dict[str, Any] = {
        "key": trial.key, "seed": trial.seed, "arch": trial.arch, "top1": top1, "top5": 99.5,
        "test_loss": 1 / 3, "train_top1": 90.0, "train_loss": 0.1, "val_top1": 70.0,
        "val_loss": 0.7, "best_val_top1": 71.0, "best_val_epoch": 1, "params": 1234,
        "epochs": trial.train.epochs or 1, "steps": 10, "train_images": 100, "test_images": 50,
        "dataset": trial.data.name, "image_size": trial.data.image_size, "precision": "fp32",
        "device": "cpu", "threads": 1, "seconds": 0.01, "images_per_second": 1e4,
        "version": "0.1.0",
    }  # fmt: skip
    return TrialResult(**(fields | more))


HEADER = "epoch,train_loss_running,train_loss,train_top1,val_loss,val_top1,lr\n"


def instant(
    trial: TrialConfig,
    folder: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrialResult:
    """Returns at once, with a curve of two epochs; notes in `trained` that it ran."""
    rows = "".join(f"{epoch},2.0,{1 / epoch!r},50.0,1.5,,0.001\n" for epoch in (1, 2))
    (folder / "metrics.csv").write_text(HEADER + rows)
    with open(folder.parent / ".trained", "a") as log:
        log.write(f"{trial.key} {os.getpid()} {threads}\n")
    return fake_result(trial, threads=threads)


def trained(runs: Path) -> list[str]:
    """The keys that `instant` and its relatives trained, in order."""
    log = runs / ".trained"
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def raises(trial: TrialConfig, folder: Path, **keywords: Any) -> TrialResult:
    """Seed 0 raises; the others train."""
    if trial.seed == 0:
        raise KeyError("no such weights")
    return instant(trial, folder, **keywords)


def dies(trial: TrialConfig, folder: Path, **keywords: Any) -> TrialResult:
    """Seed 0 kills its own process every time; the others train."""
    if trial.seed == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return instant(trial, folder, **keywords)


def dies_once(trial: TrialConfig, folder: Path, **keywords: Any) -> TrialResult:
    """Seed 0 kills its own process the first time; then it trains."""
    mark = folder / ".died.tmp"
    if trial.seed == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return instant(trial, folder, **keywords)


def dies_far_away(trial: TrialConfig, folder: Path, **keywords: Any) -> TrialResult:
    """Dies like a process of a lost node: another host's owner file stays, beating until now."""
    with open(folder.parent / ".tries", "a") as log:
        log.write(f"{trial.key}\n")
    owner = json.loads((folder / "owner").read_text())
    (folder / "owner").write_text(json.dumps(owner | {"host": "far", "place": "far away"}))
    almost_stale = time.time() - STALE_SECONDS + 1.0
    os.utime(folder / "owner", (almost_stale, almost_stale))
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("dead processes tell nothing")


def epochs_of_a_tenth(
    trial: TrialConfig,
    folder: Path,
    *,
    should_stop: Callable[[], bool],
    **keywords: Any,
) -> TrialResult:
    """Epochs of 0.1 s that resume from `metrics.csv` and heed `should_stop`."""
    from ablate.training.outcomes import Interrupted

    path = folder / "metrics.csv"
    done = len(path.read_text().splitlines()) - 1 if path.exists() else 0
    for epoch in range(done + 1, (trial.train.epochs or 1) + 1):
        time.sleep(0.1)
        before = path.read_text() if path.exists() else HEADER
        path.write_text(f"{before}{epoch},2.0,1.0,50.0,1.5,60.0,0.001\n")
        (folder / "timing.csv").write_text(f"epoch,seconds,images_per_second\n{epoch},0.1,9.0\n")
        if should_stop():
            raise Interrupted(epoch)
    with open(folder.parent / ".trained", "a") as log:
        log.write(f"{trial.key} {os.getpid()}\n")
    return fake_result(trial)


@dataclass
class Recorder:
    """A sink that keeps every event."""

    events: list[Any] = field(default_factory=list)

    def __call__(self, event: Any) -> None:
        self.events.append(event)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]
