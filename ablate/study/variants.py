"""A row of levels becomes a variant: its arch, its data, its recipe, all checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ablate.config import DataConfig, TrainConfig, TrialConfig
from ablate.errors import AblateError, StudyError
from ablate.grammar import Arch, canonical, override, resolve
from ablate.grammar.override import SHAPES
from ablate.kinds import KINDS
from ablate.options import NET_OPTIONS
from ablate.presets import expand
from ablate.study.designs import Row
from ablate.study.factors import Factor, Scalar
from ablate.study.grids import FEWEST_TOKENS, starved
from ablate.study.schema import CONFIGS, shown, validated
from ablate.study.yaml_source import Document, KeyPath

T = TypeVar("T")

COMPARISONS = ("torchvision:", "timm:")
"""Prefixes of networks that are not ours: they stand in a study as published."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One combination of levels: one row of the study's table.

    Args:
        name: short and readable, such as "cpe=false crpe=true".
        levels: factor -> level, as the study writes them.
        arch: canonical arch string, or `torchvision:NAME` / `timm:NAME`.
        data: the data, not yet resolved where the study was just read.
        train: the recipe.
        seeds: one trial each.
        matched: how the arch was resized to the baseline's budget, and from which; "" where it
            was not.
        raw_arch: the arch before it was resized.
    """

    name: str
    levels: Mapping[str, Scalar]
    arch: str
    data: DataConfig
    train: TrainConfig
    seeds: tuple[int, ...]
    matched: str = ""
    raw_arch: str

    @property
    def trials(self) -> tuple[TrialConfig, ...]:
        """One for each seed."""
        return tuple(
            TrialConfig(arch=self.arch, data=self.data, train=self.train, seed=seed)
            for seed in self.seeds
        )

    @property
    def is_comparison(self) -> bool:
        """Whether the network is not one of ours."""
        return is_comparison(self.arch)

    def resized(self, arch: str, how: str) -> Variant:
        """This variant with another arch of the same budget as the baseline."""
        return replace(self, arch=arch, matched=how)


def is_comparison(model: str) -> bool:
    """Whether a model's name is `torchvision:NAME` or `timm:NAME`."""
    return model.startswith(COMPARISONS)


@dataclass(frozen=True, kw_only=True)
class _Setting:
    value: Any
    place: str
    label: str


class Builder:
    """Builds the variants of one study.

    Args:
        document: the study, with profile and overrides applied.
        seeds: of every variant.
    """

    def __init__(self, document: Document, seeds: tuple[int, ...]) -> None:
        self.document = document
        self.seeds = seeds
        self.options: dict[str, Any] = document.data.get("options") or {}
        self.unused_options = set(self.options)

    def variant(self, row: Row, factors: Mapping[str, Factor]) -> Variant:
        """The variant of a row.

        Raises:
            StudyError: it cannot be built; says which level, where, and why.
        """
        settings = {
            name: _Setting(value=value, place=level.place, label=f"{factor}={level.text}")
            for factor, level in row.items()
            for name, value in level.settings.items()
        }
        arch = self._arch(settings)
        labels = [
            factors[name].label(level) if name in factors else f"{name}={level.text}"
            for name, level in row.items()
        ]
        return Variant(
            name=" ".join(labels) or "base",
            levels={name: level.value for name, level in row.items()},
            arch=arch,
            raw_arch=arch,
            data=self._config("data", settings),
            train=self._config("train", settings),
            seeds=self.seeds,
        )

    def _config(self, top: str, settings: Mapping[str, _Setting]) -> Any:
        values = dict(self.document.data.get(top) or {})
        own: dict[str, _Setting] = {}
        for name, setting in settings.items():
            if name.startswith(f"{top}."):
                own[name.partition(".")[2]] = setting
        values.update({name: setting.value for name, setting in own.items()})

        def place(path: KeyPath) -> str:
            if path and path[0] in own:
                return own[path[0]].place
            return self.document.place(top, *path)

        return validated(CONFIGS[top], values, place, f"{top}.")

    def _arch(self, settings: Mapping[str, _Setting]) -> str:
        model, place = self._model(settings)
        own = {
            name: setting
            for name, setting in settings.items()
            if name != "model" and "." not in name
        }
        if is_comparison(model):
            if own:
                first = next(iter(own.values()))
                raise StudyError(
                    f"{first.place}: {model} is no arch of ours and takes no options, but got "
                    f"{first.label}: let it stand as published, with a row "
                    f"`include: [{{model: {model}}}]`"
                )
            if model.endswith(":"):
                raise StudyError(f"{place}: {model!r} needs a name, such as torchvision:resnet50")
            return model
        arch = _told(place, "model", lambda: expand(model))
        arch = self._apply(arch, own, shapes=True)
        arch = self._apply_options(arch)
        changed = self._apply(arch, own, shapes=False)
        try:
            return canonical(changed)
        except AblateError:
            _told(place, "model", lambda: canonical(arch))  # its own mistake, if it is one
            last = list(own.values())[-1]
            return _told(last.place, last.label, lambda: canonical(changed))

    def _model(self, settings: Mapping[str, _Setting]) -> tuple[str, str]:
        if "model" in settings:
            model, place = settings["model"].value, settings["model"].place
        else:
            model, place = self.document.data.get("model"), self.document.place("model")
        if model is None:
            raise StudyError(
                f"{self.document.name}: key 'model' is missing: a preset such as coat-lite-micro, "
                "an arch string, torchvision:NAME or timm:NAME"
            )
        if not isinstance(model, str):
            raise StudyError(f"{place}: model must be text, but got {shown(model)}")
        return model, place

    def _apply(self, arch: Arch, own: Mapping[str, _Setting], *, shapes: bool) -> Arch:
        for name, setting in own.items():
            if (name in SHAPES) == shapes:
                arch = _override(arch, name, setting.value, setting.place, setting.label)
        return arch

    def _apply_options(self, arch: Arch) -> Arch:
        """The study's own options, each where the arch has blocks that take it."""
        kinds = {part.kind for part in arch.parts()}
        for name, value in self.options.items():
            taken = name in (*SHAPES, *NET_OPTIONS) or any(
                name in KINDS[kind].options for kind in kinds
            )
            if taken:
                self.unused_options.discard(name)
                place = self.document.place("options", name)
                arch = _override(arch, name, value, place, f"options.{name}")
        return arch


