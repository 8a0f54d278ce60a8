"""The driver of a tuned study: a variant's final seeds start when all its candidates have ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ablate.study.cells import Cell, StudyLike
from ablate.study.driver import Driver
from ablate.study.progress import Sink
from ablate.study.resolution import Resolved
from ablate.study.settings import Settings
from ablate.study.tuning import settings_text
from ablate.study.tuning_rows import Choice, choose, final_cells, tried_trials


class TuningDriver(Driver):
    """Trains every variant's candidates, chooses on `val`, then trains the final seeds."""

    def __init__(
        self, study: StudyLike, settings: Settings, resolved: Resolved, sink: Sink
    ) -> None:
        super().__init__(study, settings, resolved, sink)
        self._trials = {
            name: [cell.key for cell in resolved.cells if cell.variant_name == name]
            for name in dict.fromkeys(cell.variant_name for cell in resolved.cells)
        }
        self._ended: set[str] = set()
        self._chosen: set[str] = set()

    def _grow(self) -> bool:
        """Add the final trials of every variant whose tuning has just ended."""
        ended = [
            name
            for name, keys in self._trials.items()
            if name not in self._ended and all(map(self._has_ended, keys))
        ]
        self._ended.update(ended)
        for choice in self._choices().values() if ended and not self.stopping else ():
            if choice.variant_name in ended:
                self._release(choice)
        return super()._grow()

    def _has_ended(self, key: str) -> bool:
        return key in self.books.done or key in self.books.failed

    def _release(self, choice: Choice) -> None:
        if choice.best is None:
            message = f"{choice.variant_name}: nothing is chosen: {choice.reason}"
            self._tell("note", message=message)
            self.books.complaints.append(message)
            return
        self._chosen.add(choice.variant_name)
        known = len(self.books.done)
        assert choice.settings is not None
        cells = final_cells(self.study, {choice.variant_name: choice}, [choice.best])
        self.todo.extend(self.books.add(cells))
        if len(self.books.done) - known < len(cells):
            chosen = settings_text(choice.settings)
            self._tell("note", message=f"{choice.variant_name}: tuning chose {chosen}")

    def _choices(self) -> dict[str, Choice]:
        return choose(tried_trials(self.resolved.cells, self.books.shelf()))

    def _waiting(self) -> list[str]:
        return [
            f"{name}, seed {seed}"
            for name in self._trials
            if name not in self._chosen
            for seed in self.study.seeds
        ]

    def _records(self) -> tuple[list[Cell], Mapping[str, Any]]:
        """Final and tuning trials; `meta.json` says the budget and what was chosen."""
        assert self.study.tune is not None
        choices = self._choices()
        cells = [*final_cells(self.study, choices, self.resolved.cells), *self.resolved.cells]
        tuning = {
            "budget": self.study.tune.budget,
            "seeds": list(self.study.tune.seeds),
            "chosen": {name: choice.settings for name, choice in choices.items()},
        }
        return cells, {**self.resolved.record, "tuning": tuning}
