"""Verbs that read results: results, table, plot, report, compare."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from ablate.cli.common import (
    as_json,
    console,
    example,
    folders,
    print_json,
    print_table,
    study_arguments,
    tuning_of,
)


def _load(study: str, profile: str | None, overrides: tuple[str, ...], **where: Path) -> Any:
    """A study with its rows and curves."""
    from ablate.study.spec import load_study
    from ablate.study.store import load_curves, load_results

    loaded = load_study(study, profile, overrides)
    return loaded, load_results(loaded, **where), load_curves(loaded, **where)


@click.command(
    "results",
    epilog=example(
        "ablate results studies/position_encoding.yaml",
        "ablate results position_encoding --profile cifar10 --json",
        "ablate results position_encoding --check",
    ),
)
@study_arguments
@folders
@click.option(
    "--check",
    is_flag=True,
    help="Look for contradictions in the committed results, their table and figures.",
)
@as_json
def results_command(
    study: str,
    profile: str | None,
    overrides: tuple[str, ...],
    runs: Path,
    results: Path,
    check: bool,
    as_json: bool,
) -> None:
    """The rows of STUDY, one a trial: what it measured, or why it failed."""
    from ablate.study.spec import load_study

    loaded = load_study(study, profile, overrides)
    if check:
        _check(loaded, results=results, runs=runs, as_json=as_json)
    from ablate.study.store import load_results

    rows = load_results(loaded, results=results, runs=runs)
    if as_json:
        click.echo(rows.to_json(orient="records", indent=2))
        return
    columns = ("variant_name", "seed", "status", "top1", "top5", "train_top1", "test_loss",
               "train_loss", "epochs", "dataset", "device", "failure")  # fmt: skip
    shown = rows.sort_values(["variant_name", "seed"])[list(columns)]
    print_table(columns, [[_cell(value) for value in row] for row in shown.itertuples(index=False)])


def _check(study: Any, *, results: Path, runs: Path, as_json: bool) -> None:
    """Contradictions among rows, and tables and figures that do not follow from them."""
    from ablate.report.publish import drift
    from ablate.study.audit import Contradiction, check_results
    from ablate.study.store import load_curves, load_results

    found = check_results(study, results=results, runs=runs)
    folder = results / study.full_name
    if not found and (folder / "trials.csv").exists():
        committed = {"results": results, "runs": folder / "no-runs"}
        rows, curves = load_results(study, **committed), load_curves(study, **committed)
        found = [
            Contradiction(kind="derived", key=None, message=line)
            for line in drift(study, rows, curves, folder, tuning_of(study, **committed))
        ]
    if as_json:
        print_json({"contradictions": [dataclasses.asdict(one) for one in found]})
    else:
        click.echo("\n".join(one.message for one in found) or "no contradictions")
    raise SystemExit(1 if found else 0)


def _cell(value: Any) -> str | None:
    """One value for a reader: two digits, whole numbers bare, nothing for what is missing."""
    if value is None or value != value:
        return None
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) > 100 else f"{value:.2f}"
    return str(value)


@click.command(
    "table",
    epilog=example(
        "ablate table position_encoding",
        "ablate table coat.table6",
        "ablate table coat.table2 --format latex > table2.tex",
    ),
)
@study_arguments
@folders
@click.option(
    "--format",
    "-f",
    "format_",
    default="terminal",
    show_default=True,
    help="terminal, md, latex, csv or html.",
)
@as_json
def table_command(
    study: str,
    profile: str | None,
    overrides: tuple[str, ...],
    runs: Path,
    results: Path,
    format_: str,
    as_json: bool,
) -> None:
    """The table of STUDY, or a paper's table such as coat.table6.

    A paper's table has its reported values beside what is built and measured here: params and
    FLOPs of the exact networks, and accuracy wherever a study has measured it.
    """
    from ablate.papers import table_names

    if study in table_names():
        table = _paper_table(study, results)
    else:
        from ablate.report.publish import evidence_table

        loaded, rows, _ = _load(study, profile, overrides, results=results, runs=runs)
        table = evidence_table(loaded, rows)
    if as_json:
        print_json(table.to_json())
    else:
        width = console().width if format_ == "terminal" else None
        click.echo(table.render(format_, width=width))


def _paper_table(name: str, results: Path) -> Any:
    """A paper's table with the costs of the built networks and all committed measurements."""
    from ablate.cost import Cost, paper_flops, profile
    from ablate.report.paper_tables import paper_table
    from ablate.study.committed import load_all_results

    def cost(arch: str, image_size: int, num_classes: int) -> Cost:
        return profile(arch, image_size=image_size, num_classes=num_classes)

    return paper_table(name, load_all_results(results), cost=cost, flops=paper_flops)


