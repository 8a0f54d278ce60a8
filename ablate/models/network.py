"""Assembly: a blueprint becomes one torch.nn.Module."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Sequence

from torch import Tensor, nn

from ablate.errors import ModelError
from ablate.grammar import Blueprint, RunSpec
from ablate.kinds import KINDS
from ablate.models.heads import Features, build_head


class Network(nn.Module):
    """head(group(stages(stem(image)))): any network of the grammar.

    Args:
        blueprint: the resolved arch.
        num_classes: width of the logits.
        image_size: (H, W) of the input, in pixels; relative position tables are made for it.
        in_chans: channels of the input.
        features_only: return the maps of all stages instead of logits.

    Attributes:
        arch: canonical arch string, set by `create_model`.
        grids: (H, W) of the map after the stem (if any) and after each stage.
        num_features: channels of the last stage's map.

    Raises:
        ModelError: the image is too small for the strides.
    """

    arch: str = ""

    def __init__(
        self,
        blueprint: Blueprint,
        *,
        num_classes: int,
        image_size: tuple[int, int],
        in_chans: int = 3,
        features_only: bool = False,
    ) -> None:
        super().__init__()
        self.blueprint = blueprint
        self.image_size = image_size
        self.num_classes = num_classes
        self.features_only = features_only
        self.num_features = blueprint.last.width
        self.grids: list[tuple[int, int]] = []
        grid, width = image_size, in_chans
        self.stem: nn.Module | None = None
        if blueprint.stem:
            self.stem, grid = self._build(blueprint.stem, grid, width)
            width = blueprint.stem.width
        self.stages = nn.ModuleList()
        for specs in blueprint.stages:
            runs = nn.ModuleList()
            for spec in specs:
                run, grid = self._build(spec, grid, width)
                width = spec.width
                runs.append(run)
            self.stages.append(runs)
        self.group = self._build_group() if blueprint.group else None
        self.head = None if features_only else build_head(blueprint, num_classes)
        self._retire_unused_norms()
        self._init_head()

    def _build(
        self, spec: RunSpec, grid: tuple[int, int], in_width: int
    ) -> tuple[nn.Module, tuple[int, int]]:
        if min(grid) < spec.stride:
            place = f"stage {spec.stage}" if spec.stage else "the stem"
            raise ModelError(
                f"image size {self.image_size[0]}x{self.image_size[1]} is too small: {place} "
                f"has stride {spec.stride} on a map of {grid[0]}x{grid[1]}; "
                "use larger images or a smaller stem_stride"
            )
        run = builder(spec.kind)(dataclasses.replace(spec, in_width=in_width), grid)
        out: tuple[int, int] = run.grid  # type: ignore[assignment]  # the protocol of a builder
        self.grids.append(out)
        return run, out

    def _build_group(self) -> nn.Module:
        spec = self.blueprint.group
        assert spec is not None
        members = [self.stages[scale - 1][-1] for scale in self.blueprint.scales]  # type: ignore[index]
        group: nn.Module = builder(spec.kind)(spec, members)
        return group

    @property
    def names(self) -> list[str]:
        """Names of the maps that `features_only` returns: stage1, stage2, ..."""
        return [f"stage{index + 1}" for index in range(len(self.stages))]

    @property
    def strides(self) -> list[int]:
        """Down-sampling of each stage's map against the image."""
        stride = self.blueprint.stem.stride if self.blueprint.stem else 1
        found = []
        for specs in self.blueprint.stages:
            stride *= math.prod(spec.stride for spec in specs)
            found.append(stride)
        return found

    @property
    def channels(self) -> list[int]:
        """Channels of each stage's map."""
        return [stage[-1].width for stage in self.blueprint.stages]

    def features(self, x: Tensor) -> list[Features]:
        """The map (N, C, H, W) and class token (N, C) of every stage, after the group."""
        if self.stem is not None:
            x = self.stem(x)
        found: list[Features] = []
        for runs in self.stages:
            token: Tensor | None = None
            for run in runs:  # type: ignore[attr-defined]
                x, token = run(x)
            found.append((x, token))
        if self.group is not None:
            mixed = self.group([found[scale - 1] for scale in self.blueprint.scales])
            for scale, feature in zip(self.blueprint.scales, mixed, strict=True):
                found[scale - 1] = feature
        return found

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Images (N, in_chans, H, W) -> logits (N, num_classes), or the maps of all stages."""
        features = self.features(x)
        if self.head is None:
            return [feature for feature, _ in features]
        logits: Tensor = self.head(self._read(features))
        return logits

    def _read(self, features: Sequence[Features]) -> list[Features]:
        """What the head reads, with the class tokens through their stage's own norm."""
        stages = self._stages_read()
        read = []
        for stage in stages:
            map_, token = features[stage]
            norm = getattr(self.stages[stage][-1], "norm", None)  # type: ignore[index]
            uses = self.blueprint.head in ("cls", "aggregate") and token is not None
            read.append((map_, norm(token) if uses and norm is not None else token))
        return read

    def _stages_read(self) -> list[int]:
        if self.blueprint.head == "aggregate":
            return [scale - 1 for scale in self.blueprint.scales]
        return [len(self.stages) - 1]

    def _retire_unused_norms(self) -> None:
        """Output norms that no head reads are kept, as upstream does, but take no gradient.

        A backbone without a head has none of them.
        """
        used = self._stages_read() if self.blueprint.head in ("cls", "aggregate") else []
        for stage, runs in enumerate(self.stages):
            for run in runs:  # type: ignore[attr-defined]
                norm = getattr(run, "norm", None)
                if norm is None:
                    continue
                if self.head is None:
                    run.norm = None
                elif not (stage in used and run is runs[-1]):  # type: ignore[index]
                    norm.requires_grad_(False)

    def _init_head(self) -> None:
        if self.head is None:
            return
        for part in self.head.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)


def builder(kind: str) -> type[nn.Module]:
    """The class that builds a run of a kind, imported now."""
    module, _, name = KINDS[kind].builder.partition(":")
    found: type[nn.Module] = getattr(importlib.import_module(module), name)
    return found
