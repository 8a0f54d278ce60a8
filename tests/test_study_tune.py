"""Tuning: the same budget for every variant, chosen on `val`, then the final seeds at the best."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_fakes import FakeStudy, Recorder, fake_result, fake_study, instant, trained

from ablate.config import TrialConfig, TrialResult
from ablate.errors import StudyError
from ablate.study.audit import check_results
from ablate.study.engine import retry, run
from ablate.study.rows import read_rows
from ablate.study.settings import Settings
from ablate.study.spec import load_study
from ablate.study.status import status
from ablate.study.store import load_curves, load_results
from ablate.study.tuning import Tuning
from ablate.study.tuning_rows import TUNING_COLUMNS, load_tuning

LRS = (5e-4, 1e-3, 2e-3)
BEST = {"fake0": 2e-3, "fake1": 5e-4}


def scored(trial: TrialConfig, folder: Path, **keywords: Any) -> TrialResult:
    """Each variant has another best learning rate on `val`; on `test` the largest always wins."""
    instant(trial, folder, **keywords)
    miss = abs(trial.train.lr - BEST[trial.arch])
    return fake_result(trial, val_top1=80 - 1e4 * miss, top1=50 + 1e4 * trial.train.lr)


def diverges(trial: TrialConfig, folder: Path, **keywords: Any) -> TrialResult:
    """The largest learning rate diverges with the first tuning seed, for both variants."""
    from ablate.training.outcomes import Diverged

    if trial.train.lr == 2e-3 and trial.seed == 1000:
        raise Diverged(3, "stages.0")
    return scored(trial, folder, **keywords)


def always_diverges(trial: TrialConfig, folder: Path, **keywords: Any) -> TrialResult:
    """The first variant diverges whatever is tried."""
    from ablate.training.outcomes import Diverged

    if trial.arch == "fake0":
        raise Diverged(3, "stages.0")
    return scored(trial, folder, **keywords)


def breaks(trial: TrialConfig, folder: Path, **keywords: Any) -> TrialResult:
    """A mistake of the machine's in one tuning trial of the first variant."""
    if trial.arch == "fake0" and trial.train.lr == 5e-4 and trial.seed == 1000:
        raise KeyError("the disk is gone")
    return scored(trial, folder, **keywords)


def tuned(seeds: int = 2, tuning_seeds: tuple[int, ...] = (1000, 1001)) -> FakeStudy:
    candidates = tuple({"train.lr": lr} for lr in LRS)
    return fake_study(2, seeds, tune=Tuning(candidates=candidates, seeds=tuning_seeds))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        runs=tmp_path / "runs", results=tmp_path / "results", executor="serial", fit=scored
    )


def where(settings: Settings) -> dict[str, Path]:
    return {"results": settings.results, "runs": settings.runs}


def test_each_variant_gets_the_same_budget_and_its_final_seeds_its_own_best(
    settings: Settings,
) -> None:
    summary = run(tuned(), settings)
    assert (summary.total, summary.done, summary.exit_code) == (2 * 3 * 2 + 2 * 2, 16, 0)
    tried = load_tuning(tuned(), **where(settings))
    assert list(tried.columns) == [*TUNING_COLUMNS, "train.lr"]
    assert list(tried.groupby("variant_name").size()) == [6, 6]
    assert set(tried["seed"]) == {1000, 1001}
    rows = load_results(tuned(), **where(settings))
    chosen = {row["variant_name"]: row["settings"] for row in rows.to_dict("records")}
    assert chosen == {"level=0": {"train.lr": 2e-3}, "level=1": {"train.lr": 5e-4}}
    assert sorted(rows["seed"]) == [0, 0, 1, 1]
    assert set(rows["role"]) == {"final"}


def test_what_is_best_on_test_is_not_what_is_chosen(settings: Settings) -> None:
    run(tuned(), settings)
    tried = load_tuning(tuned(), **where(settings))
    best = tried[tried["chosen"] & (tried["variant_name"] == "level=1")]
    assert set(best["train.lr"]) == {5e-4}, "2e-3 has the highest test top-1"


def test_a_candidate_that_diverges_with_a_seed_loses_to_one_that_never_does(
    settings: Settings,
) -> None:
    summary = run(tuned(), replace(settings, fit=diverges))
    assert {failure["kind"] for failure in summary.failed} == {"diverged"}
    assert summary.exit_code == 1
    tried = load_tuning(tuned(), **where(settings))
    assert set(tried.loc[tried["chosen"], "train.lr"]) == {1e-3, 5e-4}
    assert list(tried["failure"].dropna()) == ["diverged", "diverged"]
    assert (load_results(tuned(), **where(settings))["status"] == "done").all()


def test_a_variant_whose_every_candidate_diverges_is_not_run_with_any_recipe(
    settings: Settings,
) -> None:
    summary = run(tuned(), replace(settings, fit=always_diverges))
    assert summary.missing == ("level=0, seed 0", "level=0, seed 1")
    assert any("every tuning trial failed (6 diverged)" in text for text in summary.complaints)
    rows = load_results(tuned(), **where(settings))
    assert list(rows.loc[rows["variant_name"] == "level=0", "status"]) == ["missing"] * 2
    assert list(rows.loc[rows["variant_name"] == "level=1", "status"]) == ["done"] * 2


