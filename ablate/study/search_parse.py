"""The key `search:` of a study, read and checked; `space:` is `ablate.study.space_parse`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ablate.config import DataConfig, TrainConfig
from ablate.errors import unknown
from ablate.study.schema import shown
from ablate.study.search_space import Space
from ablate.study.space_parse import parse_space
from ablate.study.yaml_source import Document

SAMPLERS = ("tpe", "nsga2", "random", "grid")
PRUNERS = ("none", "median", "hyperband")
MEASURED = {"val_top1": "maximize", "val_loss": "minimize"}
COSTS = {"params": "minimize", "macs": "minimize"}
FOLDER = "search"
"""Of the SQLite files and locks of searches, beside the runs."""

SEARCH_KEYS = (
    "sampler", "trials", "batch", "objectives", "pruner", "storage", "seed", "constraints",
    "patience",
)  # fmt: skip
_FORBIDDEN = ("factors", "baseline", "exclude", "include", "match", "tune", "paper")


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Least and greatest value of a cost; None where there is none."""

    least: int | None = None
    most: int | None = None

    def __str__(self) -> str:
        if self.least is None:
            return f"at most {self.most:,}"
        return f"at least {self.least:,}" if self.most is None else f"{self.least:,}..{self.most:,}"

    def excess(self, value: int) -> float:
        """By how much a value lies outside, relative to the bound; at most 0 inside."""
        over = -1.0 if self.most is None else value / self.most - 1
        under = -1.0 if self.least is None else 1 - value / self.least
        return max(over, under)


@dataclass(frozen=True, kw_only=True)
class Search:
    """How a search is done.

    Args:
        space: what varies.
        sampler, pruner: of `SAMPLERS` and `PRUNERS`.
        trials: different networks to train, pruned and failed ones included.
        batch: how many are open at once; with 1 the order of the proposals is reproducible.
        objectives: the first is measured on `val`; others may be costs.
        constraints: cost -> bounds.
        storage: an Optuna URL, or None for a SQLite file beside the runs.
        seed: of the sampler.
        patience: proposals in a row without a new network inside the constraints, after which
            the search ends.
        digest: of all above that decides proposals; another digest, data or recipe is another
            search.
    """

    space: Space
    sampler: str
    pruner: str
    trials: int
    batch: int
    objectives: tuple[str, ...]
    constraints: Mapping[str, Bounds]
    storage: str | None
    seed: int
    patience: int
    digest: str

    @property
    def directions(self) -> list[str]:
        """Of each objective: "maximize" or "minimize"."""
        return [{**MEASURED, **COSTS}[name] for name in self.objectives]

    def excess(self, costs: Mapping[str, int]) -> dict[str, float]:
        """By how much each constraint is broken, relative to its bound; at most 0 where it holds.

        Without constraints there is one that always holds.
        """
        found = {name: bounds.excess(costs[name]) for name, bounds in self.constraints.items()}
        return found or {"none": -1.0}


def check_keys(document: Document, design: str) -> None:
    """Raise a StudyError where a search has keys of other designs, or another design its keys."""
    if design == "search":
        for key in _FORBIDDEN:
            if document.data.get(key):
                told = f"design search takes no {key}: it varies what is in space"
                raise document.error(told, key)
        return
    for key in ("search", "space"):
        if document.data.get(key):
            raise document.error(f"{key} needs `design: search`, but got {design!r}", key)


def parse_search(
    document: Document, design: str, seeds: Sequence[int], data: DataConfig, train: TrainConfig
) -> Search | None:
    """The search of a study with `design: search`; None in every other study.

    `space:` maps dimensions to a list of values or a range. Dimensions are `stageN.kind`,
    `stageN.depth`, `stageN.width`, `stageN.OPTION`, the same of `stem`, `layout`, an option of the
    whole net, and `train.SETTING`. An option is asked for only where its stage has a kind that
    takes it; `when:` adds conditions on earlier dimensions.

        space:
          stage3.kind: [C, T]
          stage3.depth: {low: 1, high: 4}
          stage3.head_dim: {values: [16, 32], when: {stage3.kind: T}}
        search: {sampler: tpe, trials: 40, batch: 2, constraints: {params: 600k..800k}}

        space:
          layout: [C-C-C-C, C-C-C-T, C-C-T-T, C-T-T-T]
          train.lr: {low: 3e-4, high: 3e-3, log: true}
        search: {sampler: nsga2, trials: 60, objectives: [val_top1, macs]}

    Raises:
        StudyError: an unknown key, sampler, dimension or value; a space that cannot be built;
            several seeds; or no validation split.
    """
    if design != "search":
        return None
    if len(seeds) > 1:
        raise document.error(
            f"a search trains each network with one seed, but got {shown(list(seeds))}; a study "
            "of the networks it finds has several", "seeds",
        )  # fmt: skip
    if data.val_fraction == 0:
        raise document.error(
            "a search chooses on the validation split: set data.val_fraction above 0", "data"
        )
    given = document.data.get("search") or {}
    for key in given:
        if key not in SEARCH_KEYS:
            raise document.error(f"in search: {unknown('key', key, SEARCH_KEYS)}", "search", key)
    space = parse_space(document)
    objectives = _objectives(document, given.get("objectives"))
    sampler = _choice(document, given, "sampler", SAMPLERS, "tpe")
    search = Search(
        space=space, sampler=sampler,
        pruner=_pruner(document, given, objectives, train),
        trials=_count(document, given, "trials", 40), batch=_count(document, given, "batch", 1),
        objectives=objectives, constraints=_constraints(document), storage=_storage(document),
        seed=_count(document, given, "seed", 0, least=0),
        patience=_count(document, given, "patience", 200),
        digest="",
    )  # fmt: skip
    if sampler == "grid" and space.size() is None:
        name = next(d.name for d in space.dimensions if d.listed is None)
        raise document.error(f"a grid needs lists or whole numbers, but {name} is a continuous "
                             "range", "space", name)  # fmt: skip
    return _with_digest(search)


