"""The mirror: rows of any design as an Optuna study that says the same."""

from __future__ import annotations

from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from report_examples import curves_of, example, fail, searched

from ablate.errors import AblateError, ResultsError
from ablate.study.mirror import Mirror, accuracy_column, mirror, search_space, with_tuning


def test_a_trial_has_the_levels_the_value_the_epochs_and_the_row() -> None:
    study, rows = example()
    found = mirror(study, rows, curves_of(rows, epochs=3))
    assert (found.study_name, found.metric_names) == ("position_encoding", ["val_top1"])
    assert len(found.trials) == len(rows) == 12
    by_key = rows.set_index("key")
    for trial in found.trials:
        row = by_key.loc[trial.user_attrs["key"]]
        assert trial.params == {
            name: "true" if level else "false" for name, level in row["variant"].items()
        }
        assert trial.value == row["val_top1"]
        assert list(trial.intermediate_values) == [0, 1, 2]
        assert trial.duration.total_seconds() == pytest.approx(12.0)
        for name in ("seed", "arch", "params", "macs", "top1"):
            assert trial.user_attrs[name] == row[name]
    assert found.best_value == rows["val_top1"].max()


def test_trials_stand_in_the_order_in_which_they_are_trained() -> None:
    study, rows = example()
    found = mirror(study, rows.sample(frac=1, random_state=0), curves_of(rows))
    names = [variant.name for variant in study.variants]
    order = [(t.user_attrs["seed"], t.user_attrs["variant_name"]) for t in found.trials]
    assert order == [(seed, name) for seed in (0, 1, 2) for name in names]


def test_failed_trials_are_kept_with_their_reason_and_missing_ones_are_not_there() -> None:
    study, rows = example()
    rows = fail(rows, 4)
    rows.loc[5, "status"] = "missing"
    found = mirror(study, rows, curves_of(rows))
    states = [trial.state for trial in found.trials]
    assert (states.count(TrialState.COMPLETE), states.count(TrialState.FAIL)) == (10, 1)
    (failed,) = found.get_trials(states=[TrialState.FAIL])
    assert failed.user_attrs["failure_message"] == "diverged here"
    assert failed.values is None


def test_a_trial_that_a_search_stopped_is_pruned_and_keeps_its_epochs() -> None:
    study, rows = example()
    curves = curves_of(rows, epochs=2)
    rows.loc[3, ["status", "val_top1"]] = ["pruned", None]
    rows = rows.assign(number=range(11, -1, -1))
    found = mirror(study, rows, curves)
    (pruned,) = found.get_trials(states=[TrialState.PRUNED])
    assert len(pruned.intermediate_values) == 2
    assert pruned.number == pruned.user_attrs["number"] == 8


def test_settings_that_tuning_tries_are_parameters() -> None:
    study, rows = example()
    rates = [1e-4, 1e-3, 1e-2]
    rows["settings"] = [{"train.lr": rates[index % 3]} for index in range(len(rows))]
    found = mirror(study, rows, curves_of(rows))
    assert {trial.params["train.lr"] for trial in found.trials} == set(rates)
    assert found.trials[0].distributions["train.lr"] == FloatDistribution(1e-4, 1e-2, log=True)


def test_numbers_are_intervals_and_all_else_is_a_choice() -> None:
    study, rows = example("layout", (80.0,) * 5)
    space = search_space(study, rows)
    assert space["layout"] == CategoricalDistribution([v.name for v in study.variants])
    varied = rows.assign(settings=[{"depth": i, "lr": 10.0**-i, "on": i > 3} for i in range(15)])
    space = search_space(study, varied)
    assert space["depth"] == IntDistribution(0, 14)
    assert space["lr"] == FloatDistribution(1e-14, 1.0, log=True)
    assert space["on"] == CategoricalDistribution(["false", "true"])


def test_two_objectives_make_a_pareto_front() -> None:
    study, rows = example(params=100_000)
    best = rows["val_top1"].idxmax()
    rows.loc[rows.index != best, "macs"] = 3_000_000
    found = mirror(study, rows, curves_of(rows), objectives=("val_top1", "macs"))
    assert found.metric_names == ["val_top1", "macs"]
    assert [trial.user_attrs["key"] for trial in found.best_trials] == [rows.loc[best, "key"]]


