"""Which modules belong to which stage of a network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ablate.grammar import RunSpec
from ablate.models.network import Network

_CONTAINERS = ("stages", "layers", "features", "blocks")
"""Names under which torchvision and timm keep a network's stages in one container."""

REST = "other"
"""What stands outside of all parts: parameters of the network itself, glue between stages."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A stage of a network, or what stands in its place.

    Args:
        name: "stem", "stage1" ("stage3.2" for the second run of a mixed stage), "group", "head";
            for other networks the name of the submodule.
        kind: letter of the grammar, form of the head, or the class of the submodule.
        module: its calls are the part's; its parameters too, unless an earlier part has them.
        resolution: (H, W) of the outgoing map; None where the module does not say.
        depth: number of blocks; width: channels; heads: attention heads; None where not known.
    """

    name: str
    kind: str
    module: nn.Module
    resolution: tuple[int, int] | None = None
    depth: int | None = None
    width: int | None = None
    heads: int | None = None


def partition(model: nn.Module) -> list[Part]:
    """The parts of a model, in the order of the computation as far as it is known."""
    for module in model.modules():
        if isinstance(module, Network):
            return _of_network(module)
    return _of_children(model)


def _of_network(network: Network) -> list[Part]:
    blueprint = network.blueprint
    parts = []
    if network.stem is not None and blueprint.stem is not None:
        parts.append(_of_run("stem", blueprint.stem, network.stem))
    for number, (specs, runs) in enumerate(zip(blueprint.stages, network.stages, strict=True), 1):
        for position, (spec, run) in enumerate(zip(specs, runs.children(), strict=True), 1):
            name = f"stage{number}" if len(specs) == 1 else f"stage{number}.{position}"
            parts.append(_of_run(name, spec, run))
    if network.group is not None and blueprint.group is not None:
        parts.append(_of_run("group", blueprint.group, network.group))
    if network.head is not None:
        width = blueprint.last.width
        parts.append(Part(name="head", kind=blueprint.head, module=network.head, width=width))
    return parts


def _of_run(name: str, spec: RunSpec, module: nn.Module) -> Part:
    grid = getattr(module, "grid", None)
    return Part(
        name=name,
        kind=spec.kind,
        module=module,
        resolution=grid if isinstance(grid, tuple) else None,
        depth=spec.depth,
        width=spec.width,
        heads=spec.num_heads or None,
    )


def _of_children(model: nn.Module) -> list[Part]:
    parts = []
    for name, child in model.named_children():
        held = isinstance(child, nn.ModuleList) or (
            isinstance(child, nn.Sequential) and name in _CONTAINERS
        )
        entries = child.named_children() if held else [("", child)]
        for entry, module in entries:
            full = f"{name}.{entry}" if entry else name
            parts.append(Part(name=full, kind=type(module).__name__, module=module))
    return parts
