"""The driver of a search: it alone asks Optuna, trains what is new, and tells what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ablate.config import TrialResult
from ablate.cost import profile
from ablate.errors import AblateError, ResultsError, StudyError
from ablate.study.cells import Cell, StudyLike
from ablate.study.curves import read_metrics
from ablate.study.driver import Driver
from ablate.study.ledger import Failure
from ablate.study.progress import Event, Sink
from ablate.study.resolution import Resolved
from ablate.study.search_parse import FOLDER, Search
from ablate.study.search_rows import (
    committed_cells,
    committed_search_rows,
    proposed_cells,
    search_cell,
)
from ablate.study.search_storage import Proposed, SearchStorage
from ablate.study.settings import Settings, Summary
from ablate.study.worker import Outcome


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A point of the space: its cell and costs, or why it is not trained."""

    cell: Cell | None = None
    costs: Mapping[str, int] | None = None
    reason: str = ""
    excess: Mapping[str, float] | None = None


class SearchDriver(Driver):
    """Keeps `batch` trials of a search open until `trials` different networks were trained."""

    def __init__(
        self, study: StudyLike, settings: Settings, resolved: Resolved, sink: Sink
    ) -> None:
        assert study.search is not None
        self.search: Search = study.search
        self.template = resolved.cells[0]
        data = self.template.trial.data
        self.classes = next(
            entry["classes"]
            for entry in resolved.record["data"].values()
            if entry["name"] == data.name
        )
        self.lock = _only_driver(settings.runs, study.full_name)
        self.storage = SearchStorage(
            self.search, study.full_name, self.template.trial, settings.runs
        )
        self.pruning: dict[str, int] = {}
        self.numbers: dict[str, int] = {}
        self.stuck = -1  # how many trials had ended when nothing new was found
        if not self.storage.proposed():
            self._restore(study, settings)
        known = proposed_cells(self.template, self.storage.proposed(), self.search)
        self.numbers = {cell.key: number for number, cell in enumerate(known)}
        super().__init__(study, settings, replace(resolved, cells=known), self._watching(sink))

    def run(self) -> Summary:
        try:
            return super().run()
        finally:
            self.storage.close()
            self.lock.release()

    def _restore(self, study: StudyLike, settings: Settings) -> None:
        """Go on from committed rows where this machine has no storage of the search yet."""
        rows = committed_search_rows(study, settings.results)
        by_key = {row["key"]: row for row in rows}
        for cell in committed_cells(self.template, rows, self.search):
            judged, row = self._judge(cell.variant), by_key[cell.key]
            if judged.costs is None or cell.number is None:
                continue
            one = Proposed(
                number=cell.number, key=cell.key, arch=cell.trial.arch, point=cell.variant,
                state=row["status"], pruned_epoch=cell.pruned_epoch, costs=judged.costs,
            )  # fmt: skip
            values = self._values(judged.costs, row) if row["status"] == "done" else None
            self.storage.restore(one, values)

    # Asking.

    def _grow(self) -> bool:
        """Tell what is known already, and ask until `batch` trials are open."""
        self._catch_up()
        while not self.stopping and self._is_wanting():
            cell = self._new_cell()
            if cell is None:
                break
            self.todo.extend(self.books.add([cell]))
            self._catch_up()
        return super()._grow()

    def _is_wanting(self) -> bool:
        still_open = len(self.todo) + len(self.active) + len(self.others)
        count = len(self.numbers)
        return (
            count < self.search.trials
            and still_open < self.search.batch
            and self.storage.ended != count
            and self.stuck != self._ended()
        )

    def _ended(self) -> int:
        return len(self.books.done) + len(self.books.failed) + len(self.books.pruned)

    def _catch_up(self) -> None:
        """Tell what ended before it was asked for, or while no driver was there to tell it."""
        waiting = self.storage.open_keys()
        states = {one.key: one.state for one in self.storage.proposed()}
        shelf = None
        for key in self.books.done:
            if key in waiting or states[key] != "done":
                shelf = shelf or self.books.shelf()
                found = shelf.find(key)
                measured = found.result.model_dump() if found.result else found.row
                assert measured is not None
                self._tell_result(key, measured)
        for key in waiting & set(self.books.failed):
            self.storage.tell(key, None)
        for key in waiting & self.books.pruned:
            self.storage.prune(key)

    def _new_cell(self) -> Cell | None:
        """The next network that is new and inside the constraints; None where none is found."""
        refused: list[str] = []
        for _ in range(self.search.patience):
            asked = self.storage.ask()
            if asked is None:
                refused.append("the grid is complete")
                break
            trial, point = asked
            judged = self._judge(point)
            if judged.cell is None or judged.costs is None:
                self.storage.reject(trial, judged.reason, judged.excess or {})
                refused.append(judged.reason)
                continue
            cell = judged.cell
            is_new = cell.key not in self.numbers
            number = self.numbers.setdefault(cell.key, len(self.numbers))
            self.storage.accept(trial, cell.key, cell.trial.arch, judged.costs, number)
            if is_new:
                return cell
            refused.append("trained already")
            self._catch_up()
        self._end_early(refused)
        return None

    def _judge(self, point: Mapping[str, Any]) -> Judged:
        """The network of a point, counted on the meta device."""
        trial = self.template.trial
        try:
            arch = self.search.space.arch(point)
            cell = search_cell(self.template, len(self.numbers), arch, point, self.search)
            cost = profile(arch, image_size=trial.data.image_size, num_classes=self.classes)
        except AblateError as error:
            return Judged(reason=f"cannot be built: {str(error).splitlines()[0]}")
        costs = {"params": cost.params, "macs": cost.macs}
        excess = self.search.excess(costs)
        worst = max(excess, key=lambda name: excess[name])
        if excess[worst] > 0:
            reason = f"{worst}={costs[worst]:,} is not {self.search.constraints[worst]}"
            return Judged(reason=reason, excess=excess)
        return Judged(cell=cell, costs=costs)

    def _end_early(self, refused: Sequence[str]) -> None:
        """Nothing new is found any more: an error where nothing was trained, else a note."""
        message = _why_none(refused, self.search)
        self.stuck = self._ended()
        if not self.numbers:
            raise StudyError(f"{self.study.full_name}: {message}")
        if not (self.todo or self.active or self.others):
            self.storage.ended = len(self.numbers)
            told = f"the search ends after {len(self.numbers)} of {self.search.trials} trials"
            self._tell("note", message=f"{told}: {message}")
            self.books.complaints.append(f"{told}: {message}")

    # Telling.

    def _finish(self, key: str, outcome: Outcome) -> None:
        super()._finish(key, outcome)
        assert outcome.result is not None
        self.pruning.pop(key, None)
        self.books.folder(key).stop.unlink(missing_ok=True)
        self._report(key)
        self._tell_result(key, _measured(outcome.result))

    def _tell_result(self, key: str, measured: Mapping[str, Any]) -> None:
        costs = next(one.costs for one in self.storage.proposed() if one.key == key)
        self.storage.tell(key, self._values(costs, measured))

    def _values(self, costs: Mapping[str, int], measured: Mapping[str, Any]) -> list[float]:
        return [float({**measured, **costs}[name]) for name in self.search.objectives]

    def _fail(self, key: str, failure: Failure) -> None:
        super()._fail(key, failure)
        self.storage.tell(key, None)

    # Pruning.

    def _watching(self, sink: Sink) -> Sink:
        """A sink that looks at a trial after each of its epochs, in the monitor's thread."""

        def watch(event: Event) -> None:
            if event.kind == "epoch" and event.key and self.search.pruner != "none":
                self._look(event.key)
            sink(event)

        return watch

    def _look(self, key: str) -> None:
        if key in self.pruning:
            return
        epoch = self._report(key)
        if epoch is not None:
            self.pruning[key] = epoch
            self.books.folder(key).stop.touch()

    def _report(self, key: str) -> int | None:
        """Report the epochs of a trial that are new; the epoch after which it is pruned."""
        path = self.books.folder(key).path / "metrics.csv"
        if self.search.pruner == "none" or not path.exists():
            return None
        curve = read_metrics(path).dropna(subset=[self.search.objectives[0]])
        values = dict(zip(curve["epoch"], curve[self.search.objectives[0]], strict=True))
        return self.storage.report(key, {int(epoch): float(v) for epoch, v in values.items()})

    def _try_again(self, key: str, reason: str) -> None:
        if key not in self.pruning:
            super()._try_again(key, reason)
            return
        epoch = self.pruning.pop(key)
        self.storage.prune(key)
        self.books.folder(key).stop.unlink(missing_ok=True)
        self.books.prune(key, epoch)
        epochs = self.template.trial.train.epochs
        self._tell("done", key, f"pruned after epoch {epoch} of {epochs} ({self.search.pruner})")

    def _make_ready(self, key: str) -> bool:
        self.books.folder(key).stop.unlink(missing_ok=True)
        return super()._make_ready(key)

    # Records.

    def _at_once(self) -> int:
        return min(self.search.batch, self.search.trials)

    def _waiting(self) -> list[str]:
        count = len(self.numbers)
        end = count if self.storage.ended == count else self.search.trials
        return [f"trial {number}" for number in range(count, end)]

    def _records(self) -> tuple[list[Cell], Mapping[str, Any]]:
        """What was proposed, by number; `meta.json` says how it was searched."""
        search = self.search
        told = {
            "sampler": search.sampler, "seed": search.seed, "pruner": search.pruner,
            "objectives": list(search.objectives), "digest": search.digest,
            "constraints": {name: str(bounds) for name, bounds in search.constraints.items()},
            "refused": len(self.storage.reasons()),
        }  # fmt: skip
        return list(self.books.cells.values()), {**self.resolved.record, "search": told}


def _only_driver(runs: Path, full_name: str) -> FileLock:
    """The lock that one driver of a search holds: of two, each would run the other's proposals.

    Raises:
        ResultsError: another process searches.
    """
    path = runs / FOLDER / f"{full_name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        told = f"{full_name}: another process searches already ({path} is locked); let it end"
        raise ResultsError(told) from None
    return lock


def _measured(result: TrialResult) -> Mapping[str, Any]:
    return {"val_top1": result.val_top1, "val_loss": result.val_loss}


def _why_none(refused: Sequence[str], search: Search) -> str:
    """One sentence: what became of the last proposals."""
    kinds: dict[str, list[str]] = {}
    for reason in refused:
        known = reason in ("trained already", "the grid is complete")
        kinds.setdefault(reason if known else "outside", []).append(reason)
    parts = [f"{len(found)} were {kind}" for kind, found in kinds.items() if kind != "outside"]
    outside = kinds.get("outside", [])
    if outside:
        parts.append(f"{len(outside)} were refused (such as: {outside[-1]})")
    if kinds.keys() == {"the grid is complete"}:
        return "the grid is complete"
    return (
        f"of the last {len(refused)} proposals {' and '.join(parts)}; widen the space or the "
        "constraints, or raise search.patience"
    )
