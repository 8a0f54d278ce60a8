"""The rows of a study as an Optuna study, whatever its design, for importances and the dashboard.

Optuna only reads it: rows stay the record, and a mirror is made anew from them each time.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from ablate.errors import AblateError, ResultsError, unknown
from ablate.options import format_value

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from ablate.study.spec import Study

Entry = Mapping[Any, Any]
"""One row, by column."""

_MINIMIZED = ("val_loss", "params", "macs")
DIRECTIONS: Mapping[str, Literal["maximize", "minimize"]] = MappingProxyType(
    {"val_top1": "maximize", "top1": "maximize", **dict.fromkeys(_MINIMIZED, "minimize")}
)
"""What can be an objective of a mirror: column of the rows -> which way is better."""

_TOLD = (
    "key", "role", "number", "variant_name", "seed", "arch", "params", "macs", "val_top1",
    "best_val_top1", "top1", "top5", "train_top1", "dataset", "device", "seconds", "failure",
    "failure_message",
)  # fmt: skip
"""Columns that stand beside a trial as its user attributes."""

_NETWORK = ("arch", "params", "macs")
"""What a row says of the network alone."""

_DECADE = 10
"""A positive numeric factor that spans this ratio or more is shown on a logarithmic scale."""


def accuracy_column(rows: pd.DataFrame) -> str:
    """The column that tells which finished run is better: val_top1, or top1 without validation."""
    done = rows.loc[rows["status"] == "done", "val_top1"]
    return "top1" if done.empty or done.isna().any() else "val_top1"


def with_tuning(rows: pd.DataFrame, tuning: pd.DataFrame | None) -> pd.DataFrame:
    """The rows with those of a study's tuning trials before them, as far as these are told.

    Their networks are those of the variant, whatever the recipe; the test split was not read.
    """
    if tuning is None:
        return rows
    known = rows[rows["status"] == "done"].drop_duplicates("variant_name").set_index("variant_name")
    network = {name: tuning["variant_name"].map(known[name]) for name in _NETWORK}
    return pd.concat([tuning.assign(role="tune", **network), rows], ignore_index=True)


class Mirror:
    """An Optuna study that follows the rows of a study.

    A trial has the levels of its variant as parameters, with the settings that tuning tries for it;
    the objectives as values, `val_top1` by epoch as intermediate values, and the rest of its row as
    user attributes. Failed trials are FAIL, those that a search stopped early PRUNED. A trial that
    failed and was finished later stands there twice, as Optuna shows retries.

    Args:
        study: its factors make the search space, its full name is the Optuna study's.
        rows: decide whether accuracy is of the validation or of the test split.
        objectives: of `DIRECTIONS`; default: those of a search, else accuracy alone.
        storage: default: in memory. A study of the same name in it is replaced.

    Raises:
        AblateError: an unknown or repeated objective.
    """

    def __init__(
        self,
        study: Study,
        rows: pd.DataFrame,
        *,
        objectives: Sequence[str] = (),
        storage: BaseStorage | str | None = None,
    ) -> None:
        own = study.search.objectives if study.search else (accuracy_column(rows),)
        self.objectives = _checked(objectives or own)
        self.space = search_space(study, rows)
        self._places = {variant.name: index for index, variant in enumerate(study.variants)}
        self._seen: set[tuple[str, str, str]] = set()
        self.optuna = _new_study(study, self.objectives, storage)

    def update(self, rows: pd.DataFrame, curves: pd.DataFrame) -> int:
        """Add the trials that have finished or failed since the last call; returns how many."""
        ended = rows[rows["status"] != "missing"].to_dict("records")
        new = [row for row in ended if _place(row) not in self._seen and self._is_known(row)]
        new.sort(key=self._order)
        known = curves[curves["key"].isin({row["key"] for row in new})]
        epochs = dict(iter(known.groupby(["key", "variant_name"])))
        for row in new:
            mine = epochs.get((row["key"], row["variant_name"]))
            self.optuna.add_trial(_trial(row, self.space, self.objectives, mine))
            self._seen.add(_place(row))
        return len(new)

    def _is_known(self, row: Entry) -> bool:
        """Whether a finished trial has all objectives: tuning trials have no test accuracy."""
        values = [_number(row.get(name)) for name in self.objectives]
        return row["status"] != "done" or None not in values

    def _order(self, row: Entry) -> tuple[float, bool, int, int]:
        """As trained: by a search's number, tuning first, all variants with a seed, the next."""
        place = self._places.get(row["variant_name"], len(self._places))
        return _number(row.get("number")) or 0.0, row.get("role") != "tune", row["seed"], place


