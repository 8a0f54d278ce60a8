"""What is known of each trial: from its run folder on this machine, or from a committed row.

A committed row stands unless the run folder holds a later result, so that thousands of finished
trials are read from a few files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ablate.config import TrialResult
from ablate.study.folder import RunFolder, run_keys
from ablate.study.ledger import Failure
from ablate.study.rows import Row, best_of_each, read_rows

TRIALS, SUPERSEDED = "trials.csv", "superseded.csv"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is known of a trial; of `result`, `failure` and `row` at most one is set.

    Args:
        result, failure: of its run folder.
        row: the committed row, done or failed.
        folder: its run folder, if there is one.
        looked: whether the verdict in that folder was read.
    """

    result: TrialResult | None = None
    failure: Failure | None = None
    row: Row | None = None
    folder: RunFolder | None = None
    looked: bool = False

    @property
    def done(self) -> bool:
        """Whether there is a result."""
        return self.result is not None or (self.row is not None and self.row["status"] == "done")


class Shelf:
    """Looks up trials by key, as they are when the shelf is made.

    That a search stopped a trial is no verdict on it: another study trains it to its end.
    """

    def __init__(self, runs: Path, results: Path) -> None:
        self.runs = runs
        self._keys = run_keys(runs)
        self._files: dict[Path, list[Row]] = {}
        self._written: dict[str, int] = {}
        self.pruned: dict[str, Row] = {}
        found: list[Row] = []
        for name in (SUPERSEDED, TRIALS):
            for path in sorted(results.glob(f"*/{name}")):
                written = path.stat().st_mtime_ns
                rows = self._files[path] = read_rows(path)
                self.pruned |= {row["key"]: row for row in rows if row["status"] == "pruned"}
                ended = (row for row in rows if row["status"] != "pruned")
                found += ({**row, "variant_name": None} for row in ended)
                self._written.update((row["key"], written) for row in rows)
        self._rows = {row["key"]: row for row in best_of_each(found)}

    def rows(self, path: Path) -> list[Row]:
        """The rows of one committed file, as they stand there."""
        return self._files.get(path, [])

    def find(self, key: str) -> Found:
        """What is known of the trial with this key."""
        row = self._rows.get(key)
        folder = RunFolder(self.runs / key) if key in self._keys else None
        if folder is None:
            return Found(row=row)
        if row is not None and row["status"] == "done" and not self._is_later(key):
            return Found(row=row, folder=folder)
        result, failure = verdict(folder)
        if result is not None:
            return Found(result=result, folder=folder, looked=True)
        if failure is not None and (row is None or row["status"] != "done"):
            return Found(failure=failure, folder=folder, looked=True)
        return Found(row=row, folder=folder, looked=True)

    def _is_later(self, key: str) -> bool:
        """Whether the run folder's result was written after the committed row."""
        try:
            return os.stat(f"{self.runs}/{key}/result.json").st_mtime_ns > self._written[key]
        except FileNotFoundError:
            return False


def verdict(folder: RunFolder) -> tuple[TrialResult | None, Failure | None]:
    """The result or the failure of a run folder; a damaged file counts as none."""
    try:
        result = folder.result()
    except ValueError:
        result = None
    try:
        return result, folder.failure() if result is None else None
    except ValueError:
        return result, None
