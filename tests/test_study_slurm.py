"""The Slurm executor without a Slurm: what it submits, waits for, finds again, and refuses.

On submitit's local jobs it also stands in the contract (test_study_executors.py); on a real
slurmctld in test_slurm_cluster.py.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from slurm_queues import LocalQueue, MemoryQueue
from study_fakes import epochs_of_a_tenth, fake_study, instant, trained

from ablate.cli import main
from ablate.config import TrialConfig
from ablate.errors import ConfigError, StudyError
from ablate.study import slurm_queue
from ablate.study.cluster import read_cluster
from ablate.study.executors import Left, Resources, StopNow, WorkerDied, create_executor
from ablate.study.folder import RunFolder
from ablate.study.owner import Ownership
from ablate.study.slurm import SlurmExecutor
from ablate.study.slurm_job import Call, Limit, _Signalled, trial_in_job
from ablate.study.slurm_options import SlurmOptions, minutes_of
from ablate.study.slurm_queue import SlurmQueue
from ablate.study.slurm_records import recorded_jobs
from ablate.study.status import status
from ablate.study.worker import Order, run_trial


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablate.study.slurm.GATHER_SECONDS", 0.3)
    monkeypatch.setattr("ablate.study.slurm._TICK_SECONDS", 0.01)


@pytest.fixture
def queue() -> MemoryQueue:
    return MemoryQueue()


@pytest.fixture
def make(tmp_path: Path, queue: MemoryQueue) -> Iterator[Callable[..., SlurmExecutor]]:
    """Makes an executor on the queue; leaves all at the end."""
    made: list[SlurmExecutor] = []

    def one(patience_seconds: float = 0.0, **options: Any) -> SlurmExecutor:
        resources = Resources(trials=100, folder=tmp_path / "runs", options=options)
        made.append(SlurmExecutor(resources, queue=queue, patience_seconds=patience_seconds))
        made[-1]._options = made[-1]._options.model_copy(update={"poll_seconds": 0.02})
        return made[-1]

    yield one
    for executor in made:
        executor.shutdown(cancel_futures=True)


def until(true: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def submit(executor: SlurmExecutor, trial: TrialConfig, runs: Path) -> Future[Any]:
    return executor.submit(run_trial, trial, runs / trial.key, Order(fit=instant, threads=1))


TRIALS = [trial for _, trial in fake_study(1, 3).cells]


# Arrays.


def test_calls_that_come_together_become_one_array(
    make: Callable[..., SlurmExecutor], queue: MemoryQueue
) -> None:
    executor = make()
    futures = [executor.submit(max, n, 3) for n in range(5)]
    until(lambda: queue.arrays == [5])
    for job in list(queue.jobs):
        queue.run(job)
    assert [future.result(timeout=10) for future in futures] == [3, 3, 3, 3, 4]


def test_an_array_is_never_larger_than_allowed(
    make: Callable[..., SlurmExecutor], queue: MemoryQueue
) -> None:
    executor = make(array_size=2)
    for n in range(5):
        executor.submit(abs, n)
    until(lambda: queue.arrays == [2, 2, 1])


def test_the_queue_takes_all_trials_or_as_many_as_the_site_allows(
    make: Callable[..., SlurmExecutor],
) -> None:
    assert make().slots == 100
    assert make(max_jobs=7).slots == 7


def test_a_job_that_ends_without_a_word_is_a_dead_worker_and_keeps_its_log(
    make: Callable[..., SlurmExecutor], queue: MemoryQueue
) -> None:
    future = make().submit(abs, -1)
    until(lambda: queue.queued)
    queue.queued.clear()
    with pytest.raises(WorkerDied, match=r"Slurm job 1_0 is gone \(NODE_FAIL\), log: ") as died:
        future.result(timeout=10)
    log = Path(str(died.value).partition("log: ")[2])
    assert log.read_text() == "a log\n"
    assert [path.name for path in log.parent.iterdir()] == [log.name]


def test_a_reply_that_a_file_server_shows_late_is_waited_for(
    make: Callable[..., SlurmExecutor], queue: MemoryQueue
) -> None:
    future = make(patience_seconds=30.0).submit(abs, -1)
    until(lambda: queue.queued)
    queue.queued.clear()
    time.sleep(0.2)
    assert not future.done()
    queue.run("1_0")
    assert future.result(timeout=10) == 1


def test_while_squeue_does_not_answer_no_job_counts_as_gone(
    make: Callable[..., SlurmExecutor], queue: MemoryQueue
) -> None:
    future = make().submit(abs, -1)
    until(lambda: queue.queued)
    queue.answers = False
    queue.queued.clear()
    time.sleep(0.2)
    assert not future.done()


def test_a_finished_array_leaves_no_files(
    make: Callable[..., SlurmExecutor], queue: MemoryQueue, tmp_path: Path
) -> None:
    executor = make()
    futures = [submit(executor, trial, tmp_path / "runs") for trial in TRIALS]
    until(lambda: len(recorded_jobs(tmp_path / "runs" / ".slurm")) == 3)
    for job in list(queue.jobs):
        queue.run(job)
    assert [future.result(timeout=10).status for future in futures] == ["done"] * 3
    until(lambda: not list((tmp_path / "runs" / ".slurm").iterdir()))


def test_status_tells_what_waits_in_the_queue_without_asking_it(
    make: Callable[..., SlurmExecutor], queue: MemoryQueue, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    executor = make()
    for trial in TRIALS:
        submit(executor, trial, runs)
    until(lambda: len(recorded_jobs(runs / ".slurm")) == 3)
    queue.run("1_0")
    found = status(fake_study(1, 3), runs=runs, results=tmp_path / "results")
    assert (found.counts["done"], found.counts["missing"], found.queued) == (1, 2, 2)


# The driver goes and comes back.


def test_a_driver_that_leaves_cancels_nothing(
    make: Callable[..., SlurmExecutor], queue: MemoryQueue, tmp_path: Path
) -> None:
    executor = make()
    future = submit(executor, TRIALS[0], tmp_path / "runs")
    until(lambda: queue.queued)
    until(lambda: "job 1)" in executor.stopping)
    assert executor.stopping.endswith("`scancel 1` cancels it")
    executor.leave()
    with pytest.raises(Left, match="Slurm job 1_0 goes on"):
        future.result(timeout=10)
    executor.kill()  # a second Ctrl-C, while it is leaving
    assert queue.cancelled == []


def test_the_next_driver_waits_for_the_jobs_of_the_last(
    make: Callable[..., SlurmExecutor], queue: MemoryQueue, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    first = make()
    for trial in TRIALS:
        submit(first, trial, runs)
    until(lambda: len(recorded_jobs(runs / ".slurm")) == 3)
    first.shutdown(cancel_futures=True)
    queue.run("1_0")
    second = make()
    assert [second.has(runs / trial.key) for trial in TRIALS] == [False, True, True]
    futures = [submit(second, trial, runs) for trial in TRIALS[1:]]
    for job in ("1_1", "1_2"):
        queue.run(job)
    assert [future.result(timeout=10).status for future in futures] == ["done"] * 2
    assert queue.arrays == [3], "nothing was submitted twice"
    assert sorted(trained(runs)) == sorted(trial.key for trial in TRIALS)


def test_without_squeue_a_driver_does_not_guess_what_is_submitted(
    make: Callable[..., SlurmExecutor], queue: MemoryQueue, tmp_path: Path
) -> None:
    first = make()
    submit(first, TRIALS[0], tmp_path / "runs")
    until(lambda: queue.queued and recorded_jobs(tmp_path / "runs" / ".slurm"))
    first.shutdown(cancel_futures=True)
    queue.answers = False
    with pytest.raises(ConfigError, match=r"squeue does not answer.*may be in the queue already"):
        submit(make(), TRIALS[0], tmp_path / "runs")


def test_a_trial_heeds_its_batch_and_not_the_driver(
    make: Callable[..., SlurmExecutor], queue: MemoryQueue, tmp_path: Path
) -> None:
    """The driver's lease may be gone; `--fail-fast` takes the batch's away."""
    executor = make()
    order = Order(fit=instant, lease=tmp_path / "gone")
    futures = [
        executor.submit(run_trial, trial, tmp_path / "runs" / trial.key, order)
        for trial in TRIALS[:2]
    ]
    until(lambda: len(queue.queued) == 2)
    queue.run("1_0")
    assert futures[0].result(timeout=10).status == "done"
    executor.stop()
    queue.run("1_1")
    assert futures[1].result(timeout=10).status == "interrupted"


# In a job.


def test_what_its_former_life_left_behind_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A requeued job finds the owner file of a node that died: its own, not stale yet."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setattr("ablate.study.slurm_job.STALE_SECONDS", 2.0)
    trial, path = TRIALS[0], tmp_path / "runs" / TRIALS[0].key
    path.mkdir(parents=True)
    held = Ownership(path)
    assert held.owner.job == "7_3"
    held.__enter__()
    ended = time.monotonic() + 0.5
    order = Order(fit=instant)
    limit = Limit(minutes=10, signal_seconds=90)

    def sleep(seconds: float) -> None:
        if time.monotonic() > ended:
            held.__exit__(None, None, None)

    monkeypatch.setattr("ablate.study.slurm_job.time.sleep", sleep)
    assert trial_in_job(trial, path, order, limit).status == "done"


def test_the_owner_of_another_job_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs" / TRIALS[0].key
    path.mkdir(parents=True)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr("ablate.study.slurm_job.time.sleep", lambda seconds: pytest.fail("waits"))
    with Ownership(path):
        monkeypatch.setenv("SLURM_JOB_ID", "8")
        limit = Limit(minutes=10, signal_seconds=90)
        outcome = trial_in_job(TRIALS[0], path, Order(fit=instant), limit)
    assert (outcome.status, (outcome.owner or "").partition(", ")[2]) == ("owned", "job 7")


def test_an_error_that_the_signal_made_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm signals the processes that load images, too, and torch tells of their death."""

    def killed(*arguments: Any, **keywords: Any) -> Any:
        monkeypatch.setattr(_Signalled, "number", signal.SIGUSR2)
        raise RuntimeError("DataLoader worker is killed by signal: User defined signal 2")

    path = tmp_path / "runs" / TRIALS[0].key
    with pytest.raises(StopNow):
        trial_in_job(TRIALS[0], path, Order(fit=killed), Limit(minutes=60, signal_seconds=90))
    assert RunFolder(path).failure() is None
    assert run_trial(TRIALS[0], path, Order(fit=instant)).status == "done"