def _with_digest(search: Search) -> Search:
    facts = asdict(search)
    for name in ("trials", "batch", "storage", "patience", "digest"):
        facts.pop(name)
    text = json.dumps(facts, sort_keys=True, default=str)
    return replace(search, digest=hashlib.sha256(text.encode()).hexdigest()[:12])


def _choice(
    document: Document, given: Mapping[str, Any], key: str, choices: Sequence[str], default: str
) -> str:
    value = given.get(key)
    value = default if value is None else value
    if value not in choices:
        raise document.error(f"search.{key}: {unknown('value', value, choices)}", "search", key)
    return str(value)


def _count(
    document: Document, given: Mapping[str, Any], key: str, default: int, least: int = 1
) -> int:
    value = given.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise document.error(
            f"search.{key} must be a whole number of at least {least}, but got {shown(value)}",
            "search", key,
        )  # fmt: skip
    return value


def _objectives(document: Document, given: Any) -> tuple[str, ...]:
    listed = ["val_top1"] if given is None else given
    names = [*MEASURED, *COSTS]
    if not isinstance(listed, list) or not listed:
        raise document.error(
            f"search.objectives must be a list, but got {shown(given)}", "search", "objectives"
        )
    for name in listed:
        if name not in names:
            hint = " (test is never searched on)" if "top1" in str(name) else ""
            told = unknown("objective", name, names)
            raise document.error(f"in search.objectives: {told}{hint}", "search", "objectives")
    if listed[0] not in MEASURED or len({*listed}) < len(listed):
        raise document.error(
            f"search.objectives must differ and begin with {' or '.join(MEASURED)}, but got "
            f"{shown(listed)}", "search", "objectives",
        )  # fmt: skip
    return tuple(listed)


def _pruner(
    document: Document, given: Mapping[str, Any], objectives: Sequence[str], train: TrainConfig
) -> str:
    pruner = _choice(document, given, "pruner", PRUNERS, "none")
    if pruner != "none" and len(objectives) > 1:
        raise document.error(
            f"search.pruner {pruner} needs a single objective, but got {', '.join(objectives)}: "
            "put the cost into search.constraints", "search", "pruner",
        )  # fmt: skip
    if pruner != "none" and train.epochs is None:
        raise document.error(f"search.pruner {pruner} needs train.epochs", "search", "pruner")
    return pruner


def _storage(document: Document) -> str | None:
    url = document.get("search", "storage")
    if url is not None and (not isinstance(url, str) or "://" not in url):
        raise document.error(
            f"search.storage must be an Optuna URL such as sqlite:///search.db or "
            f"postgresql://HOST/NAME, but got {shown(url)}", "search", "storage",
        )  # fmt: skip
    return url


_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_AMOUNT = r"([0-9]*\.?[0-9]+)([kMG]?)"


def _constraints(document: Document) -> dict[str, Bounds]:
    given = document.get("search", "constraints") or {}
    path = ("search", "constraints")
    if not isinstance(given, dict):
        raise document.error(f"search.constraints must be a mapping, but got {shown(given)}", *path)
    found = {}
    for name, value in given.items():
        if name not in COSTS:
            raise document.error(f"in search.constraints: {unknown('cost', name, COSTS)}", *path)
        bounds = _bounds(str(value).replace(" ", "").replace("_", ""))
        if bounds is None:
            raise document.error(
                f"search.constraints.{name} must be a bound such as 800k, <=60M, >=600k or "
                f"600k..800k, but got {shown(value)}", *path, name,
            )  # fmt: skip
        found[name] = bounds
    return found


def _bounds(text: str) -> Bounds | None:
    """
    >>> _bounds("600k..1.2M")
    Bounds(least=600000, most=1200000)
    """
    if both := re.fullmatch(rf"{_AMOUNT}\.\.{_AMOUNT}", text):
        least, most = _amount(*both.groups()[:2]), _amount(*both.groups()[2:])
        return Bounds(least=least, most=most) if least <= most else None
    if one := re.fullmatch(rf"(<=|>=|){_AMOUNT}", text):
        amount = _amount(one[2], one[3])
        return Bounds(least=amount) if one[1] == ">=" else Bounds(most=amount)
    return None


def _amount(number: str, unit: str) -> int:
    return round(float(number) * _UNITS[unit])
