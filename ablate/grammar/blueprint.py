"""A network with every default filled in: what the models are built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from ablate.options import Value


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

    def flag(self, name: str) -> bool:
        """An option that is true or false."""
        value = self.options[name]
        assert isinstance(value, bool), name
        return value

    def count(self, name: str) -> int:
        """An option that is a whole number."""
        value = self.options[name]
        assert isinstance(value, int), name
        return value

    def number(self, name: str) -> float:
        """An option that is a number."""
        value = self.options[name]
        assert isinstance(value, (int, float)), name
        return float(value)

    def word(self, name: str) -> str:
        """An option that is one of several words."""
        value = self.options[name]
        assert isinstance(value, str), name
        return value

    def counts(self, name: str) -> tuple[int, ...]:
        """An option that is a list of whole numbers."""
        value = self.options[name]
        assert isinstance(value, tuple), name
        return tuple(item for item in value if isinstance(item, int))

    def pairs(self, name: str) -> tuple[tuple[int, int], ...]:
        """An option that is a list of pairs, such as the windows of CRPE with their heads."""
        value = self.options[name]
        assert isinstance(value, tuple), name
        return tuple(item for item in value if isinstance(item, tuple))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle and deepcopy by the fields: a mapping proxy allows neither."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return _restore, ({**values, "options": dict(self.options)},)


def _restore(values: dict[str, Any]) -> RunSpec:
    return RunSpec(**{**values, "options": MappingProxyType(values["options"])})


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """A network, complete.

    Args:
        stem: the stem, or None where the first stage reads the image.
        stages: the runs of each stage.
        group: the parallel group, with the width and heads of its stages.
        head: "mlp", "linear", "cls" or "aggregate".
        stem_stride: stride of whatever reads the image.
        drop_path_rate: maximum rate of stochastic depth; each run holds its blocks' rates.
        drop_path_schedule: how the rates rise.
    """

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

    @property
    def scales(self) -> tuple[int, ...]:
        """1-based stages that the parallel group works on."""
        return self.group.counts("scales") if self.group else ()
