"""A plan as columns, rows and sentences, for whoever prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ablate.study.planned import Plan, PlannedVariant

COLUMNS = ("variant", "params", "MACs", "against baseline", "memory", "a trial", "warnings")


def plan_columns(plan: Plan) -> list[str]:
    """Headings of the table; "before matching" is among them where variants were resized."""
    resized = any(variant.matched for variant in plan.variants)
    return [*COLUMNS[:4], *(["before matching"] if resized else []), *COLUMNS[4:]]


def plan_rows(plan: Plan) -> list[list[str]]:
    """A row of texts for each variant, under `plan_columns`; warnings are numbers of footnotes."""
    resized = "before matching" in plan_columns(plan)
    notes = plan_footnotes(plan)
    return [_row(variant, notes, resized) for variant in plan.variants]


def plan_footnotes(plan: Plan) -> list[str]:
    """Every warning once, in the order of the variants; the first is footnote 1."""
    return list(dict.fromkeys(text for variant in plan.variants for text in variant.warnings))


def _row(variant: PlannedVariant, notes: list[str], resized: bool) -> list[str]:
    change = f"{variant.params_change:+.1%} params, {variant.macs_change:+.1%} MACs"
    before = [_before(variant)] if resized else []
    return [
        variant.name,
        f"{variant.params:,}",
        f"{variant.macs:,}",
        "baseline" if variant.baseline else change,
        *before,
        bytes_text(variant.memory_bytes),
        _time(variant),
        " ".join(f"[{notes.index(text) + 1}]" for text in variant.warnings),
    ]


def _before(variant: PlannedVariant) -> str:
    if variant.raw_params is None or variant.raw_macs is None:
        return ""
    return f"{variant.raw_params:,} params, {variant.raw_macs:,} MACs ({variant.matched})"


def _time(variant: PlannedVariant) -> str:
    if variant.seconds is None:
        return "-"
    return ("~" if variant.seconds_from == "fit" else "") + seconds_text(variant.seconds)


def plan_notes(plan: Plan) -> list[str]:
    """Lines under the table: footnotes, time, what can be detected, remarks."""
    footnotes = [f"[{index}] {text}" for index, text in enumerate(plan_footnotes(plan), 1)]
    times = [text] if (text := _time_sentence(plan)) else []
    return [*footnotes, _count_sentence(plan), *times, str(plan.detectable), *plan.remarks]


def _count_sentence(plan: Plan) -> str:
    done = sum(trial.status == "done" for trial in plan.trials)
    seeds = plan.detectable.seeds
    if plan.tuning:
        tried = sum(trial.role == "tune" for trial in plan.trials)
        return (
            f"{len(plan.variants)} variants: {plan.tuning} of tuning for each ({tried} trials on "
            f"val), then {seeds} {'seed' if seeds == 1 else 'seeds'} at the best of each "
            f"({len(plan.trials) - tried} trials); {done} done."
        )
    return (
        f"{len(plan.variants)} variants, {seeds} {'seed' if seeds == 1 else 'seeds'}: "
        f"{len(plan.trials)} trials, {done} done."
    )


def _time_sentence(plan: Plan) -> str:
    if plan.device_hours is None or plan.device_hours_left is None or plan.hours_left is None:
        return ""
    timed = f"{plan.probes} {'probe' if plan.probes == 1 else 'probes'} of the real step"
    at_once = (
        f", {seconds_text(plan.hours_left * 3600)} with {plan.workers} at once"
        if plan.workers > 1
        else ""
    )
    return (
        f"Expected time on one {plan.device}: {seconds_text(plan.device_hours * 3600)} for all "
        f"trials, {seconds_text(plan.device_hours_left * 3600)} for those not done{at_once} "
        f"(from {timed})."
    )


def seconds_text(seconds: float) -> str:
    """A duration for people: "45 s", "12 min", "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def bytes_text(count: int) -> str:
    """An amount of memory for people: "87 MB", "5.9 GB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
