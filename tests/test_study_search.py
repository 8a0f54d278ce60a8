"""A search: what varies, who is asked, what is trained once, what it costs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from search_examples import STUDY, Write, all_told, search_settings, told, write_search
from study_fakes import Recorder, trained

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


def test_a_search_trains_its_budget_of_different_networks(write: Write, settings: Settings) -> None:
    study = load_study(write())
    summary = run(study, settings)
    assert (summary.total, summary.done, summary.trained, summary.exit_code) == (6, 6, 6, 0)
    rows = load_results(study, settings.results, settings.runs)
    assert sorted(rows["number"]) == list(range(6))
    assert rows["arch"].nunique() == 6
    assert set(rows["role"]) == {"search"}


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_a_serial_search_is_the_same_again(
    write: Write, settings: Settings, tmp_path: Path, sampler: str
) -> None:
    study = load_study(write(sampler))
    run(study, settings)
    other = replace(settings, runs=tmp_path / "runs2", results=tmp_path / "results2")
    run(study, other)
    assert told(study, settings) == told(study, other)
    assert len(set(trained(settings.runs))) == len(trained(settings.runs)) == 6


def test_a_network_that_was_proposed_before_is_told_and_not_trained_again(
    write: Write, settings: Settings
) -> None:
    space = "  stage2.kind: [C, T]\n  stage3.kind: [C, T]\n"
    text = STUDY[STUDY.index("  stage2.kind") : STUDY.index("options:")]
    study = load_study(write("random", text, space))
    summary = run(study, settings)
    assert (summary.trained, summary.exit_code) == (4, 0), "the space has four points"
    assert any("after 4 of 6 trials" in complaint for complaint in summary.complaints)
    trials = all_told(study, settings)
    values: dict[str, set[float]] = {}
    for trial in trials:
        values.setdefault(trial.user_attrs["key"], set()).add(trial.value)
    assert len(trials) > 4
    assert all(len(found) == 1 for found in values.values())
    assert run(study, settings).trained == 0, "it stays ended"


def test_a_grid_trains_every_point_and_ends(write: Write, settings: Settings) -> None:
    text = STUDY[STUDY.index("  stage2.kind") : STUDY.index("options:")]
    space = "  stage2.kind: [C, T]\n  stage4.head_dim: [8, 16]\n  stage4.kind: [C, T]\n"
    with pytest.raises(StudyError, match=r"stage4\.head_dim is taken by no block"):
        load_study(write("grid", text, space))
    space = "  stage4.kind: [C, T]\n  stage4.head_dim: [8, 16]\n  stage2.kind: [C, T]\n"
    study = load_study(write("grid", text, space))
    assert study.search.space.size() == 6
    summary = run(study, settings)
    assert summary.trained == 6
    assert len({arch for _, arch, _ in told(study, settings)}) == 6


def test_constraints_are_checked_before_training_and_told(write: Write, settings: Settings) -> None:
    study = load_study(write("tpe", "trials: 6", "trials: 4, constraints: {params: <=9k}"))
    summary = run(study, settings)
    assert (summary.done, summary.trained) == (4, 4), "refused proposals cost nothing of the budget"
    refused = [t for t in all_told(study, settings) if "reason" in t.user_attrs]
    assert refused
    assert all("params=" in t.user_attrs["reason"] for t in refused)
    assert all(t.constraints["params"] > 0 for t in refused)
    costs = [t.user_attrs["costs"]["params"] for t in all_told(study, settings)
             if "costs" in t.user_attrs]  # fmt: skip
    assert max(costs) <= 9000


def test_a_space_without_a_feasible_point_ends_with_a_message(
    write: Write, settings: Settings
) -> None:
    text = "patience: 12, constraints: {macs: <=1k}"
    study = load_study(write("random", "patience: 40", text))
    with pytest.raises(
        StudyError, match=r"of the last 12 proposals 12 were refused \(such as: mac"
    ):
        run(study, settings)
    assert trained(settings.runs) == []


def test_another_recipe_or_seed_is_another_search(write: Write, settings: Settings) -> None:
    path = write("random")
    run(load_study(path), settings)
    for change in ("train.lr=2e-3", "search.seed=1"):
        assert status(load_study(path, overrides=[change]), runs=settings.runs,
                      results=settings.results).trials == ()  # fmt: skip


def test_the_plan_tells_the_space_and_what_of_it_is_inside(write: Write, tmp_path: Path) -> None:
    from ablate.study.plan import plan

    text = "patience: 40, constraints: {params: <=9k}"
    study = load_study(write("tpe", "patience: 40", text))
    found = plan(study, runs=tmp_path, results=tmp_path, probe="none")
    assert found.points == 72
    assert 0 < found.feasible < found.sampled == 100
    assert found.refused == {"with params not at most 9,000": 100 - found.feasible}
    assert found.to_json()["variants"] == []
    assert found.notes()[0].startswith("Space: 72 points; ")
    assert ["stage4.head_dim", "8, 16 (where stage4.kind T)"] in found.table()[1]


def test_costs_may_be_objectives(write: Write, settings: Settings) -> None:
    study = load_study(write("nsga2", "trials: 6", "trials: 6, objectives: [val_top1, macs]"))
    run(study, settings)
    for trial in all_told(study, settings):
        if trial.values is not None:
            assert trial.values[1] == trial.user_attrs["costs"]["macs"]


def test_batches_run_in_worker_processes(write: Write, settings: Settings) -> None:
    study = load_study(write("tpe", "trials: 6", "trials: 6, batch: 2"))
    sink = Recorder()
    summary = run(study, replace(settings, executor="local", workers=2), sink=sink)
    assert (summary.done, summary.exit_code) == (6, 0)
    assert len(set(trained(settings.runs))) == 6
    assert sink.events[0].message.startswith("small: 6 trials, 0 done")
    assert sink.events[-1].done == sink.events[-1].total == 6
