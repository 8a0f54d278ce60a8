"""What a plan holds: each variant and trial of a study, before anything trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ablate.study.detectable import Detectable
from ablate.study.plan_table import plan_columns, plan_notes, plan_rows


@dataclass(frozen=True, kw_only=True)
class PlannedVariant:
    """One variant, before it is trained.

    Args:
        name, variant, arch: as in the study; `variant` holds the levels.
        baseline: whether it is what the others are compared with.
        params, trainable, macs: of the network with this data's classes and image size.
        params_change, macs_change: relative to the baseline.
        uncounted_ops: operators without a formula, with their calls; never silently zero.
        memory_bytes: estimate for a training step on one device.
        seconds: one trial takes, or None where no time was probed.
        seconds_from: "probe", "fit" or "none".
        raw_arch, raw_params, raw_macs, matched: before it was resized to the baseline's budget,
            and how it was; None and "" where it was not.
        warnings: what differs from the baseline beside the factor.
    """

    name: str
    variant: Mapping[str, Any]
    arch: str
    baseline: bool
    params: int
    trainable: int
    macs: int
    params_change: float
    macs_change: float
    uncounted_ops: Mapping[str, int]
    memory_bytes: int
    seconds: float | None
    seconds_from: str
    raw_arch: str | None
    raw_params: int | None
    raw_macs: int | None
    matched: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    """One trial: its status is done, running, started, failed or missing.

    Of a tuned study, `role` is "tune" or "final"; a final trial has no key before its variant's
    recipe is chosen.
    """

    key: str
    seed: int
    variant: Mapping[str, Any]
    variant_name: str
    arch: str
    status: str
    seconds: float | None
    role: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study, before it is trained.

    Args:
        study, profile, design: of the study.
        variants, trials: each of them.
        device: what the times are for; "" where none were probed.
        probes: timed networks.
        device_hours: of all trials; None where a time is missing.
        device_hours_left: of those that are not done.
        workers: trials at once.
        detectable: what the seeds can show.
        remarks: what the reader should know, such as missing data.
        tuning: the budget that each variant's recipe is chosen with; "" where none is.
    """

    study: str
    profile: str | None
    design: str
    variants: tuple[PlannedVariant, ...]
    trials: tuple[PlannedTrial, ...]
    device: str
    probes: int
    device_hours: float | None
    device_hours_left: float | None
    workers: int
    detectable: Detectable
    remarks: tuple[str, ...]
    tuning: str = ""

    @property
    def hours_left(self) -> float | None:
        """Expected hours until all is trained, with `workers` trials at once.

        A CPU's cores are divided between them, as the executors do; a GPU that they share makes
        it a lower bound.
        """
        left = self.device_hours_left
        return None if left is None else left / self.workers

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows of text, one row a variant."""
        return plan_columns(self), plan_rows(self)

    def notes(self) -> list[str]:
        """Sentences under the table: footnotes, time, what can be detected, remarks."""
        return plan_notes(self)

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is infinite or not known is null."""
        found: dict[str, Any] = _plain(asdict(self))
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
