"""A search that goes on: after its end, a failure or a kill it asks for what it would have."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from search_examples import (
    Write,
    all_told,
    scored,
    search_settings,
    storage_of,
    told,
    write_search,
)
from study_fakes import trained

from ablate.config import TrialConfig, TrialResult
from ablate.study.engine import run
from ablate.study.settings import Settings
from ablate.study.spec import load_study


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return partial(write_search, tmp_path)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return search_settings(tmp_path)


def test_a_search_that_goes_on_asks_for_what_it_would_have_asked_for(
    write: Write, settings: Settings, tmp_path: Path
) -> None:
    path = write()
    run(load_study(path, overrides=["search.trials=3"]), settings)
    run(load_study(path), settings)
    whole = replace(settings, runs=tmp_path / "runs2", results=tmp_path / "results2")
    run(load_study(path), whole)
    assert told(load_study(path), settings) == told(load_study(path), whole)
    assert len(trained(settings.runs)) == 6, "the first three were not trained again"


def test_a_finished_search_asks_and_trains_nothing(write: Write, settings: Settings) -> None:
    study = load_study(write())
    run(study, settings)
    before = len(all_told(study, settings))
    again = run(study, settings)
    assert (again.trained, again.changed, again.done) == (0, False, 6)
    assert len(all_told(study, settings)) == before


def test_committed_rows_alone_hold_the_search(
    write: Write, settings: Settings, tmp_path: Path
) -> None:
    path = write()
    study = load_study(path)
    run(study, settings)
    elsewhere = replace(settings, runs=tmp_path / "none")
    assert run(study, elsewhere).trained == 0
    more = run(load_study(path, overrides=["search.trials=8"]), elsewhere)
    assert (more.trained, more.done) == (2, 8)


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "grid"])
def test_a_proposal_that_was_begun_when_the_driver_died_is_asked_for_again(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    study = load_study(write(sampler))
    points = []
    for deaths in ((), (2,), (0, 4)):  # after how many values a driver dies
        runs = tmp_path / str(deaths)
        for death in (*deaths, None):
            storage = storage_of(study, runs)
            monkeypatch.setattr(storage, "_suggest", dying(storage._suggest, death))
            with contextlib.suppress(KeyboardInterrupt):
                asked = storage.ask()
                assert asked is not None
                points.append((asked[0].number, asked[1]))
            storage.close()
    assert points[0] == points[1] == points[2]
    assert len(points) == 3


def dying(suggest: Callable[..., Any], death: int | None) -> Callable[..., Any]:
    """As `suggest`, until it was called so often."""
    calls = iter(range(100))

    def called(*arguments: Any) -> Any:
        if next(calls) == death:
            raise KeyboardInterrupt
        return suggest(*arguments)

    return called


def test_two_drivers_never_search_at_once(write: Write, settings: Settings) -> None:
    from ablate.errors import ResultsError
    from ablate.study.search_run import _only_driver

    study = load_study(write())
    held = _only_driver(settings.runs, study.full_name)
    with pytest.raises(ResultsError, match="small: another process searches already"):
        run(study, settings)
    held.release()
    assert run(study, settings).done == 6


def fails(trial: TrialConfig, folder: Path, **keywords: Any) -> TrialResult:
    """Networks with attention in the last stage raise."""
    if re.search(r"-T\d+x16\(.*stride=1", trial.arch):
        raise KeyError("no such thing")
    return scored(trial, folder, **keywords)


def test_failed_trials_count_and_are_told_when_they_are_retried(
    write: Write, settings: Settings
) -> None:
    from ablate.study.engine import retry

    study = load_study(write())
    first = run(study, replace(settings, fit=fails))
    assert first.failed
    assert first.done + len(first.failed) == 6
    assert "failed" in [state for _, _, state in told(study, settings)]
    again = retry(study, settings)
    assert (again.done, again.failed, again.exit_code) == (6, (), 0)
    assert {state for _, _, state in told(study, settings)} == {"done"}


REAL = (
    ("sampler: SAMPLER, trials: 6", "sampler: tpe, trials: 4"),
    ("val_fraction: 0.1}", "val_fraction: 0.1, train_fraction: 0.2, eval_subset: 32}"),
)


def killed_at(command: list[str], moment: Callable[[], bool], delay: float) -> bool:
    """Run a command and kill it a little after a moment; whether it was still running then."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not moment():
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_a_search_that_was_killed_loses_and_repeats_nothing(
    write: Write, tmp_path: Path, settings: Settings
) -> None:
    """The real command, killed at seeded moments, ends like one that was left alone."""
    path = write("SAMPLER", *REAL[0])
    path.write_text(path.read_text().replace(*REAL[1]))
    source = random.Random(3)

    def command(name: str) -> list[str]:
        where = [f"--runs={tmp_path / name / 'runs'}", f"--results={tmp_path / name / 'res'}"]
        start = [sys.executable, "-m", "ablate", "run", str(path), "-e", "serial"]
        return [*start, "--threads", "1", *where]

    runs = tmp_path / "killed" / "runs"
    moments = [
        (runs / "search" / "small.db").exists,
        lambda: len(list(runs.glob("*/trial.yaml"))) >= 1,
        lambda: len(list(runs.glob("*/result.json"))) >= 1,
        lambda: len(list(runs.glob("*/metrics.csv"))) >= 3,
    ]
    kills = [killed_at(command("killed"), moment, source.uniform(0, 0.3)) for moment in moments]
    assert kills == [True] * 4
    for name in ("killed", "whole"):
        subprocess.run(command(name), check=True, capture_output=True)
    study = load_study(path)
    own = {name: replace(settings, runs=tmp_path / name / "runs") for name in ("killed", "whole")}
    assert told(study, own["killed"]) == told(study, own["whole"])
    assert [state for _, _, state in told(study, own["whole"])] == ["done"] * 4
    curves = [(tmp_path / name / "res/small/curves.csv").read_bytes() for name in own]
    assert curves[0] == curves[1]
    folders = [sorted(path.name for path in where.runs.glob("?" * 64)) for where in own.values()]
    assert folders[0] == folders[1]
