"""A run: trains what is missing once, keeps failures apart, and stops without losing anything."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from study_fakes import (
    FakeStudy,
    Recorder,
    dies,
    dies_far_away,
    dies_once,
    epochs_of_a_tenth,
    fake_study,
    instant,
    raises,
    trained,
)

from ablate.errors import ConfigError, ResultsError
from ablate.study.engine import retry, run
from ablate.study.environment import code, code_digest
from ablate.study.equal_code import Equal, holds
from ablate.study.folder import RunFolder, run_folders
from ablate.study.interrupts import Interrupts
from ablate.study.owner import Ownership, myself
from ablate.study.settings import Settings
from ablate.study.store import load_results


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        runs=tmp_path / "runs", results=tmp_path / "results", executor="serial", fit=instant
    )


def local(settings: Settings, **more: Any) -> Settings:
    return replace(settings, executor="local", workers=2, **more)


def keys(study: FakeStudy) -> set[str]:
    return {trial.key for _, trial in study.cells}


def test_a_run_trains_every_trial_and_says_so(settings: Settings) -> None:
    sink = Recorder()
    summary = run(fake_study(2, 2), settings, sink=sink)
    assert (summary.total, summary.done, summary.trained) == (4, 4, 4)
    assert (summary.exit_code, summary.failed, summary.missing) == (0, (), ())
    assert sink.kinds() == ["plan", *["start", "done"] * 4, "end"]
    assert sink.events[0].message == "fake: 4 trials, 0 done, 4 to train"
    assert sink.events[-1].done == 4


def test_a_finished_study_is_left_as_it_is(settings: Settings) -> None:
    study = fake_study()
    run(study, settings)
    before = {p: p.read_bytes() for p in settings.results.rglob("*") if p.is_file()}
    summary = run(study, settings)
    assert (summary.trained, summary.changed, summary.exit_code) == (0, False, 0)
    assert before == {p: p.read_bytes() for p in settings.results.rglob("*") if p.is_file()}


def test_extending_a_study_trains_the_missing_cells_only(settings: Settings) -> None:
    run(fake_study(seeds=2), settings)
    summary = run(fake_study(seeds=3), settings)
    assert (summary.total, summary.trained) == (6, 2)


def test_studies_share_the_trials_with_the_same_key(settings: Settings) -> None:
    run(fake_study(name="one"), settings)
    summary = run(fake_study(name="two"), settings)
    assert (summary.done, summary.trained) == (4, 0)
    rows = load_results("two", results=settings.results)
    assert list(rows["study"]) == ["two"] * 4


def test_a_committed_row_counts_as_done_on_any_machine(settings: Settings, tmp_path: Path) -> None:
    """Another machine has `results/` by git, and no run folders; another study has the row."""
    run(fake_study(name="one"), settings)
    elsewhere = replace(settings, runs=tmp_path / "elsewhere")
    summary = run(fake_study(name="two"), elsewhere)
    assert (summary.done, summary.trained) == (4, 0)
    assert not (tmp_path / "elsewhere").exists()
    assert len(load_results("two", results=settings.results)) == 4


def test_one_bad_trial_does_not_stop_the_others(settings: Settings) -> None:
    summary = run(fake_study(), replace(settings, fit=raises))
    assert (summary.done, summary.exit_code) == (2, 1)
    assert [(f["label"], f["kind"]) for f in summary.failed] == [
        ("level=0, seed 0", "error"),
        ("level=1, seed 0", "error"),
    ]
    rows = load_results(fake_study(), results=settings.results, runs=settings.runs)
    assert sorted(rows["status"]) == ["done", "done", "failed", "failed"]
    assert set(rows["failure"].dropna()) == {"error"}


def test_fail_fast_stops_at_the_first_failure(settings: Settings) -> None:
    summary = run(fake_study(), replace(settings, fit=raises, fail_fast=True))
    assert (summary.done, len(summary.failed), len(summary.missing)) == (0, 1, 3)
    assert (summary.exit_code, summary.interrupted) == (1, False)


def test_a_failure_stays_until_it_is_retried(settings: Settings) -> None:
    run(fake_study(), replace(settings, fit=raises))
    assert len(run(fake_study(), settings).failed) == 2
    summary = retry(fake_study(), settings, kind="timeout")
    assert len(summary.failed) == 2
    summary = retry(fake_study(), settings, kind="error")
    assert (summary.trained, summary.exit_code) == (2, 0)
    kept = [p for f in run_folders(settings.runs) for p in f.path.glob("failure.json.retried-1")]
    assert len(kept) == 2
    rows = load_results("fake", results=settings.results)
    assert list(rows["status"]) == ["done"] * 4


def test_a_kind_that_does_not_exist_is_told(settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"unknown kind of failure 'oom'.*choose from diverged"):
        retry(fake_study(), settings, kind="oom")


@pytest.mark.slow
def test_a_trial_that_is_lost_with_its_node_is_tried_again_only_as_often_as_allowed(
    settings: Settings,
) -> None:
    """The heartbeat of a lost node is waited for; it gives no try more than `retries`."""
    sink = Recorder()
    summary = run(fake_study(1, 1), local(settings, fit=dies_far_away, retries=1), sink=sink)
    assert len((settings.runs / ".tries").read_text().splitlines()) == 2
    assert [failure["kind"] for failure in summary.failed] == ["killed"]
    kinds = "plan start retry waiting start waiting failed end"
    assert sink.kinds() == kinds.split()
    assert "may still run; waiting until its heartbeat stops" in sink.events[3].message


def test_a_dead_worker_costs_one_retry(settings: Settings) -> None:
    sink = Recorder()
    summary = run(fake_study(1, 3), local(settings, fit=dies_once), sink=sink)
    assert (summary.done, summary.exit_code) == (3, 0)
    assert sink.kinds().count("retry") == 1


def dies_at_the_end(*arguments: Any, **keywords: Any) -> Any:
    """The worker is killed after `result.json` was written, before it answers."""
    trial, folder = arguments[:2]
    RunFolder(folder).write_result(instant(trial, folder, **keywords))
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_after_its_result_costs_no_retry(settings: Settings) -> None:
    """On a cluster another try might wait in the queue for hours."""
    sink = Recorder()
    summary = run(fake_study(1, 1), local(settings, fit=dies_at_the_end), sink=sink)
    assert (summary.done, summary.trained, summary.exit_code) == (1, 1, 0)
    assert "retry" not in sink.kinds()


def test_a_trial_that_always_kills_its_worker_is_killed(settings: Settings) -> None:
    summary = run(fake_study(1, 3), local(settings, fit=dies, retries=2))
    assert summary.done == 2
    (failed,) = summary.failed
    assert failed["kind"] == "killed"
    assert "(3 tries)" in failed["message"]
    failure = RunFolder(settings.runs / failed["key"]).failure()
    assert failure is not None
    assert failure.attempts == 3


def test_fresh_trains_again_and_keeps_the_old_folder(settings: Settings) -> None:
    run(fake_study(1, 1), settings)
    summary = run(fake_study(1, 1), replace(settings, fresh="all"))
    assert summary.trained == 1
    (folder,) = run_folders(settings.runs)
    assert (settings.runs / f"{folder.key}.old-1" / "result.json").exists()


def test_stale_results_are_trained_again_on_request_only(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(fake_study(1, 1), settings)
    change = {"arch": "a", "models": "changed", "data": "d", "training": "t"}
    monkeypatch.setattr("ablate.study.status.code", lambda plugins: change)
    assert run(fake_study(1, 1), settings).trained == 0
    assert retry(fake_study(1, 1), settings, kind="stale").trained == 1


@pytest.mark.parametrize(("lapsed", "trained"), [(False, 0), (True, 1)])
def test_results_of_equal_code_are_not_stale_until_the_code_changes_again(
    lapsed: bool, trained: int, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(fake_study(1, 1), settings)
    then, now = code_digest(code(())), {"arch": "a", "models": "faster", "data": "d"}
    monkeypatch.setattr("ablate.study.equal_code.EQUAL", {then: Equal("faster only")})
    monkeypatch.setattr("ablate.study.equal_code.NOW", code_digest(now))
    later = {**now, "models": "changed"} if lapsed else now
    monkeypatch.setattr("ablate.study.status.code", lambda plugins: later)
    assert retry(fake_study(1, 1), settings, kind="stale").trained == trained


def test_equal_code_may_except_kinds_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablate.study.equal_code.NOW", "now")
    monkeypatch.setattr("ablate.study.equal_code.EQUAL", {"then": Equal("faster", unless="T")})
    assert holds("then", "now", "S2x8:C2x16-C2x32")
    assert not holds("then", "now", "S2x8:C2x16-T2x32")
    assert not holds("other", "now", "S2x8:C2x16-C2x32")


def test_a_damaged_result_is_trained_again_and_told(settings: Settings) -> None:
    run(fake_study(1, 1), settings)
    (folder,) = run_folders(settings.runs)
    (folder.path / "result.json").write_text("{torn")
    (settings.results / "fake" / "trials.csv").unlink()
    summary = run(fake_study(1, 1), settings)
    assert summary.trained == 1
    assert summary.complaints[0].startswith("damaged ")


def test_epochs_are_told_while_a_trial_runs(settings: Settings) -> None:
    sink = Recorder()
    study = fake_study(1, 1, epochs=25)
    run(study, local(settings, fit=epochs_of_a_tenth), sink=sink)
    told = [event for event in sink.events if event.kind == "epoch"]
    assert told
    assert told[0].epochs == 25
    assert told[0].top1 == 60.0
    assert told[0].seconds_left == pytest.approx(0.1 * (25 - told[0].epoch))


def test_a_runs_folder_that_cannot_be_written_is_told(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match=r"cannot write in .*file/runs: Not a directory"):
        run(fake_study(), replace(settings, runs=tmp_path / "file" / "runs"))


def test_the_owner_file_of_a_process_killed_after_its_result_is_cleared(
    settings: Settings,
) -> None:
    run(fake_study(1, 1), settings)
    (folder,) = run_folders(settings.runs)
    shutil.rmtree(settings.results)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    folder.owner.write_text(json.dumps(asdict(replace(myself(), pid=gone.pid))))
    assert run(fake_study(1, 1), settings).trained == 0
    assert not folder.owner.exists()


# Several drivers.


def test_a_trial_of_another_driver_is_waited_for(settings: Settings) -> None:
    """Its owner finishes it; this driver takes the result and trains the rest."""
    study = fake_study(1, 3)
    trial = study.raw[0].trials[0]
    folder = RunFolder(settings.runs / trial.key)
    folder.path.mkdir(parents=True)
    entered, sink = threading.Event(), Recorder()

    def other_driver() -> None:
        with Ownership(folder.path):
            entered.set()
            time.sleep(1.5)
            folder.write_result(instant(trial, folder.path))

    thread = threading.Thread(target=other_driver)
    thread.start()
    entered.wait()
    summary = run(study, settings, sink=sink)
    thread.join()
    assert (summary.done, summary.trained) == (3, 2)
    assert sorted(trained(settings.runs)) == sorted(keys(study))
    (waiting,) = [event for event in sink.events if event.kind == "waiting"]
    assert f"process {os.getpid()}" in waiting.message


def _drive(settings: Settings, name: str) -> None:
    run(fake_study(2, 5, name=name, epochs=2), settings)


@pytest.mark.slow
def test_drivers_at_once_train_nothing_twice(settings: Settings) -> None:
    """Three drivers, two studies that share all trials."""
    settings = replace(settings, fit=epochs_of_a_tenth)
    context = multiprocessing.get_context("spawn")
    drivers = [
        context.Process(target=_drive, args=(settings, name)) for name in ("one", "two", "one")
    ]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert [driver.exitcode for driver in drivers] == [0, 0, 0]
    assert sorted(trained(settings.runs)) == sorted(keys(fake_study(2, 5)))
    for name in ("one", "two"):
        assert list(load_results(name, results=settings.results)["status"]) == ["done"] * 10


# Stopping.

DRIVER = """
import sys
from pathlib import Path
from study_fakes import epochs_of_a_tenth, fake_study
from ablate.study.engine import run
from ablate.study.progress import PlainLines
from ablate.study.settings import Settings

