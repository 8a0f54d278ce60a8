"""Settings of the recipe that a study chooses for each variant on the validation split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ablate.errors import StudyError, unknown
from ablate.study.cells import StudyLike
from ablate.study.factors import Factor
from ablate.study.schema import CONFIGS, Scalars, fields, shown, validated
from ablate.study.yaml_source import Document


def parse_tune(
    document: Document, scalars: Scalars, factors: Mapping[str, Factor]
) -> dict[str, tuple[Any, ...]]:
    """The candidates of each setting under `tune:`.

    Raises:
        StudyError: no setting of the recipe, no candidates or values outside their rules, a
            setting that is a factor too, or no validation split to choose on.
    """
    given = document.data.get("tune") or {}
    if given and scalars.data.val_fraction == 0:
        raise document.error("tune chooses on the validation split: set data.val_fraction", "tune")
    varied = {name for factor in factors.values() for name in factor.settings}
    choices = [f"train.{name}" for name in fields("train")]
    found = {}
    for name, values in given.items():
        if name not in choices:
            raise document.error(f"in tune: {unknown('setting', name, choices)}", "tune", name)
        if name in varied:
            raise document.error(f"in tune: {name} is varied by a factor already", "tune", name)
        if not isinstance(values, list) or not values:
            raise document.error(
                f"in tune: {name} needs a list of candidates, but got {shown(values)}", "tune", name
            )
        for index, value in enumerate(values):
            _check(document, name, index, value)
        found[name] = tuple(values)
    return found


def _check(document: Document, name: str, index: int, value: Any) -> None:
    field = name.partition(".")[2]
    base = {**(document.data.get("train") or {}), field: value}
    place = document.place("tune", name, index)
    validated(CONFIGS["train"], base, lambda path: place, "train.")


def refuse_tune(study: StudyLike) -> None:
    """A study whose settings would have to be chosen first must not run as if it had none.

    Raises:
        StudyError: the study has `tune:`, which this version reads and checks only.
    """
    if study.tune:
        raise StudyError(
            f"study {study.full_name}: `tune` is not trained in this version; set the chosen "
            f"{', '.join(study.tune)} under `train:`"
        )
