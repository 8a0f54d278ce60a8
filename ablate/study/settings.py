"""How a study is run, and how a run ended: plain data between the engine and the command line."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ablate.study.worker import Fit

Fresh = Literal["no", "stale", "all"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a study is run; nothing here changes a number.

    Args:
        runs, results: folders, made where they are missing.
        executor: a name of `ablate.study.executors`.
        workers, per_gpu, threads, options: see `Resources`.
        retries: how often a trial whose process died is tried again.
        fail_fast: the first failure stops the others, cleanly.
        fresh: "all" trains every trial anew, "stale" those whose code or data changed; what was
            there is put aside, never deleted.
        retry: kinds of failures to train again.
        device: "auto", "cpu", "cuda" ...
        fit: what trains a trial (default `ablate.training.fit`).
    """

    runs: Path = Path("runs")
    results: Path = Path("results")
    executor: str = "local"
    workers: int | None = None
    per_gpu: int = 1
    threads: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    retries: int = 1
    fail_fast: bool = False
    fresh: Fresh = "no"
    retry: Collection[str] = ()
    device: str = "auto"
    fit: Fit | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a run ended, in trials.

    Args:
        total: different trials of the study.
        done: with a result, `trained` of them by this run.
        failed: for each failed trial its key, label, kind and message.
        missing: labels of trials without result or failure.
        interrupted: whether Ctrl-C or SIGTERM ended the run.
        complaints: damaged and unwritable files.
        folder: where the results were written.
        changed: whether anything in it changed.
        seconds: the run took.
        pruned: trials that a search stopped early.
    """

    total: int
    done: int
    trained: int
    failed: tuple[Mapping[str, Any], ...]
    missing: tuple[str, ...]
    interrupted: bool
    complaints: tuple[str, ...]
    folder: Path
    changed: bool
    seconds: float
    pruned: int = 0

    @property
    def exit_code(self) -> int:
        """0 done, 1 some trials failed, 130 interrupted."""
        if self.interrupted:
            return 130
        return 1 if self.failed or self.missing else 0
