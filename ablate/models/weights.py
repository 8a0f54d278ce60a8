"""Weights from files and back: ours, the authors' CoaT and CvT files, timm's CoaT and CoAtNet."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ablate.errors import WeightsError, unknown
from ablate.models.network import Network
from ablate.models.relative_transformer import resize_table
from ablate.models.weights_coat import COAT_OFFICIAL, COAT_TIMM
from ablate.models.weights_coatnet import COATNET_TIMM
from ablate.models.weights_cvt import CVT_OFFICIAL
from ablate.models.weights_files import read_state
from ablate.models.weights_layouts import Layout, unused_norms

ABLATE = Layout(
    name="ablate",
    title="ablate",
    marks=(r"stages\.\d+\.\d+\.",),
    rules=None,
    head=r"head\.|stages\.\d+\.\d+\.norm\.",
)

LAYOUTS: tuple[Layout, ...] = (COAT_OFFICIAL, COAT_TIMM, CVT_OFFICIAL, COATNET_TIMM, ABLATE)
"""Most specific first."""

_SHOWN = 5
"""How many keys a message names."""

_CLASSIFIER = "head.fc."
"""Our keys of the layer whose shape depends on the number of classes."""


@dataclass(frozen=True, kw_only=True)
class WeightsReport:
    """What loading did with every tensor.

    Args:
        source_format: name of the layout that the source was in.
        mapped: (key in the source, key in our network) of every tensor that was copied.
        dropped: keys of the source that have no place here: checked aliases, the norms and head
            of a network without one, and under `strict=False` whatever else did not fit.
        resized: our keys whose tensor was resized from another resolution.
        missing: our keys that kept their initial values.
    """

    source_format: str
    mapped: tuple[tuple[str, str], ...]
    dropped: tuple[str, ...]
    resized: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        counts = f"{len(self.mapped)} mapped, {len(self.dropped)} dropped"
        counts += f", {len(self.resized)} resized, {len(self.missing)} missing"
        return f"{self.source_format} weights: {counts}"


def load_weights(
    model: Network,
    source: str | Path | Mapping[str, object],
    *,
    strict: bool = True,
    head: str = "load",
) -> WeightsReport:
    """Copy weights of any known layout into a network.

    Args:
        model: the network, in place.
        source: a `.safetensors` file, a pickle that torch can read with `weights_only`, or a
            mapping: a state dict, alone or under "model" or "state_dict".
        strict: every key must find its place; otherwise what does not fit is left out.
        head: "load", or "skip" to keep the fresh last layer (for other classes).

    Returns:
        What was mapped, dropped and resized.

    Raises:
        WeightsError: the file cannot be read, is of another network (the first keys that do not
            fit are named), or its head has another number of classes.
    """
    if head not in ("load", "skip"):
        raise WeightsError(unknown("value of head", head, ["load", "skip"]))
    _check_model(model)
    state, where = read_state(source)
    layout = _find_layout(state, where)
    return _Loader(model, layout, where, strict=strict, skip_head=head == "skip").load(state)


def export_weights(model: Network, layout: str = "ablate") -> dict[str, Tensor]:
    """The state dict of a network under another project's keys, so that its code can load it.

    Args:
        model: the network.
        layout: "ablate" (our own keys), "official" (the authors' CoaT with its aliased keys, or
            CvT) or "timm" (CoaT, CoAtNet).

    Returns:
        Keys and copies of the tensors; `load_weights` takes it back unchanged.

    Raises:
        WeightsError: the layout has no key for some part of this network.
    """
    _check_model(model)
    choices = ["ablate", "official", "timm"]
    if layout not in choices:
        raise WeightsError(unknown("layout", layout, choices))
    candidates = [known for known in LAYOUTS if known.name == layout]
    fitting = [known for known in candidates if not known.unmapped(model)]
    if not fitting:
        nearest = min(candidates, key=lambda known: len(known.unmapped(model)))
        raise WeightsError(
            f"layout {layout!r} has no key for {_listed(nearest.unmapped(model))} of this network"
        )
    return fitting[0].export(model)


def _check_model(model: object) -> None:
    if not isinstance(model, Network):
        raise WeightsError(
            f"weights are mapped for networks of the grammar, but got {type(model).__name__}: "
            "a comparison row is loaded by its own library"
        )


def _find_layout(state: Mapping[str, Tensor], where: str) -> Layout:
    for layout in LAYOUTS:
        if all(any(re.match(mark, name) for name in state) for mark in layout.marks):
            return layout
    known = ", ".join(layout.title for layout in LAYOUTS)
    raise WeightsError(
        f"{where} is in no layout that we know ({known}): its keys begin {_listed(list(state))}"
    )


class _Loader:
    """One call of `load_weights`: every key is placed before any is copied."""

    def __init__(
        self, model: Network, layout: Layout, where: str, *, strict: bool, skip_head: bool
    ) -> None:
        self.model = model
        self.layout = layout
        self.where = where
        self.strict = strict
        self.skip_head = skip_head
        self.mapped: list[tuple[str, str]] = []
        self.dropped: list[str] = []
        self.resized: list[str] = []

    def load(self, state: Mapping[str, Tensor]) -> WeightsReport:
        own = self.model.state_dict()
        places = {foreign: key for key, foreign in self.layout.names(self.model).items()}
        placed = self._placed(self._unaliased(state), places)
        ready: dict[str, Tensor] = {}
        for foreign, tensor in placed.items():
            key = places[foreign]
            fitted = self._fitted(foreign, key, tensor, own[key])
            if fitted is not None:
                ready[key] = fitted
                self.mapped.append((foreign, key))
        missing = [key for key in own if key not in ready]
        self._check_missing([key for key in missing if not self._may_miss(key)])
        with torch.no_grad():
            for key, tensor in ready.items():
                own[key].copy_(tensor)
        return WeightsReport(
            source_format=self.layout.title,
            mapped=tuple(self.mapped),
            dropped=tuple(self.dropped),
            resized=tuple(self.resized),
            missing=tuple(missing),
        )

    def _unaliased(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The source without keys that repeat another key's tensor, each checked to be equal."""
        aliases = self.layout.aliases(self.model)
        kept = {name: tensor for name, tensor in state.items() if name not in aliases}
        for name in [name for name in state if name in aliases]:
            first = kept.setdefault(aliases[name], state[name])
            if not torch.equal(first, state[name]):
                raise WeightsError(
                    f"{self.where}: {name} must equal {aliases[name]}, which the network shares, "
                    "but their values differ"
                )
            self.dropped.append(name)
        return kept

    def _placed(self, state: Mapping[str, Tensor], places: Mapping[str, str]) -> dict[str, Tensor]:
        """What has a place in the network; the rest is dropped or, under strict, an error."""
        strange: list[str] = []
        placed: dict[str, Tensor] = {}
        for name, tensor in state.items():
            key = places.get(name)
            if key is None:
                left_out = self.dropped if self.layout.is_head(name) else strange
                left_out.append(name)
            elif self.skip_head and key.startswith(_CLASSIFIER):
                self.dropped.append(name)
            else:
                placed[name] = tensor
        if strange and (self.strict or not placed):
            raise WeightsError(
                f"{self.where}: {self.layout.title} weights do not fit {self._network()}: "
                f"no place for {_listed(strange)}"
            )
        self.dropped += strange
        return placed

    def _fitted(self, name: str, key: str, tensor: Tensor, own: Tensor) -> Tensor | None:
        """The tensor in our shape, resized if it is a position table; None to leave it out."""
        converted = self.layout.imported(self.model, key, tensor, own)
        if converted is not None and _is_other_grid(key, converted, own):
            converted = resize_table(converted, _grid_of(own))
            self.resized.append(key)
        if converted is not None and converted.shape == own.shape:
            return converted
        if not self.strict:
            self.dropped.append(name)
            return None
        raise WeightsError(self._shape_message(name, key, tensor, own))

    def _shape_message(self, name: str, key: str, tensor: Tensor, own: Tensor) -> str:
        found, needed = list(tensor.shape), list(own.shape)
        if key.startswith(_CLASSIFIER):
            return (
                f"{self.where}: the head is for {found[0]} classes, but the network has "
                f"{needed[0]}; build it with num_classes={found[0]}, or keep its fresh head with "
                'head="skip"'
            )
        return (
            f"{self.where}: {name} has shape {found}, but {self._network()} needs {needed} "
            f"for {key}"
        )

    def _may_miss(self, key: str) -> bool:
        """Norms that nothing reads, counters of BatchNorm, and a last layer that stays fresh."""
        if key.startswith(_CLASSIFIER):
            return self.skip_head
        return key.endswith("num_batches_tracked") or key in unused_norms(self.model)

    def _check_missing(self, missing: Sequence[str]) -> None:
        if missing and self.strict:
            names = self.layout.names(self.model)
            wanted = [names[key] for key in missing if key in names]
            absent = _listed(wanted or list(missing))
            raise WeightsError(
                f"{self.where}: {self.layout.title} weights lack {absent}, which "
                f"{self._network()} needs"
            )

    def _network(self) -> str:
        return self.model.arch or "the network"


def _is_other_grid(key: str, table: Tensor, own: Tensor) -> bool:
    """Whether a key is a relative position table of the same heads over another grid."""
    return (
        key.endswith("position.table")
        and table.ndim == 3
        and (table.shape != own.shape and table.shape[0] == own.shape[0])
    )


def _grid_of(table: Tensor) -> tuple[int, int]:
    return (table.shape[1] + 1) // 2, (table.shape[2] + 1) // 2


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
