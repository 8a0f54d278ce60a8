"""Is a comparison fair?  Where a variant differs from the baseline in more than its factor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ablate.config import TrainConfig
from ablate.grammar import Blueprint, resolve
from ablate.kinds import KINDS
from ablate.options import NET_OPTIONS, OPTIONS
from ablate.study.built import Built
from ablate.study.differences import Difference, arch_differences, config_differences
from ablate.study.factors import Factor, is_setting
from ablate.study.grids import FEWEST_TOKENS, run_grids
from ablate.study.variants import Variant
from ablate.training.recipe import peak_lr

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two that are compared: a variant and what it is when built."""

    variant: Variant
    built: Built

    @property
    def blueprint(self) -> Blueprint | None:
        """The network; None for a comparison row, which is not ours."""
        return None if self.variant.is_comparison else resolve(self.variant.arch)


def confounds(
    side: Side, baseline: Side, factors: Mapping[str, Factor], *, tolerance: float
) -> tuple[str, ...]:
    """What differs between a variant and the baseline beside the factor, one sentence each.

    Args:
        side: the variant.
        baseline: what it is compared with.
        factors: of the study.
        tolerance: relative difference of params and MACs that is no confound.

    Returns:
        Warnings; empty where only the named factor changes.
    """
    named = _named(side.variant, baseline.variant, factors)
    return (
        *_costs(side, baseline, tolerance),
        *_settings(side, baseline, named),
        *_coverage(side, named),
        *_learning_rate(side.variant.train, baseline.variant.train, named),
        *_steps(side.variant, baseline.variant, named),
        *_initialisation(side.built, baseline.built),
        *_weight_decay(side.built, baseline.built),
        *_tokens(side, named),
    )


def _named(variant: Variant, baseline: Variant, factors: Mapping[str, Factor]) -> set[str]:
    """The settings that the changed factors are named after: these may differ.

    A factor with a name of its own stands for its setting where it has a single one.
    """
    named: set[str] = set()
    for name in {*variant.levels, *baseline.levels}:
        if variant.levels.get(name) == baseline.levels.get(name):
            continue
        settings = factors[name].settings if name in factors else {name}
        if is_setting(name):
            named.add(name)
        elif len(settings) == 1:
            named |= settings
    return named


def _costs(side: Side, baseline: Side, tolerance: float) -> Iterator[str]:
    for what in ("params", "macs"):
        ours, theirs = getattr(side.built.cost, what), getattr(baseline.built.cost, what)
        change = (ours - theirs) / theirs if theirs else 0.0
        if abs(change) > tolerance:
            label = "MACs" if what == "macs" else what
            yield f"{label} {change:+.1%} ({ours:,} against {theirs:,})"


def _settings(side: Side, baseline: Side, named: set[str]) -> Iterator[str]:
    """Settings that differ and are not what the factor is named after."""
    if side.blueprint is None or baseline.blueprint is None:
        if "model" not in named or side.variant.is_comparison:
            yield "another code base: the network stands as published, the study's options not set"
        arch: dict[str, Difference] = {}
    else:
        arch = arch_differences(side.blueprint, baseline.blueprint)
    allowed = set(named)
    if side.variant.matched or baseline.variant.matched:
        allowed |= {"depths", "widths", "head_dim", "num_heads"}
    if "model" in named:
        allowed |= {name for name in arch if not name.startswith("drop_path")}
    yield from _told({name: values for name, values in arch.items() if name not in allowed})
    data = config_differences("data", side.variant.data, baseline.variant.data)
    train = config_differences("train", side.variant.train, baseline.variant.train)
    skipped = allowed | {"train.lr", "train.lr_base_batch", "data.name"}
    yield from _told({n: values for n, values in {**data, **train}.items() if n not in skipped})


def _told(differences: Mapping[str, Difference]) -> Iterator[str]:
    for name, (ours, theirs) in differences.items():
        label = "drop-path" if name == "drop_path_rate" else name
        yield f"{label} {ours} against {theirs}"


def _coverage(side: Side, named: set[str]) -> Iterator[str]:
    """Blocks of the variant that do not take the factor."""
    blueprint = side.blueprint
    if blueprint is None:
        return
    for name in sorted(named):
        if name not in OPTIONS or name in NET_OPTIONS:
            continue
        without = [run for run in blueprint.runs if name not in KINDS[run.kind].options]
        count = sum(run.depth for run in without)
        total = sum(run.depth for run in blueprint.runs)
        if 0 < count < total:
            places = _list(f"{run.kind} of stage {run.stage}" for run in without)
            yield f"{count} of {total} blocks are without {name} ({places})"


def _learning_rate(ours: TrainConfig, theirs: TrainConfig, named: set[str]) -> Iterator[str]:
    if {"train.lr", "train.lr_base_batch"} & named:
        return
    if peak_lr(ours) != peak_lr(theirs):
        yield f"learning rate {peak_lr(ours):g} against {peak_lr(theirs):g}"


def _steps(variant: Variant, baseline: Variant, named: set[str]) -> Iterator[str]:
    """Fewer images at equal epochs are fewer optimizer steps."""
    ours, theirs = variant.data.train_fraction, baseline.data.train_fraction
    epochs = variant.train.max_steps is None and baseline.train.max_steps is None
    if ours != theirs and epochs and variant.train.epochs == baseline.train.epochs:
        yield (
            f"{ours / theirs:.3g} times the optimizer steps (train_fraction {ours:g} against "
            f"{theirs:g} at equal epochs; train.max_steps compares at equal steps)"
        )


def _initialisation(ours: Built, theirs: Built) -> Iterator[str]:
    changed = [
        name
        for name, drawn in ours.initial.items()
        if _same_layer(name, ours, theirs) and drawn != theirs.initial[name]
    ]
    if changed:
        first = changed[0]
        yield (
            f"initialisation of {len(changed)} shared parameters ({first}: "
            f"{ours.initial[first]} against {theirs.initial[first]})"
        )


def _same_layer(name: str, ours: Built, theirs: Built) -> bool:
    """Whether a parameter has the same shape in both; a bias' range follows from its weight's."""
    weight = f"{name.removesuffix('bias')}weight" if name.endswith("bias") else name
    return name in theirs.shapes and all(
        ours.shapes.get(part) == theirs.shapes.get(part) for part in (name, weight)
    )


def _weight_decay(ours: Built, theirs: Built) -> Iterator[str]:
    changed = [
        name
        for name in ours.decays
        if name in theirs.decays and ours.decays[name] != theirs.decays[name]
    ]
    if changed:
        yield f"weight decay acts on other shared parameters ({_list(changed)})"


def _tokens(side: Side, named: set[str]) -> Iterator[str]:
    """Attention over fewer than four tokens, where no factor made it an error."""
    if side.blueprint is None:
        return
    size = side.variant.data.image_size
    starved = [
        f"stage {run.stage}"
        for run, grid in run_grids(side.blueprint, size)
        if run.num_heads and grid * grid < FEWEST_TOKENS
    ]
    if starved:
        yield f"attention sees fewer than {FEWEST_TOKENS} tokens ({_list(starved)})"


def _list(items: Iterable[str]) -> str:
    found = list(dict.fromkeys(items))
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more
