"""Published tables as data: rows, reported values as printed, recipe and citation.

A table is named `paper.table`, as in `coat.table6`. Every value stands as the paper prints it, so
that its precision is known: a recomputed cost reproduces "5.7M" where it rounds to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ablate.errors import AblateError, unknown

PAPERS = ("coat", "coatnet", "atc")

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
_PRINTED = re.compile(r"(?P<digits>[0-9]+(?:\.(?P<fraction>[0-9]+))?)(?P<unit>[KMGB]?)")
_RELATIONS = re.compile(r"\s*(>>|>=|>|~)\s*")

Role = Literal["top1", "top5", "params", "flops", "detector", "number", "text", "measured"]

Convention = Literal["macs", "coat", "coatnet", "cvt"]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Citation(_Data):
    """Where a table was published."""

    title: str
    authors: str
    arxiv: str | None = None
    year: int
    place: str = Field(default="", description="table or figure, filled for each table")

    def __str__(self) -> str:
        source = f"arXiv {self.arxiv}" if self.arxiv else str(self.year)
        return f"{self.authors}, {self.title}, {source}, {self.place}".rstrip(", ")


class Recipe(_Data):
    """On what, and for how long, the reported accuracies were trained."""

    data: str = Field(description="dataset, by its name in `ablate.data`")
    aliases: tuple[str, ...] = Field(default=(), description="names of the same pixels on disk")
    image_size: int
    epochs: int | None = Field(default=None, description="None where the paper does not say")
    num_classes: int = 1000
    train_images: int | None = Field(default=None, description="None where they do not compare")
    text: str = Field(default="", description="the rest, in words")


class Measure(_Data):
    """One column of reported values.

    `role` says what stands beside it: top1 and top5 are measured by studies, params and flops are
    recomputed from the built network, detector is recomputed by arithmetic from the built backbone,
    number and text are reported only, and measured has no printed value (as in a figure).
    """

    key: str
    title: str
    role: Role


class Row(_Data):
    """One row of a published table.

    Args:
        arch: the network, as a preset or arch string; None for networks that `ablate` does not
            build.
        variant: the levels of a study's variant that this row is.
        flops: how this row's FLOPs are counted, where not as the table's.
        reported: values by the measure's key, as printed.
        explained: by the measure's key, why an exact build does not reproduce the printed value.
    """

    name: str
    arch: str | None = None
    variant: dict[str, str | int | float | bool | list[int]] | None = None
    image_size: int | None = None
    num_classes: int | None = None
    recipe: Recipe | None = None
    flops: Convention | None = None
    reported: dict[str, str | float] = Field(default_factory=dict)
    explained: dict[str, str] = Field(default_factory=dict)


class Claim(_Data):
    """A ranking that the paper states: names of rows joined by `>>`, `>`, `>=` and `~`.

    `metric` names what is ranked, the better first: top1, or gap (eval minus train accuracy),
    or train_top1 (capacity).
    """

    text: str
    ranking: str
    metric: Literal["top1", "gap", "train_top1"] = "top1"

    def steps(self) -> list[tuple[str, str, str]]:
        """Neighbours of the ranking with their relation.

        >>> Claim(text="", ranking="a ~ b > c").steps()
        [('a', '~', 'b'), ('b', '>', 'c')]
        """
        parts = _RELATIONS.split(self.ranking.strip())
        return [(parts[i], parts[i + 1], parts[i + 2]) for i in range(0, len(parts) - 2, 2)]


class PaperTable(_Data):
    """A published table or figure."""

    name: str
    title: str
    citation: Citation
    recipe: Recipe
    detector: Literal["mask_rcnn", "cascade_mask_rcnn"] | None = Field(
        default=None, description="whose backbone the networks are, in detection tables"
    )
    flops: Convention = Field(
        default="macs", description="how the paper counts, as `ablate.cost.paper_flops` names it"
    )
    flops_note: str = Field(default="", description="that count in words, and how near it comes")
    measures: tuple[Measure, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> PaperTable:
        keys = [measure.key for measure in self.measures]
        names = [row.name for row in self.rows]
        for row in self.rows:
            for key in {*row.reported, *row.explained} - set(keys):
                raise ValueError(f"row {row.name!r}: {unknown('measure', key, keys)}")
        for claim in self.claims:
            for first, _, second in claim.steps():
                for name in {first, second} - set(names):
                    raise ValueError(f"claim {claim.text!r}: {unknown('row', name, names)}")
        if len(set(names)) < len(names):
            raise ValueError("two rows have one name")
        return self

    def rows_of(self, levels: Mapping[str, Any]) -> list[Row]:
        """The rows that are a variant with these levels, those that name most levels first."""
        found = [
            row
            for row in self.rows
            if row.variant and all(levels.get(k, _NONE) == v for k, v in row.variant.items())
        ]
        return sorted(found, key=lambda row: -len(row.variant or {}))

    def row_of(self, levels: Mapping[str, Any]) -> Row | None:
        """The row that is a variant with these levels, or None."""
        found = self.rows_of(levels)
        return found[0] if found else None

    def recipe_of(self, row: Row) -> Recipe:
        """On what this row's accuracies were trained."""
        recipe = row.recipe or self.recipe
        changed = {"image_size": row.image_size} if row.image_size and not row.recipe else {}
        return recipe.model_copy(update=changed)


