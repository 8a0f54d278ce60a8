"""The engine of key layouts: tables from our keys to those of another project.

Every table is written once, from ours to theirs: exporting applies it, loading inverts it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ablate.grammar import RunSpec
from ablate.models.network import Network

Rules = tuple[tuple[str, str], ...]
"""(pattern at the beginning of our key, their beginning).

The pattern sees the kind of a run after its place (`stages.2.0.T.blocks...`), since kinds share
names of layers. In their beginning, {i_next} is the number in the group i plus one.
"""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """Tensors that another project stores in another order or shape.

    Args:
        pattern: the end of our keys that it holds for.
        load: their tensor, ours (for its shape) and the heads of the run -> their values in our
            order, or None where the shape does not allow that.
        export: our tensor and the heads of the run -> in their order.
    """

    pattern: str
    load: Callable[[Tensor, Tensor, int], Tensor | None]
    export: Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One project's state dict.

    Args:
        name: "ablate", "official" or "timm".
        title: how messages call it.
        marks: patterns that all occur among its keys; the first layout whose marks do is taken.
        rules: our keys -> theirs; the first pattern that matches wins. None keeps our keys.
        head: pattern of their keys that belong to the head and its norms.
        aliases: their keys that repeat another one's tensor, by model: {alias: canonical}.
        absent: our keys that this project does not store, by model.
        conversions: tensors stored in another order or shape.
    """

    name: str
    title: str
    marks: tuple[str, ...]
    rules: Rules | None
    head: str
    aliases: Callable[[Network], Mapping[str, str]] = field(default=lambda model: {})
    absent: Callable[[Network], frozenset[str]] = field(default=lambda model: frozenset())
    conversions: tuple[Conversion, ...] = ()

    def names(self, model: Network) -> dict[str, str]:
        """{our key: their key} for every tensor of a network that has a place in the layout."""
        found = {key: self._translate(model, key) for key in model.state_dict()}
        return {key: name for key, name in found.items() if name is not None}

    def unmapped(self, model: Network) -> list[str]:
        """Our keys without a place in the layout."""
        names = self.names(model)
        return [key for key in model.state_dict() if key not in names]

    def _translate(self, model: Network, key: str) -> str | None:
        if self.rules is None:
            return key
        marked = _with_kind(model, key)
        for pattern, template in self.rules:
            match = re.match(pattern, marked)
            if match is not None:
                fields = match.groupdict()
                numbers = {name: text for name, text in fields.items() if text.isdigit()}
                after = {f"{name}_next": int(text) + 1 for name, text in numbers.items()}
                return template.format(**fields, **after) + marked[match.end() :]
        return None

    def is_head(self, name: str) -> bool:
        """Whether their key belongs to the head and its norms."""
        return re.match(self.head, name) is not None

    def imported(self, model: Network, key: str, tensor: Tensor, own: Tensor) -> Tensor | None:
        """Their tensor in our order; None where its shape does not allow that."""
        conversion = self._conversion(key)
        return conversion.load(tensor, own, _heads(model, key)) if conversion else tensor

    def export(self, model: Network) -> dict[str, Tensor]:
        """The state dict of a network under this layout's keys, with its aliases."""
        absent = self.absent(model)
        state = model.state_dict()
        out = {
            name: self._exported(model, key, state[key]).clone()
            for key, name in self.names(model).items()
            if key not in absent
        }
        repeated = self.aliases(model).items()
        return out | {alias: out[canonical] for alias, canonical in repeated}

    def _exported(self, model: Network, key: str, tensor: Tensor) -> Tensor:
        conversion = self._conversion(key)
        return conversion.export(tensor, _heads(model, key)) if conversion else tensor

    def _conversion(self, key: str) -> Conversion | None:
        return next((c for c in self.conversions if re.search(c.pattern, key)), None)


_RUN = re.compile(r"stages\.(\d+)\.(\d+)\.")


def _run(model: Network, key: str) -> RunSpec | None:
    """The run that one of our keys belongs to; None for stem, group and head."""
    match = _RUN.match(key)
    return model.blueprint.stages[int(match[1])][int(match[2])] if match else None


def _with_kind(model: Network, key: str) -> str:
    run = _run(model, key)
    return key if run is None else _RUN.sub(rf"\g<0>{run.kind}.", key, count=1)


def _heads(model: Network, key: str) -> int:
    """Attention heads of the run that a key belongs to; 0 outside of runs."""
    run = _run(model, key)
    return run.num_heads if run else 0


def unused_norms(model: Network) -> frozenset[str]:
    """Keys of stage output norms that no head reads; the authors store them, timm does not."""
    blueprint = model.blueprint
    read: set[str] = set()
    if model.head is not None and blueprint.head in ("cls", "aggregate"):
        stages = blueprint.scales if blueprint.head == "aggregate" else (len(blueprint.stages),)
        read = {f"{stage - 1}.{len(blueprint.stages[stage - 1]) - 1}" for stage in stages}
    norms = re.compile(r"stages\.(\d+\.\d+)\.norm\.")
    matches = ((key, norms.match(key)) for key in model.state_dict())
    return frozenset(key for key, match in matches if match and match[1] not in read)
