"""How many tokens the blocks of a network see at an image size, without building it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ablate.errors import ModelError
from ablate.grammar import Blueprint, RunSpec
from ablate.kinds import KINDS

FEWEST_TOKENS = 4

MIXING = frozenset(
    {
        "attn",
        "coscale",
        "cpe",
        "crpe",
        "crpe_windows",
        "head_dim",
        "kv_stride",
        "layout",
        "num_heads",
        "proj",
        "rel_attn",
        "scales",
        "window",
    }
)
"""Settings that change how tokens meet: with fewer than four they change next to nothing."""


def run_grids(blueprint: Blueprint, image_size: int) -> Iterator[tuple[RunSpec, int]]:
    """Every run, stem and parallel group included, with the side of its output map, in tokens.

    Raises:
        ModelError: a map is smaller than the stride that follows.
    """
    side = image_size
    sides = []
    for run in [*([blueprint.stem] if blueprint.stem else []), *blueprint.runs]:
        if side < run.stride:
            where = f"stage {run.stage}" if run.stage else "the stem"
            raise ModelError(
                f"image size {image_size} is too small: {where} has stride {run.stride} on a map "
                f"of {side}x{side}; use larger images or a smaller stem_stride"
            )
        # Patches that do not fill the border are dropped; padded convolutions round up.
        patches = run.kind == "E" or run.options.get("embed") == "patch"
        side = side // run.stride if patches else -(-side // run.stride)
        sides.append((run, side))
    yield from sides
    if blueprint.group:
        scales = blueprint.group.options["scales"]
        assert isinstance(scales, tuple)
        smallest = min(side for run, side in sides if run.stage in scales)
        yield blueprint.group, smallest


def starved(
    blueprint: Blueprint, image_size: int, settings: Iterable[str]
) -> tuple[str, RunSpec, int] | None:
    """The first of `settings` whose blocks see fewer than four tokens.

    Args:
        blueprint: the network.
        image_size: side of the input, in pixels.
        settings: what the study varies; only those in `MIXING` count.

    Returns:
        The setting, the run and the side of its map, or None.
    """
    names = sorted(MIXING.intersection(settings))
    for run, side in run_grids(blueprint, image_size):
        if side * side >= FEWEST_TOKENS:
            continue
        for name in names:
            if name in KINDS[run.kind].options or (name == "layout" and run.num_heads):
                return name, run, side
    return None
