"""What an arch string means: every default filled in, every rule between parts checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ablate.errors import GrammarError
from ablate.grammar.arch import Arch, Options, Run, parse
from ablate.kinds import KINDS, NET_OPTIONS, OPTIONS, Kind, Value

_DEFAULT_STEM = Run(kind="S", depth=2, width=64)
_DEFAULT_DEPTH = {"S": 2, "E": 1}


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run, complete: all that its builder needs besides the input grid.

    Args:
        kind: letter of the registry.
        stage: 1-based stage (0 for the stem); `position` is 0-based within the stage.
        depth: number of blocks.
        in_width: channels of the incoming map; None where it is the image.
        width: channels.
        stride: down-sampling at the entrance of the run.
        num_heads: attention heads; 0 for kinds without.
        options: every option of the kind, with its value.
        drop_path: rate of stochastic depth for each block.
    """

    kind: str
    stage: int
    position: int
    depth: int
    in_width: int | None
    width: int
    stride: int
    num_heads: int
    options: Mapping[str, Value]
    drop_path: tuple[float, ...] = ()

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.num_heads


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """A network, complete: what the models are built from."""

    stem: RunSpec | None
    stages: tuple[tuple[RunSpec, ...], ...]
    group: RunSpec | None
    head: str
    stem_stride: int
    drop_path_rate: float
    drop_path_schedule: str

    @property
    def runs(self) -> tuple[RunSpec, ...]:
        """All runs of all stages, in order."""
        return tuple(run for stage in self.stages for run in stage)

    @property
    def last(self) -> RunSpec:
        """The run whose output the head reads."""
        return self.stages[-1][-1]


def resolve(arch: Arch | str) -> Blueprint:
    """The complete network of an arch.

    Raises:
        GrammarError: heads that do not divide a width, a head without its class token, a
            parallel group over unequal stages, and whatever else cannot be built.
    """
    return _Resolver(parse(arch) if isinstance(arch, str) else arch).blueprint()


def canonical(arch: Arch | str) -> str:
    """The one string of a network: depths and widths explicit, defaults left out.

    An option that all its places share stands after `@`, otherwise in parentheses; one without
    effect (a window where attention is global) is dropped.
    """
    return str(_Resolver(parse(arch) if isinstance(arch, str) else arch).canonical_arch())


