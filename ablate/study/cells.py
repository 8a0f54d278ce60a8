"""The cells of a study: each variant with each of its trials, under the key that rows have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from ablate.config import DataConfig, TrainConfig, TrialConfig


class VariantLike(Protocol):
    """What is read of `ablate.study.spec.Variant`."""

    @property
    def name(self) -> str: ...
    @property
    def levels(self) -> Mapping[str, Any]: ...
    @property
    def data(self) -> DataConfig: ...


class StudyLike(Protocol):
    """What is read of `ablate.study.spec.Study`."""

    @property
    def name(self) -> str: ...
    @property
    def profile(self) -> str | None: ...
    @property
    def full_name(self) -> str: ...
    @property
    def plugins(self) -> tuple[str, ...]: ...
    @property
    def tune(self) -> Mapping[str, tuple[Any, ...]]: ...
    @property
    def raw(self) -> Sequence[VariantLike]: ...
    @property
    def cells(self) -> Iterable[tuple[VariantLike, TrialConfig]]: ...
    def with_data(
        self, resolved: Mapping[DataConfig, DataConfig], classes: Mapping[str, int]
    ) -> Self: ...


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of a study that is or will be: a variant with one of its trials.

    Args:
        trial: with its data and its initial weights resolved: `key` is what it is trained under.
    """

    study: str
    profile: str | None
    variant_name: str
    variant: Mapping[str, Any]
    trial: TrialConfig
    key: str

    @property
    def label(self) -> str:
        return f"{self.variant_name}, seed {self.trial.seed}"


def cells(study: StudyLike, resolve_train: Callable[[TrainConfig], TrainConfig]) -> list[Cell]:
    """The cells of a study whose data is resolved, in its order.

    Args:
        resolve_train: fills in the fingerprint of initial weights; called once for each recipe.
    """
    recipes: dict[TrainConfig, TrainConfig] = {}
    found = []
    for variant, trial in study.cells:
        if trial.train.init_from is not None:
            if trial.train not in recipes:
                recipes[trial.train] = resolve_train(trial.train)
            trial = trial.model_copy(update={"train": recipes[trial.train]})
        found.append(
            Cell(
                study=study.name,
                profile=study.profile,
                variant_name=variant.name,
                variant=variant.levels,
                trial=trial,
                key=trial.key,
            )
        )
    return found
