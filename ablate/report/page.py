"""One self-contained HTML page of a study, or of two: nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablate.report import style
from ablate.report.background import (
    background,
    confounds_of,
    counts_of,
    environment_of,
    failures_table,
    keys_table,
    reproduce,
    settings_text,
    variants_table,
)
from ablate.report.evidence import gather
from ablate.report.paired import Correct
from ablate.report.paired_tables import paired_table
from ablate.report.plots import caption, draw, showable
from ablate.report.study_tables import comparison_table, study_table

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure

    from ablate.study.spec import Study

Evidence = tuple["Study", pd.DataFrame, pd.DataFrame]
"""A study with its rows and curves."""


def write_page(
    study: Study,
    rows: pd.DataFrame,
    curves: pd.DataFrame,
    path: str | Path,
    *,
    correct: Callable[[str], Correct] | None = None,
    confounds: Mapping[str, Sequence[str]] | None = None,
    tuning: pd.DataFrame | None = None,
) -> Path:
    """Write the whole evidence of a study as one HTML page.

    Args:
        study: gives the question, the design and the variants.
        rows: one row a trial; failed ones are shown with their messages.
        curves: one row an epoch of a trial.
        path: the page; missing folders are made.
        correct: of a trial's key, whether each test image was classified rightly; adds the
            comparison image by image.
        confounds: sentences by the variant's name, from the pre-flight check (default: what the
            rows and the networks' descriptions tell).
        tuning: one row a tuning trial, where the study tunes settings.

    Returns:
        The path written.
    """
    part = _part(study, rows, curves, correct, confounds, tuning)
    return _write(f"{study.full_name}: {part['question']}", [part], Path(path))


def write_comparison(first: Evidence, second: Evidence, path: str | Path) -> Path:
    """Write two studies as one page: side by side in one table, then each with its conditions."""
    from markupsafe import Markup

    parts = [_part(study, rows, curves, None, None) for study, rows, curves in (first, second)]
    title = f"{first[0].full_name} and {second[0].full_name}"
    both = comparison_table([(study, rows) for study, rows, _ in (first, second)])
    return _write(title, parts, Path(path), both=Markup(both.render("html")))


def _write(title: str, parts: list[dict[str, Any]], path: Path, both: str = "") -> Path:
    from ablate import __version__

    text = _template().render(title=title, parts=parts, both=both, version=__version__)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@lru_cache(maxsize=1)
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("ablate", "report")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template(
        "page.html.j2"
    )


def _part(
    study: Study,
    rows: pd.DataFrame,
    curves: pd.DataFrame,
    correct: Callable[[str], Correct] | None,
    confounds: Mapping[str, Sequence[str]] | None,
    tuning: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """What the template shows of one study."""
    from markupsafe import Markup

    table = study_table(study, rows)
    failed = failures_table(study, rows)
    paired = paired_table(study, rows, correct) if correct else None
    return {
        "name": study.full_name,
        "question": " ".join(study.question.split()),
        "header": study.header.strip(),
        "verdicts": [*verdicts(study, rows), *table.statements],
        "table": Markup(replace(table, statements=()).render("html")),
        "paired": Markup(paired.render("html")) if paired and paired.rows else "",
        "figures": [
            {"title": caption(kind), "data": _embedded(draw(kind, study, rows, curves, tuning))}
            for kind in showable(rows, curves, tuning)
        ],
        "design": background(study),
        "variants": Markup(variants_table(study).render("html")),
        "failures": Markup(failed.render("html")) if failed.rows else "",
        "counts": counts_of(rows),
        "confounds": confounds_of(study, rows, confounds),
        "environment": environment_of(rows),
        "reproduce": reproduce(study, rows),
        "settings": settings_text(study),
        "keys": Markup(keys_table(rows).render("html")),
    }


def verdicts(study: Study, rows: pd.DataFrame) -> list[str]:
    """One sentence a variant that was compared: what the runs support against the baseline."""
    evidence = gather(study, rows)
    return [
        f"{variant.name} against {evidence.baseline}: {evidence.verdict(variant.name)}."
        for variant in study.variants
        if variant.name in evidence.differences and len(evidence.samples[variant.name])
    ]


def _embedded(figure: Figure) -> str:
    """The figure as SVG with its letters drawn, so that it needs no font of the reader's."""
    import matplotlib as mpl

    stream = io.BytesIO()
    with style.house_style(), mpl.rc_context({"svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()