@click.command(
    "plot",
    epilog=example(
        "ablate plot layout --kind generalization_capacity -o layout.pdf",
        "ablate plot position_encoding --kind curves",
        "ablate plot position_encoding --kind importances",
    ),
)
@study_arguments
@folders
@click.option("--kind", "-k", default="generalization_capacity", show_default=True,
              help="Which figure, of those above.")  # fmt: skip
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path),
              help="A pdf, svg or png file (default: the study's results folder).")  # fmt: skip
def plot_command(
    study: str,
    profile: str | None,
    overrides: tuple[str, ...],
    runs: Path,
    results: Path,
    kind: str,
    output: Path | None,
) -> None:
    """Draw one figure of STUDY.

    \b
    generalization_capacity  eval against train, and the gap against params and MACs
    curves                   accuracy and loss by epoch, with every seed
    effects                  what each level does, main effects and interactions
    accuracy_params          accuracy against parameters, beside the paper's points
    accuracy_macs            accuracy against multiply-adds, beside the paper's points
    pareto                   what no other variant beats in accuracy and cost, named
    importances              how much of the differences each factor explains (fANOVA)
    sensitivity              validation accuracy against each tuned setting
    data_scaling             accuracy and gap against the number of training images
    failures                 how many trials finished or failed
    """
    from ablate.report import plot

    where = {"results": results, "runs": runs}
    loaded, rows, curves = _load(study, profile, overrides, **where)
    kind = kind.replace("-", "_")
    path = output or results / loaded.full_name / f"{kind}.png"
    click.echo(plot(kind, loaded, rows, curves, path, tuning_of(loaded, **where)))


@click.command(
    "report", epilog=example("ablate report position_encoding", "ablate report layout -o a.html")
)
@study_arguments
@folders
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path),
              help="The page (default: report.html in the study's results folder).")  # fmt: skip
def report_command(
    study: str,
    profile: str | None,
    overrides: tuple[str, ...],
    runs: Path,
    results: Path,
    output: Path | None,
) -> None:
    """Write one self-contained HTML page: question, table, figures, verdicts, environment."""
    from ablate.report.page import write_page
    from ablate.report.predictions import correct_of
    from ablate.study.plan import study_confounds

    where = {"results": results, "runs": runs}
    loaded, rows, curves = _load(study, profile, overrides, **where)
    path = output or results / loaded.full_name / "report.html"
    page = write_page(
        loaded,
        rows,
        curves,
        path,
        correct=correct_of(rows, **where),
        confounds=study_confounds(loaded),
        tuning=tuning_of(loaded, **where),
    )
    click.echo(page)


@click.command("compare", epilog=example("ablate compare position_encoding co_scale -o both.html"))
@click.argument("first")
@click.argument("second")
@click.option("--profile", "-p", help="A profile that both studies have.")
@folders
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path),
              default=Path("compare.html"), show_default=True, help="The page.")  # fmt: skip
def compare_command(
    first: str, second: str, profile: str | None, runs: Path, results: Path, output: Path
) -> None:
    """Write one HTML page with two studies side by side."""
    from ablate.report.page import write_comparison

    loaded = [_load(name, profile, (), results=results, runs=runs) for name in (first, second)]
    click.echo(write_comparison(loaded[0], loaded[1], output))
