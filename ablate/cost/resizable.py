"""The widths and depths of an arch as numbers that can be changed together."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from ablate.grammar import Arch, Blueprint, Run, RunSpec, canonical, parse, resolve
from ablate.kinds import KINDS


@dataclass(frozen=True)
class Shape:
    """Channels and depths of an arch.

    Args:
        widths: one for each distinct width of the arch, rising. Places of one width keep one:
            shortcuts without projection and parallel groups depend on it.
        depths: blocks of every run, in order, and of the parallel group.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]


class Resizable:
    """An arch whose shape can be changed: `with_shape(shape)` is the same arch, resized.

    Attributes:
        arch: canonical string.
        base: its own shape.
        steps: for each distinct width what it must be a multiple of: the head dimension (or the
            number of heads where the kind counts those); without heads 8 channels, 4 below 64.
        places: for each part of the network (stem, runs, group, head) the indices of its
            incoming and its own width (None: the image), and of its depth (None: fixed).
    """

    def __init__(self, arch: str) -> None:
        self.arch = canonical(arch)
        self._parsed = parse(self.arch)
        blueprint = resolve(self._parsed)
        specs = [*([blueprint.stem] if blueprint.stem else []), *blueprint.runs]
        widths = tuple(sorted({spec.width for spec in specs}))
        group = (blueprint.group.depth,) if blueprint.group else ()
        self.base = Shape(widths, (*(spec.depth for spec in blueprint.runs), *group))
        self.steps = tuple(
            math.lcm(*(_step(spec) for spec in specs if spec.width == width)) for width in widths
        )
        self.places = _places(blueprint, widths)

    def with_shape(self, shape: Shape) -> str:
        """The canonical string of this arch with other widths and depths."""
        new_width = dict(zip(self.base.widths, shape.widths, strict=True))
        depths = iter(shape.depths)

        def resized(run: Run, depth: int | None) -> Run:
            width = None if run.width is None else new_width[run.width]
            return dataclasses.replace(run, width=width, depth=depth)

        stem = self._parsed.stem
        stages = tuple(
            tuple(resized(run, next(depths)) for run in stage) for stage in self._parsed.stages
        )
        arch = Arch(
            stem=resized(stem, stem.depth) if stem else None,
            stages=stages,
            group=resized(self._parsed.group, next(depths)) if self._parsed.group else None,
            options=self._parsed.options,
        )
        return canonical(str(arch))


def _step(spec: RunSpec) -> int:
    unit = KINDS[spec.kind].native_heads
    if unit == "head_dim":
        return spec.head_dim
    if unit == "num_heads":
        return spec.num_heads
    return 8 if spec.width >= 64 else 4


Place = tuple[int | None, int, int | None]


def _places(blueprint: Blueprint, widths: tuple[int, ...]) -> tuple[Place, ...]:
    """(incoming width, own width, depth) of stem, runs, group and head, as indices."""
    index = {width: place for place, width in enumerate(widths)}
    places: list[Place] = []
    incoming: int | None = None
    if blueprint.stem:
        incoming = index[blueprint.stem.width]
        places.append((None, incoming, None))
    for number, spec in enumerate(blueprint.runs):
        places.append((incoming, index[spec.width], number))
        incoming = index[spec.width]
    last = index[blueprint.last.width]
    if blueprint.group:
        places.append((last, last, len(blueprint.runs)))
    places.append((last, last, None))
    return tuple(places)