def test_a_limit_counts_as_reached_only_near_its_end() -> None:
    limit = Limit(minutes=60, signal_seconds=120)
    assert not limit.reached(seconds=1800)
    assert limit.reached(seconds=3400)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signalled_job_goes_back_to_the_queue_and_on_from_its_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """submitit's local controller stands for Slurm: it starts the job again."""
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    trial = fake_study(1, 1, epochs=60).raw[0].trials[0]
    path = tmp_path / "runs" / trial.key
    queue = LocalQueue()
    resources = Resources(folder=tmp_path / "runs", options={"poll_seconds": 1})
    with SlurmExecutor(resources, queue=queue, patience_seconds=1.0) as executor:
        future = executor.submit(run_trial, trial, path, Order(fit=epochs_of_a_tenth))
        until(lambda: int(RunFolder(path).progress().get("epoch", 0)) > 10, 60)
        owner = path / "owner"
        first = owner.read_text()
        os.kill(int(first.partition('"pid": ')[2].partition(",")[0]), number)
        until(lambda: owner.exists() and owner.read_text() != first, 60)
        (log,) = tmp_path.glob("runs/.slurm/*/*_log.out")
        assert f"{number.name}: job {log.name.split('_')[0]} is requeued by itself" in (
            log.read_text()
        )
        assert future.result(timeout=120).status == "done"
    assert trained(tmp_path / "runs") == [trial.key]


