"""The driver of one run: it submits trials, settles their ends, and yields to other drivers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from ablate.errors import AblateError
from ablate.files import set_aside
from ablate.study.books import Books
from ablate.study.cells import Cell, StudyLike
from ablate.study.executors import (
    Left,
    Resources,
    StopNow,
    TrialExecutor,
    WorkerDied,
    create_executor,
)
from ablate.study.interrupts import Interrupts, Lease
from ablate.study.ledger import Failure, classify
from ablate.study.monitor import Monitor
from ablate.study.owner import Owned, Ownership, alive, read_owner
from ablate.study.progress import Event, EventKind, Sink, duration
from ablate.study.resolution import Resolved, prepare_images
from ablate.study.settings import Settings, Summary
from ablate.study.shelf import verdict
from ablate.study.worker import Order, Outcome, run_trial
from ablate.study.writing import write_results

if TYPE_CHECKING:
    from ablate.study.spec import Study

POLL_SECONDS = 0.5
SAVE_SECONDS = 60.0
SAVE_SHARE = 0.05  # of the driver's time that bringing the results up to date may take
LOOKS_A_SECOND = 50.0  # at trials of other drivers: each look asks the file server several times


class Driver:
    """One run of one study; `todo`, `active` and `others` hold each open trial exactly once.

    A study whose later trials follow from earlier ones overrides `_grow`, `_waiting`, `_records`.
    """

    def __init__(
        self, study: StudyLike, settings: Settings, resolved: Resolved, sink: Sink
    ) -> None:
        self.study = study
        self.settings = settings
        self.resolved = resolved
        self.books = Books(study, settings, resolved)
        self.todo: deque[str] = deque()
        self.active: dict[Future[Outcome], str] = {}
        self.others: dict[str, str] = {}
        self.attempts: dict[str, int] = {}
        self.given_up: dict[str, Failure] = {}
        self.stopping = False
        self.interrupted = False
        self.lease: Lease | None = None
        self.executor: TrialExecutor | None = None
        self.monitor = Monitor(sink, self._complete)
        self.started = self.saved = self.looked = time.monotonic()
        self.save_pause = SAVE_SECONDS

    def run(self) -> Summary:
        """Train what is to do and write the results."""
        self.todo.extend(self.books.sort())
        self._grow()
        open_trials = len(self.todo) + len(self._waiting())
        self._tell("plan", message=self.books.plan_line(open_trials, self._total()))
        if self.todo:
            self._train()
        changed = self._write()
        self._tell("end")
        return self.books.summary(
            folder=self.settings.results / self.study.full_name,
            changed=changed,
            interrupted=self.interrupted,
            seconds=time.monotonic() - self.started,
            waiting=self._waiting(),
        )

    # What a study with trials that follow from others changes.

    def _grow(self) -> bool:
        """Add trials that can be told by now; whether there is something to do."""
        return bool(self.todo)

    def _waiting(self) -> list[str]:
        """Labels of trials that cannot be told yet."""
        return []

    def _total(self) -> int:
        return len(self.books.cells) + len(self._waiting())

    def _at_once(self) -> int:
        """The most trials that are ever open together."""
        return self._total()

    def _records(self) -> tuple[list[Cell], Mapping[str, Any]]:
        """The cells to write, and what `meta.json` keeps of them."""
        return self.resolved.cells, self.resolved.record

    # While trials run.

    def _train(self) -> None:
        settings = self.settings
        resources = Resources(
            workers=settings.workers, per_gpu=settings.per_gpu, trials=self._at_once(),
            plugins=self.study.plugins, threads=settings.threads, options=settings.options,
            folder=settings.runs,
        )  # fmt: skip
        executor = self.executor = create_executor(settings.executor, resources)
        try:
            if settings.fit is None:  # after the executor: its mistakes are told in no time
                executor.warm_up(len(self.todo))
                self._check()
            with self._leading(executor) as order:
                while self._grow() or self.active or self.others:
                    self._fill(executor, order)
                    if self.stopping and not self.active:
                        break
                    self._wait()
        except StopNow:
            self.interrupted = True
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def _check(self) -> None:
        """Refuse a study that cannot be trained, before anything is."""
        from ablate.study.plan import check  # torch: only where something is trained

        check(cast("Study", self.study))
        prepare_images(self.books.cells[key].trial for key in self.todo)

    @contextmanager
    def _leading(self, executor: TrialExecutor) -> Iterator[Order]:
        """While trials run under this driver's lease, and it answers signals."""
        self.lease = Lease(self.settings.runs)
        order = Order(
            lease=self.lease.path,
            device=self.settings.device,
            plugins=self.study.plugins,
            fit=self.settings.fit,
        )
        try:
            with self.monitor, Interrupts(self._stop_cleanly, executor.kill):
                yield executor.place(order)
        finally:
            self.lease.end()

    def _fill(self, executor: TrialExecutor, order: Order) -> None:
        """Submit as many trials as there are free slots."""
        while self.todo and len(self.active) < executor.slots and not self.stopping:
            key = self.todo.popleft()
            trial, folder = self.books.cells[key].trial, self.books.folder(key)
            found = executor.has(folder.path)
            if not found and (self._held_by_another(key) or not self._make_ready(key)):
                continue
            self._tell("start", key, "found in the queue" if found else "")
            self.monitor.watch(key, folder, trial.train.epochs)
            own = replace(order, fingerprint=self.books.fingerprint(key))
            self.active[executor.submit(run_trial, trial, folder.path, own)] = key

    def _held_by_another(self, key: str) -> bool:
        owner = self.books.folder(key).owner
        if not alive(owner):
            return False
        self._leave_to(key, str(read_owner(owner) or "an unknown process"))
        return True

    def _leave_to(self, key: str, owner: str) -> None:
        self.others[key] = owner
        label = self.books.cells[key].label
        why = f"trained by {owner}; waiting for its result"
        if key in self.attempts:
            why = f"its last process ({owner}) may still run; waiting until its heartbeat stops"
        self._tell("waiting", key, f"{label}: {why}")

    def _make_ready(self, key: str) -> bool:
        """Put aside what must not count any more: an old folder, or an old failure."""
        folder = self.books.folder(key)
        if key in self.attempts or not folder.path.exists():
            return True
        try:
            if key in self.books.renewed:
                set_aside(folder.path, "old")
            else:
                folder.put_aside("failure.json", "retried")
        except OSError as error:
            self._fail(key, classify(error, folder.path))
            return False
        return True

    def _wait(self) -> None:
        if self.active:
            for future in wait(self.active, POLL_SECONDS, FIRST_COMPLETED).done:
                self._settle(self.active.pop(future), future)
        elif self.others:
            time.sleep(POLL_SECONDS)
        self._look_at_others()
        if time.monotonic() - self.saved > self.save_pause:
            self._write()

    def _settle(self, key: str, future: Future[Outcome]) -> None:
        self.monitor.forget(key)
        try:
            outcome = future.result()
        except WorkerDied as death:
            result, _ = verdict(self.books.folder(key))
            if result is not None:  # it died, or its reply got lost, after its work was done
                self._finish(key, Outcome(key=key, status="done", result=result, trained=True))
            else:
                self._try_again(key, str(death))
            return
        except Left:
            return
        except AblateError:
            raise  # the executor cannot take trials: so it is for all of them
        except Exception as error:
            self._fail(key, classify(error, self.settings.runs))
            return
        self.books.complaints += outcome.complaints
        if outcome.status == "done":
            self._finish(key, outcome)
        elif outcome.status == "owned":
            self._leave_to(key, outcome.owner or "an unknown process")
        elif outcome.status == "interrupted":
            self._try_again(key, "its worker was asked to stop")
        else:
            assert outcome.failure is not None
            self._fail(key, outcome.failure)

    def _finish(self, key: str, outcome: Outcome) -> None:
        self.books.done.add(key)
        if outcome.trained:
            self.books.trained.add(key)
        assert outcome.result is not None
        seconds = duration(outcome.result.seconds)
        self._tell("done", key, f"done, top-1 {outcome.result.top1:.2f}%, {seconds}")

    def _fail(self, key: str, failure: Failure) -> None:
        self.books.failed[key] = failure
        self._tell("failed", key, f"{failure.kind}: {failure.message}")
        if self.settings.fail_fast and not self.stopping:
            self._tell("stopping", message="a trial failed: the others finish their epoch")
            self._stop()
            if self.executor is not None:
                self.executor.stop()

    def _try_again(self, key: str, reason: str) -> None:
        """A trial whose process is gone goes on from its last epoch, `retries` times."""
        if self.stopping:
            return
        tries = self.attempts[key] = self.attempts.get(key, 0) + 1
        if tries <= self.settings.retries:
            self._tell("retry", key, f"{reason}: trying again")
            self.todo.appendleft(key)
            return
        count = f"{tries} {'try' if tries == 1 else 'tries'}"
        hint = "it was killed, or the host's memory is full"
        self._give_up(
            key, Failure(kind="killed", message=f"{reason} ({count}): {hint}", attempts=tries)
        )

    def _give_up(self, key: str, failure: Failure) -> None:
        """Write the failure of a trial that could not do so itself."""
        folder = self.books.folder(key)
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            with Ownership(folder.path):
                folder.write_failure(failure)
        except Owned as owned:  # alive, or a node's that was lost: until its heartbeat stops
            self.given_up[key] = failure
            self._leave_to(key, str(owned.owner or "an unknown process"))
            return
        except OSError as error:
            self.books.complaints.append(f"cannot write in {folder.path}: {error}")
        self._fail(key, failure)

    def _look_at_others(self) -> None:
        """Pick up what other drivers finished; train ourselves what they left."""
        if time.monotonic() - self.looked < len(self.others) / LOOKS_A_SECOND:
            return
        self.looked = time.monotonic()
        for key in list(self.others):
            folder = self.books.folder(key)
            held = alive(folder.owner)  # asked first: a verdict is written before the owner goes
            result, failure = verdict(folder)
            if result is None and held:
                continue
            del self.others[key]
            if result is not None:
                self._finish(key, Outcome(key=key, status="done", result=result))
            elif failure is not None:
                self._fail(key, failure)
            elif key in self.given_up:
                self._give_up(key, self.given_up.pop(key))
            else:
                self.todo.append(key)

    # Stopping.

    def _stop(self) -> None:
        self.stopping = True
        if self.lease is not None:
            self.lease.end()

    def _stop_cleanly(self) -> None:
        """Called in a signal's handler, which may interrupt a print: the monitor prints."""
        self.interrupted = True
        self._stop()
        if self.executor is not None:
            self.monitor.announce(Event(kind="stopping", message=self.executor.stopping))
            self.executor.leave()

    # Records.

    def _write(self) -> bool:
        """Bring the committed results up to date; where that fails, the run folders have it all."""
        started = time.monotonic()
        cells, record = self._records()
        try:
            return write_results(
                self.study, cells, runs=self.settings.runs, results=self.settings.results,
                record=record, renewed=self.books.renewed,
            ).changed  # fmt: skip
        except OSError as error:
            self.books.complaints.append(f"cannot write {self.settings.results}: {error}")
            return False
        finally:
            self.saved = time.monotonic()
            self.save_pause = max(SAVE_SECONDS, (self.saved - started) / SAVE_SHARE)

    def _complete(self, event: Event) -> Event:
        books = self.books
        label = books.cells[event.key].label if event.key else ""
        done, failed = len(books.done) + len(books.pruned), len(books.failed)
        return replace(event, label=label, total=self._total(), done=done, failed=failed)

    def _tell(self, kind: EventKind, key: str | None = None, message: str = "") -> None:
        self.monitor.tell(Event(kind=kind, key=key, message=message))
