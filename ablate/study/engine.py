"""A study is trained: what is done is skipped, the rest is submitted, every end is recorded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ablate.errors import ConfigError, unknown
from ablate.study.cells import Cell, StudyLike
from ablate.study.executors import (
    Resources,
    StopNow,
    TrialExecutor,
    WorkerDied,
    create_executor,
)
from ablate.study.files import set_aside
from ablate.study.folder import RunFolder
from ablate.study.interrupts import Interrupts, Lease
from ablate.study.ledger import KINDS, Failure
from ablate.study.monitor import Monitor
from ablate.study.owner import Owned, Ownership, alive, read_owner
from ablate.study.progress import Event, Sink, silent
from ablate.study.resolution import Resolved, look_up, prepare_images
from ablate.study.status import stale_changes
from ablate.study.store import committed_rows, verdict, write_results
from ablate.study.worker import Fit, Order, Outcome, run_trial

POLL_SECONDS = 0.5
OTHERS_SECONDS = 2.0
SAVE_SECONDS = 60.0

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

    @property
    def exit_code(self) -> int:
        """0 done, 1 some trials failed, 130 interrupted."""
        if self.interrupted:
            return 130
        return 1 if self.failed or self.missing else 0


def run(study: StudyLike, settings: Settings | None = None, *, sink: Sink = silent) -> Summary:
    """Train what a study misses, and write its results.

    A trial is done when its run folder holds a result or a committed row has its key; a trial
    that failed on this machine stays failed until `retry` names its kind.

    Args:
        sink: is told what happens, see `ablate.study.progress`.

    Raises:
        AblateError: data, weights or settings are wrong; nothing was started.
    """
    settings = settings or Settings()
    return _Run(study, settings, look_up(study, settings.runs), sink).run()


def retry(
    study: StudyLike,
    settings: Settings | None = None,
    *,
    kind: str | None = None,
    sink: Sink = silent,
) -> Summary:
    """Train again what failed (of one kind only, if given), and what is missing.

    Args:
        kind: one of `ablate.study.ledger.KINDS`, or "stale" for results of changed code or data.

    Raises:
        ConfigError: there is no such kind.
    """
    settings = settings or Settings()
    if kind == "stale":
        return run(study, replace(settings, fresh="stale"), sink=sink)
    if kind is not None and kind not in KINDS:
        raise ConfigError(unknown("kind of failure", kind, [*KINDS, "stale"]))
    return run(study, replace(settings, retry=(kind,) if kind else KINDS), sink=sink)


class _Run:
    """One run of one study; `todo`, `active` and `others` hold each open trial exactly once."""

    def __init__(self, study: StudyLike, settings: Settings, resolved: Resolved, sink: Sink):
        self.study = study
        self.settings = settings
        self.resolved = resolved
        self.cells: dict[str, Cell] = {}
        for cell in resolved.cells:
            self.cells.setdefault(cell.key, cell)
        self.done: set[str] = set()
        self.failed: dict[str, Failure] = {}
        self.trained: set[str] = set()
        self.renewed: set[str] = set()
        self.complaints: list[str] = []
        self.todo: deque[str] = deque()
        self.active: dict[Future[Outcome], str] = {}
        self.others: dict[str, str] = {}
        self.attempts: dict[str, int] = {}
        self.stopping = False
        self.interrupted = False
        self.lease: Lease | None = None
        self.executor: TrialExecutor | None = None
        self.monitor = Monitor(sink, self._event)
        self.started = self.saved = time.monotonic()

    # ---- before anything starts ----

    def run(self) -> Summary:
        self._sort()
        self._tell("plan", message=self._plan_line())
        if self.todo:
            self._train()
        changed = self._write()
        summary = self._summary(changed)
        self._tell("end")
        return summary

    def _sort(self) -> None:
        """Which trials are done, failed or to do."""
        committed = committed_rows(self.settings.results)
        for key, cell in self.cells.items():
            folder = self._folder(key)
            there = folder.path.exists()
            result, failure = verdict(folder) if there else (None, None)
            row = committed.get(key)
            is_done = result is not None or (row is not None and row["status"] == "done")
            if is_done and not self._is_renewed(key, folder, row):
                self.done.add(key)
            elif failure is not None and not is_done and not self._is_retried(failure):
                self.failed[key] = failure
            else:
                if is_done or self.settings.fresh == "all":
                    self.renewed.add(key)
                self.todo.append(cell.key)

    def _is_renewed(self, key: str, folder: RunFolder, row: Mapping[str, Any] | None) -> bool:
        if self.settings.fresh == "stale":
            fingerprint = self.resolved.fingerprints.get(self.cells[key].trial.data.name)
            return bool(stale_changes(folder, row, self.study.plugins, fingerprint))
        return self.settings.fresh == "all"

    def _is_retried(self, failure: Failure) -> bool:
        return self.settings.fresh == "all" or failure.kind in self.settings.retry

    def _folder(self, key: str) -> RunFolder:
        return RunFolder(self.settings.runs / key)

    # ---- while trials run ----

    def _train(self) -> None:
        settings = self.settings
        if settings.fit is None:
            prepare_images(self.cells[key].trial for key in self.todo)
        resources = Resources(
            workers=settings.workers, per_gpu=settings.per_gpu, trials=len(self.cells),
            plugins=self.study.plugins, threads=settings.threads, options=settings.options,
        )  # fmt: skip
        with self._running(create_executor(settings.executor, resources)) as order:
            try:
                while self.todo or self.active or self.others:
                    self._fill(order)
                    if self.stopping and not self.active:
                        break
                    self._wait()
            except StopNow:
                self.interrupted = True

    @contextmanager
    def _running(self, executor: TrialExecutor) -> Iterator[Order]:
        self.lease = Lease(self.settings.runs)
        self.executor = executor
        order = executor.place(
            Order(
                lease=self.lease.path,
                device=self.settings.device,
                plugins=self.study.plugins,
                fit=self.settings.fit,
            )
        )
        try:
            with Interrupts(self._stop_cleanly, self._stop_at_once), self.monitor:
                yield order
        finally:
            self.lease.end()
            executor.shutdown(wait=True, cancel_futures=True)

    def _fill(self, order: Order) -> None:
        """Submit as many trials as there are free slots."""
        assert self.executor is not None
        while self.todo and len(self.active) < self.executor.slots and not self.stopping:
            key = self.todo.popleft()
            if self._held_by_another(key) or not self._make_ready(key):
                continue
            cell = self.cells[key]
            self._tell("start", key)
            self.monitor.watch(key, self._folder(key), cell.trial.train.epochs)
            own = replace(order, fingerprint=self.resolved.fingerprints.get(cell.trial.data.name))
            future = self.executor.submit(run_trial, cell.trial, self._folder(key).path, own)
            self.active[future] = key

    def _held_by_another(self, key: str) -> bool:
        owner = self._folder(key).owner
        if not alive(owner):
            return False
        self._leave_to(key, str(read_owner(owner) or "an unknown process"))
        return True

    def _leave_to(self, key: str, owner: str) -> None:
        self.others[key] = owner
        self._tell("waiting", key, f"{self.cells[key].label}: being trained by {owner}")

    def _make_ready(self, key: str) -> bool:
        """Put aside what must not count any more: an old folder, or an old failure."""
        folder = self._folder(key)
        if not folder.path.exists():
            return True
        try:
            if key in self.renewed and key not in self.attempts:
                set_aside(folder.path, "old")
            elif key not in self.attempts:
                folder.put_aside("failure.json", "retried")
        except OSError as error:
            self._fail(key, Failure(kind="error", message=f"{type(error).__name__}: {error}"))
            return False
        return True

    def _wait(self) -> None:
        if self.active:
            finished = wait(self.active, POLL_SECONDS, FIRST_COMPLETED).done
            for future in finished:
                self._settle(self.active.pop(future), future)
        else:
            time.sleep(POLL_SECONDS)
        self._look_at_others()
        if time.monotonic() - self.saved > SAVE_SECONDS:
            self._write()

    def _settle(self, key: str, future: Future[Outcome]) -> None:
        self.monitor.forget(key)
        try:
            outcome = future.result()
        except WorkerDied as death:
            self._try_again(key, str(death))
            return
        except Exception as error:
            message = f"{type(error).__name__}: {error}".splitlines()[0]
            self._fail(key, Failure(kind="error", message=message))
            return
        self.complaints += outcome.complaints
        if outcome.status == "done":
            self._finish(key, trained=outcome.trained)
        elif outcome.status == "owned":
            self._leave_to(key, outcome.owner or "an unknown process")
        elif outcome.status == "interrupted":
            self._try_again(key, "the worker was asked to stop")
        else:
            assert outcome.failure is not None
            self._fail(key, outcome.failure)

    def _finish(self, key: str, *, trained: bool) -> None:
        self.done.add(key)
        if trained:
            self.trained.add(key)
        self._tell("done", key)

    def _fail(self, key: str, failure: Failure) -> None:
        self.failed[key] = failure
        self._tell("failed", key, f"{failure.kind}: {failure.message}")
        if self.settings.fail_fast and not self.stopping:
            self._tell("stopping", message="a trial failed: the others finish their epoch")
            self._stop()

    def _try_again(self, key: str, reason: str) -> None:
        """A trial whose process is gone goes on from its last epoch, `retries` times."""
        if self.stopping:
            return
        self.attempts[key] = self.attempts.get(key, 0) + 1
        if self.attempts[key] <= self.settings.retries:
            self._tell("retry", key, f"{reason}: trying again")
            self.todo.appendleft(key)
            return
        tries = self.attempts[key]
        message = (
            f"{reason}; {tries} {'try' if tries == 1 else 'tries'} (is the host's memory full?)"
        )
        failure = Failure(kind="killed", message=message, attempts=tries)
        try:
            with Ownership(self._folder(key).path):
                self._folder(key).write_failure(failure)
        except Owned as owned:
            self._leave_to(key, str(owned.owner))
            return
        except OSError as error:
            self.complaints.append(f"cannot write in {self._folder(key).path}: {error}")
        self._fail(key, failure)

    def _look_at_others(self) -> None:
        """Pick up what other drivers finished; train ourselves what they left."""
        for key in list(self.others):
            result, failure = verdict(self._folder(key))
            if result is None and failure is None and alive(self._folder(key).owner):
                continue
            del self.others[key]
            if result is not None:
                self._finish(key, trained=False)
            elif failure is not None:
                self._fail(key, failure)
            else:
                self.todo.append(key)

    # ---- stopping ----

    def _stop(self) -> None:
        self.stopping = True
        if self.lease is not None:
            self.lease.end()

    def _stop_cleanly(self) -> None:
        self.interrupted = True
        self._stop()
        self._tell("stopping", message=_STOPPING)

    def _stop_at_once(self) -> None:
        assert self.executor is not None
        self.executor.kill()

    # ---- records ----

    def _write(self) -> bool:
        written = write_results(
            self.study, self.resolved.cells, runs=self.settings.runs,
            results=self.settings.results, record=self.resolved.record, renewed=self.renewed,
        )  # fmt: skip
        self.saved = time.monotonic()
        return written.changed

    def _summary(self, changed: bool) -> Summary:
        missing = [
            cell.label
            for key, cell in self.cells.items()
            if key not in self.done and key not in self.failed
        ]
        failed = [
            {"key": key, "label": self.cells[key].label, "kind": f.kind, "message": f.message}
            for key, f in self.failed.items()
        ]
        return Summary(
            total=len(self.cells), done=len(self.done), trained=len(self.trained),
            failed=tuple(failed), missing=tuple(missing), interrupted=self.interrupted,
            complaints=tuple(self.complaints), changed=changed,
            folder=self.settings.results / self.study.full_name,
            seconds=time.monotonic() - self.started,
        )  # fmt: skip

    def _plan_line(self) -> str:
        parts = [f"{len(self.cells)} trials", f"{len(self.done)} done"]
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        return f"{self.study.full_name}: {', '.join(parts)}, {len(self.todo)} to train"

    def _event(self, event: Event) -> Event:
        return replace(
            event,
            label=self.cells[event.key].label if event.key else "",
            total=len(self.cells),
            done=len(self.done),
            failed=len(self.failed),
        )

    def _tell(self, kind: Any, key: str | None = None, message: str = "") -> None:
        self.monitor.tell(Event(kind=kind, key=key, message=message))


_STOPPING = "stopping: current trials finish their epoch; again to stop at once (nothing is lost)"