def test_a_choice_waits_for_trials_that_the_machine_broke(settings: Settings) -> None:
    summary = run(tuned(), replace(settings, fit=breaks))
    assert len(summary.missing) == 2
    assert any("waits for 1 tuning trial" in text for text in summary.complaints)
    again = retry(tuned(), settings)
    assert (again.trained, again.missing, again.exit_code) == (1 + 2, (), 0)


def test_a_second_run_trains_nothing_and_writes_the_same_bytes(settings: Settings) -> None:
    first = run(tuned(), settings)
    before = {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()}
    second = run(tuned(), settings)
    assert (second.trained, second.changed, second.total) == (0, False, first.total)
    assert before == {path: path.read_bytes() for path in before}


def test_committed_results_alone_say_what_was_tuned(settings: Settings, tmp_path: Path) -> None:
    first = run(tuned(), settings)
    elsewhere = {"results": settings.results, "runs": tmp_path / "none"}
    by_study, by_name = load_tuning(tuned(), **elsewhere), load_tuning("fake", **elsewhere)
    both = [found.sort_values("key").to_dict("records") for found in (by_study, by_name)]
    assert both[0] == both[1]
    assert len(load_results("fake", **elsewhere)) == 4, "tuning trials come only when asked for"
    assert len(load_curves("fake", **elsewhere)) == 4 * 2
    meta = json.loads((first.folder / "meta.json").read_text())
    assert meta["tuning"]["chosen"] == {
        "level=0": {"train.lr": 2e-3},
        "level=1": {"train.lr": 5e-4},
    }
    assert meta["tuning"]["budget"] == "3 candidates x 2 seeds"
    summary = run(tuned(), replace(settings, runs=tmp_path / "none"))
    assert (summary.trained, summary.done) == (0, 16)


def test_results_have_no_contradiction_and_one_that_is_made_is_found(settings: Settings) -> None:
    folder = run(tuned(), settings).folder
    assert check_results(tuned(), **where(settings)) == []
    text = (folder / "trials.csv").read_text()
    row = next(row for row in read_rows(folder / "trials.csv") if row["role"] == "final")
    (folder / "trials.csv").write_text(text.replace(row["key"], "f" * 64))
    assert [found.kind for found in check_results(tuned(), **where(settings))] == ["key"]


def test_the_status_counts_tuning_and_final_trials(settings: Settings) -> None:
    before = status(tuned(), **where(settings))
    assert before.counts["missing"] == 16
    run(tuned(), replace(settings, fit=breaks))
    after = status(tuned(), **where(settings))
    assert (after.counts["done"], after.counts["failed"], after.counts["missing"]) == (13, 1, 2)
    assert {trial.role for trial in after.trials} == {"tune", "final"}


def test_more_candidates_run_only_what_is_missing_and_may_change_the_choice(
    settings: Settings,
) -> None:
    few = tuned()
    few = replace(few, tune=Tuning(candidates=few.tune.candidates[:2], seeds=(1000, 1001)))
    run(few, settings)
    summary = run(tuned(), settings)
    assert summary.trained == 2 * 2 + 2, "one candidate for each variant; a new best for the first"
    folder = summary.folder
    old = [row for row in read_rows(folder / "superseded.csv") if row["role"] == "final"]
    assert {row["variant_name"] for row in old} == {"level=0"}


def test_a_stopped_run_goes_on_where_it_was(settings: Settings) -> None:
    first = run(tuned(), replace(settings, fit=breaks, fail_fast=True))
    assert first.missing
    done = len(trained(settings.runs))
    retry(tuned(), settings)
    keys = trained(settings.runs)
    assert done < len(keys) == len(set(keys)) == 16


def test_a_trial_of_another_study_does_not_inherit_its_role(settings: Settings) -> None:
    run(tuned(), settings)
    plain = fake_study(2, 2, name="plain")  # lr 1e-3
    best = [replace(v, train=v.train.model_copy(update={"lr": BEST[v.arch]})) for v in plain.raw]
    summary = run(replace(plain, raw=tuple(best)), settings)
    assert summary.trained == 0, "the same trials"
    assert "role" not in read_rows(summary.folder / "trials.csv")[0]


def test_the_progress_names_the_candidate_and_the_choice(settings: Settings) -> None:
    sink = Recorder()
    run(tuned(), settings, sink=sink)
    assert sink.events[0].message == "fake: 16 trials, 0 done, 16 to train"
    assert sink.events[1].label == "level=0 lr=0.0005, seed 1000"
    notes = [event.message for event in sink.events if event.kind == "note"]
    assert notes == ["level=0: tuning chose lr=0.002", "level=1: tuning chose lr=0.0005"]
    assert sink.events[-1].done == sink.events[-1].total == 16