# What sbatch is asked for.

SBATCH = """#!/bin/sh
cp "$1" "$SBATCH_SEEN"
[ -n "$SBATCH_SAYS" ] && { echo "sbatch: error: $SBATCH_SAYS" >&2; exit 1; }
echo "Submitted batch job 41"
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with an sbatch that keeps the last script, and a Slurm that says nothing else."""
    pytest.importorskip("submitit")
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("squeue", "scancel", "scontrol", "srun", "sbatch"):
        (folder / name).write_text(SBATCH if name == "sbatch" else "#!/bin/sh\nexit 1\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("SBATCH_SEEN", str(tmp_path / "seen.sh"))
    return folder


def seen(tmp_path: Path, calls: int = 3, parallel: int | None = None, **options: Any) -> list[str]:
    """The #SBATCH lines and the commands of a submission."""
    queue = SlurmQueue(SlurmOptions(**options), parallel=parallel, threads=2)
    queue.submit(tmp_path / "batch", [Call(fn=abs, args=(n,)) for n in range(calls)])
    lines = (tmp_path / "seen.sh").read_text().splitlines()
    return [line.removeprefix("#SBATCH --") for line in lines if line and line != "# Parameters"]


@pytest.mark.usefixtures("commands")
def test_options_reach_sbatch_in_its_own_words(tmp_path: Path) -> None:
    lines = seen(
        tmp_path, parallel=2, partition="gpu", account="lab", qos="normal", time="1-12:00:00",
        gpus="a100:1", mem="16G", setup=("module load cuda",), signal_seconds=120,
        sbatch={"nice": 100}, reservation="week",
    )  # fmt: skip
    assert {
        "partition=gpu", "account=lab", "qos=normal", "time=2160", "gpus-per-node=a100:1",
        "mem=16G", "signal=USR2@120", "array=0-2%2", "requeue", "nice=100", "reservation=week",
        "cpus-per-task=2", "module load cuda", "export OMP_NUM_THREADS=2",
        "export GLIBC_TUNABLES=glibc.malloc.hugetlb=1",
    } <= set(lines)  # fmt: skip
    assert any(line.startswith("srun ") and "--cpus-per-task=2" in line for line in lines)


@pytest.mark.usefixtures("commands")
def test_one_call_is_a_job_and_many_are_an_array_without_a_limit_of_ours(tmp_path: Path) -> None:
    assert not [line for line in seen(tmp_path, 1) if line.startswith("array")]
    assert "array=0-299%300" in seen(tmp_path, 300)


@pytest.mark.usefixtures("commands")
def test_the_words_of_a_refusing_sbatch_are_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_SAYS", "invalid account or account/partition combination")
    with pytest.raises(ConfigError, match="sbatch refused 3 jobs: invalid account or account"):
        seen(tmp_path)


def test_a_slurmctld_that_is_away_for_a_moment_is_asked_again(
    tmp_path: Path, commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_queue, "_PAUSES", (0.0,))
    (commands / "sbatch").write_text(
        f'#!/bin/sh\n[ -f {tmp_path}/asked ] || {{ touch {tmp_path}/asked; '
        'echo "sbatch: error: Unable to contact slurm controller" >&2; exit 1; }\n'
        'cp "$1" "$SBATCH_SEEN"; echo "Submitted batch job 41"\n'
    )  # fmt: skip
    assert "requeue" in seen(tmp_path)


def test_a_refused_array_ends_the_run_with_one_error(tmp_path: Path, commands: Path) -> None:
    (commands / "sbatch").write_text('#!/bin/sh\necho "sbatch: error: no" >&2; exit 1\n')
    from ablate.study.engine import run
    from ablate.study.settings import Settings

    settings = Settings(
        runs=tmp_path / "runs", results=tmp_path / "results", executor="slurm", fit=instant
    )
    with pytest.raises(ConfigError, match="sbatch refused 4 jobs: no"):
        run(fake_study(2, 2), settings)
    assert list((tmp_path / "runs" / ".slurm").iterdir()) == []


# What is refused.


def test_without_slurm_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    folders = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    with pytest.raises(SystemExit) as ended:
        main(["run", "position_encoding", "--executor", "slurm", *folders])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "executor 'slurm': no `sbatch` on this machine; run on a login node" in told
    assert "Traceback" not in told


def test_without_submitit_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"needs submitit: pip install 'ablate-vision\[slurm\]'"):
        create_executor("slurm", Resources())