class _Resolver:
    def __init__(self, arch: Arch) -> None:
        self.arch = arch
        self.net = dict(arch.options)
        first = arch.stages[0][0]
        needs_stem = KINDS[first.kind].needs_stem
        self.stem = arch.stem or (_DEFAULT_STEM if needs_stem else None)
        entrance = KINDS[(self.stem or first).kind]
        self.stem_stride = int(self._net("stem_stride", entrance.entrance_stride))
        self.stem_spec = self._stem() if self.stem else None
        self.stages = self._stages()
        self.group = self._group() if arch.group else None

    def _net(self, name: str, default: Value) -> Value:
        return self.net.get(name, default)

    # -- the parts ---------------------------------------------------------------------------

    def _stem(self) -> RunSpec:
        assert self.stem is not None
        first = self.arch.stages[0][0]
        fallback = (first.width or 64) if self.stem.kind == "E" else 64
        return self._spec(
            self.stem, stage=0, position=0, in_width=None, width=self.stem.width or fallback,
            stride=self.stem_stride,
        )  # fmt: skip

    def _stages(self) -> tuple[tuple[RunSpec, ...], ...]:
        width = self.stem_spec.width if self.stem_spec else None
        stages = []
        for index, runs in enumerate(self.arch.stages):
            specs: list[RunSpec] = []
            for position, run in enumerate(runs):
                out = run.width or (specs[-1].width if specs else 64 * 2**index)
                specs.append(
                    self._spec(
                        run, stage=index + 1, position=position, in_width=width, width=out,
                        stride=self._stride(run, index, position),
                    )  # fmt: skip
                )
                width = out
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
        return int(own) if isinstance(own, int) else 2

    def _group(self) -> RunSpec:
        group = self.arch.group
        assert group is not None
        scales = self._own(group, KINDS[group.kind]).get("scales", (2, 3, 4))
        assert isinstance(scales, tuple)
        members = []
        for scale in scales:
            if not isinstance(scale, int) or scale > len(self.stages):
                message = f"scale {scale} of the parallel group is no stage of {len(self.stages)}"
                raise self.arch.error(message, group)
            members.append(self.stages[scale - 1][-1])
        if len(set(scales)) != len(scales) or list(scales) != sorted(scales):
            raise self.arch.error("scales of the parallel group rise, each once", group)
        self._check_group(group, members)
        head = members[-1]
        return self._spec(
            group, stage=len(self.stages), position=1, in_width=head.width, width=head.width,
            stride=1, num_heads=head.num_heads,
        )  # fmt: skip

    def _check_group(self, group: Run, members: list[RunSpec]) -> None:
        if any(spec.kind != "F" for spec in members):
            kinds = "-".join(spec.kind for spec in members)
            raise self.arch.error(f"a parallel group needs stages of kind F, got {kinds}", group)
        widths = [spec.width for spec in members]
        if len(set(widths)) != 1:
            message = f"a parallel group needs stages of equal width, got {widths}"
            raise self.arch.error(message, group)
        for name in ("num_heads", "cls_token", "attn", "cpe", "crpe", "crpe_windows"):
            values = [
                spec.num_heads if name == "num_heads" else spec.options[name] for spec in members
            ]
            if len(set(values)) != 1:
                raise self.arch.error(
                    f"a parallel group needs one value of {name} in its stages, got {values}",
                    group,
                )

    # -- options -----------------------------------------------------------------------------

    def _own(self, run: Run, kind: Kind) -> dict[str, Value]:
        """Options of the run, then of the whole net; the run's own heads win as a pair."""
        own = dict(run.options)
        inherited = {name: value for name, value in self.net.items() if name in kind.options}
        if "head_dim" in own or "num_heads" in own:
            inherited.pop("head_dim", None)
            inherited.pop("num_heads", None)
        for name, value in inherited.items():
            if name in kind.choices and name not in own and value not in kind.choices[name]:
                inherited = {key: kept for key, kept in inherited.items() if key != name}
        return {**inherited, **own}

    def _spec(
        self,
        run: Run,
        *,
        stage: int,
        position: int,
        in_width: int | None,
        width: int,
        stride: int,
        num_heads: int | None = None,
    ) -> RunSpec:
        kind = KINDS[run.kind]
        given = self._own(run, kind)
        heads = self._heads(run, kind, given, width, stage) if num_heads is None else num_heads
        options = self._defaults(kind, given, stride, heads)
        options.update(
            {name: value for name, value in given.items() if name in options}
        )
        if "crpe_windows" in options:
            options["crpe_windows"] = self._windows(run, options["crpe_windows"], heads, stage)
        if options.get("embed") == "patch" and options["patch_size"] != stride:
            message = f"patches do not overlap: patch_size {options['patch_size']} needs"
            raise self.arch.error(f"{message} stride {stride}, or embed=conv", run)
        return RunSpec(
            kind=run.kind, stage=stage, position=position,
            depth=run.depth or _DEFAULT_DEPTH.get(run.kind, 2), in_width=in_width, width=width,
            stride=stride, num_heads=heads, options=MappingProxyType(options),
        )  # fmt: skip

    def _defaults(
        self, kind: Kind, given: Mapping[str, Value], stride: int, heads: int
    ) -> dict[str, Value]:
        options: dict[str, Value] = {}
        for name, default in kind.defaults.items():
            if name == "patch_size":
                default = default_patch_size(kind, given, stride)
            assert default is not None, f"no rule computes the default of {name}"
            options[name] = default
        if "crpe_windows" in options:
            options["crpe_windows"] = split_heads(options["crpe_windows"], heads)
        return options

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
        windows = split_heads(value, heads)
        assert isinstance(windows, tuple)
        total = sum(pair[1] for pair in windows if isinstance(pair, tuple))
        if total != heads:
            raise self.arch.error(
                f"crpe_windows must name as many heads as the block has, but got {total} of "
                f"{heads} in stage {stage}",
                run,
            )
        return windows

    # -- the whole ---------------------------------------------------------------------------

    def blueprint(self) -> Blueprint:
        rate = float(self._net("drop_path_rate", 0.0))
        schedule = str(self._net("drop_path_schedule", self._default_schedule()))
        rates = _drop_paths(self.stages, self.group, rate, schedule)
        stages = tuple(
            tuple(_with_rates(spec, rates) for spec in stage) for stage in self.stages
        )
        return Blueprint(
            stem=self.stem_spec, stages=stages,
            group=_with_rates(self.group, rates) if self.group else None,
            head=self._head(), stem_stride=self.stem_stride,
            drop_path_rate=rate, drop_path_schedule=schedule,
        )  # fmt: skip

    def _default_schedule(self) -> str:
        return KINDS[self.stages[0][0].kind].drop_path_schedule

    def _default_head(self) -> str:
        last = self.stages[-1][-1]
        has_token = bool(last.options.get("cls_token", False))
        if self.group:
            return KINDS[self.group.kind].head if has_token else "linear"
        if has_token:
            return "cls"
        head = KINDS[last.kind].head
        return "linear" if head == "cls" else head

    def _head(self) -> str:
        head = str(self._net("head", self._default_head()))
        last = self.stages[-1][-1]
        if head in ("cls", "aggregate") and not last.options.get("cls_token", False):
            raise self.arch.error(f"head={head} needs a class token in the last stage")
        if head == "aggregate" and not self.group:
            raise self.arch.error("head=aggregate needs a parallel group, such as |P6")
        return head

    def canonical_arch(self) -> Arch:
        """The arch whose text is canonical."""
        blueprint = self.blueprint()
        parts: list[RunSpec] = [*([self.stem_spec] if self.stem_spec else []), *blueprint.runs]
        parts += [self.group] if self.group else []
        own, shared = self._minimal_options(parts)
        runs = {id(spec): self._canonical_run(spec, own[id(spec)]) for spec in parts}
        bare = Arch(stages=self.arch.stages)
        net = self._canonical_net(blueprint, _Resolver._entrance(self), bare)
        return Arch(
            stem=runs[id(self.stem_spec)] if self.stem_spec else None,
            stages=tuple(tuple(runs[id(s)] for s in stage) for stage in blueprint.stages),
            group=runs[id(self.group)] if self.group else None,
            options=tuple(sorted({**shared, **net}.items())),
        )

    def _entrance(self) -> Kind:
        return KINDS[(self.stem or self.arch.stages[0][0]).kind]

    def _canonical_net(
        self, blueprint: Blueprint, entrance: Kind, bare: Arch
    ) -> dict[str, Value]:
        net: dict[str, Value] = {}
        if blueprint.stem_stride != entrance.entrance_stride:
            net["stem_stride"] = blueprint.stem_stride
        if blueprint.head != self._default_head():
            net["head"] = blueprint.head
        if blueprint.drop_path_rate:
            net["drop_path_rate"] = blueprint.drop_path_rate
            if blueprint.drop_path_schedule != self._default_schedule():
                net["drop_path_schedule"] = blueprint.drop_path_schedule
        return net

    def _canonical_run(self, spec: RunSpec, options: dict[str, Value]) -> Run:
        if spec.position == 0 and spec.stride != 2 and (spec.stage > 1 or self._after_stem(spec)):
            options["stride"] = spec.stride
        width = None if KINDS[spec.kind].role == "group" else spec.width
        return Run(
            kind=spec.kind, depth=spec.depth, width=width, options=tuple(sorted(options.items()))
        )

    def _after_stem(self, spec: RunSpec) -> bool:
        return spec.stage == 1 and self.stem_spec is not None

    def _minimal_options(
        self, parts: list[RunSpec]
    ) -> tuple[dict[int, dict[str, Value]], dict[str, Value]]:
        """For each part the options that only it needs, and those that all places share."""
        own: dict[int, dict[str, Value]] = {id(spec): {} for spec in parts}
        shared: dict[str, Value] = {}
        names = {name for spec in parts for name in KINDS[spec.kind].options} - {"stride"}
        for name in sorted(names):
            if name in NET_OPTIONS:
                continue
            places = [spec for spec in parts if _takes(spec, name)]
            values = {id(spec): _effective(spec, name) for spec in places}
            changed = [s for s in places if values[id(s)] != self._plain(s, name)]
            if not changed:
                continue
            if len(changed) == len(places) and len(set(values.values())) == 1:
                shared[name] = values[id(changed[0])]
            else:
                for spec in changed:
                    own[id(spec)][name] = values[id(spec)]
        return own, shared

    def _plain(self, spec: RunSpec, name: str) -> Value:
        """The value that a place has where the string is silent."""
        kind = KINDS[spec.kind]
        if name == kind.native_heads:
            return kind.default_heads
        embed = {"embed": spec.options["embed"]} if "embed" in spec.options else {}
        return self._defaults(kind, embed, spec.stride, spec.num_heads)[name]


