"""One run folder, `runs/<key>/`: what is in it, and what state that makes of its trial."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.config import TrialResult
from ablate.files import read_json, set_aside, write_json
from ablate.study.ledger import Failure

KNOWN = frozenset(
    {
        "trial.yaml", "environment.json", "metrics.csv", "timing.csv", "predictions.npz",
        "checkpoint-a.pt", "checkpoint-b.pt", "checkpoint-a.pt.sha256", "checkpoint-b.pt.sha256",
        "log.txt", "owner", "stop", "result.json", "failure.json",
    }
)  # fmt: skip
_KNOWN_PATTERN = re.compile(r"\..*\.tmp|.*\.(retried|damaged|memory)-\d+")
_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RunFolder:
    """Reads and writes the files that tell a trial's state; `ablate.training` writes the rest."""

    path: Path

    @property
    def key(self) -> str:
        return self.path.name

    @property
    def owner(self) -> Path:
        return self.path / "owner"

    @property
    def stop(self) -> Path:
        """A file that asks this trial alone to finish its epoch and stop; any machine sees it."""
        return self.path / "stop"

    def result(self) -> TrialResult | None:
        """The finished trial's result, or None where there is none.

        Raises:
            ValueError: `result.json` is damaged, or belongs to another key.
        """
        content = read_json(self.path / "result.json")
        if content is None:
            return None
        result = TrialResult.model_validate(content)
        if result.key != self.key:
            raise ValueError(f"result.json has the key {result.key}")
        return result

    def failure(self) -> Failure | None:
        """Why the trial failed, or None where it did not.

        Raises:
            ValueError: `failure.json` is damaged.
        """
        content = read_json(self.path / "failure.json")
        return None if content is None else Failure.model_validate(content)

    def environment(self) -> Mapping[str, Any]:
        """What the trial was trained with; empty where that is not known."""
        try:
            return read_json(self.path / "environment.json") or {}
        except ValueError:
            return {}

    def write_result(self, result: TrialResult) -> None:
        """Declare the trial done, in one durable step."""
        write_json(self.path / "result.json", result.model_dump(mode="json"))

    def write_failure(self, failure: Failure) -> None:
        """Declare the trial failed, in one durable step."""
        write_json(self.path / "failure.json", failure.model_dump(mode="json", exclude_none=True))

    def put_aside(self, name: str, why: str) -> None:
        """Rename one of this folder's files, if it is there, so that it no longer counts."""
        if (self.path / name).exists():
            set_aside(self.path / name, why)

    def progress(self) -> dict[str, str]:
        """The last row of `metrics.csv` as text, with the epoch's `seconds` from `timing.csv`.

        Empty before the first epoch; a torn last line does not count.
        """
        return {**self._last_row("timing.csv"), **self._last_row("metrics.csv")}

    def _last_row(self, name: str) -> dict[str, str]:
        try:
            text = (self.path / name).read_text()
        except OSError:
            return {}
        rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
        return {name: value for name, value in rows[-1].items() if value} if rows else {}

    def damaged(self) -> dict[str, str]:
        """The verdicts that do not parse or belong elsewhere, and what is wrong with them."""
        found = {}
        for name, read in (("result.json", self.result), ("failure.json", self.failure)):
            try:
                read()
            except ValueError as error:
                found[name] = str(error).splitlines()[0]
        return found

    def complaints(self, *, verdicts: bool = True) -> list[str]:
        """What in this folder is damaged or not ours: it is reported, never deleted.

        Args:
            verdicts: whether to read `result.json` and `failure.json`, too.
        """
        wrong = self.damaged() if verdicts else {}
        damaged = [f"damaged {self.path / name}: {why}" for name, why in wrong.items()]
        others = set(os.listdir(self.path)) - KNOWN
        unknown = sorted(name for name in others if not _KNOWN_PATTERN.fullmatch(name))
        return damaged + [f"unknown file {self.path / name}" for name in unknown]


def run_keys(runs: Path) -> set[str]:
    """The keys of all run folders under `runs`."""
    try:
        return {name for name in os.listdir(runs) if len(name) == 64 and _KEY.fullmatch(name)}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def run_folders(runs: Path) -> Iterator[RunFolder]:
    """Every run folder under `runs`, by key."""
    for key in sorted(run_keys(runs)):
        yield RunFolder(runs / key)
