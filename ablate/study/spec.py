"""A study: YAML, checked whole, becomes variants and trials. Loads no torch.

Only a study with `match:` imports torch, when its variants are first asked for: networks are
resized by their traced costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ablate.config import DataConfig, TrialConfig
from ablate.errors import StudyError
from ablate.study.cluster import check_cluster
from ablate.study.designs import Row
from ablate.study.factors import Factor, flat_settings, own_components, parse_factors
from ablate.study.find import find_study
from ablate.study.overrides import apply_overrides, apply_profile
from ablate.study.plugins import import_plugins, plugin_paths
from ablate.study.schema import (
    Match,
    Scalars,
    check_match,
    check_scalars,
    check_seeds,
    check_structure,
    check_texts,
)
from ablate.study.search_parse import Search, check_keys, parse_search
from ablate.study.selection import study_rows
from ablate.study.tuning import Tuning, parse_tune, with_settings
from ablate.study.variants import (
    Builder,
    Variant,
    check_distinct,
    check_tokens,
    is_comparison,
)
from ablate.study.yaml_source import Document, read_yaml

_CLASSES = {"digits": 10, "digits-canvas": 10, "cifar10": 10, "cifar100": 100}
_UNKNOWN_CLASSES = 1000


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study, read and checked.

    Args:
        name: names its results folder.
        question: what it asks: `question:`, or the first paragraph of the header comment.
        header: the whole header comment.
        paper: the paper table it rebuilds ("coat.table6"), or None.
        profile: the profile it was read with, or None.
        path: its file.
        settings: the file's content with profile and overrides applied, as plain values.
        factors: name -> what varies.
        design: "grid", "one_at_a_time", "leave_one_out", "add_one_in" or "search".
        seeds: of every variant.
        match: the budget that variants are resized to, or None.
        variances: "welch", or "pooled" where equal variances are declared beforehand.
        alpha: probability of a false claim.
        power: probability of detection that the plan states effects for.
        sd: standard deviation between seeds for the plan, in points of top-1, or None.
        tune: the candidates of which each variant gets its best on the validation split.
        cluster: for each executor of a cluster its options, see `ablate.study.cluster`.
        plugins: what workers import first.
        raw: the variants before they are resized to a budget.
        baseline_index: place of the baseline among the variants.
        classes: name of a dataset -> number of its classes, where the data is resolved.
    """

    name: str
    question: str
    header: str
    paper: str | None
    profile: str | None
    path: Path
    settings: Mapping[str, Any]
    factors: Mapping[str, Factor]
    design: str
    seeds: tuple[int, ...]
    match: Match | None
    variances: str
    alpha: float
    power: float
    sd: float | None
    tune: Tuning | None
    search: Search | None
    cluster: Mapping[str, Mapping[str, Any]]
    plugins: tuple[str, ...]
    raw: tuple[Variant, ...]
    rows: tuple[Row, ...]
    baseline_index: int
    classes: Mapping[str, int] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """The name with its profile: the folder under `results/`."""
        return f"{self.name}.{self.profile}" if self.profile else self.name

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        """The variants in the design's order, resized to the baseline's budget where asked.

        Raises:
            AblateError: no network of that budget lies within the tolerance.
        """
        if self.match is None:
            return self.raw
        from ablate.study.budget import matched_variants

        return matched_variants(self)

    @property
    def baseline(self) -> Variant:
        """The variant that all others are compared with."""
        return self.variants[self.baseline_index]

    @cached_property
    def cells(self) -> tuple[tuple[Variant, TrialConfig], ...]:
        """Every trial with its variant: all variants with the first seed, then with the next.

        An interrupted study thus holds whole comparisons.
        """
        trials = [variant.trials for variant in self.variants]
        return tuple(
            (variant, own[index])
            for index in range(len(self.seeds))
            for variant, own in zip(self.variants, trials, strict=True)
        )

    @property
    def trials(self) -> tuple[TrialConfig, ...]:
        """The trials, in the order of `cells`."""
        return tuple(trial for _, trial in self.cells)

    def num_classes(self, data: DataConfig) -> int:
        """Classes of a dataset: as resolved, else as its name says, else 1000."""
        return self.classes.get(data.name, _CLASSES.get(data.name, _UNKNOWN_CLASSES))

    def with_data(
        self, resolved: Mapping[DataConfig, DataConfig], classes: Mapping[str, int]
    ) -> Study:
        """This study with its data resolved.

        Args:
            resolved: each variant's data -> the same with name and fingerprint filled in.
            classes: name of a resolved dataset -> number of its classes.

        Raises:
            StudyError: two variants turn out to have the same data.
        """
        raw = tuple(replace(v, data=resolved.get(v.data, v.data)) for v in self.raw)
        check_distinct(raw, self.rows)
        return replace(self, raw=raw, classes={**self.classes, **classes})

    def candidates(self, variant: Variant) -> tuple[tuple[Mapping[str, Any], Variant], ...]:
        """What `tune:` chooses from: the settings and the variant with them."""
        return tuple(
            (settings, replace(variant, train=with_settings(variant.train, settings)))
            for settings in (self.tune.candidates if self.tune else ())
        )


