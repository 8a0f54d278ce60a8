"""The executor of a Slurm cluster: every call is a task of a job array.

Jobs do not need the driver: it may end and come back, and then waits for the jobs that it finds
in its records instead of submitting their trials again. Whatever a trial has to say stands in its
run folder; the queue is asked (one squeue for all jobs) only to learn which jobs have ended.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ablate.errors import AblateError, ConfigError
from ablate.study.cluster import parse_options
from ablate.study.executors import Left, Resources, TrialExecutor, WorkerDied
from ablate.study.slurm_job import Call, Limit, Reply, trial_in_job
from ablate.study.slurm_options import SlurmOptions
from ablate.study.slurm_queue import Queue, SlurmQueue
from ablate.study.slurm_records import (
    ROOM,
    Batch,
    close_abandoned,
    new_batch,
    recorded_jobs,
)
from ablate.study.worker import Order, run_trial

if TYPE_CHECKING:
    from submitit import Job

T = TypeVar("T")

GATHER_SECONDS = 0.5  # calls that come closer than this become one array
PATIENCE_SECONDS = 15.0  # a file server may show a job's last file this late
_TICK_SECONDS = 0.1


@dataclass
class _Open:
    """A job whose end is not known."""

    job: Job[Any]
    batch: Batch
    future: Future[Any]
    gone_since: float | None = None


@dataclass(frozen=True)
class _Waiting:
    """A call that is not submitted yet."""

    call: Call
    future: Future[Any]
    key: str | None


class SlurmExecutor(TrialExecutor):
    """Submits calls as job arrays and settles their futures when the jobs leave the queue.

    Args:
        resources: `workers` limits the tasks of an array that run at once, `threads` are the cores
            of a trial, `options` those of `SlurmOptions`.
        queue: another queue than Slurm's, for tests.
        patience_seconds: how long the reply of a job that left the queue may be missing.

    Raises:
        ConfigError: an option is wrong, or there is no submitit or no Slurm here.
    """

    def __init__(
        self,
        resources: Resources,
        *,
        queue: Queue | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        if resources.per_gpu != 1:
            raise ConfigError(
                f"executor 'slurm': Slurm divides GPUs, not `per_gpu`={resources.per_gpu}; ask "
                "for a part of one by `sbatch: {gres: 'shard:1'}` under cluster: slurm:"
            )
        self._options = parse_options(SlurmOptions, resources.options)
        self._threads = resources.threads or self._options.cpus or 1
        self._queue = queue or SlurmQueue(
            self._options, parallel=resources.workers, threads=self._threads
        )
        self._plugins = resources.plugins
        self._patience = patience_seconds
        self._root = (resources.folder / ROOM).absolute()
        self.slots = min(resources.trials, self._options.max_jobs or resources.trials)
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._last_call = 0.0
        self._open: dict[str, _Open] = {}
        self._known: dict[str, tuple[Batch, str]] | None = None
        self._leaving = self._closing = False
        self._looked = 0.0
        self._thread = threading.Thread(target=self._work, name="slurm", daemon=True)
        self._thread.start()

    # What the engine calls.

    @property
    def stopping(self) -> str:
        arrays = sorted({job.partition("_")[0] for job in list(self._open)})
        if not arrays:
            return "leaving: nothing was submitted"
        return (
            f"leaving: what is in Slurm's queue goes on (job {', '.join(arrays)}); the same "
            f"command waits for it again, `scancel {' '.join(arrays)}` cancels it"
        )

    def place(self, order: Order) -> Order:
        return replace(order, threads=self._threads)

    def has(self, path: Path) -> bool:
        if self._known is None:
            self._known = self._find_known()
        return path.name in self._known

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """As of `Executor`; a trial that an earlier driver submitted is waited for instead."""
        future: Future[T] = Future()
        key = args[1].name if fn is run_trial else None
        if key is not None and self.has(args[1]):
            self._attach(key, future)
            return future
        call = Call(fn=fn, args=args, kwargs=kwargs, plugins=self._plugins)
        with self._lock:
            self._waiting.append(_Waiting(call, future, key))
            self._last_call = time.monotonic()
        return future

    def leave(self) -> None:
        """Only sets a flag: it is called in a signal's handler."""
        self._leaving = True

    def stop(self) -> None:
        for batch in {each.batch for each in list(self._open.values())}:
            batch.lease.unlink(missing_ok=True)

    def kill(self) -> None:
        """Cancel all jobs; a driver that is leaving already leaves them alone."""
        if not self._leaving:
            self._queue.cancel(list(self._open))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the driver's part; with `cancel_futures`, jobs go on, and nobody waits for them."""
        self._leaving = self._leaving or cancel_futures
        self._closing = True
        if wait:
            self._thread.join()

    # The thread that talks to Slurm.

    def _work(self) -> None:
        while not self._leaving and not (self._closing and not self._open and not self._waiting):
            time.sleep(_TICK_SECONDS)
            self._submit_waiting()
            if time.monotonic() - self._looked > self._options.poll_seconds and self._open:
                self._look()
                self._looked = time.monotonic()
        self._leave_all()

    def _submit_waiting(self) -> None:
        size = self._options.array_size
        with self._lock:
            settled = time.monotonic() - self._last_call > GATHER_SECONDS
            if not self._waiting or (len(self._waiting) < size and not settled):
                return
            now, self._waiting = self._waiting[:size], self._waiting[size:]
        chosen = [each for each in now if each.future.set_running_or_notify_cancel()]
        if not chosen:
            return
        try:
            self._submit_array(chosen)
        except (AblateError, OSError) as error:
            for each in chosen:
                each.future.set_exception(error)

    def _submit_array(self, chosen: list[_Waiting]) -> None:
        batch = new_batch(self._root)
        try:
            jobs = self._queue.submit(batch.path, [self._in_job(each, batch) for each in chosen])
        except AblateError:
            batch.close()
            raise
        batch.write({job.job_id: each.key for job, each in zip(jobs, chosen, strict=True)})
        for job, each in zip(jobs, chosen, strict=True):
            self._open[job.job_id] = _Open(job, batch, each.future)

    def _in_job(self, waiting: _Waiting, batch: Batch) -> Call:
        """The call as its job makes it: a trial heeds the batch's lease, not the driver's."""
        if waiting.key is None:
            return waiting.call
        trial, path, order = waiting.call.args
        limit = Limit(minutes=self._options.minutes, signal_seconds=self._options.signal_seconds)
        order = replace(order, lease=batch.lease)
        return replace(waiting.call, fn=trial_in_job, args=(trial, path.absolute(), order, limit))

    def _attach(self, key: str, future: Future[Any]) -> None:
        assert self._known is not None
        batch, job = self._known.pop(key)
        future.set_running_or_notify_cancel()
        self._open[job] = _Open(self._queue.attach(batch.path, job), batch, future)

    def _find_known(self) -> dict[str, tuple[Batch, str]]:
        recorded = recorded_jobs(self._root)
        if not recorded:
            return {}
        listed = self._queue.listed()
        if listed is None:
            raise ConfigError(
                f"squeue does not answer, and {self._root} records jobs of an earlier run: trials "
                "may be in the queue already; try again when Slurm is back"
            )
        close_abandoned(self._root, listed)
        return {key: (batch, job) for job, (batch, key) in recorded.items() if job in listed}

    def _look(self) -> None:
        """Settle the jobs that left the queue and have replied, or were given up."""
        asked = list(self._open.values())
        listed = self._queue.listed()
        if listed is None:
            return
        for each in asked:
            if each.job.job_id in listed:
                each.gone_since = None
            else:
                self._settle(each)

    def _settle(self, each: _Open) -> None:
        job = each.job.job_id
        if _has_replied(each.job):
            self._reply(each)
        elif each.gone_since is None:
            each.gone_since = time.monotonic()
        elif time.monotonic() - each.gone_since >= self._patience:
            end = self._queue.end_of(job)
            self._close(each, keep_log=True)
            each.future.set_exception(
                WorkerDied(
                    f"the worker process of Slurm job {job} is gone ({end}), log: "
                    f"{each.batch.path / f'{job}_0_log.out'}"
                )
            )

    def _reply(self, each: _Open) -> None:
        try:
            reply: Reply = each.job.result()
        except Exception as error:  # submitit's, with the traceback of what failed around the call
            self._close(each, keep_log=True)
            each.future.set_exception(error)
            return
        self._close(each, keep_log=reply.error is not None)
        if reply.error is not None:
            each.future.set_exception(reply.error)
        else:
            each.future.set_result(reply.value)

    def _close(self, each: _Open, *, keep_log: bool) -> None:
        del self._open[each.job.job_id]
        each.batch.forget(each.job.job_id, keep_log=keep_log)
        if not any(other.batch == each.batch for other in self._open.values()):
            each.batch.close()

    def _leave_all(self) -> None:
        """Settle all futures of a driver that does not wait any longer."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for each in waiting:
            if each.future.set_running_or_notify_cancel():
                each.future.set_exception(Left("not submitted"))
        for job, opened in list(self._open.items()):
            opened.future.set_exception(Left(f"Slurm job {job} goes on"))


def _has_replied(job: Job[Any]) -> bool:
    path: Path = job.paths.result_pickle
    with contextlib.suppress(OSError):
        path.parent.chmod(path.parent.stat().st_mode)  # NFS: look at the server, not the cache
    return path.exists()
