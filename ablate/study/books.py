"""Which trials of a run are done, failed or to do, and the summary of that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ablate.study.cells import Cell, StudyLike
from ablate.study.folder import RunFolder
from ablate.study.ledger import Failure
from ablate.study.owner import clear_stale
from ablate.study.resolution import Resolved
from ablate.study.settings import Settings, Summary
from ablate.study.shelf import Found, Shelf
from ablate.study.status import stale_changes


class Books:
    """The state of every trial of one run; `cells` has one cell for each key.

    Args:
        study: whose trials these are.
        settings: says what is trained again.
        resolved: the study's cells under the keys they have on this machine.
    """

    def __init__(self, study: StudyLike, settings: Settings, resolved: Resolved) -> None:
        self._study = study
        self._settings = settings
        self._resolved = resolved
        self.cells: dict[str, Cell] = {}
        self._note(resolved.cells)
        self.done: set[str] = set()
        self.failed: dict[str, Failure] = {}
        self.pruned: set[str] = set()
        self.trained: set[str] = set()
        self.renewed: set[str] = set()
        self.complaints: list[str] = []

    def folder(self, key: str) -> RunFolder:
        """The run folder of a trial."""
        return RunFolder(self._settings.runs / key)

    def fingerprint(self, key: str) -> str | None:
        """The content hash of the images of a trial."""
        return self._resolved.fingerprints.get(self.cells[key].trial.data.name)

    def shelf(self) -> Shelf:
        """What is known of trials now."""
        return Shelf(self._settings.runs, self._settings.results)

    def add(self, cells: Iterable[Cell]) -> list[str]:
        """Take in more trials; the keys of those to do, in their order."""
        return self._sort(self._note(cells))

    def sort(self) -> list[str]:
        """Note what is done or has failed before; the keys of the rest, in the study's order."""
        return self._sort(self.cells)

    def _note(self, cells: Iterable[Cell]) -> list[str]:
        """The keys that are new among these."""
        before = len(self.cells)
        for cell in cells:
            self.cells.setdefault(cell.key, cell)
        return list(self.cells)[before:]

    def _sort(self, keys: Iterable[str]) -> list[str]:
        shelf = self.shelf()
        todo = []
        for key in keys:
            found = shelf.find(key)
            if found.done and not self._is_renewed(key, found):
                self.done.add(key)
                if found.looked:
                    clear_stale(self.folder(key).owner)
            elif self.cells[key].pruned_epoch is not None:
                self.pruned.add(key)
            elif found.failure is not None and not self._is_retried(found.failure):
                self.failed[key] = found.failure
            else:
                if found.done or self._settings.fresh == "all":
                    self.renewed.add(key)
                todo.append(key)
        return todo

    def _is_renewed(self, key: str, found: Found) -> bool:
        if self._settings.fresh == "stale":
            return bool(stale_changes(found, self._study.plugins, self.fingerprint(key)))
        return self._settings.fresh == "all"

    def _is_retried(self, failure: Failure) -> bool:
        return self._settings.fresh == "all" or failure.kind in self._settings.retry

    def prune(self, key: str, epoch: int) -> None:
        """Note that a search stopped a trial."""
        self.cells[key] = replace(self.cells[key], pruned_epoch=epoch)
        self.pruned.add(key)

    def plan_line(self, todo: int, total: int) -> str:
        """What is about to happen, in one line."""
        parts = [f"{total} trials", f"{len(self.done)} done"]
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        parts += [f"{len(self.pruned)} pruned"] if self.pruned else []
        return f"{self._study.full_name}: {', '.join(parts)}, {todo} to train"

    def summary(
        self,
        *,
        folder: Path,
        changed: bool,
        interrupted: bool,
        seconds: float,
        waiting: Iterable[str] = (),
    ) -> Summary:
        """How the run ended.

        Args:
            waiting: labels of trials that could not be told yet.
        """
        missing = [
            cell.label
            for key, cell in self.cells.items()
            if key not in self.done and key not in self.failed and key not in self.pruned
        ]
        failed = [
            {"key": key, "label": self.cells[key].label, "kind": f.kind, "message": f.message}
            for key, f in self.failed.items()
        ]
        listed = tuple(waiting)
        return Summary(
            total=len(self.cells) + len(listed), done=len(self.done), trained=len(self.trained),
            failed=tuple(failed), missing=(*missing, *listed), interrupted=interrupted,
            complaints=tuple(dict.fromkeys(self.complaints)), folder=folder, changed=changed,
            seconds=seconds, pruned=len(self.pruned),
        )  # fmt: skip
