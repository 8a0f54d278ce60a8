"""Every variant against the baseline on the same test images, from per-image predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ablate.report.cells import rounded
from ablate.report.evidence import runs_of
from ablate.report.paired import (
    Correct,
    bootstrap_difference,
    mcnemar,
    probability_of_improvement,
)
from ablate.report.table import Cell, Column, Table, interval, number, probability, signed

if TYPE_CHECKING:
    from ablate.study.spec import Study
    from ablate.study.variants import Variant

_COLUMNS = (
    Column(key="variant", title="Variant"),
    Column(key="n", title="n", numeric=True),
    Column(key="difference", title="Difference (points)", numeric=True),
    Column(key="better", title="P(variant > baseline)", numeric=True),
    Column(key="mcnemar", title="McNemar p", numeric=True),
    Column(key="note", title="Holds for", wide=True),
)

_NOTES = (
    "Difference to the baseline with the 95% interval of a bootstrap over seeds and test images. "
    "Below 10 seeds it is conditional on these seeds: the table above decides.",
    "P(variant > baseline): share of pairs of runs in which the variant is higher. McNemar's exact "
    "test compares two single runs and says nothing about other seeds.",
)


def paired_table(study: Study, rows: pd.DataFrame, correct: Callable[[str], Correct]) -> Table:
    """The paired comparison of every variant with the baseline.

    Args:
        study: gives the variants and the baseline.
        rows: one row a trial.
        correct: of a trial's key, whether each test image was classified rightly, (images,).

    Raises:
        ResultsError: predictions are missing or of other images.
    """
    base = runs_of(rows, study.baseline)
    shown = [
        _row(variant, runs, base, correct)
        for variant in study.variants
        if variant.name != study.baseline.name and len(runs := runs_of(rows, variant)) and len(base)
    ]
    return Table(
        name=f"{study.full_name}.paired",
        title=f"{study.name}: on the same images",
        columns=_COLUMNS,
        rows=tuple(shown),
        notes=_NOTES,
    )


def _row(
    variant: Variant, runs: pd.DataFrame, base: pd.DataFrame, correct: Callable[[str], Correct]
) -> dict[str, Cell]:
    first = np.stack([correct(key) for key in runs["key"]])
    second = np.stack([correct(key) for key in base["key"]])
    found = bootstrap_difference(first, second, generator=np.random.default_rng(0))
    better = probability_of_improvement(runs["top1"].to_numpy(), base["top1"].to_numpy())
    single = mcnemar(first[0], second[0]).p if found.n == (1, 1) else None
    text = f"{signed(found.difference)} {interval(found.low, found.high, plus=True)}"
    note = "these seeds only (conditional)" if found.conditional else "new seeds and images"
    return {
        "variant": Cell(text=variant.name, values={"": variant.name}),
        "n": Cell(
            text=" / ".join(map(str, found.n)), values={"": found.n[0], "baseline": found.n[1]}
        ),
        "difference": Cell(
            text=text,
            values={
                "": rounded(found.difference),
                "low": rounded(found.low),
                "high": rounded(found.high),
            },
        ),
        "better": Cell(text=number(better, 2), values={"": rounded(better)}),
        "mcnemar": Cell(text=probability(single), values={"": rounded(single, 6)}),
        "note": Cell(text=note, values={"": note}),
    }
