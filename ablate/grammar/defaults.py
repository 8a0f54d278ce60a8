"""Defaults that depend on the place: embedding kernels, CRPE heads, head, stochastic depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ablate.grammar.arch import Run
from ablate.grammar.blueprint import RunSpec
from ablate.kinds import KINDS, Kind
from ablate.options import Value

STEM = Run(kind="S", depth=2, width=64)
"""The stem of a network whose first stage cannot read the image and that names none."""


def depth(kind: str) -> int:
    """Blocks of a run that does not say: one embedding, otherwise two."""
    return 1 if kind == "E" else 2


def options(
    kind: Kind, given: Mapping[str, Value], *, stride: int, num_heads: int
) -> dict[str, Value]:
    """Every option of a kind at its default; `given` decides those that depend on others."""
    found: dict[str, Value] = {}
    for name, default in kind.defaults.items():
        value = patch_size(kind, given, stride) if name == "patch_size" else default
        assert value is not None, f"no rule computes the default of {name}"
        found[name] = split_heads(value, num_heads) if name == "crpe_windows" else value
    return found


def patch_size(kind: Kind, given: Mapping[str, Value], stride: int) -> int:
    """Kernel of a token embedding: the stride for patches; CvT's 7 at stride 4, else 3."""
    embed = given.get("embed", kind.defaults.get("embed", "patch"))
    if embed == "patch":
        return stride
    return 7 if kind is KINDS["V"] and stride >= 4 else 3


def split_heads(windows: Value, num_heads: int) -> tuple[tuple[int, int], ...]:
    """CRPE windows with their heads: split evenly, the rest to the last; none at 0 heads.

    >>> split_heads((3, 5, 7), 8)
    ((3, 2), (5, 3), (7, 3))
    >>> split_heads((3, 5, 7), 2)
    ((5, 1), (7, 1))
    """
    assert isinstance(windows, tuple)
    pairs = tuple(item for item in windows if isinstance(item, tuple))
    if pairs:
        return pairs
    plain = tuple(item for item in windows if isinstance(item, int))
    share, rest = divmod(num_heads, len(plain))
    heads = [share + (index >= len(plain) - rest) for index in range(len(plain))]
    return tuple((w, h) for w, h in zip(plain, heads, strict=True) if h)


def head(last: RunSpec, group: RunSpec | None) -> str:
    """The head that reads the class token(s) where there are any, else the kind's own."""
    if last.options.get("cls_token", False):
        return KINDS[group.kind].head if group else "cls"
    own = KINDS[last.kind].head
    return "linear" if group or own == "cls" else own


def drop_paths(
    runs: Sequence[RunSpec], *, rate: float, schedule: str
) -> dict[tuple[int, int], tuple[float, ...]]:
    """Rate of stochastic depth of each block, by (stage, position).

    "constant": the same everywhere (CoaT); "linear": from 0 at the first block to the rate at the
    last (CoAtNet); "stage": so inside the last stage, 0 before it (CvT: rates 0/0/0.1).
    """
    if schedule == "constant":
        return {(run.stage, run.position): (rate,) * run.depth for run in runs}
    ramped = [run for run in runs if schedule == "linear" or run.stage == runs[-1].stage]
    blocks = sum(run.depth for run in ramped)
    ramp = iter(rate * index / max(blocks - 1, 1) for index in range(blocks))
    rates = {(run.stage, run.position): (0.0,) * run.depth for run in runs}
    for run in ramped:
        rates[run.stage, run.position] = tuple(next(ramp) for _ in range(run.depth))
    return rates
