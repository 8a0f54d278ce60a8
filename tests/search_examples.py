"""A small search whose trials take no training, and what its storage was told."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from study_fakes import fake_result, instant

from ablate.config import TrialConfig, TrialResult
from ablate.study.search_storage import SearchStorage
from ablate.study.settings import Settings

STUDY = """\
# Which stages attend?
study: small
design: search
model: "S1x8:C1x8-C1x8-C1x16-C1x16(stride=1)@stem_stride=2"
space:
  stage2.kind: [C, T]
  stage3.kind: [C, T]
  stage4.kind: [C, T]
  stage3.depth: {low: 1, high: 3}
  stage4.head_dim: {values: [8, 16], when: {stage4.kind: T}}
  expand_ratio: [2, 4]
options: {head_dim: 8}
search: {sampler: SAMPLER, trials: 6, patience: 40}
data: {name: digits-canvas, image_size: 32, val_fraction: 0.1}
train: {epochs: 2, batch_size: 32}
"""
Write = Callable[..., Path]


def write_search(folder: Path, sampler: str = "tpe", old: str = "", new: str = "") -> Path:
    """The study in a folder, with a piece of its text replaced."""
    path = folder / "study.yaml"
    path.write_text(STUDY.replace("SAMPLER", sampler).replace(old, new))
    return path


def search_settings(folder: Path) -> Settings:
    return Settings(runs=folder / "runs", results=folder / "results", executor="serial", fit=scored)


def scored(trial: TrialConfig, folder: Path, **keywords: Any) -> TrialResult:
    """Attention late is better on `val`; on `test` it is worse."""
    instant(trial, folder, **keywords)
    late = 5.0 * trial.arch.count("T") + (10.0 if "-T" in trial.arch[-30:] else 0.0)
    size = 1000 + len(trial.arch) + 100 * trial.arch.count("T")
    return fake_result(trial, val_top1=60 + late, top1=90 - late, params=size, macs=10 * size)


def storage_of(study: Any, runs: Path) -> SearchStorage:
    """The search's memory, closed by the caller."""
    base: TrialConfig = study.trials[0]  # the embedded images resolve to themselves
    return SearchStorage(study.search, study.full_name, base, runs)


def told(study: Any, settings: Settings) -> list[tuple[int, str, str]]:
    """Number, arch and state of everything that was proposed."""
    with closing(storage_of(study, settings.runs)) as storage:
        return [(one.number, one.arch, one.state) for one in storage.proposed()]


def all_told(study: Any, settings: Settings) -> list[Any]:
    """Every trial of the Optuna study."""
    with closing(storage_of(study, settings.runs)) as storage:
        return storage.study.get_trials()
