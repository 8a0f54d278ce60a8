"""The cells of a study: each variant with each of its trials, under the key that rows have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from ablate.config import DataConfig, TrainConfig, TrialConfig
from ablate.study.tuning import Tuning, combinations, settings_text, with_settings

if TYPE_CHECKING:
    from ablate.study.search_parse import Search

Role = Literal["", "tune", "final", "search"]


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
    def seeds(self) -> Sequence[int]: ...
    @property
    def tune(self) -> Tuning | None: ...
    @property
    def search(self) -> Search | None: ...
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
        key: of the trial; "" while tuning has not yet chosen its recipe.
        role: what a tuned study or a search asks the trial for; "" elsewhere.
        settings: of the recipe that the trial tries, or that were chosen for it.
        number: of a search's trial, from 0.
        pruned_epoch: after which a search stopped the trial.
    """

    study: str
    profile: str | None
    variant_name: str
    variant: Mapping[str, Any]
    trial: TrialConfig
    key: str
    role: Role = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    number: int | None = None
    pruned_epoch: int | None = None

    @property
    def label(self) -> str:
        if self.role == "search":
            return f"{self.variant_name}, {self.trial.arch}"
        tried = f" {settings_text(self.settings)}" if self.role == "tune" else ""
        return f"{self.variant_name}{tried}, seed {self.trial.seed}"

    def with_trial(self, trial: TrialConfig, role: Role, settings: Mapping[str, Any]) -> Cell:
        """This variant's cell for another trial."""
        return replace(self, trial=trial, key=trial.key, role=role, settings=settings)


def cells(study: StudyLike, resolve_train: Callable[[TrainConfig], TrainConfig]) -> list[Cell]:
    """The cells of a study whose data is resolved, in its order.

    Of a study with `tune:` these are the trials that choose the recipes; the final ones follow
    from them (`ablate.study.tuning_rows.final_cells`). Of a search it is the base alone, which
    gives data and recipe to all.

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
    return found if study.tune is None else _tuning_cells(found, study.tune)


def _tuning_cells(found: Iterable[Cell], tuning: Tuning) -> list[Cell]:
    """The same candidates with the same seeds for every variant."""
    variants: dict[str, Cell] = {}
    for cell in found:
        variants.setdefault(cell.variant_name, cell)
    tried = []
    for _, settings, seed in combinations(tuning):
        for cell in variants.values():
            train = with_settings(cell.trial.train, settings)
            trial = cell.trial.model_copy(update={"train": train, "seed": seed})
            tried.append(cell.with_trial(trial, "tune", settings))
    return tried
