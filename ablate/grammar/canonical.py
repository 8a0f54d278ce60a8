"""The one string of a network: what tells two networks apart, and nothing else."""

from __future__ import annotations

from ablate.grammar import defaults
from ablate.grammar.arch import Arch, Run, parse
from ablate.grammar.blueprint import Blueprint, RunSpec
from ablate.grammar.resolve import entrance, resolve
from ablate.kinds import KINDS
from ablate.options import NET_OPTIONS, Value

_Place = tuple[int, int]


def canonical(arch: Arch | str) -> str:
    """The shortest string of a network: depths and widths explicit, defaults left out.

    An option that all its places share stands after `@`, otherwise in parentheses; one without
    effect (a window where attention is global) is dropped. Equal strings mean equal networks,
    and equal networks written differently have equal strings.

    Raises:
        GrammarError: the arch cannot be built.
    """
    arch = parse(arch) if isinstance(arch, str) else arch
    blueprint = resolve(arch)
    parts = [spec for spec in (blueprint.stem, *blueprint.runs, blueprint.group) if spec]
    own, shared = _minimal_options(parts)
    runs = {_place(spec): _run(spec, own[_place(spec)], blueprint) for spec in parts}
    net = {**shared, **_net_options(arch, blueprint)}
    return str(
        Arch(
            stem=runs[_place(blueprint.stem)] if blueprint.stem else None,
            stages=tuple(tuple(runs[_place(s)] for s in stage) for stage in blueprint.stages),
            group=runs[_place(blueprint.group)] if blueprint.group else None,
            options=tuple(sorted(net.items())),
        )
    )


def _place(spec: RunSpec) -> _Place:
    return spec.stage, spec.position


def _run(spec: RunSpec, options: dict[str, Value], blueprint: Blueprint) -> Run:
    reads_image = spec is blueprint.stem or (spec.in_width is None)
    if spec.position == 0 and not reads_image and spec.stride != 2:
        options = {**options, "stride": spec.stride}
    width = None if KINDS[spec.kind].role == "group" else spec.width
    return Run(
        kind=spec.kind, depth=spec.depth, width=width, options=tuple(sorted(options.items()))
    )


def _net_options(arch: Arch, blueprint: Blueprint) -> dict[str, Value]:
    """Options of the whole net that differ from what the network has without them."""
    net: dict[str, Value] = {}
    if blueprint.stem_stride != entrance(arch).entrance_stride:
        net["stem_stride"] = blueprint.stem_stride
    if blueprint.head != defaults.head(blueprint.last, blueprint.group):
        net["head"] = blueprint.head
    if blueprint.drop_path_rate:
        net["drop_path_rate"] = blueprint.drop_path_rate
        if blueprint.drop_path_schedule != KINDS[blueprint.runs[0].kind].drop_path_schedule:
            net["drop_path_schedule"] = blueprint.drop_path_schedule
    return net


def _minimal_options(
    parts: list[RunSpec],
) -> tuple[dict[_Place, dict[str, Value]], dict[str, Value]]:
    """For each part the options that only it needs, and those that all their places share."""
    own: dict[_Place, dict[str, Value]] = {_place(spec): {} for spec in parts}
    shared: dict[str, Value] = {}
    names = {name for spec in parts for name in KINDS[spec.kind].options}
    for name in sorted(names - {"stride", *NET_OPTIONS}):
        places = [spec for spec in parts if _has_effect(spec, name)]
        changed = [spec for spec in places if _value(spec, name) != _default(spec, name)]
        values = {_value(spec, name) for spec in changed}
        alone = not any(_counts_otherwise(spec, name) for spec in parts)
        if alone and len(changed) == len(places) and len(values) == 1:
            shared[name] = values.pop()
        else:
            for spec in changed:
                own[_place(spec)][name] = _value(spec, name)
    return own, shared


def _has_effect(spec: RunSpec, name: str) -> bool:
    """Whether the option changes this run; heads are told in the kind's own unit."""
    kind = KINDS[spec.kind]
    if name in ("head_dim", "num_heads"):
        return name == kind.native_heads
    if name not in kind.defaults:
        return False
    active = kind.active.get(name)
    return active is None or active({**spec.options, "stride": spec.stride})


def _counts_otherwise(spec: RunSpec, name: str) -> bool:
    """Whether heads told in this unit after `@` would reach a kind that counts in the other."""
    native = KINDS[spec.kind].native_heads
    return name in ("head_dim", "num_heads") and native not in (None, name)


def _value(spec: RunSpec, name: str) -> Value:
    if name == "head_dim":
        return spec.head_dim
    return spec.num_heads if name == "num_heads" else spec.options[name]


def _default(spec: RunSpec, name: str) -> Value:
    """The value that the run has where the string is silent about this option alone."""
    kind = KINDS[spec.kind]
    if name == kind.native_heads:
        return kind.default_heads
    others = {key: value for key, value in spec.options.items() if key != name}
    return defaults.options(kind, others, stride=spec.stride, num_heads=spec.num_heads)[name]
