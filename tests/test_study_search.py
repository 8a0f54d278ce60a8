"""A search: what varies, who is asked, what is trained once, what survives a kill."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_fakes import Recorder, fake_result, instant, trained

from ablate.config import TrialConfig, TrialResult
from ablate.errors import StudyError
from ablate.study.audit import check_results
from ablate.study.engine import run
from ablate.study.settings import Settings
from ablate.study.spec import load_study
from ablate.study.status import status
from ablate.study.store import load_curves, load_results

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


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(sampler: str = "tpe", old: str = "", new: str = "") -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(STUDY.replace("SAMPLER", sampler).replace(old, new))
        return path

    return write


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        runs=tmp_path / "runs", results=tmp_path / "results", executor="serial", fit=scored
    )


def scored(trial: TrialConfig, folder: Path, **keywords: Any) -> TrialResult:
    """Attention late is better on `val`; on `test` it is worse."""
    instant(trial, folder, **keywords)
    late = 5.0 * trial.arch.count("T") + (10.0 if "-T" in trial.arch[-30:] else 0.0)
    size = 1000 + len(trial.arch) + 100 * trial.arch.count("T")
    return fake_result(trial, val_top1=60 + late, top1=90 - late, params=size, macs=10 * size)


def test_a_search_trains_its_budget_of_different_networks(write: Write, settings: Settings) -> None:
    study = load_study(write())
    summary = run(study, settings)
    assert (summary.total, summary.done, summary.trained, summary.exit_code) == (6, 6, 6, 0)
    rows = load_results(study, settings.results, settings.runs)
    assert sorted(rows["number"]) == list(range(6))
    assert rows["arch"].nunique() == 6
    assert set(rows["role"]) == {"search"}


def resolved_base(study: Any) -> TrialConfig:
    """The trial of the network that is varied; the embedded images resolve to themselves."""
    trial: TrialConfig = study.trials[0]
    return trial


def told(study: Any, settings: Settings) -> list[tuple[int, str, str]]:
    """Number, arch and state of everything that was proposed."""
    from ablate.study.search_storage import SearchStorage

    storage = SearchStorage(study.search, study.full_name, resolved_base(study), settings.runs)
    try:
        return [(one.number, one.arch, one.state) for one in storage.proposed()]
    finally:
        storage.close()


def all_told(study: Any, settings: Settings) -> list[Any]:
    """Every trial of the Optuna study."""
    from ablate.study.search_storage import SearchStorage

    storage = SearchStorage(study.search, study.full_name, resolved_base(study), settings.runs)
    try:
        return storage.study.get_trials()
    finally:
        storage.close()


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


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "grid"])
def test_a_proposal_that_was_begun_when_the_driver_died_is_asked_for_again(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    from ablate.study.search_storage import SearchStorage

    study = load_study(write(sampler))
    points = []
    for deaths in ((), (2,), (0, 4)):  # after how many values a driver dies
        runs = tmp_path / str(deaths)
        for death in (*deaths, None):
            storage = SearchStorage(study.search, study.full_name, resolved_base(study), runs)
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


def test_batches_run_in_worker_processes(write: Write, settings: Settings) -> None:
    study = load_study(write("tpe", "trials: 6", "trials: 6, batch: 2"))
    sink = Recorder()
    summary = run(study, replace(settings, executor="local", workers=2), sink=sink)
    assert (summary.done, summary.exit_code) == (6, 0)
    assert len(set(trained(settings.runs))) == 6
    assert sink.events[0].message.startswith("small: 6 trials, 0 done")
    assert sink.events[-1].done == sink.events[-1].total == 6


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


BAD = [
    ("sampler: tpe", "sampler: tep", r":13: search.sampler: unknown value 'tep' .*'tpe'\?"),
    ("trials: 6", "trails: 6", r"in search: unknown key 'trails' .*'trials'\?"),
    ("trials: 6", "trials: 0", "search.trials must be a whole number of at least 1, but got 0"),
    ("trials: 6", "objectives: [top1]", "unknown objective 'top1'.*test is never searched on"),
    ("trials: 6", "objectives: [macs]", "must differ and begin with val_top1 or val_loss"),
    ("trials: 6", "constraints: {param: 1k}", "unknown cost 'param' .*'params'"),
    ("trials: 6", "constraints: {params: small}", "must be a bound such as 800k, <=60M"),
    ("trials: 6", "constraints: {params: 2k..1k}", "must be a bound such as 800k, <=60M"),
    ("trials: 6", "storage: search.db", "must be an Optuna URL such as sqlite:///search.db"),
    ("val_fraction: 0.1", "val_fraction: 0", "chooses on the validation split: set data.val_frac"),
    ("design: search", "design: search\nseeds: 2", r"trains each network with one seed, but got"),
    ("design: search", "design: search\nfactors: {cpe: [true]}", "design search takes no factors"),
    (
        "design: search",
        "design: grid",
        "space needs `design: search`|search needs `design: search`, but got 'grid'",
    ),
    ("stage2.kind: [C, T]", "stage2.kind: [C, X]", r":6: space: stage2.kind: unknown kind 'X'"),
    ("stage2.kind: [C, T]", "stage9.kind: [C, T]", "in space: unknown stage 'stage9'"),
    ("stage2.kind: [C, T]", "stage2.knid: [C, T]", "unknown dimension 'stage2.knid' .*stage2.kind"),
    ("stage2.kind: [C, T]", "stage2.kind: C", "stage2.kind needs a list of values or a range"),
    ("stage2.kind: [C, T]", "stage2.kind: [C, C]", "stage2.kind has a value twice"),
    ("{low: 1, high: 3}", "{low: 3, high: 1}", "stage3.depth needs numbers low < high"),
    ("{low: 1, high: 3}", "{low: 1, hihg: 3}", "in space.stage3.depth: unknown key 'hihg'"),
    ("{low: 1, high: 3}", "{low: 0, high: 3}", "stage3.depth needs whole numbers of at least 1"),
    ("{stage4.kind: T}", "{stage5.kind: T}", "unknown dimension above it: 'stage5.kind'"),
    ("{stage4.kind: T}", "{stage4.kind: F}", "unknown value of stage4.kind: 'F'"),
    ("expand_ratio: [2, 4]", "expand_ratio: [0]", "expand_ratio=0"),
    ("expand_ratio: [2, 4]", "cpe: [true]", "space: cpe is taken by no block of any network"),
    ("expand_ratio: [2, 4]", "train.lr: [0]", "train.lr must be above 0, but got 0"),
    ("expand_ratio: [2, 4]", "train.rl: [1]", "unknown dimension 'train.rl' .*'train.lr'"),
    ("expand_ratio: [2, 4]", "layout: [C-C-T-T]", "layout and stageN.kind say the same"),
    ("options: {head_dim: 8}", "options: {cpe: true}", "option 'cpe' has no block in any variant"),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD, ids=[new for _, new, _ in BAD])
def test_a_mistake_is_told_with_its_place(write: Write, old: str, new: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        load_study(write("tpe", old, new))


def test_a_storage_that_does_not_answer_is_told_without_its_password(
    write: Write, settings: Settings, tmp_path: Path
) -> None:
    from ablate.errors import ResultsError

    url = f"sqlite:///{tmp_path}/no/such/folder/search.db"
    study = load_study(write("tpe", "trials: 6", f"trials: 6, storage: '{url}'"))
    with pytest.raises(ResultsError, match=r"search\.storage sqlite:.* does not answer"):
        run(study, settings)
    from ablate.study.search_database import without_password

    assert without_password("postgresql://me:secret@host/db") == "postgresql://host/db"


def test_the_table_shows_val_first_and_the_best_as_a_command(
    write: Write, settings: Settings
) -> None:
    from ablate.report.publish import evidence_table

    study = load_study(write("random"))
    run(study, settings)
    rows = load_results(study, settings.results, settings.runs)
    table = evidence_table(study, rows)
    records = table.records()
    values = [record["val_top1"] for record in records]
    assert values == sorted(values, reverse=True)
    assert table.statements[0].endswith(f"ablate show '{records[0]['arch']}'")
    assert "6 done of 6 trials" in table.notes[0]


def test_its_evidence_is_written_checked_and_shown_as_a_page(
    write: Write, settings: Settings
) -> None:
    from ablate.report.page import write_page
    from ablate.report.publish import drift, publish

    study = load_study(write("random"))
    folder = run(study, settings).folder
    where = {"results": settings.results, "runs": settings.runs}
    rows, curves = load_results(study, **where), load_curves(study, **where)
    files = {path.name for path in publish(study, rows, curves, folder)}
    assert {"table.md", "pareto.png"} <= files
    assert drift(study, rows, curves, folder) == []
    assert check_results(study, **where) == []
    committed = load_results("small", settings.results, settings.runs)
    assert list(committed["key"]) == list(rows["key"])
    page = write_page(study, rows, curves, folder / "report.html").read_text()
    assert "Best on val" in page


def test_the_pareto_set_is_what_nothing_beats(write: Write) -> None:
    import pandas as pd

    from ablate.report.search_tables import pareto_set, ranked

    study = load_study(write())
    rows = pd.DataFrame(
        [(0, 70.0, 10), (1, 80.0, 20), (2, 75.0, 20), (3, 60.0, 10), (4, 80.0, 20)],
        columns=["number", "val_top1", "macs"],
    ).assign(status="done")
    done = ranked(study.search, rows)
    assert list(done["number"]) == [1, 4, 2, 0, 3]
    assert pareto_set(study.search, done) == {0, 1, 4}


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
