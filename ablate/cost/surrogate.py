"""The cost of an arch as a function of its widths and depths, fitted to counted networks.

A block's parameters and multiply-adds are quadratic in its widths, and every further block of a
run costs the same. So a few counted networks of small depth give the cost of all shapes; what is
chosen by it is counted again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ablate.cost.counting import profile, stage_costs
from ablate.cost.meta import ShapeCache
from ablate.cost.parts import partition
from ablate.cost.resizable import Resizable, Shape
from ablate.models.factory import create_model

_DRAWS = 60
"""Shapes that are looked at; those that tell nothing new are not counted."""

Numbers = NDArray[np.float64]


class Counter:
    """Counts params or MACs of archs at one image size, part by part; remembers them.

    Args:
        by: "params" or "macs".
        image_size: (H, W) in pixels.
        num_classes: width of the logits.
    """

    def __init__(self, by: str, image_size: tuple[int, int], num_classes: int) -> None:
        self.by = by
        self.image_size = image_size
        self.num_classes = num_classes
        self._counted: dict[str, tuple[int, ...]] = {}

    def parts(self, arch: str) -> tuple[int, ...]:
        """The count of stem, runs, group and head."""
        if arch not in self._counted:
            self._counted[arch] = self._params(arch) if self.by == "params" else self._macs(arch)
        return self._counted[arch]

    def __call__(self, arch: str) -> int:
        """The count of the whole network."""
        return sum(self.parts(arch))

    def _macs(self, arch: str) -> tuple[int, ...]:
        cost = profile(arch, image_size=self.image_size, num_classes=self.num_classes)
        return tuple(stage.macs for stage in cost.per_stage)

    def _params(self, arch: str) -> tuple[int, ...]:
        with torch.device("meta"), ShapeCache():
            network = create_model(arch, num_classes=self.num_classes, image_size=self.image_size)
        return tuple(stage.params for stage in stage_costs(network, partition(network), {}))


class Surrogate:
    """Predicts the count of an arch at any widths and depths.

    Args:
        resizable: the arch.
        count: what counts its shapes.
    """

    def __init__(self, resizable: Resizable, count: Counter) -> None:
        self._places = resizable.places
        self._scale = np.array(resizable.base.widths, dtype=np.float64)
        shapes = self._telling(_draw_shapes(resizable))
        counted = np.array([count.parts(resizable.with_shape(shape)) for shape in shapes])
        self._coefficients = [
            np.linalg.lstsq(features, counted[:, part], rcond=None)[0]
            for part, features in enumerate(self._features_of(shapes))
        ]

    def __call__(self, widths: Numbers, depths: tuple[int, ...]) -> Numbers:
        """Predicted counts of shapes of widths (M, W) and the same depths -> (M,)."""
        repeated = np.tile(np.array(depths, dtype=np.float64), (len(widths), 1))
        parts = zip(self._features(widths, repeated), self._coefficients, strict=True)
        total: Numbers = sum((f @ c for f, c in parts), np.zeros(len(widths)))
        return total

    def _telling(self, shapes: Sequence[Shape]) -> list[Shape]:
        """As few of the shapes as determine what all of them would."""
        kept: list[Shape] = []
        rank = 0
        for shape in shapes:
            found = self._rank([*kept, shape])
            if found > rank:
                kept.append(shape)
                rank = found
        return kept

    def _rank(self, shapes: Sequence[Shape]) -> int:
        return sum(int(np.linalg.matrix_rank(f)) for f in self._features_of(shapes))

    def _features_of(self, shapes: Sequence[Shape]) -> list[Numbers]:
        widths = np.array([shape.widths for shape in shapes], dtype=np.float64)
        depths = np.array([shape.depths for shape in shapes], dtype=np.float64)
        return self._features(widths, depths)

    def _features(self, widths: Numbers, depths: Numbers) -> list[Numbers]:
        """For each part (M, 9): quadratic in both widths, and in its own for further blocks."""
        scaled = widths / self._scale
        ones = np.ones(len(scaled))
        found = []
        for incoming, own, depth in self._places:
            w = scaled[:, own]
            x = scaled[:, incoming] if incoming is not None else 0 * ones
            more = depths[:, depth] - 1 if depth is not None else 0 * ones
            columns = [ones, x, w, x * x, x * w, w * w, more, more * w, more * w * w]
            found.append(np.stack(columns, axis=1))
        return found


def _draw_shapes(resizable: Resizable) -> list[Shape]:
    """Shapes of one or two blocks a run, with widths around those of the arch."""
    draw = random.Random(0)
    shapes = []
    for _ in range(_DRAWS):
        widths: list[int] = []
        for width, step in zip(resizable.base.widths, resizable.steps, strict=True):
            middle = max(2, round(width / step))
            choices = [n * step for n in range(max(1, middle // 2), middle + middle // 2 + 2)]
            # Equal neighbours would need no projection on their shortcut.
            widths.append(draw.choice([w for w in choices if w not in widths]))
        depths = tuple(draw.choice((1, 2)) for _ in resizable.base.depths)
        shapes.append(Shape(tuple(widths), depths))
    return shapes
