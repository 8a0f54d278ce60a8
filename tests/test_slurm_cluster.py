"""A study on a real Slurm: slurmctld and two slurmd on loopback, started by `make test-slurm`.

Jobs are cancelled, told to leave, preempted and run into their limit; the driver is killed and
comes back. Every trial ends like one that nothing happened to, and is trained once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from study_fakes import fake_study

from ablate.study.folder import run_folders
from ablate.study.status import status

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "ABLATE_TEST_SLURM" not in os.environ, reason="no Slurm here: see `make test-slurm`"
    ),
]

ROOT = Path(__file__).parents[1]
PATHS = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])

DRIVER = """
import sys
from pathlib import Path
from study_fakes import epochs_of_a_tenth, fake_study
from ablate.study.engine import run
from ablate.study.progress import PlainLines
from ablate.study.settings import Settings

if __name__ == "__main__":
    options = {"poll_seconds": 1, "mem": "200M", "time": 10, **eval(sys.argv[3])}
    settings = Settings(
        runs=Path("runs"), results=Path("results"), executor="slurm", options=options,
        fit=epochs_of_a_tenth,
    )
    study = fake_study(1, int(sys.argv[1]), epochs=int(sys.argv[2]))
    summary = run(study, settings, sink=PlainLines())
    sys.exit(summary.exit_code)
"""


class Run:
    """A driver in a process and session of its own, in `folder`."""

    def __init__(self, folder: Path, trials: int, epochs: int, **options: Any) -> None:
        (folder / "drive.py").write_text(DRIVER)
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "drive.py", str(trials), str(epochs), repr(options)],
            cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True, env={**os.environ, "PYTHONPATH": PATHS},
        )  # fmt: skip

    def finish(self, seconds: float = 240) -> str:
        output, _ = self.process.communicate(timeout=seconds)
        print(output)
        assert self.process.returncode == 0, output
        return output

    def wait_for_epochs(self, count: int) -> None:
        wait_until(lambda: sum(epochs(self.folder).values()) >= count)

    @property
    def logs(self) -> str:
        files = sorted(self.folder.glob("runs/.slurm/*/*_log.out"))
        return "\n".join(path.read_text() for path in files)


@pytest.fixture(autouse=True)
def an_empty_queue() -> Iterator[None]:
    yield
    subprocess.run(["scancel", "--me"], check=True)
    wait_until(lambda: not queue())


def wait_until(true: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"it did not happen; the queue holds {queue()}"
        time.sleep(0.1)


def queue() -> dict[str, str]:
    """Job -> its state."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(line.split() for line in shown.splitlines())  # type: ignore[misc]


def epochs(folder: Path) -> dict[str, int]:
    """Key -> finished epochs, of every trial that has begun."""
    return {f.key: int(f.progress().get("epoch", 0)) for f in run_folders(folder / "runs")}


def trained(folder: Path) -> list[str]:
    log = folder / "runs" / ".trained"
    return [line.split()[0] for line in log.read_text().splitlines()]


def the_job() -> str:
    (job,) = queue()
    return job


def urgent(seconds: int) -> None:
    """A job that needs the whole of node n1 and goes before what runs there."""
    command = [
        "sbatch", "--partition=urgent", "--cpus-per-task=2", "--mem=1900M", "--output=/dev/null",
        f"--wrap=sleep {seconds}",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)


def test_an_array_spreads_over_both_nodes(tmp_path: Path) -> None:
    run = Run(tmp_path, 4, 60)
    wait_until(lambda: list(queue().values()).count("RUNNING") == 4)
    assert len({job.partition("_")[0] for job in queue()}) == 1, "one array"
    command = ["squeue", "--me", "--noheader", "--format=%N"]
    nodes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert sorted(nodes) == ["n1", "n1", "n2", "n2"]
    run.finish()
    assert len(trained(tmp_path)) == 4
    assert not list((tmp_path / "runs" / ".slurm").iterdir()), "a study leaves no files of jobs"


