"""Queues that need no Slurm: one of submitit's local jobs, and one in memory."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate.study.owner import start_time
from ablate.study.slurm_job import Call, Reply


class LocalQueue:
    """Real jobs of submitit on this machine: processes that a controller starts and restarts."""

    def submit(self, folder: Path, calls: Sequence[Call]) -> list[Any]:
        from submitit import LocalExecutor

        executor = LocalExecutor(folder)
        executor.update_parameters(timeout_min=5, stderr_to_stdout=True)
        jobs = [executor.submit(call) for call in calls]
        self._jobs = {**getattr(self, "_jobs", {}), **{job.job_id: job for job in jobs}}
        return jobs

    def listed(self) -> set[str]:
        for job in self._jobs.values():
            job.done()  # reaps the controller
        return {job for job in self._jobs if start_time(int(job)) is not None}

    def end_of(self, job: str) -> str:
        return "FAILED"

    def cancel(self, jobs: Iterable[str]) -> None:
        for job in jobs:
            os.kill(int(job), signal.SIGINT)

    def attach(self, folder: Path, job: str) -> Any:
        return self._jobs[job]


@dataclass
class MemoryJob:
    """As much of a submitit job as the executor uses."""

    job_id: str
    folder: Path
    call: Call

    @property
    def paths(self) -> MemoryJob:
        return self

    @property
    def result_pickle(self) -> Path:
        return self.folder / f"{self.job_id}_0_result.pkl"

    def result(self) -> Reply:
        reply: Reply = pickle.loads(self.result_pickle.read_bytes())
        return reply

    def run(self) -> None:
        """Make the call here, as its job would."""
        try:
            reply = Reply(value=self.call.fn(*self.call.args, **self.call.kwargs))
        except Exception as error:
            reply = Reply(error=error)
        self.result_pickle.write_bytes(pickle.dumps(reply))


@dataclass
class MemoryQueue:
    """A queue whose jobs do what a test tells them; it outlives the executors that use it."""

    jobs: dict[str, MemoryJob] = field(default_factory=dict)
    queued: set[str] = field(default_factory=set)
    arrays: list[int] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    answers: bool = True

    def submit(self, folder: Path, calls: Sequence[Call]) -> list[MemoryJob]:
        self.arrays.append(len(calls))
        made = [
            MemoryJob(f"{len(self.arrays)}_{index}", folder, call)
            for index, call in enumerate(calls)
        ]
        for job in made:
            (folder / f"{job.job_id}_0_log.out").write_text("a log\n")
            self.jobs[job.job_id] = job
            self.queued.add(job.job_id)
        return made

    def run(self, job: str) -> None:
        """Run a job to its end."""
        self.jobs[job].run()
        self.queued.discard(job)

    def listed(self) -> set[str] | None:
        return set(self.queued) if self.answers else None

    def end_of(self, job: str) -> str:
        return "NODE_FAIL"

    def cancel(self, jobs: Iterable[str]) -> None:
        self.cancelled += jobs
        self.queued -= set(self.cancelled)

    def attach(self, folder: Path, job: str) -> MemoryJob:
        return self.jobs[job]