_NONE = object()


def printed(text: str | float) -> tuple[float, float] | None:
    """Value and half a unit of the last printed digit; None for text that is no number.

    >>> printed("5.7M")
    (5700000.0, 50000.0)
    >>> printed(">30K") is None
    True
    """
    found = _PRINTED.fullmatch(str(text).strip())
    if found is None:
        return None
    unit = _UNITS[found["unit"]]
    half = Decimal(5).scaleb(-len(found["fraction"] or "") - 1)
    return float(Decimal(found["digits"]) * unit), float(half * unit)


def reproduces(text: str | float, value: float) -> bool:
    """Whether a recomputed value rounds to the printed one."""
    known = printed(text)
    # The window is open to rounding of the window itself: 4.35 in binary is a little more.
    return known is not None and abs(value - known[0]) <= known[1] * (1 + 1e-9)


class Point(_Data):
    """One reported network in a plot of accuracy against cost.

    Args:
        cost: parameters or FLOPs, as printed, as a number.
        own: whether it is the paper's own network.
    """

    name: str
    cost: float
    top1: float
    own: bool


class Scaling(_Data):
    """Reported accuracy against parameters or FLOPs: a figure of the paper as points."""

    place: str
    points: tuple[Point, ...]


def reported_scaling(name: str, cost: Literal["params", "flops"]) -> Scaling | None:
    """The points of a paper's figure of accuracy against cost; None where it prints none.

    Args:
        name: a table of the paper, as in `coat.table6`, or the paper.
        cost: what accuracy stands against.
    """
    paper = name.partition(".")[0]
    chosen = _paper(paper).get("scaling", {}).get(cost)
    if chosen is None:
        return None
    table = load_paper_table(f"{paper}.{chosen['table']}")
    points = []
    for row in table.rows:
        at, top1 = (
            printed(row.reported.get(cost, "")),
            printed(row.reported.get(chosen["top1"], "")),
        )
        size = chosen.get("image_size")
        if at and top1 and size in (None, table.recipe_of(row).image_size):
            own = (row.arch or "").startswith(paper)
            points.append(Point(name=row.name, cost=at[0], top1=top1[0], own=own))
    source = f"{table.citation.authors}, {chosen['place']}"
    return Scaling(place=source, points=tuple(points))


def table_names() -> list[str]:
    """The names of all published tables, paper by paper."""
    return [f"{paper}.{table}" for paper in PAPERS for table in _paper(paper)["tables"]]


@lru_cache(maxsize=64)
def load_paper_table(name: str) -> PaperTable:
    """The published table of this name.

    Raises:
        AblateError: no such table; lists the nearest and the choices.
    """
    paper, _, table = name.partition(".")
    if paper not in PAPERS or table not in _paper(paper)["tables"]:
        raise AblateError(unknown("paper table", name, table_names()))
    data = _paper(paper)
    entry = dict(data["tables"][table])
    citation = {**data["citation"], "place": entry.pop("place")}
    recipe = {**data["recipe"], **entry.pop("recipe", {})}
    if recipe["data"] != data["recipe"]["data"]:
        recipe |= {"aliases": (), "train_images": None}
    try:
        return PaperTable.model_validate(
            {"name": name, "citation": citation, "recipe": recipe, **entry}
        )
    except ValidationError as error:
        raise AssertionError(f"papers/{paper}.yaml, {table}: {error}") from error


@lru_cache(maxsize=len(PAPERS))
def _paper(paper: str) -> dict[str, Any]:
    from ruamel.yaml import YAML

    text = (files("ablate.papers") / f"{paper}.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = YAML(typ="safe").load(text)
    return data
