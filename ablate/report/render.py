"""One `Table` as terminal text, Markdown, LaTeX (booktabs), CSV and HTML."""

from __future__ import annotations

import csv
import html
import io
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from ablate.report.table import EMPTY, Cell, Column, Table

if TYPE_CHECKING:
    from rich.table import Table as RichTable

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": r"--",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "≫": r"$\gg$",
    "≈": r"$\approx$",
    "≠": r"$\neq$",
    "√": r"$\surd$",
    "·": r"$\cdot$",
    "†": r"$\dagger$",
    "→": r"$\rightarrow$",
    "°": r"$^\circ$",
    "…": r"\ldots{}",
}


def terminal(table: Table, width: int | None = None) -> str:
    """The table for a terminal, by rich; bold is kept where the output shows it.

    Columns that do not fit stand in further tables below, each with the naming columns: nothing
    is cut off.
    """
    from rich.console import Console
    from rich.text import Text

    stream = io.StringIO()
    console = Console(
        file=stream, width=width or Console().width, force_terminal=sys.stdout.isatty()
    )
    console.print(Text(table.title))
    for columns in _blocks(table, console.width):
        console.print(_grid(table, columns, console.width))
    for sentence in table.statements:
        console.print(Text(sentence))
    for note in table.notes:
        console.print(Text(f"* {note}"))
    return stream.getvalue()


def _grid(table: Table, columns: Sequence[Column], width: int) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=box.SIMPLE_HEAD)
    for column, own in zip(columns, _widths(table, columns, width), strict=True):
        justify: Literal["left", "right"] = "right" if column.numeric else "left"
        grid.add_column(Text(column.title), justify=justify, overflow="fold", width=own)
    for row in table.rows:
        cells = [row.get(column.key, EMPTY) for column in columns]
        grid.add_row(*[Text(c.text, style="bold" if c.bold else "") for c in cells])
    return grid


def _blocks(table: Table, width: int) -> list[list[Column]]:
    """The columns in groups that fit the width, the naming columns in front of each."""
    naming = list(itertools.takewhile(lambda c: not c.numeric and not c.wide, table.columns))
    room = width - _EDGE - sum(_cell_width(table, column) + _GAP for column in naming)
    blocks: list[list[Column]] = [[]]
    left = room
    for column in table.columns[len(naming) :]:
        needed = _cell_width(table, column) + _GAP
        if needed > left and blocks[-1]:
            blocks.append([])
            left = room
        blocks[-1].append(column)
        left -= needed
    return [[*naming, *block] for block in blocks]


_GAP = 3
"""Characters between two columns."""

_EDGE = 1
"""Characters that the frame adds."""

_SENTENCE = 24
"""Characters at which the sentences of a wide column wrap."""


def _widths(table: Table, columns: Sequence[Column], width: int) -> list[int]:
    """What each column needs, and, while there is room, what keeps it on one line."""
    needed = [_cell_width(table, column) for column in columns]
    room = width - _EDGE - sum(needed) - _GAP * len(columns)
    for index, column in enumerate(columns):
        texts = [column.title, *[row.get(column.key, EMPTY).text for row in table.rows]]
        more = min(room, max(map(len, texts)) - needed[index])
        if more > 0:
            needed[index] += more
            room -= more
    return needed


def _cell_width(table: Table, column: Column) -> int:
    """Characters that a column needs: numbers stay on one line, titles and sentences wrap."""
    words = max(map(len, column.title.split()))
    longest = max((len(row.get(column.key, EMPTY).text) for row in table.rows), default=0)
    return max(words, min(longest, _SENTENCE) if column.wide or not column.numeric else longest)


def markdown(table: Table) -> str:
    """A GitHub-flavoured Markdown table with its notes."""

    def line(texts: list[str]) -> str:
        return "| " + " | ".join(texts) + " |"

    lines = [f"**{_markdown(table.title)}**", ""]
    lines.append(line([_markdown(column.title) for column in table.columns]))
    lines.append(line(["---:" if column.numeric else "---" for column in table.columns]))
    for row in table.rows:
        cells = table.cells(row)
        lines.append(
            line([f"**{_markdown(c.text)}**" if c.bold else _markdown(c.text) for c in cells])
        )
    if table.statements:
        lines += ["", *[f"- {_markdown(sentence)}" for sentence in table.statements]]
    if table.notes:
        lines += ["", *[f"- {_markdown(note)}" for note in table.notes]]
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    """A booktabs table that compiles where `booktabs` and `array` are loaded."""
    align = "".join(
        r">{\raggedright\arraybackslash}p{3.6cm}" if c.wide else "r" if c.numeric else "l"
        for c in table.columns
    )
    body = [
        " & ".join(_latex_cell(cell) for cell in table.cells(row)) + r" \\" for row in table.rows
    ]
    remarks = [_latex(text) for text in (*table.statements, *table.notes)]
    return "\n".join(
        [
            r"% \usepackage{array,booktabs,graphicx}",
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_latex(table.title)}}}",
            r"  \resizebox{\linewidth}{!}{%",
            rf"  \begin{{tabular}}{{{align}}}",
            r"    \toprule",
            "    " + " & ".join(_latex(column.title) for column in table.columns) + r" \\",
            r"    \midrule",
            *[f"    {line}" for line in body],
            r"    \bottomrule",
            r"  \end{tabular}}",
            *[rf"  \par\footnotesize\raggedright {text}" for text in remarks],
            r"\end{table}",
            "",
        ]
    )


def comma_separated(table: Table) -> str:
    """CSV of the values behind the cells; statements and notes are left to the other formats."""
    records = table.records()
    stream = io.StringIO()
    fields = list(records[0]) if records else [column.key for column in table.columns]
    writer = csv.DictWriter(stream, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: "" if value is None else value for key, value in record.items()} for record in records
    )
    return stream.getvalue()


def hypertext(table: Table) -> str:
    """An HTML fragment; the page decides how it looks."""
    head = "".join(f'<th{_css(c)} scope="col">{html.escape(c.title)}</th>' for c in table.columns)
    body = "\n".join(f"<tr>{_html_row(table, row)}</tr>" for row in table.rows)
    items = [
        *[f"<li>{html.escape(text)}</li>" for text in table.statements],
        *[f'<li class="note">{html.escape(text)}</li>' for text in table.notes],
    ]
    remarks = f"\n<ul>{''.join(items)}</ul>" if items else ""
    return (
        f'<div class="table"><table>\n<caption>{html.escape(table.title)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>{remarks}\n"
    )


RENDERERS: Mapping[str, Callable[[Table], str]] = {
    "terminal": terminal,
    "md": markdown,
    "latex": latex,
    "csv": comma_separated,
    "html": hypertext,
}


def _markdown(text: str) -> str:
    for mark in ("\\", "|", "*", "<"):
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _latex_cell(cell: Cell) -> str:
    # A cell that starts with [ would be read as the optional argument of the line break before it.
    text = _latex(cell.text)
    text = "{" + text + "}" if text.startswith("[") else text
    return rf"\textbf{{{text}}}" if cell.bold else text


def _html_row(table: Table, row: Mapping[str, Cell]) -> str:
    parts = []
    for column, cell in zip(table.columns, table.cells(row), strict=True):
        text = html.escape(cell.text)
        parts.append(f"<td{_css(column)}>{f'<strong>{text}</strong>' if cell.bold else text}</td>")
    return "".join(parts)


def _css(column: Column) -> str:
    return ' class="number"' if column.numeric else ' class="wide"' if column.wide else ""
