"""The factorial effects of a study, and the sentences that state them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from ablate.report.contrasts import Variances
from ablate.report.evidence import gather
from ablate.report.factorial import Effect, effects, is_factorial
from ablate.report.table import interval, signed

if TYPE_CHECKING:
    from ablate.study.spec import Study


def study_effects(study: Study, rows: pd.DataFrame, metric: str = "top1") -> list[Effect]:
    """Main effects and interactions of a grid whose every cell has a run; else an empty list."""
    factors = {
        name: _baseline_first(list(factor.values), study.baseline.levels.get(name))
        for name, factor in study.factors.items()
    }
    samples = gather(study, rows, metric).samples
    cells = {
        tuple(v.levels[name] for name in factors): samples[v.name]
        for v in study.variants
        if set(factors) <= set(v.levels)
    }
    if not factors or not is_factorial(factors, cells):
        return []
    return effects(factors, cells, variances=cast(Variances, study.variances), alpha=study.alpha)


def _baseline_first(levels: list[Any], first: Any) -> list[Any]:
    return sorted(levels, key=lambda level: level != first)


def effect_name(effect: Effect) -> str:
    """`cpe: yes − no`; an interaction of switches is `cpe × crpe`."""
    named = [f"{name}: {_word(level)} − {_word(base)}" for name, level, base in effect.parts]
    if len(named) == 1:
        return named[0]
    if all(level is True for _, level, _ in effect.parts):
        return " × ".join(name for name, _, _ in effect.parts)
    return " × ".join(f"({text})" for text in named)


def effect_sentences(study: Study, rows: pd.DataFrame) -> list[str]:
    """One sentence an effect of a factorial study; none where it is not one, or is incomplete."""
    if len(study.factors) < 2:
        return []
    return [_sentence(effect) for effect in study_effects(study, rows)]


def _sentence(effect: Effect) -> str:
    found = effect.difference
    kind = "Interaction" if effect.interaction else "Main effect"
    bounds = interval(found.low, found.high, plus=True)
    support = (
        f"not tested, {found.reason}"
        if found.reason
        else "supported"
        if found.supported
        else "not detectable"
    )
    size = f"{signed(found.estimate)} {bounds}".rstrip()
    return f"{kind} {effect_name(effect)}: {size} points, {support} (n = {min(found.n)} a cell)."


def _word(level: Any) -> str:
    return ("yes" if level else "no") if isinstance(level, bool) else str(level)
