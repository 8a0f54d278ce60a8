"""Fair tuning: settings of the recipe that a study chooses for each variant on `val`.

Every variant gets the same candidates with the same tuning seeds. The final seeds, which are
others, are then trained at each variant's own best.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ablate.config import TrainConfig
from ablate.errors import unknown
from ablate.study.schema import CONFIGS, fields, shown, validated
from ablate.study.yaml_source import Document

if TYPE_CHECKING:
    from ablate.study.variants import Variant

FIRST_SEED = 1000
"""`seeds: n` under `tune:` means the seeds from this on, far from those of the final trials."""

TUNE_KEYS = ("seeds", "trials", "seed")
"""Keys under `tune:` that are no settings."""

_FILLED = ("init_from", "init_fingerprint")


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The search budget that every variant gets.

    Args:
        candidates: settings of the recipe, such as {"train.lr": 1e-3}, all different.
        seeds: of the tuning trials; none of them is a final seed.
    """

    candidates: tuple[Mapping[str, Any], ...]
    seeds: tuple[int, ...]

    @property
    def settings(self) -> tuple[str, ...]:
        """What is tuned: "train.lr" ..."""
        return tuple(self.candidates[0])

    @property
    def budget(self) -> str:
        """The trials that each variant gets, in words."""
        seeds = f"{len(self.seeds)} {'seed' if len(self.seeds) == 1 else 'seeds'}"
        return f"{len(self.candidates)} candidates x {seeds}"