def load_study(
    text: str | Path, profile: str | None = None, overrides: Sequence[str] = ()
) -> Study:
    """Read and check a study.

    Args:
        text: a path, or the bare name of a study in `./studies/` or shipped with ablate.
        profile: one of the study's named overrides.
        overrides: "key=value" with dotted keys and YAML 1.2 values, applied last.

    Raises:
        StudyError: whatever is wrong in it; says file, line, key, value, choices, nearest.
    """
    path = find_study(text)
    document = read_yaml(path, str(text) if Path(text).is_file() else str(path))
    check_structure(document)
    plugins = plugin_paths(check_texts(document, "plugins"), path.parent)
    import_plugins(plugins)
    for name in document.data.get("profiles") or {}:
        check_scalars(apply_profile(document, name))
    document = apply_overrides(apply_profile(document, profile), overrides)
    check_structure(document)
    return _study(document, path, profile, plugins)


def _study(document: Document, path: Path, profile: str | None, plugins: tuple[str, ...]) -> Study:
    scalars = check_scalars(document)
    check_keys(document, scalars.design)
    seeds = check_seeds(document)
    options = flat_settings(document.data.get("options") or {}, document, ("options",))
    dotted = [name for name in options if "." in name or name == "model"]
    if dotted:
        raise document.error(f"{dotted[0]!r} is no option of an arch", "options", dotted[0])
    factors = _factors(document, scalars)
    rows, baseline = study_rows(document, scalars.design, factors)
    builder = Builder(document, seeds)
    by_name = {factor.name: factor for factor in factors}
    variants = tuple(builder.variant(row, by_name) for row in rows)
    search = parse_search(document, scalars.design, seeds, variants[0].data, variants[0].train)
    unused = builder.unused_options if search is None else search.space.unused_options()
    if unused:
        name = sorted(unused)[0]
        raise document.error(f"option {name!r} has no block in any variant", "options", name)
    check_distinct(variants, rows)
    for variant in variants:
        check_tokens(variant, factors)
    varied = {name for row in rows for level in row.values() for name in level.settings}
    return Study(
        name=scalars.study, question=scalars.question or _first_paragraph(document.header),
        header=document.header, paper=scalars.paper, profile=profile, path=path,
        settings=document.data, factors=by_name, design=scalars.design, seeds=seeds,
        match=check_match(document), variances=scalars.variances, alpha=scalars.alpha,
        power=scalars.power, sd=scalars.sd, tune=parse_tune(document, variants, varied, seeds),
        search=search,
        cluster=check_cluster(document, "cluster"), plugins=plugins, raw=variants,
        rows=tuple(rows), baseline_index=baseline,
    )  # fmt: skip


def _first_paragraph(header: str) -> str:
    return " ".join(header.partition("\n\n")[0].split())


def _factors(document: Document, scalars: Scalars) -> tuple[Factor, ...]:
    if document.data.get("factors") != "auto":
        return parse_factors(document)
    place = document.place("factors")
    if scalars.model is None or is_comparison(scalars.model):
        raise StudyError(f"{place}: factors: auto needs `model:` to be an arch of ours")
    return own_components(scalars.model, place)
