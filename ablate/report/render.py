"""One `Table` as terminal text, Markdown, LaTeX (booktabs), CSV and HTML."""

from __future__ import annotations

import csv
import html
import io
import sys
from collections.abc import Callable, Mapping

from ablate.report.table import Cell, Column, Table

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
    """The table for a terminal, by rich; bold is kept where the output shows it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(title=Text(table.title), box=box.SIMPLE_HEAD, title_justify="left")
    for column in table.columns:
        grid.add_column(
            Text(column.title),
            justify="right" if column.numeric else "left",
            overflow="fold",
            min_width=_longest_word(table, column) if not column.wide else 14,
        )
    for row in table.rows:
        grid.add_row(*[Text(c.text, style="bold" if c.bold else "") for c in table.cells(row)])
    stream = io.StringIO()
    console = Console(
        file=stream, width=width or Console().width, force_terminal=sys.stdout.isatty()
    )
    console.print(grid)
    for sentence in table.statements:
        console.print(Text(sentence))
    for note in table.notes:
        console.print(Text(f"* {note}"))
    return stream.getvalue()


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


def _longest_word(table: Table, column: Column) -> int:
    texts = [column.title, *[row[column.key].text for row in table.rows if column.key in row]]
    return min(16, max(len(word) for text in texts for word in text.split() or [""]))


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
