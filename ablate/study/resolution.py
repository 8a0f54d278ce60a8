"""What a study's data and initial weights turn out to be: looked up, or as recorded before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.config import DataConfig, TrainConfig, TrialConfig
from ablate.errors import StudyError
from ablate.study.cells import Cell, StudyLike, cells
from ablate.study.meta import read_meta


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A study's cells with everything that their keys depend on looked up.

    Args:
        cells: in the study's order.
        fingerprints: name of a resolved dataset -> content hash of its images.
        record: what `meta.json` keeps, so that another machine finds the same keys without the
            images.
    """

    cells: list[Cell]
    fingerprints: Mapping[str, str | None]
    record: Mapping[str, Any]


def look_up(study: StudyLike, runs: Path) -> Resolved:
    """Resolve a study's data and weights on this machine; each distinct one once.

    Raises:
        DataError: images are missing or damaged.
        WeightsError: initial weights are missing.
        StudyError: two variants turn out to have the same data.
    """
    from ablate.data import resolve

    data: dict[DataConfig, DataConfig] = {}
    classes: dict[str, int] = {}
    fingerprints: dict[str, str | None] = {}
    record: dict[str, Any] = {}
    for asked, label in _labels(study).items():
        found, info = resolve(asked)
        if fingerprints.get(found.name, info.fingerprint) != info.fingerprint:
            raise StudyError(
                f"data.root: two datasets of the study are named {found.name!r} but have different "
                f"images; rename a folder (here: {asked.root})"
            )
        data[asked] = found
        classes[found.name] = info.num_classes
        fingerprints[found.name] = info.fingerprint
        record[label] = {
            "name": found.name,
            "fingerprint": found.fingerprint,
            "classes": info.num_classes,
            "images": info.fingerprint,
        }
    weights: dict[str, str | None] = {}

    def resolve_train(train: TrainConfig) -> TrainConfig:
        from ablate.training import resolve_init

        resolved = resolve_init(train, runs)
        weights[str(train.init_from)] = resolved.init_fingerprint
        return resolved

    listed = cells(study.with_data(data, classes), resolve_train)
    return Resolved(
        cells=listed, fingerprints=fingerprints, record={"data": record, "weights": weights}
    )


def recorded(study: StudyLike, folder: Path) -> Resolved:
    """The same as it was when the results in `folder` were last written; needs no torch."""
    record = read_meta(folder)
    known: Mapping[str, Any] = record.get("data") or {}
    data: dict[DataConfig, DataConfig] = {}
    for asked, label in _labels(study).items():
        if (entry := known.get(label)) is not None:
            update = {"name": entry["name"], "fingerprint": entry["fingerprint"]}
            data[asked] = asked.model_copy(update=update)
    classes = {entry["name"]: entry["classes"] for entry in known.values()}
    weights: Mapping[str, Any] = record.get("weights") or {}

    def resolve_train(train: TrainConfig) -> TrainConfig:
        return train.model_copy(update={"init_fingerprint": weights.get(str(train.init_from))})

    fingerprints = {entry["name"]: entry["images"] for entry in known.values()}
    return Resolved(
        cells=cells(study.with_data(data, classes), resolve_train),
        fingerprints=fingerprints,
        record={"data": known, "weights": weights},
    )


def _labels(study: StudyLike) -> dict[DataConfig, str]:
    """What each distinct dataset of a study is recorded as: its name, with its root if it needs it.

    A root is a place on one machine: it counts only where a study reads one name from several.
    """
    asked = dict.fromkeys(variant.data for variant in study.raw)
    roots: dict[str, set[str | None]] = {}
    for data in asked:
        roots.setdefault(data.name, set()).add(data.root)
    return {
        data: data.name if len(roots[data.name]) == 1 else f"{data.name} {data.root}"
        for data in asked
    }


def prepare_images(trials: Iterable[TrialConfig]) -> None:
    """Decode small images into the cache, once, so that trials start at once.

    Raises:
        DataError: an image does not decode.
    """
    from ablate.data import prepare

    for data in dict.fromkeys(trial.data for trial in trials):
        prepare(data)
