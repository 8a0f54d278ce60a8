"""In which settings two networks, recipes or data differ, whatever the study calls its factor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ablate.config import DataConfig, TrainConfig
from ablate.grammar import Blueprint, RunSpec
from ablate.kinds import KINDS
from ablate.options import format_value

Difference = tuple[str, str]
"""The value of the variant and that of the baseline, as text."""

_DERIVED: Mapping[str, str] = {
    "crpe_windows": "num_heads",
    "drop_path_schedule": "drop_path_rate",
    "head_dim": "widths",
    "num_heads": "widths",
    "patch_size": "stride",
    "stem_stride": "stages",
    "stride": "stages",
}
"""Values that follow from another setting: they are no second change."""


def arch_differences(variant: Blueprint, baseline: Blueprint) -> dict[str, Difference]:
    """Settings of the grammar in which two networks differ, with both values."""
    one, other = _summary(variant), _summary(baseline)
    found = {name: (one[name], other[name]) for name in one if one[name] != other[name]}
    if len(variant.stages) == len(baseline.stages):
        found |= _option_differences(variant, baseline)
    return {name: values for name, values in found.items() if _DERIVED.get(name) not in found}


def _summary(blueprint: Blueprint) -> dict[str, str]:
    def each(field: str) -> str:
        stages = ["+".join(str(getattr(run, field)) for run in runs) for runs in blueprint.stages]
        return "-".join(stages)

    stem, group = blueprint.stem, blueprint.group
    return {
        "stages": str(len(blueprint.stages)),
        "layout": each("kind"),
        "depths": each("depth"),
        "widths": f"{stem.width}:{each('width')}" if stem else each("width"),
        "stride": each("stride"),
        "stem": f"{stem.kind}{stem.depth}" if stem else "none",
        "stem_stride": str(blueprint.stem_stride),
        "group": f"P{group.depth}" if group else "none",
        "head": blueprint.head,
        "drop_path_rate": format_value(blueprint.drop_path_rate),
        "drop_path_schedule": blueprint.drop_path_schedule if blueprint.drop_path_rate else "none",
    }


def _option_differences(variant: Blueprint, baseline: Blueprint) -> dict[str, Difference]:
    """Options with different values at places that have blocks of the same kind in both."""
    found: dict[str, Difference] = {}
    for one, other in _same_places(variant, baseline):
        for name in one.options:
            before, after = one.options[name], other.options[name]
            if before != after and _active(one, name, before) | _active(other, name, after):
                found.setdefault(name, (format_value(before), format_value(after)))
        if one.num_heads != other.num_heads:
            name = KINDS[one.kind].native_heads or "num_heads"
            values = [run.head_dim if name == "head_dim" else run.num_heads for run in (one, other)]
            if values[0] != values[1]:
                found.setdefault(name, (str(values[0]), str(values[1])))
    return found


def _active(run: RunSpec, name: str, value: Any) -> bool:
    rule = KINDS[run.kind].active.get(name)
    return rule is None or bool(rule({**run.options, "stride": run.stride}))


def _same_places(variant: Blueprint, baseline: Blueprint) -> Iterator[tuple[RunSpec, RunSpec]]:
    ends = [(variant.stem, baseline.stem), (variant.group, baseline.group)]
    runs = [
        pair
        for one, other in zip(variant.stages, baseline.stages, strict=True)
        for pair in zip(one, other, strict=False)
    ]
    for one, other in [*ends, *runs]:
        if one is not None and other is not None and one.kind == other.kind:
            yield one, other


def config_differences(
    prefix: str, variant: DataConfig | TrainConfig, baseline: DataConfig | TrainConfig
) -> dict[str, Difference]:
    """Settings of data or recipe that enter the key and differ, as "train.lr"."""
    one, other = variant.identity(), baseline.identity()
    names = sorted({*one, *other} - {"fingerprint"})
    return {
        f"{prefix}.{name}": (_text(one.get(name)), _text(other.get(name)))
        for name in names
        if one.get(name) != other.get(name)
    }


def _text(value: Any) -> str:
    return "null" if value is None else format_value(value)