def mirror(
    study: Study,
    rows: pd.DataFrame,
    curves: pd.DataFrame,
    *,
    objectives: Sequence[str] = (),
    storage: BaseStorage | str | None = None,
) -> OptunaStudy:
    """An Optuna study with every trial that has finished or failed; arguments as of `Mirror`.

    Raises:
        ResultsError: no trial has ended yet.
    """
    if (rows["status"] == "missing").all():
        raise ResultsError(
            f"{study.full_name} has no finished trial to show; `ablate run` trains them"
        )
    made = Mirror(study, rows, objectives=objectives, storage=storage)
    made.update(rows, curves)
    return made.optuna


def search_space(study: Study, rows: pd.DataFrame) -> dict[str, BaseDistribution]:
    """What each factor and tuned setting ranges over: declared levels, and others that rows have.

    Numbers are an interval, logarithmic where they span a decade; all else is a choice of texts.
    """
    found = {name: list(factor.values) for name, factor in study.factors.items()}
    for dimension in study.search.space.dimensions if study.search else ():
        found[dimension.name] = list(dimension.values or (dimension.low, dimension.high))
    variants = [variant.levels for variant in study.variants]
    for parameters in [*variants, *map(_parameters, rows.to_dict("records"))]:
        for name, level in parameters.items():
            values = found.setdefault(name, [])
            if _text(level) not in map(_text, values):
                values.append(level)
    return {name: _distribution(values) for name, values in found.items()}


def _parameters(row: Entry) -> dict[str, Any]:
    """The levels of a row's variant and the settings that it was tuned with, by name."""
    settings = row.get("settings")
    return {**row["variant"], **(settings if isinstance(settings, dict) else {})}


def _distribution(values: Sequence[Any]) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not all(_is_number(value) for value in values):
        return CategoricalDistribution([_text(value) for value in values])
    low, high = min(values), max(values)
    log = low > 0 and high >= _DECADE * low
    if all(isinstance(value, int) for value in values):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(level: Any) -> str:
    return "null" if level is None else format_value(level)


def _checked(objectives: Sequence[str]) -> tuple[str, ...]:
    for name in objectives:
        if name not in DIRECTIONS:
            raise AblateError(unknown("objective", name, DIRECTIONS))
    if len(set(objectives)) < len(objectives):
        raise AblateError(f"objectives must differ, but got {', '.join(objectives)}")
    return tuple(objectives)


def _new_study(
    study: Study, objectives: Sequence[str], storage: BaseStorage | str | None
) -> OptunaStudy:
    import optuna

    with quiet_optuna():
        if storage is not None:
            with suppress(KeyError):  # there is none yet
                optuna.delete_study(study_name=study.full_name, storage=storage)
        made = optuna.create_study(
            study_name=study.full_name,
            storage=storage,
            directions=[DIRECTIONS[name] for name in objectives],
        )
        made.set_metric_names(list(objectives))
    for name, value in (("question", study.question), ("design", study.design)):
        made.set_user_attr(name, value)
    return made


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna announces each new study on stderr, and warns of names for objectives; not inside."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _trial(
    row: Entry,
    space: Mapping[str, BaseDistribution],
    objectives: Sequence[str],
    epochs: pd.DataFrame | None,
) -> FrozenTrial:
    """A row as Optuna keeps a finished trial; its time of day is that of the mirror."""
    from optuna.trial import TrialState, create_trial

    values = [_number(row.get(name)) for name in objectives]
    state = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED}.get(row["status"])
    parameters = _parameters(row)
    made = create_trial(
        state=state or TrialState.FAIL,
        values=[v for v in values if v is not None] if state == TrialState.COMPLETE else None,
        params={name: _parameter(space[name], level) for name, level in parameters.items()},
        distributions={name: space[name] for name in parameters},
        user_attrs=dict(_attributes(row)),
        intermediate_values={} if epochs is None else _by_epoch(epochs),
    )
    ended = datetime.now()
    made.datetime_start = ended - timedelta(seconds=_number(row.get("seconds")) or 0.0)
    made.datetime_complete = ended
    return made


def _parameter(distribution: BaseDistribution, level: Any) -> Any:
    from optuna.distributions import CategoricalDistribution

    return _text(level) if isinstance(distribution, CategoricalDistribution) else level


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    missing = value is None or value is pd.NA or not math.isfinite(value)
    return None if missing else float(value)


def _attributes(row: Entry) -> Iterator[tuple[str, Any]]:
    for name in _TOLD:
        value = row.get(name)
        if value is not None and value is not pd.NA and value == value:
            yield name, value.item() if hasattr(value, "item") else value


def _by_epoch(epochs: pd.DataFrame) -> dict[int, float]:
    known = epochs.dropna(subset=["val_top1"])
    return dict(zip(known["epoch"].astype(int), known["val_top1"].astype(float), strict=True))


def _place(row: Entry) -> tuple[str, str, str]:
    return row["key"], row["variant_name"], row["status"]