def test_gpus_are_divided_by_slurm(queue: MemoryQueue) -> None:
    with pytest.raises(ConfigError, match=r"Slurm divides GPUs, not `per_gpu`=2; ask.*shard:1"):
        SlurmExecutor(Resources(per_gpu=2), queue=queue)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("10:30", 11), ("02:30:00", 150), ("1-12", 2160), ("1-00:00:01", 1441)],
)
def test_times_are_read_as_sbatch_reads_them(text: str, minutes: int) -> None:
    assert minutes_of(text) == minutes
    assert SlurmOptions(time=text).minutes == minutes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("partiton: gpu", r"c.yaml:2: in slurm: unknown key 'partiton' \(did you mean 'partition'"),
        ("time: 2h", r"c.yaml:2: slurm.time: must be minutes, \"HH:MM:SS\".*but got '2h'"),
        ('time: "0:00"', r"c.yaml:2: slurm.time: must be at least a minute"),
        ("time: 0", r"c.yaml:2: slurm.time: must be at least a minute, but got 0"),
        ("time: 1.5", r"c.yaml:2: slurm.time: must be minutes, \"HH:MM:SS\".*but got 1.5"),
        ("gpus: -1", r"c.yaml:2: slurm.gpus: must be a number, or a kind.*but got -1"),
        ("gpus: a100", r"c.yaml:2: slurm.gpus: must be a number, or a kind.*but got 'a100'"),
        ("cpus: 0", r"c.yaml:2: slurm.cpus must be at least 1, but got 0"),
        ("setup: module load", r"c.yaml:2: slurm.setup must be a list"),
        ("poll_seconds: 0.1", r"c.yaml:2: slurm.poll_seconds must be at least 1"),
    ],
)
def test_a_wrong_option_is_told_with_its_place(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(f"slurm:\n  {line}\n")
    with pytest.raises(StudyError, match=message):
        read_cluster(tmp_path / "c.yaml")


def test_threads_are_cores(queue: MemoryQueue, tmp_path: Path) -> None:
    resources = Resources(folder=tmp_path, options={"cpus": 4})
    with SlurmExecutor(resources, queue=queue) as executor:
        assert executor.place(Order()).threads == 4
    with SlurmExecutor(replace(resources, threads=2), queue=queue) as executor:
        assert executor.place(Order()).threads == 2
