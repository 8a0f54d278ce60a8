"""Slurm through its commands: submitit's sbatch, squeue, scancel, scontrol."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ablate.errors import ConfigError
from ablate.study.allocator import large_pages
from ablate.study.slurm_job import Call
from ablate.study.slurm_options import SlurmOptions

if TYPE_CHECKING:
    from submitit import Job

_COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "srun")
_PASSING = ("Unable to contact", "timed out", "temporarily unable", "Zero Bytes", "try again")
_PAUSES = (5.0, 20.0, 60.0)
_ANSWER_SECONDS = 60


class Queue(Protocol):
    """A cluster's queue, as the executor needs it."""

    def submit(self, folder: Path, calls: Sequence[Call]) -> list[Job[Any]]:
        """Submit calls as one array; their files go to `folder`."""

    def listed(self) -> set[str] | None:
        """The jobs that are pending, running or ending; None where the queue does not answer."""

    def end_of(self, job: str) -> str:
        """How a job that is no longer listed ended, such as "CANCELLED"."""

    def cancel(self, jobs: Iterable[str]) -> None:
        """Cancel jobs."""

    def attach(self, folder: Path, job: str) -> Job[Any]:
        """A job that somebody submitted with its files in `folder`."""


class SlurmQueue:
    """The queue of the cluster that this machine belongs to.

    Args:
        parallel: tasks of one array that may run at once; None is no limit of ours.
        threads: CPU threads of a trial.

    Raises:
        ConfigError: there is no submitit, or no Slurm.
    """

    def __init__(self, options: SlurmOptions, *, parallel: int | None, threads: int) -> None:
        _need_submitit()
        missing = [name for name in _COMMANDS if shutil.which(name) is None]
        if missing:
            raise ConfigError(
                f"executor 'slurm': no `{missing[0]}` on this machine; run on a login node of a "
                "Slurm cluster, or choose another --executor"
            )
        self._options = options
        self._parallel = parallel or options.array_size
        self._threads = threads

    def submit(self, folder: Path, calls: Sequence[Call]) -> list[Job[Any]]:
        """As of `Queue`; an sbatch that cannot reach slurmctld is tried again.

        Raises:
            ConfigError: sbatch refuses; its words are the message.
        """
        for pause in (*_PAUSES, None):
            try:
                return self._sbatch(folder, calls)
            except Exception as error:  # submitit raises what its command helper makes of sbatch
                words = _words(error)
                if pause is None or not any(sign in words for sign in _PASSING):
                    raise ConfigError(f"sbatch refused {len(calls)} jobs: {words}") from error
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _sbatch(self, folder: Path, calls: Sequence[Call]) -> list[Job[Any]]:
        from submitit import SlurmExecutor

        executor = SlurmExecutor(folder)
        executor.update_parameters(**self._parameters())
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises, too
            return executor.submit_array(calls)

    def _parameters(self) -> dict[str, Any]:
        """Our options in submitit's names."""
        options = self._options
        extra = {key.replace("_", "-"): value for key, value in options.sbatch.items()}
        extra |= {"reservation": options.reservation} if options.reservation else {}
        return {
            "job_name": "ablate",
            "partition": options.partition,
            "account": options.account,
            "qos": options.qos,
            "constraint": options.constraint,
            "time": options.minutes,
            "gpus_per_node": options.gpus,
            "cpus_per_task": self._threads,
            "mem": options.mem,
            "signal_delay_s": options.signal_seconds,
            "array_parallelism": self._parallel,
            "stderr_to_stdout": True,
            "setup": [*self._environment(), *options.setup],
            # Since 22.05 a step no longer takes this over from its job.
            "srun_args": [f"--cpus-per-task={self._threads}"],
            "additional_parameters": {"requeue": True, **extra},
        }

    def _environment(self) -> list[str]:
        return [
            f"export OMP_NUM_THREADS={self._threads}",
            f"export GLIBC_TUNABLES={shlex.quote(large_pages(os.environ))}",
        ]

    def listed(self) -> set[str] | None:
        command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
        try:
            found = _run(command)
        except (OSError, subprocess.SubprocessError):
            return None
        return set(found.split())

    def end_of(self, job: str) -> str:
        try:
            shown = _run(["scontrol", "show", "job", job, "--oneliner"])
        except (OSError, subprocess.SubprocessError):
            return "state unknown"
        state = re.search(r"\bJobState=(\w+)", shown)
        return state.group(1) if state else "state unknown"

    def cancel(self, jobs: Iterable[str]) -> None:
        listed = sorted(jobs)
        for start in range(0, len(listed), 500):
            subprocess.run(["scancel", *listed[start : start + 500]], check=False)

    def attach(self, folder: Path, job: str) -> Job[Any]:
        from submitit import SlurmJob

        return SlurmJob(folder, job)


def _need_submitit() -> None:
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "executor 'slurm' needs submitit: pip install 'ablate-vision[slurm]'"
        ) from error


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=_ANSWER_SECONDS
    )
    return done.stdout


def _words(error: Exception) -> str:
    """What sbatch said, without submitit's wrapping, on one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line.removeprefix("sbatch: ") for line in lines if line.startswith("sbatch: ")]
    return "; ".join(re.sub("^(error|fatal): ", "", line) for line in said or lines if line)