STUDY = """\
# Do CPE matter?
study: tuned
model: coat-lite-micro
factors: {cpe: [false, true]}
seeds: 2
data: {name: digits-canvas, image_size: 32}
train: {epochs: 1, batch_size: 32, lr: 1e-3}
"""
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(tune: str) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(STUDY + tune)
        return path

    return write


def test_candidates_are_all_combinations_of_lists(write: Write) -> None:
    study = load_study(write("tune: {train.lr: [1e-3, 2e-3], train.weight_decay: [0.0, 0.1]}\n"))
    assert study.tune is not None
    assert len(study.tune.candidates) == 4
    assert study.tune.seeds == (1000,)
    assert study.tune.budget == "4 candidates x 1 seed"


def test_candidates_of_a_range_are_drawn_once_for_all_and_stay_when_there_are_more(
    write: Write,
) -> None:
    text = "tune: {{train.lr: {{low: 1e-4, high: 1e-2, log: true}}, trials: {}, seeds: [7, 9]}}\n"
    few, more = (load_study(write(text.format(trials))).tune for trials in (3, 5))
    assert few is not None
    assert more is not None
    assert few.candidates == more.candidates[:3]
    assert all(1e-4 <= candidate["train.lr"] <= 1e-2 for candidate in more.candidates)
    assert more.seeds == (7, 9)


BAD = [
    ("tune: {seeds: 2}", "tune needs a setting to choose"),
    ("tune: {train.lr: [1e-3], seeds: 0}", r":8: tune.seeds must be a number of at least 1"),
    ("tune: {train.lr: [1e-3], seeds: [0, 5]}", "differ from .* final seeds.* with 0 among both"),
    ("tune: {train.lr: [1e-3], trials: two}", r":8: tune.trials must be a whole number"),
    ("tune: {train.lr: [1e-3, 2e-3], trials: 3}", "asks for 3 different candidates.* only 2"),
    ("tune: {train.lr: [1e-3, 1e-3]}", "candidate lr=0.001 is the same recipe as another"),
    ("tune: {train.devices: [1, 2]}", "candidate devices=2 is the same recipe as another"),
    ("tune: {train.lr: {low: 1e-3, high: 1e-2}}", "is a range, which is drawn from: say how often"),
    ("tune: {train.lr: {low: 1e-2, high: 1e-3}, trials: 2}", "needs numbers low < high"),
    ("tune: {train.lr: {low: 0, high: 1, log: true}, trials: 2}", "log needs low above 0"),
    ("tune: {train.lr: {low: 1e-3, hihg: 1}, trials: 2}", "unknown key 'hihg' .*'high'"),
    ("tune: {train.lr: 1e-3}", "needs a list of candidates or a range"),
    ("tune: {train.init_from: [a, b]}", "unknown setting 'train.init_from'"),
]


@pytest.mark.parametrize(("tune", "message"), BAD, ids=[tune for tune, _ in BAD])
def test_a_mistake_under_tune_is_told_with_its_place(write: Write, tune: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        load_study(write(tune + "\n"))


def test_tuning_without_a_validation_split_is_refused(write: Write) -> None:
    path = write("tune: {train.lr: [1e-3]}\n")
    with pytest.raises(StudyError, match=r"chooses on the validation split: set data\.val_fract"):
        load_study(path, overrides=["data.val_fraction=0"])
    assert load_study(path, overrides=["tune.seeds=3"]).tune.seeds == (1000, 1001, 1002)


REAL = """\
study: real
model: "S1x8:C1x8-C1x8-C1x16-C1x16(stride=1)@stem_stride=2"
factors: {expand_ratio: [2, 4]}
seeds: 1
tune: {train.lr: [1e-3, 5e-3]}
data: {name: digits-canvas, train_fraction: 0.2, eval_subset: 32}
train: {epochs: 1, batch_size: 32}
"""


@pytest.mark.slow
def test_a_real_study_is_tuned_and_shows_what_was_chosen(tmp_path: Path) -> None:
    from ablate.report.publish import evidence_table

    path = tmp_path / "study.yaml"
    path.write_text(REAL)
    study = load_study(path)
    own = Settings(runs=tmp_path / "runs", results=tmp_path / "results", executor="serial")
    summary = run(study, own)
    assert (summary.done, summary.trained, summary.exit_code) == (6, 6, 0)
    rows = load_results(study, own.results, own.runs)
    tried = load_tuning(study, own.results, own.runs)
    for record in rows.to_dict("records"):
        mine = tried[tried["variant_name"] == record["variant_name"]]
        best = mine.loc[mine["val_top1"].idxmax()]
        assert record["settings"] == best["settings"]
    table = evidence_table(study, rows)
    assert [record["tuned"] for record in table.records()] == [
        f"lr={row['settings']['train.lr']:g}"
        for row in rows.sort_values("variant_name").to_dict("records")
    ]
    assert any("2 candidates x 1 seed for every variant" in note for note in table.notes)
