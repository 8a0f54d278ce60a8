"""The Optuna study of a search: asked and told by the driver alone.

Every proposal, and every value in it, gets a sampler with a seed of its own, made from the
search's seed, the proposal's number and the dimension: what is proposed depends on what was told
before and on nothing else, so that a search that was killed goes on as if it had not been.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from ablate.config import TrialConfig
from ablate.study.disks import refuse_shared_sqlite
from ablate.study.search_database import opened, storage_url
from ablate.study.search_parse import FOLDER, Search
from ablate.study.search_samplers import distribution, pruner, sampler, suggest
from ablate.study.search_space import Dimension

KEY, ARCH, NUMBER, COSTS, REASON = "key", "arch", "number", "costs", "reason"
"""What is kept of a proposal: its trial's key, its arch, its number among the trained, its costs,
and why it is not trained."""


@dataclass(frozen=True, kw_only=True)
class Proposed:
    """One different network of a search, as its storage knows it.

    Args:
        number: in the order of proposal, from 0.
        key: of its trial.
        arch, point: the network and where it lies in the space.
        state: "open", "done", "failed" or "pruned".
        pruned_epoch: after which it was stopped, where it was.
        costs: params and macs.
    """

    number: int
    key: str
    arch: str
    point: Mapping[str, Any]
    state: str
    pruned_epoch: int | None
    costs: Mapping[str, int]


_STATES = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
_RANK = ("done", "pruned", "open", "failed")


class SearchStorage:
    """One search in its storage. Calls may come from several threads of one process.

    Args:
        search: what is searched.
        full_name: of the study.
        base: the trial of the network that is varied: its data and recipe are part of the name.
        runs: where the SQLite file lies, unless the study names a storage.
        create: whether a search that is not there yet is begun.

    Raises:
        ResultsError: the storage does not answer.
        NotSearchedYet: there is no such search, and none is to be begun.
    """

    def __init__(
        self, search: Search, full_name: str, base: TrialConfig, runs: Path, *, create: bool = True
    ) -> None:
        self.search = search
        self._lock = threading.RLock()
        self._trials: dict[str, Trial] = {}
        url = storage_url(search, full_name, runs)
        refuse_shared_sqlite(url)
        if search.storage is None:
            (runs / FOLDER).mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        name = f"{full_name}-{search.digest}-{base.key[:12]}"
        pruning = pruner(search.pruner, base.train.epochs)
        self._rdb, self.study = opened(url, name, search.directions, pruning, create)
        self._ended: int | None = self.study.user_attrs.get("ended")

    def close(self) -> None:
        """Let go of the storage's connections."""
        self._rdb.remove_session()
        self._rdb.engine.dispose()

    # Asking.

    def ask(self) -> tuple[Trial, dict[str, Any]] | None:
        """The next proposal, or one that was begun when the driver died; None after the last.

        Returns:
            The trial and its point of the space.
        """
        with self._lock:
            begun = [
                trial
                for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
                if KEY not in trial.user_attrs
            ]
            count = len(self.study.get_trials(deepcopy=False))
            number = begun[0].number if begun else count
            self.study.sampler = sampler(self.search, str(number))
            if begun:
                trial = Trial(self.study, begun[0]._trial_id)
            elif self.search.sampler == "grid" and not self._enqueue():
                return None
            else:
                trial = self.study.ask()
            return trial, self.search.space.point(lambda dimension: self._suggest(trial, dimension))

    def _suggest(self, trial: Trial, dimension: Dimension) -> Any:
        """A value; its randomness is its own, since those that a dead driver noted draw none."""
        self.study.sampler = sampler(self.search, f"{trial.number} {dimension.name}")
        return suggest(trial, dimension)

    def _enqueue(self) -> bool:
        """Let the next proposal be the grid's next point; False behind its end."""
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if waiting:
            return True
        trials = self.study.get_trials(deepcopy=False)
        asked = sum("fixed_params" in trial.system_attrs for trial in trials)
        point = next(itertools.islice(self.search.space.points(), asked, None), None)
        if point is not None:
            self.study.enqueue_trial(point)
        return point is not None

    def reject(self, trial: Trial, reason: str, excess: Mapping[str, float]) -> None:
        """Tell that a proposal is not trained: it breaks constraints or cannot be built.

        Args:
            excess: by how much each constraint is broken, relative to its bound; empty where it
                cannot be built.
        """
        with self._lock:
            trial.set_user_attr(REASON, reason)
            self._set_constraints(trial, excess)
            self.study.tell(trial, state=TrialState.PRUNED)

    def accept(
        self, trial: Trial, key: str, arch: str, costs: Mapping[str, int], number: int
    ) -> None:
        """Note which trial a proposal stands for; from now on it is found after a kill."""
        with self._lock:
            self._set_constraints(trial, self.search.excess(costs))
            trial.set_user_attr(ARCH, arch)
            trial.set_user_attr(COSTS, dict(costs))
            trial.set_user_attr(NUMBER, number)
            trial.set_user_attr(KEY, key)
            self._trials.setdefault(key, trial)

    def _set_constraints(self, trial: Trial, excess: Mapping[str, float]) -> None:
        """Every trial has the same constraints, as the samplers want it."""
        every = {**dict.fromkeys(self.search.constraints, 0.0), "build": -1.0 if excess else 1.0}
        for name, value in {**every, **excess}.items():
            if name not in trial.constraints:
                trial.set_constraint(name, value)

    # Telling.

    def tell(self, key: str, values: Sequence[float] | None) -> None:
        """Tell the values of every open proposal of a trial; None where it failed."""
        with self._lock:
            for trial in self._of(key, TrialState.RUNNING):
                state = TrialState.FAIL if values is None else TrialState.COMPLETE
                self.study.tell(trial.number, values, state=state)
            if values is not None and not self._of(key, TrialState.COMPLETE):
                self._tell_again(key, values)

    def restore(
        self,
        one: Proposed,
        values: Sequence[float] | None,
    ) -> None:
        """Add a trial that was searched elsewhere, as its committed row tells it.

        Args:
            values: of its objectives; None where it failed or was pruned.
        """
        states = {state: found for found, state in _STATES.items()}
        space = self.search.space.dimensions
        attributes = {KEY: one.key, ARCH: one.arch, NUMBER: one.number, COSTS: dict(one.costs)}
        with self._lock:
            self.study.add_trial(
                optuna.create_trial(
                    state=states[one.state],
                    values=None if values is None else list(values),
                    params=dict(one.point),
                    distributions={d.name: distribution(d) for d in space if d.name in one.point},
                    user_attrs=attributes,
                    constraints={**self.search.excess(one.costs), "build": -1.0},
                )
            )

    def _tell_again(self, key: str, values: Sequence[float]) -> None:
        """A trial that had failed was trained after all: its values stand beside the failure."""
        before = self._of(key)[0]
        self.study.add_trial(
            optuna.create_trial(
                values=list(values),
                params=before.params,
                distributions=before.distributions,
                user_attrs=before.user_attrs,
            )
        )

    def prune(self, key: str) -> None:
        """Tell that a trial was stopped before its end."""
        with self._lock:
            for trial in self._of(key, TrialState.RUNNING):
                self.study.tell(trial.number, state=TrialState.PRUNED)

    def report(self, key: str, values: Mapping[int, float]) -> int | None:
        """Report a trial's value after each epoch; the epoch after which it is pruned, or None."""
        with self._lock:
            trial = self._trials.get(key)
            if trial is None:
                open_trials = self._of(key, TrialState.RUNNING)
                if not open_trials:
                    return None
                trial = self._trials[key] = Trial(self.study, open_trials[0]._trial_id)
            frozen = self.study.get_trials(deepcopy=False)[trial.number]
            if frozen.state.is_finished():
                return None
            known = frozen.intermediate_values
            for epoch, value in values.items():
                if epoch not in known:
                    trial.report(value, epoch)
                    if trial.should_prune():
                        return epoch
            return None

    # Reading.

    def proposed(self) -> list[Proposed]:
        """Every different network that was to be trained, by number."""
        found: dict[str, Proposed] = {}
        with self._lock:
            trials = self.study.get_trials(deepcopy=False)
        for trial in trials:
            key = trial.user_attrs.get(KEY)
            if not key:
                continue
            one = _proposed(trial, found.get(key))
            if key not in found or _RANK.index(one.state) < _RANK.index(found[key].state):
                found[key] = one
        return sorted(found.values(), key=lambda one: one.number)

    def reasons(self) -> list[str]:
        """Why proposals were not trained, in their order."""
        with self._lock:
            trials = self.study.get_trials(deepcopy=False)
        return [trial.user_attrs[REASON] for trial in trials if REASON in trial.user_attrs]

    def _of(self, key: str, *states: TrialState) -> list[FrozenTrial]:
        return [
            trial
            for trial in self.study.get_trials(deepcopy=False, states=states or None)
            if trial.user_attrs.get(KEY) == key
        ]

    def open_keys(self) -> set[str]:
        """Keys of trials that were proposed and not told yet."""
        with self._lock:
            trials = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return {trial.user_attrs[KEY] for trial in trials if KEY in trial.user_attrs}

    @property
    def ended(self) -> int | None:
        """How many trials the search had when it found nothing new any more, or None."""
        return self._ended

    @ended.setter
    def ended(self, trials: int) -> None:
        self._ended = trials
        self.study.set_user_attr("ended", trials)


def _proposed(trial: FrozenTrial, first: Proposed | None) -> Proposed:
    attributes = trial.user_attrs
    state = _STATES.get(trial.state, "open")
    epochs = trial.intermediate_values
    return Proposed(
        number=first.number if first else attributes[NUMBER], key=attributes[KEY],
        arch=attributes[ARCH], point=first.point if first else dict(trial.params), state=state,
        pruned_epoch=(max(epochs) if epochs else 0) if state == "pruned" else None,
        costs=attributes[COSTS],
    )  # fmt: skip