def _override(arch: Arch, name: str, value: Any, place: str, label: str) -> Arch:
    if value is None or isinstance(value, dict):
        raise StudyError(f"{place}: {label}: {name} needs a value, but got {shown(value)}")
    return _told(place, label, lambda: override(arch, **{name: value}))


def _told(place: str, label: str, call: Callable[[], T]) -> T:
    """What `call` returns; its error is told with the place in the study."""
    try:
        return call()
    except AblateError as error:
        told = str(error)
        named = told if told.startswith(label) else f"{label}: {told}"
        raise StudyError(f"{place}: {named}") from error


def check_tokens(variant: Variant, factors: Iterable[Factor]) -> None:
    """Raise a StudyError where a factor acts on blocks that see fewer than four tokens.

    An image too small for the strides is an error as well.
    """
    if variant.is_comparison:
        return
    blueprint = resolve(variant.arch)
    factors = list(factors)
    owner = {name: factor for factor in factors for name in factor.settings}
    try:
        found = starved(blueprint, variant.data.image_size, owner)
    except AblateError as error:
        raise StudyError(f"variant {variant.name!r}: {error}") from error
    if found is None:
        return
    name, run, side = found
    factor = owner[name]
    what = "layout" if name == "layout" else f"{name} of"
    raise StudyError(
        f"{factor.place}: factor {factor.name!r}: in variant {variant.name!r} the {run.kind} "
        f"blocks of stage {run.stage} would see {side * side} token"
        f"{'s' if side > 1 else ''} at image size {variant.data.image_size}, too few for "
        f"{what.removesuffix(' of')} to matter; at least {FEWEST_TOKENS} are needed: set "
        "`options: {stem_stride: ...}` smaller or `data: {image_size: ...}` larger"
    )


def check_distinct(variants: Sequence[Variant], rows: Sequence[Row]) -> None:
    """Raise a StudyError where two variants are the same network, data and recipe."""
    seen: dict[str, int] = {}
    for index, variant in enumerate(variants):
        identity = _identity(variant)
        if identity in seen:
            raise _unchanged(variants, rows, seen[identity], index)
        seen[identity] = index


def _identity(variant: Variant) -> str:
    """What the trials' keys hash, and the folder of images not resolved yet."""
    data = variant.data.identity()
    if variant.data.fingerprint is None:
        data["root"] = variant.data.root
    return json.dumps([variant.arch, data, variant.train.identity()], sort_keys=True)


def _unchanged(
    variants: Sequence[Variant], rows: Sequence[Row], one: int, other: int
) -> StudyError:
    first, second = variants[one], variants[other]
    names = {*rows[one], *rows[other]}
    changed = sorted(n for n in names if rows[one].get(n) is not rows[other].get(n))
    if len(changed) == 1 and {*changed} <= {*rows[one]} & {*rows[other]}:
        name = changed[0]
        before, after = rows[one][name], rows[other][name]
        rest = ", ".join(f"{n}={lv.text}" for n, lv in rows[one].items() if n != name)
        context = f" where {rest}" if rest else ""
        return StudyError(
            f"{after.place}: factor {name!r}: level {after.text} changes nothing against level "
            f"{before.text}{context}: both give {first.arch} with the same data and recipe; "
            "drop one of them" + (", or exclude this row" if rest else "")
        )
    return StudyError(
        f"variants {first.name!r} and {second.name!r} are the same network, data and recipe: "
        f"{first.arch}"
    )