def test_accuracy_is_of_validation_or_where_nothing_is_held_out_of_test() -> None:
    study, rows = example()
    assert accuracy_column(rows) == "val_top1"
    without = rows.assign(val_top1=None)
    assert accuracy_column(without) == "top1"
    assert mirror(study, without, curves_of(rows)).metric_names == ["top1"]


def test_a_file_is_made_anew_and_says_the_same_again(tmp_path: Path) -> None:
    study, rows = example()
    storage = f"sqlite:///{tmp_path / 'mirror.db'}"
    for _ in range(2):
        mirror(study, rows, curves_of(rows), storage=storage)
    (summary,) = optuna.get_all_study_summaries(storage)
    assert summary.n_trials == 12
    read = optuna.load_study(study_name="position_encoding", storage=storage)
    assert {t.user_attrs["key"] for t in read.trials} == set(rows["key"])


def test_a_mirror_follows_a_sweep_and_shows_each_trial_once() -> None:
    study, rows = example()
    curves = curves_of(rows)
    begun = fail(rows, 1)
    begun.loc[6:, "status"] = "missing"
    following = Mirror(study, begun)
    assert following.update(begun, curves) == 6
    assert following.update(begun, curves) == 0
    assert following.update(rows, curves) == 7  # six new ones, and the failed one was retried
    states = pd.Series([trial.state for trial in following.optuna.trials]).value_counts()
    assert dict(states) == {TrialState.COMPLETE: 12, TrialState.FAIL: 1}


def test_mistakes_are_told() -> None:
    study, rows = example()
    with pytest.raises(AblateError, match=r"unknown objective 'mac' \(did you mean 'macs'\?\)"):
        mirror(study, rows, curves_of(rows), objectives=("mac",))
    with pytest.raises(AblateError, match="objectives must differ, but got macs, macs"):
        mirror(study, rows, curves_of(rows), objectives=("macs", "macs"))
    with pytest.raises(ResultsError, match="position_encoding has no finished trial to show"):
        mirror(study, rows.assign(status="missing"), curves_of(rows))


def tuning_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Tuning trials in the shape of `load_tuning`: one for each row, with another seed."""
    told = rows[["variant_name", "variant", "seed", "status", "val_top1"]]
    return told.assign(
        seed=told["seed"] + 1000, key="t" + rows["key"], settings=[{"train.lr": 0.01}] * len(rows)
    )


def test_tuning_trials_come_first_with_the_costs_of_their_networks() -> None:
    study, rows = example()
    finals = rows.assign(role="final", settings=[{"train.lr": 0.01}] * len(rows))
    both = with_tuning(finals, tuning_of(rows))
    found = mirror(study, both, curves_of(rows), objectives=("val_top1", "macs"))
    assert [t.user_attrs["role"] for t in found.trials] == ["tune"] * 12 + ["final"] * 12
    assert all(trial.state == TrialState.COMPLETE for trial in found.trials)
    assert found.trials[0].params["train.lr"] == 0.01
    assert found.trials[0].values[1] == 2_000_000
    assert with_tuning(rows, None) is rows


def test_a_finished_trial_that_lacks_an_objective_is_not_shown_as_failed() -> None:
    study, rows = example()
    both = with_tuning(rows, tuning_of(rows))
    found = mirror(study, both, curves_of(rows), objectives=("top1",))
    assert len(found.trials) == 12  # the test split was not read in the tuning


def test_a_search_has_its_own_space_and_objectives(tmp_path: Path) -> None:
    study, rows = searched(tmp_path)
    rows = rows.sample(frac=1, random_state=0)
    begun = rows.assign(status=["done"] * 3 + ["missing"] * 21)
    following = Mirror(study, begun)
    following.update(begun, curves_of(rows))
    following.update(rows, curves_of(rows))  # levels that no earlier trial had are known already
    found = following.optuna
    assert found.metric_names == ["val_top1", "macs"]
    assert [t.user_attrs["number"] for t in found.trials[3:]] == sorted(
        t.user_attrs["number"] for t in found.trials[3:]
    )
    ranges = found.trials[0].distributions
    assert ranges["layout"] == CategoricalDistribution(["C-C-C-C", "C-C-C-T", "C-C-T-T"])
    assert ranges["train.lr"] == FloatDistribution(3e-4, 3e-3, log=True)
    assert {"stage4.head_dim" in trial.params for trial in found.trials} == {True, False}
