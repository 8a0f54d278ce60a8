"""A search with a pruner: what is bad stops early, counts, and is left to other studies."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from search_examples import Write, search_settings, write_search
from study_fakes import Recorder, fake_result

from ablate.config import TrialConfig, TrialResult
from ablate.errors import StudyError
from ablate.study.engine import run
from ablate.study.settings import Settings
from ablate.study.spec import load_study
from ablate.study.status import status
from ablate.study.store import load_results


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return partial(write_search, tmp_path)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return search_settings(tmp_path)


def paced(trial: TrialConfig, folder: Path, *, should_stop: Any, **keywords: Any) -> TrialResult:
    """Forty short epochs that heed `should_stop`; without attention at the end they are bad."""
    from ablate.training.outcomes import Interrupted

    val = 70.0 if "T" in trial.arch.split("-")[3] else 20.0
    text = "epoch,train_loss_running,train_loss,train_top1,val_loss,val_top1,lr\n"
    for epoch in range(1, (trial.train.epochs or 1) + 1):
        time.sleep(0.02)
        text += f"{epoch},2.0,1.0,50.0,1.5,{val + epoch / 10},0.001\n"
        (folder / "metrics.csv").write_text(text)
        if should_stop():
            raise Interrupted(epoch)
    with open(folder.parent / ".trained", "a") as log:
        log.write(f"{trial.key} {os.getpid()}\n")
    return fake_result(trial, val_top1=val)


PRUNED = "sampler: random, seed: 5, trials: 8, pruner: median"


def pruned_study(write: Write) -> Any:
    path = write("SAMPLER", "sampler: SAMPLER, trials: 6", PRUNED)
    return load_study(path, overrides=["train.epochs=40"])


def test_a_bad_trial_is_pruned_counted_and_left_to_other_studies(
    write: Write, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ablate.study import monitor

    monkeypatch.setattr(monitor, "LOOK_SECONDS", 0.02)
    study = pruned_study(write)
    settings = replace(settings, fit=paced)
    sink = Recorder()
    summary = run(study, settings, sink=sink)
    assert summary.pruned > 0
    assert summary.done + summary.pruned == summary.total == 8
    assert summary.exit_code == 0
    rows = load_results(study, settings.results, settings.runs)
    pruned = rows[rows["status"] == "pruned"]
    assert len(rows) == 8
    assert (pruned["pruned_epoch"] < 40).all()
    assert (pruned["val_top1"] < 30).all()
    messages = [event.message for event in sink.events if "pruned after epoch" in event.message]
    assert len(messages) == summary.pruned
    assert status(study, runs=settings.runs, results=settings.results).counts["pruned"] > 0
    assert run(study, settings).trained == 0, "a pruned trial stays pruned"
    assert not list(settings.runs.glob("*/stop"))
    plain = single(study, str(pruned["arch"].iloc[0]), write)
    assert run(plain, settings).trained == 1, "it goes on to its end for another study"


def single(study: Any, arch: str, write: Write) -> Any:
    """A study of one network of a search, with its data and recipe."""
    path = study.path.with_name("plain.yaml")
    text = study.path.read_text()
    data = text[text.index("data:") :]
    path.write_text(f"study: plain\nfactors: {{model: [{arch!r}]}}\n{data}")
    return load_study(path, overrides=["train.epochs=40"])


def test_pruning_is_not_for_several_objectives(write: Write) -> None:
    text = "trials: 6, pruner: median, objectives: [val_top1, macs]"
    with pytest.raises(StudyError, match="pruner median needs a single objective"):
        load_study(write("tpe", "trials: 6", text))
