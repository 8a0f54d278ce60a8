"""Inside a Slurm job: one call, and what a signal does to it. Knows nothing of the driver.

Slurm sends USR2 before a job's time limit, and TERM when it preempts or cancels a job. Either way
the call is left at once: a trial's last finished epoch is saved already, and the partial one is
repeated. Exactly one party requeues the job: Slurm, where it has taken the job off its node
already (its state is no longer RUNNING), else this process. submitit's own handlers and
Lightning's are both out of the way.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate.config import TrialConfig
from ablate.study.executors import StopNow
from ablate.study.folder import RunFolder
from ablate.study.ledger import Failure
from ablate.study.owner import STALE_SECONDS, Owned, Ownership, myself, read_owner
from ablate.study.plugins import import_plugins
from ablate.study.worker import Order, Outcome, run_trial

_SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
_EARLY_SECONDS = 90
"""Slurm looks at limits now and then: its signal may come a minute early."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a call returned or raised."""

    value: Any = None
    error: Exception | None = None


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call as it is pickled for its job.

    Args:
        plugins: modules that are imported first.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()

    def __call__(self) -> Reply:
        _heed_signals()
        # Lightning's switch: else it finds Slurm's variables and requeues the job, too.
        os.environ["SLURM_JOB_NAME"] = "interactive"
        try:
            import_plugins(self.plugins)
            return Reply(value=self.fn(*self.args, **self.kwargs))
        except StopNow:
            _requeue()
            sys.exit(1)
        except Exception as error:
            return Reply(error=error)
        finally:
            _ignore_signals()


class _Signalled:
    """The signal that this process got, if any; its children answer none."""

    number: int | None = None
    pid = os.getpid()


def _heed_signals() -> None:
    _Signalled.pid = os.getpid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in _SIGNALS:
        signal.signal(number, _leave)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _leave(number: int, frame: object) -> None:
    if os.getpid() != _Signalled.pid:
        return  # a forked loader of images: Slurm signals every process of a job
    _Signalled.number = number
    _ignore_signals()  # one is enough, and leaving must not be disturbed
    raise StopNow


def _requeue() -> None:
    """Put this job back into the queue, unless Slurm has done so or somebody cancelled it."""
    from submitit import JobEnvironment

    job = JobEnvironment()
    name = signal.Signals(_Signalled.number).name if _Signalled.number else "a stop"
    state = _state(job.job_id) if job.cluster == "slurm" else "RUNNING"
    if state != "RUNNING":
        print(f"{name}: job {job.job_id} is {state}: Slurm decides what becomes of it", flush=True)
        return
    print(f"{name}: job {job.job_id} is requeued by itself", flush=True)
    try:
        job._requeue(0)  # scontrol requeue; submitit's local jobs exit with a code of their own
    except (OSError, subprocess.SubprocessError) as error:
        print(f"job {job.job_id} was not requeued: {error}", flush=True)


def _state(job: str) -> str:
    """What slurmctld says of a job; it is asked because TERM has several reasons."""
    command = ["scontrol", "show", "job", job, "--oneliner"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return "RUNNING"  # requeueing a job that is not leads to an error, and to nothing else
    found = re.search(r"\bJobState=(\w+)", shown)
    return found.group(1) if found else "RUNNING"


# A trial.


@dataclass(frozen=True, kw_only=True)
class Limit:
    """When a job ends by itself: at `minutes`, told `signal_seconds` before."""

    minutes: int
    signal_seconds: int

    def reached(self, seconds: float) -> bool:
        """Whether a signal after so many seconds announces the limit."""
        return seconds + self.signal_seconds + _EARLY_SECONDS >= 60 * self.minutes


def trial_in_job(trial: TrialConfig, path: Path, order: Order, limit: Limit) -> Outcome:
    """As `run_trial`, by a job that may have been here before.

    The former life of a requeued job may have left its owner file; elsewhere it counts as alive
    until it was silent long enough, which is waited for. A job whose time holds no epoch would be
    requeued for ever: its trial fails as a timeout.
    """
    started, before = time.monotonic(), _epochs(path)
    try:
        return _run(trial, path, order)
    except StopNow:
        at_limit = _Signalled.number == signal.SIGUSR2
        if at_limit and limit.reached(time.monotonic() - started) and _epochs(path) == before:
            return _too_slow(trial, path, limit)
        raise


def _run(trial: TrialConfig, path: Path, order: Order) -> Outcome:
    deadline = time.monotonic() + 1.5 * STALE_SECONDS
    while True:
        outcome = run_trial(trial, path, order)
        if outcome.status == "failed" and _Signalled.number is not None:
            _undo_failure(path)
            raise StopNow
        if outcome.status != "owned" or time.monotonic() > deadline or not _was_mine(path):
            return outcome
        time.sleep(STALE_SECONDS / 20)


def _undo_failure(path: Path) -> None:
    """Processes of a trial that the signal killed, too, make an error of what is none."""
    with Ownership(path):
        RunFolder(path).put_aside("failure.json", "retried")


def _was_mine(path: Path) -> bool:
    owner = read_owner(path / "owner")
    return owner is None or (owner.job is not None and owner.job == myself().job)


def _epochs(path: Path) -> int:
    return int(RunFolder(path).progress().get("epoch", 0))


def _too_slow(trial: TrialConfig, path: Path, limit: Limit) -> Outcome:
    message = (
        f"no epoch was finished within the job's limit of {limit.minutes} min less "
        f"{limit.signal_seconds} s: raise `time` under cluster: slurm:"
    )
    failure = Failure(kind="timeout", message=message, host=myself().host)
    try:
        with Ownership(path):
            RunFolder(path).write_failure(failure)
    except Owned as owned:
        return Outcome(key=trial.key, status="owned", owner=str(owned.owner or "unknown"))
    return Outcome(key=trial.key, status="failed", failure=failure)