def test_workers_limit_what_runs_at_once(tmp_path: Path) -> None:
    run = Run(tmp_path, 3, 20, sbatch={"array": "0-2%1"})
    wait_until(lambda: "RUNNING" in queue().values())
    assert list(queue().values()).count("RUNNING") == 1
    run.finish()


def test_a_cancelled_job_is_submitted_again_and_finished(tmp_path: Path) -> None:
    run = Run(tmp_path, 2, 100)
    run.wait_for_epochs(20)
    victim = min(queue())
    subprocess.run(["scancel", victim], check=True)
    output = run.finish()
    assert f"the worker process of Slurm job {victim} is gone (CANCELLED)" in output
    assert sorted(trained(tmp_path)) == sorted(t.key for _, t in fake_study(1, 2, epochs=100).cells)


@pytest.mark.parametrize("name", ["USR2", "TERM"])
def test_a_signalled_job_requeues_itself_once_and_goes_on(tmp_path: Path, name: str) -> None:
    run = Run(tmp_path, 1, 100)
    run.wait_for_epochs(20)
    job = the_job()
    subprocess.run(["scancel", f"--signal={name}", job], check=True)
    wait_until(lambda: queue().get(job) == "PENDING")
    (before,) = epochs(tmp_path).values()
    log = run.logs
    run.finish()
    assert log.count(f"SIG{name}: job {job} is requeued by itself") == 1
    assert before >= 20, "what was finished stays"
    assert len(trained(tmp_path)) == 1


@pytest.mark.parametrize(
    ("partition", "told"),
    [("low", "Slurm decides what becomes of it"), ("patient", "is requeued by itself")],
)
def test_a_preempted_job_is_requeued_by_one_party(
    tmp_path: Path, partition: str, told: str
) -> None:
    """`low` is requeued by Slurm at once; `patient` has 20 s of grace, and requeues itself."""
    run = Run(tmp_path, 1, 100, partition=partition)
    run.wait_for_epochs(20)
    job = the_job()
    urgent(seconds=3)
    wait_until(lambda: queue().get(job) == "PENDING")
    log = run.logs
    run.finish()
    assert log.count("SIGTERM: ") == 1
    assert told in log
    assert log.count("DUE TO PREEMPTION") + log.count("DUE TO JOB REQUEUE") >= 1
    assert len(trained(tmp_path)) == 1


def test_a_job_at_its_limit_requeues_itself(tmp_path: Path) -> None:
    """The limit of 2 minutes is announced 100 seconds before: after 20 s, or a little earlier."""
    run = Run(tmp_path, 1, 600, time=2, signal_seconds=100)
    job: list[str] = []
    wait_until(lambda: bool(job or job.extend(queue())))
    wait_until(lambda: queue().get(job[0]) == "RUNNING")
    wait_until(lambda: queue().get(job[0]) == "PENDING")
    log = run.logs
    assert f"SIGUSR2: job {job[0]} is requeued by itself" in log
    run.finish()
    assert len(trained(tmp_path)) == 1


