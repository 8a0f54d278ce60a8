"""The conditions of a study, for its page: design, confounds, failures, environment, commands."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablate.grammar import resolve
from ablate.report.cells import level_cell
from ablate.report.evidence import mixed_conditions, runs_of
from ablate.report.table import Cell, Column, Table
from ablate.study.differences import arch_differences, config_differences

if TYPE_CHECKING:
    from ablate.study.spec import Study
    from ablate.study.variants import Variant

_SHARE = 0.01
"""Relative difference of parameters or multiply-adds that is told."""


def background(study: Study) -> list[tuple[str, str]]:
    """The design in a few lines: factors, baseline, seeds, data, recipe, statistics."""
    base = study.baseline
    factors = [
        f"{name}: {', '.join(level_cell(value).text for value in factor.values)}"
        for name, factor in study.factors.items()
    ]
    train = {k: v for k, v in base.train.identity().items() if v not in (None, 0, 0.0, [], False)}
    test = "Dunnett, equal variances declared" if study.variances == "pooled" else "Welch with Holm"
    return [
        ("Design", study.design),
        ("Factors", "; ".join(factors) or "none"),
        ("Baseline", base.name),
        ("Seeds", ", ".join(map(str, study.seeds))),
        ("Data", f"{base.data.name}, {base.data.image_size} pixels"),
        ("Recipe", ", ".join(f"{name}={value}" for name, value in train.items())),
        ("Matched", str(study.match) if study.match else "no"),
        ("Paper", study.paper or "none"),
        ("Comparison", f"{test}; alpha {study.alpha:g}, power {study.power:g}"),
    ]


def variants_table(study: Study) -> Table:
    """Every variant with its arch string."""
    columns = (Column(key="name", title="Variant"), Column(key="arch", title="Arch", wide=True))
    rows = tuple({"name": _text(v.name), "arch": _text(v.arch)} for v in study.variants)
    return Table(name="variants", title="Variants", columns=columns, rows=rows)


def confounds_of(
    study: Study, rows: pd.DataFrame, given: Mapping[str, Sequence[str]] | None
) -> list[str]:
    """One sentence a variant that differs from the baseline in more than its factors."""
    if given is not None:
        return [f"{name}: {'; '.join(texts)}" for name, texts in given.items() if texts]
    found = []
    for variant in study.variants:
        texts = [*_costs(study, variant, rows), *_settings(study, variant)]
        if texts:
            found.append(f"{variant.name}: {'; '.join(texts)}")
    return found + mixed_conditions(rows)


def _costs(study: Study, variant: Variant, rows: pd.DataFrame) -> list[str]:
    mine, base = runs_of(rows, variant), runs_of(rows, study.baseline)
    found = []
    for column, title in (("params", "params"), ("macs", "MACs")):
        ours, theirs = mine[column].dropna(), base[column].dropna()
        if ours.empty or theirs.empty:
            continue
        change = float(ours.iloc[0]) / float(theirs.iloc[0]) - 1
        if abs(change) > _SHARE:
            found.append(f"{title} {change:+.1%}")
    return found


def _settings(study: Study, variant: Variant) -> list[str]:
    base = study.baseline
    found = {
        **config_differences("data", variant.data, base.data),
        **config_differences("train", variant.train, base.train),
    }
    if not variant.is_comparison and not base.is_comparison:
        found |= arch_differences(resolve(variant.arch), resolve(base.arch))
    named = {*variant.levels, *base.levels}
    return [f"{name} {a} against {b}" for name, (a, b) in found.items() if name not in named]


def failures_table(study: Study, rows: pd.DataFrame) -> Table:
    """Every failed trial with its kind and message."""
    columns = (
        Column(key="variant", title="Variant"),
        Column(key="seed", title="Seed", numeric=True),
        Column(key="kind", title="Failure"),
        Column(key="message", title="Message", wide=True),
    )
    failed = rows[rows["status"] == "failed"]
    shown = tuple(
        {
            "variant": _text(row["variant_name"]),
            "seed": _text(row["seed"]),
            "kind": _text(row["failure"]),
            "message": _text(row["failure_message"]),
        }
        for row in failed.to_dict("records")
    )
    return Table(name="failures", title=counts_of(rows), columns=columns, rows=shown)


def counts_of(rows: pd.DataFrame) -> str:
    """How many trials finished, failed and are missing."""
    count = rows["status"].value_counts()
    done, failed, missing = (int(count.get(s, 0)) for s in ("done", "failed", "missing"))
    pruned = f"{int(count['pruned'])} pruned, " if "pruned" in count else ""
    return (
        f"{done} of {len(rows)} trials finished, {pruned}{failed} failed, {missing} have not been "
        "run."
    )


def environment_of(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """On what the finished trials ran, and what they took."""
    done = rows[rows["status"] == "done"]
    if done.empty:
        return [("Trials", "none finished")]
    hours = float(done["seconds"].sum()) / 3600
    columns = {
        "Device": "device",
        "Threads": "threads",
        "Precision": "precision",
        "ablate": "version",
        "Commit": "commit",
        "Dataset": "dataset",
        "Fingerprint": "fingerprint",
        "Training images": "train_images",
        "Test images": "test_images",
    }
    found = [
        (title, ", ".join(sorted({_whole(value) for value in done[column].dropna()})) or "unknown")
        for title, column in columns.items()
        if column in done
    ]
    departures = sorted({text for texts in done["departures"] for text in texts or ()})
    return [
        *found,
        ("Time", f"{hours:.2f} hours over {len(done)} trials"),
        ("Departures", "; ".join(departures) or "none"),
    ]


def reproduce(study: Study, rows: pd.DataFrame) -> str:
    """The commands that give these rows again."""
    done = rows[rows["status"] == "done"]
    versions = sorted(set(done["version"].dropna()))
    profile = f" --profile {study.profile}" if study.profile else ""
    # A study in a folder `studies/`, or shipped with ablate, is found by its bare name.
    name = study.path.stem if study.path.parent.name == "studies" else study.path.name
    install = (
        f"pip install ablate-vision=={versions[-1]}" if versions else "pip install ablate-vision"
    )
    return "\n".join(
        [
            install,
            f"ablate run {name}{profile}",
            f"ablate report {name}{profile}",
        ]
    )


def settings_text(study: Study) -> str:
    """The study's file with profile and overrides applied, as YAML."""
    from ruamel.yaml import YAML

    stream = io.StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.dump(_plain(study.settings), stream)
    return stream.getvalue()


def keys_table(rows: pd.DataFrame) -> Table:
    """Every trial with its key, status and test top-1."""
    columns = (
        Column(key="variant", title="Variant"),
        Column(key="seed", title="Seed", numeric=True),
        Column(key="status", title="Status"),
        Column(key="top1", title="Top-1 (%)", numeric=True),
        Column(key="key", title="Key"),
    )
    ordered = rows.sort_values(["variant_name", "seed"]).to_dict("records")
    shown = tuple(
        {
            "variant": _text(row["variant_name"]),
            "seed": _text(row["seed"]),
            "status": _text(row["status"]),
            "top1": _text("–" if pd.isna(row["top1"]) else f"{row['top1']:.2f}"),
            "key": _text(row["key"][:16]),
        }
        for row in ordered
    )
    return Table(name="keys", title="Trials", columns=columns, rows=shown)


def _text(value: Any) -> Cell:
    text = "" if value is None else str(value)
    return Cell(text=text, values={"": text})


def _whole(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _plain(value: Any) -> Any:
    """Dictionaries and lists instead of the loader's own kinds."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
