"""What a driver leaves on disk about its Slurm jobs, so that the next one finds them.

    runs/.slurm/<batch>/   files of one array: submitit's pickles, a log a job, and
        jobs.json          {"<job>": "<key of its trial>", ...}
        lease              while it is there, the trials go on; see `Order`

A trial's files go when its outcome was read; of a job that ended without one, the log stays.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ablate.files import read_json, write_json

ROOM = ".slurm"
"""Of a runs folder: where all this lies."""
_ABANDONED_SECONDS = 7 * 24 * 3600.0  # of a batch whose jobs are gone: its driver may still read


@dataclass(frozen=True)
class Batch:
    """The folder of one array of jobs."""

    path: Path

    @property
    def lease(self) -> Path:
        """The file that tells trials to go on."""
        return self.path / "lease"

    def write(self, jobs: Mapping[str, str | None]) -> None:
        """Record which job trains which trial; None is no trial."""
        write_json(self.path / "jobs.json", dict(jobs))

    def jobs(self) -> dict[str, str]:
        """Job -> key of its trial; empty where that is not recorded."""
        try:
            found = read_json(self.path / "jobs.json") or {}
        except (OSError, ValueError):
            return {}
        return {job: key for job, key in found.items() if isinstance(key, str)}

    def forget(self, job: str, *, keep_log: bool) -> None:
        """Remove the files of a job whose end is known."""
        suffixes = ["submitted.pkl", "0_result.pkl"] + ([] if keep_log else ["0_log.out"])
        for suffix in suffixes:
            with contextlib.suppress(OSError):
                (self.path / f"{job}_{suffix}").unlink()

    def close(self) -> None:
        """Remove what is left of a batch without jobs; logs stay, and keep the folder."""
        with contextlib.suppress(OSError):
            for path in self.path.iterdir():
                if not path.name.endswith("_log.out"):
                    path.unlink()
            self.path.rmdir()

    def is_abandoned(self) -> bool:
        """Whether no driver can be waiting for these jobs, which are gone."""
        with contextlib.suppress(OSError):
            return time.time() - self.path.stat().st_mtime > _ABANDONED_SECONDS
        return False


def new_batch(root: Path) -> Batch:
    """A folder for one more array, with its lease."""
    batch = Batch(root / uuid.uuid4().hex[:12])
    batch.path.mkdir(parents=True)
    batch.lease.touch()
    return batch


def recorded_jobs(root: Path) -> dict[str, tuple[Batch, str]]:
    """Job -> its batch and the key of its trial, of all drivers that used these run folders."""
    found: dict[str, tuple[Batch, str]] = {}
    for path in sorted(root.glob("*/jobs.json")):
        batch = Batch(path.parent)
        found |= {job: (batch, key) for job, key in batch.jobs().items()}
    return found


def close_abandoned(root: Path, listed: Collection[str]) -> None:
    """Clear away the batches of drivers that never came back, whose jobs are all gone."""
    for path in root.glob("*/jobs.json"):
        batch = Batch(path.parent)
        if not any(job in listed for job in batch.jobs()) and batch.is_abandoned():
            batch.close()


def submitted(runs: Path) -> set[str]:
    """Keys of the trials that some driver submitted; asks no Slurm whether they still wait."""
    return {key for _, key in recorded_jobs(runs / ROOM).values()}
