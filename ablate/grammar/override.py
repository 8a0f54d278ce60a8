"""An arch with some of its options, kinds, depths or widths changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from ablate.errors import ModelError, unknown
from ablate.grammar.arch import Arch, Options, Run, parse_option
from ablate.kinds import KINDS, letters
from ablate.options import NET_OPTIONS, OPTIONS, format_value

SHAPES = ("layout", "depths", "widths")
"""Changes of the stages themselves, beside the options of the grammar."""


def override(arch: Arch, **changes: object) -> Arch:
    """The arch with options set everywhere they apply, or its stages changed.

    Args:
        arch: the base.
        changes: any option of the grammar (`cpe=False`, `head_dim=64`, `stem_stride=2`);
            `layout="C-C-C-T"` (kinds; depths and widths are kept), `depths=[2, 2, 18, 2]`,
            `widths=[...]` (one for each stage).

    Raises:
        ModelError: an unknown name, or one that no block of the arch takes, or a bad value.
    """
    for name in SHAPES:
        if name in changes:
            arch = _SHAPERS[name](arch, changes[name])
    for name, value in changes.items():
        if name not in SHAPES:
            arch = _set_option(arch, name, value)
    return dataclasses.replace(arch, text=str(arch))


def _set_option(arch: Arch, name: str, value: object) -> Arch:
    if name not in OPTIONS:
        raise ModelError(unknown("option", name, [*sorted(OPTIONS), *SHAPES]))
    if OPTIONS[name].local:
        raise ModelError(f"option {name!r} is of one run: write it into the arch string")
    takers = [part.kind for part in arch.parts() if name in KINDS[part.kind].options]
    if name not in NET_OPTIONS and not takers:
        kinds = [letter for letter, kind in KINDS.items() if name in kind.options]
        raise ModelError(
            f"option {name!r} has no block in {arch}: it belongs to kind {', '.join(kinds)}"
        )
    try:
        parsed = parse_option(name, format_value(value))
        for kind in takers:
            parse_option(name, format_value(value), kind)
    except ValueError as error:
        raise ModelError(f"{name}={format_value(value)}: {error}") from None
    names = {"head_dim", "num_heads"} if name in ("head_dim", "num_heads") else {name}
    cleared = _map_runs(arch, lambda run: _without(run, names))
    kept = tuple(pair for pair in arch.options if pair[0] not in names)
    return dataclasses.replace(cleared, options=(*kept, (name, parsed)))


def _without(run: Run, names: set[str]) -> Run:
    kept = tuple(pair for pair in run.options if pair[0] not in names)
    return dataclasses.replace(run, options=kept)


def _map_runs(arch: Arch, change: Callable[[Run], Run]) -> Arch:
    return dataclasses.replace(
        arch,
        stem=change(arch.stem) if arch.stem else None,
        stages=tuple(tuple(change(run) for run in stage) for stage in arch.stages),
        group=change(arch.group) if arch.group else None,
    )


def _single_runs(arch: Arch, what: str) -> list[Run]:
    for stage in arch.stages:
        if len(stage) > 1:
            mixed = "+".join(map(str, stage))
            raise ModelError(f"{what} needs one run a stage, but {arch} has {mixed}")
    return [stage[0] for stage in arch.stages]


def _set_layout(arch: Arch, value: object) -> Arch:
    runs = _single_runs(arch, "layout")
    kinds = str(value).split("-")
    for kind in kinds:
        if kind not in letters("block"):
            raise ModelError(unknown(f"kind in layout {value}:", kind, letters("block")))
    _check_count("layout", value, kinds, runs)
    changed = [
        dataclasses.replace(run, kind=kind, options=_kept_options(run, kind))
        for run, kind in zip(runs, kinds, strict=True)
    ]
    stages = tuple((run,) for run in changed)
    shaped = dataclasses.replace(arch, stages=stages)
    taken = {name for part in shaped.parts() for name in KINDS[part.kind].options}
    kept = tuple(pair for pair in arch.options if pair[0] in taken or pair[0] in NET_OPTIONS)
    return dataclasses.replace(shaped, options=kept)


def _kept_options(run: Run, kind: str) -> Options:
    if kind == run.kind:
        return run.options
    return tuple(pair for pair in run.options if pair[0] in KINDS[kind].options)


def _set_depths(arch: Arch, value: object) -> Arch:
    return _set_numbers(arch, "depths", value, "depth")


def _set_widths(arch: Arch, value: object) -> Arch:
    return _set_numbers(arch, "widths", value, "width")


def _set_numbers(arch: Arch, what: str, value: object, name: str) -> Arch:
    runs = _single_runs(arch, what)
    text = format_value(value)
    try:
        numbers = [int(part) for part in text.split("/")]
    except ValueError:
        raise ModelError(f"{what} needs whole numbers, one a stage, but got {text}") from None
    if min(numbers) < 1:
        raise ModelError(f"{what} needs numbers of at least 1, but got {text}")
    _check_count(what, text, numbers, runs)
    stages = tuple(
        (dataclasses.replace(run, **{name: number}),)  # type: ignore[arg-type]
        for run, number in zip(runs, numbers, strict=True)
    )
    return dataclasses.replace(arch, stages=stages)


def _check_count(what: str, value: object, given: Sequence[object], runs: list[Run]) -> None:
    if len(given) != len(runs):
        raise ModelError(f"{what} needs one part for each of {len(runs)} stages, but got {value}")


_SHAPERS = {"layout": _set_layout, "depths": _set_depths, "widths": _set_widths}