def with_settings(train: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    """A recipe with some dotted settings changed, such as {"train.lr": 1e-3}."""
    named = {name.partition(".")[2]: value for name, value in settings.items()}
    return TrainConfig.model_validate({**train.model_dump(), **named})


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings in a label: "lr=0.001 weight_decay=0.05"."""
    named = ((name.partition(".")[2], value) for name, value in settings.items())
    return " ".join(f"{name}={value:g}" if _is_number(value) else f"{name}={value}"
                    for name, value in named)  # fmt: skip


def parse_tune(
    document: Document, variants: Sequence[Variant], varied: set[str], seeds: Sequence[int]
) -> Tuning | None:
    """The candidates and seeds under `tune:`, or None where nothing is tuned.

    A setting takes a list of values, or a range `{low, high, log, step}`. Without `trials:` the
    candidates are all combinations of the lists; with it they are so many different random draws
    (`seed:`, default 0), the same for every variant. `seeds:` is a number (default 1) or a list:

        tune: {train.lr: [5.0e-4, 1.0e-3, 2.0e-3], seeds: 2}
        tune: {train.lr: {low: 1e-4, high: 1e-2, log: true}, train.weight_decay: [0.02, 0.1],
               trials: 12}

    Args:
        varied: settings that the study's rows change themselves.
        seeds: the final seeds.

    Raises:
        StudyError: no setting of the recipe, no candidates or values outside their rules, a
            setting that is a factor too, seeds that are final seeds, or no validation split.
    """
    given = document.data.get("tune") or {}
    names = [name for name in given if name not in TUNE_KEYS]
    if not given:
        return None
    if not names:
        raise document.error("tune needs a setting to choose, such as train.lr: [...]", "tune")
    for variant in variants:
        if variant.data.val_fraction == 0:
            raise document.error("tune chooses on the validation split: set data.val_fraction",
                                 "tune")  # fmt: skip
    for name in names:
        _check_name(document, name, varied)
    candidates = _candidates(document, {name: given[name] for name in names})
    _check_distinct(document, variants[0].train, candidates)
    return Tuning(candidates=candidates, seeds=_seeds(document, seeds))


def _check_name(document: Document, name: Any, varied: set[str]) -> None:
    choices = [f"train.{field}" for field in fields("train") if field not in _FILLED]
    if name not in choices:
        told = unknown("setting", name, [*choices, *TUNE_KEYS])
        raise document.error(f"in tune: {told}", "tune", name)
    if name in varied:
        raise document.error(f"in tune: {name} is varied by a factor already", "tune", name)


def _candidates(document: Document, given: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    trials = document.get("tune", "trials")
    for name, values in given.items():
        if isinstance(values, dict):
            _check_range(document, name, values)
        elif not isinstance(values, list) or not values:
            raise document.error(
                f"in tune: {name} needs a list of candidates or a range "
                f"{{low: ..., high: ...}}, but got {shown(values)}", "tune", name,
            )  # fmt: skip
    if trials is None:
        listed = _all(document, given)
    elif isinstance(trials, int) and not isinstance(trials, bool) and trials >= 1:
        listed = _drawn(document, given, trials)
    else:
        raise document.error(
            f"tune.trials must be a whole number of at least 1, but got {shown(trials)}",
            "tune", "trials",
        )  # fmt: skip
    for settings in listed:
        for name, value in settings.items():
            _check_value(document, name, value)
    return listed


def _all(document: Document, given: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    for name, values in given.items():
        if isinstance(values, dict):
            raise document.error(
                f"in tune: {name} is a range, which is drawn from: say how often with `trials: n`",
                "tune", name,
            )  # fmt: skip
    return tuple(
        dict(zip(given, values, strict=True)) for values in itertools.product(*given.values())
    )


def _drawn(
    document: Document, given: Mapping[str, Any], trials: int
) -> tuple[Mapping[str, Any], ...]:
    """So many different draws; the first n stay the same when there are more."""
    source = random.Random(f"tune {document.get('tune', 'seed') or 0}")
    found: list[Mapping[str, Any]] = []
    for _ in range(100 * trials):
        settings = {name: _draw(values, source) for name, values in given.items()}
        if settings not in found:
            found.append(settings)
        if len(found) == trials:
            return tuple(found)
    raise document.error(
        f"tune.trials asks for {trials} different candidates, but there are only {len(found)}",
        "tune", "trials",
    )  # fmt: skip


def _draw(values: Any, source: random.Random) -> Any:
    if isinstance(values, list):
        return source.choice(values)
    low, high, step = values["low"], values["high"], values.get("step")
    if isinstance(low, int) and isinstance(high, int) and not values.get("log"):
        return source.randrange(low, high + 1, step or 1)
    if values.get("log"):
        return float(f"{math.exp(source.uniform(math.log(low), math.log(high))):.3g}")
    return float(f"{source.uniform(low, high):.3g}")


_RANGE_KEYS = ("low", "high", "step", "log")


def _check_range(document: Document, name: str, given: Mapping[str, Any]) -> None:
    for key in given:
        if key not in _RANGE_KEYS:
            told = unknown("key", key, _RANGE_KEYS)
            raise document.error(f"in tune.{name}: {told}", "tune", name)
    low: Any = given.get("low")
    high: Any = given.get("high")
    if not _is_number(low) or not _is_number(high) or not low < high:
        raise document.error(
            f"in tune: {name} needs numbers low < high, but got {shown(given)}", "tune", name
        )
    if given.get("log") and low <= 0:
        raise document.error(f"in tune: {name}: log needs low above 0, but got {low}", "tune", name)
    whole = isinstance(low, int) and isinstance(high, int)
    step = given.get("step")
    if step is not None and not (whole and isinstance(step, int) and step >= 1):
        raise document.error(
            f"in tune: {name}: step is for whole numbers, at least 1, but got {shown(given)}",
            "tune", name,
        )  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_value(document: Document, name: str, value: Any) -> None:
    field = name.partition(".")[2]
    listed = document.get("tune", name)
    at = (listed.index(value),) if isinstance(listed, list) else ()
    place = document.place("tune", name, *at)
    base = {**(document.data.get("train") or {}), field: value}
    validated(CONFIGS["train"], base, lambda path: place, "train.")


def _check_distinct(
    document: Document, train: TrainConfig, candidates: Sequence[Mapping[str, Any]]
) -> None:
    """Raise a StudyError where two candidates are the same recipe."""
    seen: list[Mapping[str, Any]] = []
    for settings in candidates:
        identity = with_settings(train, settings).identity()
        if identity in seen:
            raise document.error(
                f"in tune: candidate {settings_text(settings)} is the same recipe as another one",
                "tune",
            )
        seen.append(identity)


def _seeds(document: Document, final: Sequence[int]) -> tuple[int, ...]:
    given = document.get("tune", "seeds")
    given = 1 if given is None else given
    if _is_seed(given) and given >= 1:
        found = tuple(range(FIRST_SEED, FIRST_SEED + given))
    elif isinstance(given, list) and given and all(map(_is_seed, given)):
        found = tuple(given)
    else:
        raise document.error(
            f"tune.seeds must be a number of at least 1 or a list of whole numbers, but got "
            f"{shown(given)}", "tune", "seeds",
        )  # fmt: skip
    shared = sorted({*found} & {*final})
    if shared or len({*found}) < len(found):
        raise document.error(
            f"tune.seeds must differ from each other and from the final seeds, but got "
            f"{shown(given)}" + (f" with {shared[0]} among both" if shared else ""),
            "tune", "seeds",
        )  # fmt: skip
    return found


def _is_seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def combinations(tuning: Tuning) -> Iterator[tuple[int, Mapping[str, Any], int]]:
    """Each candidate's number and settings with each tuning seed; whole rounds of seeds first."""
    for seed in tuning.seeds:
        for number, settings in enumerate(tuning.candidates):
            yield number, settings, seed
