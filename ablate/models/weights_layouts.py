"""Key layouts of other projects, as tables from our keys to theirs.

Every table is written once, from ours to theirs: exporting applies it, loading inverts it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ablate.errors import WeightsError
from ablate.models.network import Network

Rules = tuple[tuple[str, str], ...]
"""(pattern at the beginning of our key, their beginning): {n} is {i} + 1."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """Tensors that another project stores in another order or shape.

    Args:
        pattern: our keys that it holds for.
        load: their tensor and ours (for its shape) -> their values in our order.
        export: our tensor -> in their order.
    """

    pattern: str
    load: Callable[[Tensor, Tensor], Tensor | None]
    export: Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One project's state dict.

    Args:
        name: "ablate", "official" or "timm".
        title: how messages call it.
        marks: patterns that all occur among its keys; the first layout whose marks do is taken.
        rules: our keys -> theirs; the first pattern that matches wins.
        head: pattern of their keys that belong to the head and its norms.
        aliases: their keys that repeat another one's tensor, by model: {alias: canonical}.
        absent: our keys that this project does not store, by model.
        conversions: tensors stored in another order or shape.
    """

    name: str
    title: str
    marks: tuple[str, ...]
    rules: Rules
    head: str
    aliases: Callable[[Network], Mapping[str, str]] = field(default=lambda model: {})
    absent: Callable[[Network], frozenset[str]] = field(default=lambda model: frozenset())
    conversions: tuple[Conversion, ...] = ()

    def names(self, model: Network) -> dict[str, str]:
        """{our key: their key} for every tensor of a network that has a place in the layout."""
        found = {key: self._translate(key) for key in model.state_dict()}
        return {key: name for key, name in found.items() if name is not None}

    def unmapped(self, model: Network) -> list[str]:
        """Our keys without a place in the layout."""
        return [key for key in model.state_dict() if self._translate(key) is None]

    def _translate(self, key: str) -> str | None:
        for pattern, template in self.rules:
            match = re.match(pattern, key)
            if match is not None:
                fields = match.groupdict()
                if "i" in fields:
                    fields["n"] = str(int(fields["i"]) + 1)
                return template.format(**fields) + key[match.end() :]
        return None

    def is_head(self, name: str) -> bool:
        """Whether their key belongs to the head and its norms."""
        return re.match(self.head, name) is not None

    def imported(self, key: str, tensor: Tensor, own: Tensor) -> Tensor | None:
        """Their tensor in our order; None where its shape does not allow that."""
        conversion = self._conversion(key)
        return tensor if conversion is None else conversion.load(tensor, own)

    def export(self, model: Network) -> dict[str, Tensor]:
        """The state dict of a network under this layout's keys, with its aliases."""
        absent = self.absent(model)
        state = model.state_dict()
        out = {
            name: self._exported(key, state[key]).clone()
            for key, name in self.names(model).items()
            if key not in absent
        }
        repeated = self.aliases(model).items()
        return out | {alias: out[canonical] for alias, canonical in repeated}

    def _exported(self, key: str, tensor: Tensor) -> Tensor:
        conversion = self._conversion(key)
        return tensor if conversion is None else conversion.export(tensor)

    def _conversion(self, key: str) -> Conversion | None:
        return next((c for c in self.conversions if re.search(c.pattern, key)), None)


def unused_norms(model: Network) -> frozenset[str]:
    """Keys of stage output norms that no head reads; the authors store them, timm does not."""
    blueprint = model.blueprint
    read: set[str] = set()
    if model.head is not None and blueprint.head in ("cls", "aggregate"):
        stages = blueprint.scales if blueprint.head == "aggregate" else (len(blueprint.stages),)
        read = {f"{stage - 1}.{len(blueprint.stages[stage - 1]) - 1}" for stage in stages}
    norms = re.compile(r"stages\.(\d+\.\d+)\.norm\.")
    matches = ((key, norms.match(key)) for key in model.state_dict())
    return frozenset(key for key, match in matches if match and match.group(1) not in read)


# -- CoaT ----------------------------------------------------------------------------------------

_RUN = r"stages\.(?P<i>\d+)\.0\."
_SERIAL = _RUN + r"blocks\.(?P<j>\d+)\."
_PARALLEL = r"group\.blocks\.(?P<j>\d+)\."

