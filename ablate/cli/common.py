"""Options that verbs share, and how facts are printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

Command = Callable[..., Any]


def example(*lines: str) -> str:
    """The epilog of a verb: examples, one a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def folders(command: Command) -> Command:
    """--runs and --results, relative to the current folder."""
    for name, text in (("results", "committed rows, tables and figures"), ("runs", "run folders")):
        command = click.option(
            f"--{name}",
            type=click.Path(file_okay=False, path_type=Path),
            default=Path(name),
            show_default=True,
            help=f"Folder of {text}.",
        )(command)
    return command


def study_arguments(command: Command) -> Command:
    """STUDY, --profile and --set."""
    command = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a key of the study, such as train.epochs=5; may stand several times.",
    )(command)
    command = click.option("--profile", "-p", help="A named set of overrides in the study.")(
        command
    )
    return click.argument("study")(command)


as_json = click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")


def tuning_of(study: Any, **where: Path) -> Any:
    """The tuning trials of a study, or None where it tunes nothing."""
    if study.tune is None:
        return None
    from ablate.study.tuning_rows import load_tuning

    return load_tuning(study, **where)


def print_json(facts: object) -> None:
    """Facts as indented JSON on stdout."""
    click.echo(json.dumps(facts, indent=2, default=str))


def console(*, stderr: bool = False) -> Console:
    """Where tables go; as wide as the text where there is no terminal, so that none is cut."""
    found = Console(stderr=stderr, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, width=200)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None
) -> None:
    """A table; columns whose cells are all numbers or dashes are right-aligned."""
    cells = [["-" if value is None else str(value) for value in row] for row in rows]
    if len(cells) > _MANY:
        _print_plainly(columns, cells)
        return
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for index, name in enumerate(columns):
        numeric = all(_is_number(row[index]) for row in cells)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    console().print(table)


_MANY = 500
"""Rows beyond which a table is printed without layout: rich takes milliseconds for each."""


def _print_plainly(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = (
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in (columns, *cells)
    )
    click.echo("\n".join(lines))


def _is_number(text: str) -> bool:
    return text == "-" or text.lstrip("+-~").replace(",", "").replace(".", "")[:1].isdigit()


def millions(count: float | None) -> str:
    """A count of parameters, in millions with two digits."""
    return "-" if count is None else f"{count / 1e6:.2f}M"


def giga(count: float | None) -> str:
    """A count of multiply-adds, in units of 10^9, or 10^6 where it is small."""
    if count is None:
        return "-"
    return f"{count / 1e9:.2f}G" if count >= 1e8 else f"{count / 1e6:.2f}M"