if __name__ == "__main__":
    settings = Settings(
        runs=Path("runs"), results=Path("results"), executor=sys.argv[1], workers=2,
        fit=epochs_of_a_tenth,
    )
    summary = run(fake_study(1, 3, epochs=int(sys.argv[2])), settings, sink=PlainLines())
    print(summary)
    sys.exit(summary.exit_code)
"""


def drive(folder: Path, executor: str, epochs: int) -> subprocess.Popen[str]:
    (folder / "drive.py").write_text(DRIVER)
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    return subprocess.Popen(
        [sys.executable, "drive.py", executor, str(epochs)], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip


def wait_for_epochs(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        rows = sum(
            len(path.read_text().splitlines()) - 1 for path in folder.glob("runs/*/metrics.csv")
        )
        if rows >= count:
            return
        time.sleep(0.02)
    raise AssertionError("no epochs")


def finish(process: subprocess.Popen[str], seconds: float = 60) -> tuple[int, str]:
    output, _ = process.communicate(timeout=seconds)
    return process.returncode, output


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["serial", "local"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_finishes_the_epoch_and_stops(
    tmp_path: Path, executor: str, number: signal.Signals
) -> None:
    """The whole process group gets it, as from a terminal."""
    process = drive(tmp_path, executor, epochs=1000)
    wait_for_epochs(tmp_path, 3)
    os.killpg(process.pid, number)
    code, output = finish(process)
    assert code == 130, output
    assert "stopping: current trials finish their epoch" in output
    assert "Traceback" not in output
    assert not list(tmp_path.glob("runs/*/owner"))
    assert not list(tmp_path.glob("runs/*/failure.json"))
    assert not list(tmp_path.glob("runs/.driver-*"))


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["serial", "local"])
@pytest.mark.parametrize("how", ["twice", "kill"])
def test_what_was_stopped_at_once_goes_on_where_it_was(
    tmp_path: Path, executor: str, how: str
) -> None:
    process = drive(tmp_path, executor, epochs=30)
    wait_for_epochs(tmp_path, 3)
    started = time.monotonic()
    if how == "kill":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
    code, output = finish(process)
    assert code == (-signal.SIGKILL if how == "kill" else 130), output
    assert time.monotonic() - started < 5
    begun = list(tmp_path.glob("runs/*/metrics.csv"))
    assert begun
    before = {path: path.read_text() for path in begun}
    code, output = finish(drive(tmp_path, executor, epochs=30))
    assert code == 0, output
    assert all(path.read_text().startswith(text) for path, text in before.items())
    assert not list(tmp_path.glob("runs/*/owner"))


@pytest.mark.slow
def test_workers_end_with_a_driver_that_was_killed_alone(tmp_path: Path) -> None:
    process = drive(tmp_path, "local", epochs=1000)
    wait_for_epochs(tmp_path, 3)
    process.kill()
    process.communicate()  # until the last worker has closed the pipe
    before = [path.read_text() for path in tmp_path.glob("runs/*/metrics.csv")]
    time.sleep(0.5)
    assert before == [path.read_text() for path in tmp_path.glob("runs/*/metrics.csv")]


def test_an_unknown_executor_is_refused_also_where_all_is_done(settings: Settings) -> None:
    run(fake_study(1, 1), settings)
    with pytest.raises(ConfigError, match=r"executor 'slrm' .*did you mean 'slurm'"):
        run(fake_study(1, 1), replace(settings, executor="slrm"))


def test_a_signal_while_the_driver_leaves_stops_nothing() -> None:
    """It came between the last trial and the handlers from before: a traceback, once in a while."""
    stopped: list[int] = []
    with Interrupts(lambda: None, lambda: stopped.append(1)) as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        handler = signal.getsignal(signal.SIGINT)
    assert callable(handler)
    handler(signal.SIGINT, None)
    assert (interrupts.count, stopped) == (2, [])