_COAT_RULES: Rules = (
    (_RUN + r"embed\.(?P<part>proj|norm)\.(?=weight|bias)", "patch_embed{n}.{part}."),
    (_RUN + r"cls_token$", "cls_token{n}"),
    (_RUN + r"cpe\.", "cpe{n}."),
    (_RUN + r"crpe\.convs\.", "crpe{n}.conv_list."),
    (_RUN + r"norm\.", "norm{n}."),
    (_SERIAL + r"norm(?P<k>[12])\.", "serial_blocks{n}.{j}.norm{k}."),
    (_SERIAL + r"attn\.(?=qkv|proj\.)", "serial_blocks{n}.{j}.factoratt_crpe."),
    (_SERIAL + r"mlp\.expand\.", "serial_blocks{n}.{j}.mlp.fc1."),
    (_SERIAL + r"mlp\.project\.", "serial_blocks{n}.{j}.mlp.fc2."),
    (_PARALLEL + r"norm(?P<k>[12])\.(?P<s>\d+)\.", "parallel_blocks.{j}.norm{k}{s}."),
    (_PARALLEL + r"attn\.(?P<s>\d+)\.", "parallel_blocks.{j}.factoratt_crpe{s}."),
    (_PARALLEL + r"mlp\.expand\.", "parallel_blocks.{j}.mlp2.fc1."),
    (_PARALLEL + r"mlp\.project\.", "parallel_blocks.{j}.mlp2.fc2."),
    (r"head\.aggregate\.", "aggregate."),
    (r"head\.fc\.", "head."),
)


def _coat_aliases(model: Network) -> dict[str, str]:
    """Shared modules that the official code registers again in every block that uses them."""
    names = list(Layout.names(COAT_OFFICIAL, model).values())
    depths = [stage[0].depth for stage in model.blueprint.stages]
    group = model.blueprint.group
    blocks = range(group.depth if group else 0)
    found: dict[str, str] = {}
    for name in names:
        shared = re.match(r"(?P<kind>cpe|crpe)(?P<n>\d+)\.", name)
        mlp = re.match(r"parallel_blocks\.(?P<j>\d+)\.mlp2\.", name)
        if shared:
            kind, stage = shared["kind"], int(shared["n"])
            inner = "cpe" if kind == "cpe" else "factoratt_crpe.crpe"
            rest = name[shared.end() :]
            for j in range(depths[stage - 1]):
                found[f"serial_blocks{stage}.{j}.{inner}.{rest}"] = name
            if kind == "crpe" and stage in model.blueprint.scales:
                for j in blocks:
                    found[f"parallel_blocks.{j}.factoratt_crpe{stage}.crpe.{rest}"] = name
        elif mlp:
            for scale in model.blueprint.scales[1:]:
                found[f"parallel_blocks.{mlp['j']}.mlp{scale}.{name[mlp.end() :]}"] = name
    return found


COAT_OFFICIAL = Layout(
    name="official",
    title="official CoaT",
    marks=(r"serial_blocks\d+\.", r"norm1\."),
    rules=_COAT_RULES,
    head=r"head\.|aggregate\.|norm\d\.",
    aliases=_coat_aliases,
)
COAT_TIMM = Layout(
    name="timm",
    title="timm CoaT",
    marks=(r"serial_blocks\d+\.",),
    rules=_COAT_RULES,
    head=r"head\.|aggregate\.|norm\d\.",
    aliases=_coat_aliases,
    absent=unused_norms,
)

# -- ours ----------------------------------------------------------------------------------------

ABLATE = Layout(
    name="ablate",
    title="ablate",
    marks=(r"stages\.\d+\.\d+\.",),
    rules=((r"", ""),),
    head=r"head\.|stages\.\d+\.\d+\.norm\.",
)

LAYOUTS: tuple[Layout, ...] = (COAT_OFFICIAL, COAT_TIMM, ABLATE)
"""Most specific first."""


def find_layout(state: Mapping[str, Tensor], where: str) -> Layout:
    """The layout that a state dict is in, by its keys.

    Raises:
        WeightsError: none that we know; names the first keys.
    """
    for layout in LAYOUTS:
        if all(any(re.match(mark, name) for name in state) for mark in layout.marks):
            return layout
    known = ", ".join(layout.title for layout in LAYOUTS)
    shown = ", ".join(list(state)[:5])
    raise WeightsError(f"{where} is in no layout that we know ({known}): its keys begin {shown}")
