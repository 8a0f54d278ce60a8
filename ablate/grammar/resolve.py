"""From an arch as written to its blueprint: defaults filled in, rules between parts checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from ablate.grammar import defaults
from ablate.grammar.arch import Arch, Run, parse
from ablate.grammar.blueprint import Blueprint, RunSpec
from ablate.kinds import KINDS, Kind
from ablate.options import Value

_SHARED_BY_GROUP = ("attn", "cls_token", "cpe", "crpe", "crpe_windows")


def resolve(arch: Arch | str) -> Blueprint:
    """The complete network of an arch.

    Raises:
        GrammarError: heads that do not divide a width, a head without its class token, a
            parallel group over unequal stages, and whatever else cannot be built.
    """
    return _Resolver(parse(arch) if isinstance(arch, str) else arch).blueprint()


def entrance(arch: Arch) -> Kind:
    """The kind that reads the image: the stem (written or implied) or the first stage's."""
    first = KINDS[arch.stages[0][0].kind]
    if arch.stem:
        return KINDS[arch.stem.kind]
    return KINDS[defaults.STEM.kind] if first.needs_stem else first


class _Resolver:
    def __init__(self, arch: Arch) -> None:
        self.arch = arch
        self.net = dict(arch.options)
        implied = defaults.STEM if KINDS[arch.stages[0][0].kind].needs_stem else None
        self.stem = arch.stem or implied
        stride = self.net.get("stem_stride", entrance(arch).entrance_stride)
        assert isinstance(stride, int)
        self.stem_stride = stride

    def blueprint(self) -> Blueprint:
        stem = self._stem()
        stages = self._stages(stem.width if stem else None)
        group = self._group(stages) if self.arch.group else None
        runs = [spec for stage in stages for spec in stage]
        rate = self.net.get("drop_path_rate", 0.0)
        assert isinstance(rate, float)
        schedule = self.net.get("drop_path_schedule", KINDS[runs[0].kind].drop_path_schedule)
        head = self._head(runs[-1], group)
        rates = defaults.drop_paths(
            [*runs, *([group] if group else [])], rate=rate, schedule=str(schedule)
        )

        def rated(spec: RunSpec) -> RunSpec:
            return dataclasses.replace(spec, drop_path=rates[spec.stage, spec.position])

        return Blueprint(
            stem=stem,
            stages=tuple(tuple(rated(spec) for spec in stage) for stage in stages),
            group=rated(group) if group else None,
            head=head,
            stem_stride=self.stem_stride,
            drop_path_rate=rate,
            drop_path_schedule=str(schedule),
        )

    def _stem(self) -> RunSpec | None:
        if self.stem is None:
            return None
        follows = self.arch.stages[0][0].width if self.stem.kind == "E" else None
        width = self.stem.width or follows or 64
        return self._spec(
            self.stem, stage=0, position=0, in_width=None, width=width, stride=self.stem_stride
        )

    def _stages(self, width: int | None) -> tuple[tuple[RunSpec, ...], ...]:
        stages = []
        for index, runs in enumerate(self.arch.stages):
            specs: list[RunSpec] = []
            for position, run in enumerate(runs):
                spec = self._spec(
                    run,
                    stage=index + 1,
                    position=position,
                    in_width=width,
                    width=run.width or (specs[-1].width if specs else 64 * 2**index),
                    stride=self._stride(run, index, position),
                )
                specs.append(spec)
                width = spec.width
            stages.append(tuple(specs))
        return tuple(stages)

    def _stride(self, run: Run, stage: int, position: int) -> int:
        own = dict(run.options).get("stride")
        if position > 0:
            if own not in (None, 1):
                raise self.arch.error("only the first run of a stage has a stride", run)
            return 1
        if stage == 0 and self.stem is None:
            if own is not None:
                raise self.arch.error("the first stage reads the image: use @stem_stride", run)
            return self.stem_stride
        return own if isinstance(own, int) else 2

    def _spec(
        self,
        run: Run,
        *,
        stage: int,
        position: int,
        in_width: int | None,
        width: int,
        stride: int,
    ) -> RunSpec:
        kind = KINDS[run.kind]
        given = self._given(run, kind)
        heads = self._heads(run, kind, given, width, stage)
        options = defaults.options(kind, given, stride=stride, num_heads=heads)
        options.update({name: value for name, value in given.items() if name in options})
        if options.get("crpe", False):
            options["crpe_windows"] = self._windows(run, options["crpe_windows"], heads, stage)
        if options.get("embed", "conv") == "patch" and options["patch_size"] != stride:
            size = options["patch_size"]
            message = f"patches do not overlap: patch_size {size} needs stride {size}, not {stride}"
            raise self.arch.error(f"{message}; embed=conv overlaps", run)
        return RunSpec(
            kind=run.kind,
            stage=stage,
            position=position,
            depth=run.depth or defaults.depth(run.kind),
            in_width=in_width,
            width=width,
            stride=stride,
            num_heads=heads,
            options=MappingProxyType(options),
        )

    def _given(self, run: Run, kind: Kind) -> dict[str, Value]:
        """Options of the run, then of the whole net; a run's own heads win as a pair."""
        own = dict(run.options)
        has_heads = "head_dim" in own or "num_heads" in own
        inherited = {
            name: value
            for name, value in self.net.items()
            if name in kind.options
            and not (has_heads and name in ("head_dim", "num_heads"))
            and (name not in kind.choices or value in kind.choices[name])
        }
        return {**inherited, **own}

    def _heads(
        self, run: Run, kind: Kind, given: Mapping[str, Value], width: int, stage: int
    ) -> int:
        if not kind.native_heads:
            return 0
        names = ("head_dim", "num_heads")
        name = next((name for name in names if name in given), kind.native_heads)
        value = given.get(name, kind.default_heads)
        assert isinstance(value, int)
        if width % value:
            raise self.arch.error(
                f"width must be divisible by {name}, but got width={width}, {name}={value} "
                f"in stage {stage}",
                run,
            )
        return width // value if name == "head_dim" else value

    def _windows(self, run: Run, value: Value, heads: int, stage: int) -> Value:
        windows = defaults.split_heads(value, heads)
        total = sum(share for _, share in windows)
        if total != heads:
            raise self.arch.error(
                f"crpe_windows must name as many heads as the block has, but got {total} of "
                f"{heads} in stage {stage}",
                run,
            )
        return windows

    def _group(self, stages: tuple[tuple[RunSpec, ...], ...]) -> RunSpec:
        group = self.arch.group
        assert group is not None
        last = stages[-1][-1]
        spec = self._spec(
            group,
            stage=last.stage,
            position=last.position + 1,
            in_width=last.width,
            width=last.width,
            stride=1,
        )
        scales = spec.counts("scales")
        if list(scales) != sorted(set(scales)):
            raise self.arch.error("scales of the parallel group rise, each once", group)
        if scales[-1] != len(stages):
            message = f"the last scale of the parallel group is the last stage, {len(stages)}"
            raise self.arch.error(f"{message}, but got {scales[-1]}", group)
        self._check_members(group, [stages[scale - 1][-1] for scale in scales])
        return dataclasses.replace(spec, num_heads=last.num_heads)

    def _check_members(self, group: Run, members: list[RunSpec]) -> None:
        facts: dict[str, list[object]] = {
            "kind F": [spec.kind for spec in members],
            "equal width": [spec.width for spec in members],
            "equal num_heads": [spec.num_heads for spec in members],
        }
        if set(facts["kind F"]) == {"F"}:
            shared = _SHARED_BY_GROUP if members[0].flag("crpe") else _SHARED_BY_GROUP[:-1]
            for name in shared:
                facts[f"equal {name}"] = [spec.options[name] for spec in members]
        for need, values in facts.items():
            if len(set(values)) != 1 or (need == "kind F" and values[0] != "F"):
                listed = ", ".join(map(str, values))
                message = f"a parallel group needs stages of {need}, but got {listed}"
                raise self.arch.error(message, group)

    def _head(self, last: RunSpec, group: RunSpec | None) -> str:
        head = str(self.net.get("head", defaults.head(last, group)))
        if head in ("cls", "aggregate") and not last.options.get("cls_token", False):
            raise self.arch.error(f"head={head} needs a class token in the last stage")
        if head == "aggregate" and not group:
            raise self.arch.error("head=aggregate needs a parallel group, such as |P6")
        return head