def _takes(spec: RunSpec, name: str) -> bool:
    """Whether the option has an effect at this place, in the kind's own unit of heads."""
    kind = KINDS[spec.kind]
    if name in ("head_dim", "num_heads"):
        return name == kind.native_heads
    if name not in kind.defaults:
        return False
    active = kind.active.get(name)
    return active is None or active({**spec.options, "stride": spec.stride})


def _effective(spec: RunSpec, name: str) -> Value:
    if name == "head_dim":
        return spec.head_dim
    return spec.num_heads if name == "num_heads" else spec.options[name]


def default_patch_size(kind: Kind, given: Mapping[str, Value], stride: int) -> int:
    """Kernel of the token embedding: the stride for patches; 7 at stride 4, else 3 (CvT)."""
    embed = given.get("embed", kind.defaults.get("embed", "patch"))
    if embed == "patch":
        return stride
    wide = kind.defaults.get("act") == "quick_gelu" and stride >= 4  # CvT's first embedding
    return 7 if wide else 3


def split_heads(windows: Value, heads: int) -> Value:
    """Windows with their heads; without, heads are split evenly, the rest to the last windows.

    >>> split_heads((3, 5, 7), 8)
    ((3, 2), (5, 3), (7, 3))
    """
    assert isinstance(windows, tuple)
    if windows and isinstance(windows[0], tuple):
        return windows
    count = len(windows)
    shares = [heads // count + (index >= count - heads % count) for index in range(count)]
    pairs = zip(windows, shares, strict=True)
    return tuple((int(window), share) for window, share in pairs if share)  # type: ignore[arg-type]


def _drop_paths(
    stages: tuple[tuple[RunSpec, ...], ...], group: RunSpec | None, rate: float, schedule: str
) -> dict[tuple[int, int], tuple[float, ...]]:
    """Rate of stochastic depth of each block, by (stage, position)."""
    places = [*[spec for stage in stages for spec in stage], *([group] if group else [])]
    if schedule == "constant":
        return {(p.stage, p.position): (rate,) * p.depth for p in places}
    ramped = places if schedule == "linear" else list(stages[-1])
    total = sum(place.depth for place in ramped)
    ramp = iter(rate * index / max(total - 1, 1) for index in range(total))
    return {
        (p.stage, p.position): tuple(next(ramp) if p in ramped else 0.0 for _ in range(p.depth))
        for p in places
    }


def _with_rates(spec: RunSpec, rates: Mapping[tuple[int, int], tuple[float, ...]]) -> RunSpec:
    fields = {name: getattr(spec, name) for name in RunSpec.__dataclass_fields__}
    return RunSpec(**{**fields, "drop_path": rates[spec.stage, spec.position]})


__all__ = ["Blueprint", "GrammarError", "Options", "RunSpec", "canonical", "resolve"]
assert set(NET_OPTIONS) <= set(OPTIONS)