def test_a_limit_that_holds_no_epoch_is_a_timeout(tmp_path: Path) -> None:
    """Else the job would be requeued for ever."""
    (tmp_path / "slow.py").write_text(
        "from slow_fit import waits\n" + DRIVER.replace("fit=epochs_of_a_tenth", "fit=waits")
    )
    (tmp_path / "slow_fit.py").write_text(
        "import time\ndef waits(*arguments, **keywords):\n    time.sleep(600)\n"
    )
    done = subprocess.run(
        [sys.executable, "slow.py", "1", "5", "{'time': 2, 'signal_seconds': 110}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([PATHS, str(tmp_path)])},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert (
        "timeout: no epoch was finished within the job's limit of 2 min less 110 s" in done.stdout
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_the_driver_may_go_away_and_come_back(tmp_path: Path, number: signal.Signals) -> None:
    """Six jobs on four cores: some run, some wait, and none is submitted twice."""
    first = Run(tmp_path, 6, 120)
    first.wait_for_epochs(10)
    before = set(queue())
    first.process.send_signal(number)
    output, _ = first.process.communicate(timeout=30)
    if number != signal.SIGKILL:
        assert first.process.returncode == 130
        array = min(before).partition("_")[0]
        assert f"leaving: what is in Slurm's queue goes on (job {array})" in output
    found = status(fake_study(1, 6, epochs=120), runs=tmp_path / "runs")
    assert found.counts["running"] >= 1
    assert found.queued >= 1
    second = Run(tmp_path, 6, 120)
    time.sleep(3)
    assert set(queue()) <= before, "nothing is submitted twice"
    assert "found in the queue" in second.finish()
    assert sorted(trained(tmp_path)) == sorted(t.key for _, t in fake_study(1, 6, epochs=120).cells)


# Real training, by the command.

STUDY = """\
study: tiny
model: coat-lite-micro
factors:
  cpe: [false, true]
data: {name: digits-canvas, image_size: 32, train_fraction: 0.2}
train: {epochs: 4, batch_size: 64, lr: 1e-3}
cluster:
  slurm: {poll_seconds: 1, mem: 1500M, time: "00:30:00"}
"""


def ablate(folder: Path, *words: str) -> subprocess.Popen[str]:
    (folder / "tiny.yaml").write_text(STUDY)
    return subprocess.Popen(
        [sys.executable, "-m", "ablate", *words], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": PATHS},
    )  # fmt: skip


def test_a_training_that_was_requeued_ends_bit_for_bit_like_one_that_was_not(
    tmp_path: Path,
) -> None:
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    for folder in (calm, rough):
        folder.mkdir()
    run = ablate(rough, "run", "tiny.yaml", "--executor", "slurm")
    wait_until(lambda: len(epochs(rough)) == 2 and min(epochs(rough).values()) >= 1, 300)
    for job in queue():
        subprocess.run(["scancel", "--signal=USR2", job], check=True)
    wait_until(lambda: "PENDING" in queue().values())
    output, _ = run.communicate(timeout=300)
    print(output)
    assert run.returncode == 0, output
    reference = ablate(calm, "run", "tiny.yaml", "--executor", "serial", "--threads", "1")
    output, _ = reference.communicate(timeout=300)
    assert reference.returncode == 0, output
    assert epochs(calm) == epochs(rough)
    for key in epochs(calm):
        for name in ("metrics.csv", "predictions.npz"):
            one, other = (folder / "runs" / key / name for folder in (calm, rough))
            assert one.read_bytes() == other.read_bytes(), f"{name} of {key}"
    other_facts = ["seconds", "images_per_second", "departures", "commit"]  # of time and place
    tables = [pd.read_csv(f / "results" / "tiny" / "trials.csv") for f in (calm, rough)]
    one, other = (table.drop(columns=other_facts) for table in tables)
    pd.testing.assert_frame_equal(one, other, check_exact=True)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("partition=nowhere", "sbatch refused 2 jobs: invalid partition specified: nowhere"),
        ("partitoin=main", "unknown key 'partitoin' (did you mean 'partition'?)"),
    ],
)
def test_a_wrong_option_is_told_once_and_nothing_starts(
    tmp_path: Path, option: str, message: str
) -> None:
    run = ablate(
        tmp_path, "run", "tiny.yaml", "--executor", "slurm", "--set", f"cluster.slurm.{option}"
    )
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 2, output
    assert message in output
    assert "Traceback" not in output
    assert not queue()


def test_status_names_the_job(tmp_path: Path) -> None:
    run = Run(tmp_path, 1, 100)
    run.wait_for_epochs(5)
    (trial,) = status(fake_study(1, 1, epochs=100), runs=tmp_path / "runs").trials
    assert trial.owner is not None
    assert trial.owner["job"] == the_job()
    (record,) = (tmp_path / "runs" / ".slurm").glob("*/jobs.json")
    assert json.loads(record.read_text()) == {the_job(): trial.key}
    run.finish()
