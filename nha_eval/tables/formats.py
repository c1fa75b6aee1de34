"""Filled tables in the terminal, as Markdown, LaTeX (booktabs), HTML (one self-contained page) and CSV (a row a cell).

Nothing in a name acts as markup in any of them; the CSV holds names as they are.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from nha_eval.report import render
from nha_eval.report.latex import PREAMBLE, latex_table, latex_text
from nha_eval.report.tables import Table, fenced, markdown_text
from nha_eval.tables.cells import Cell, Filled
from nha_eval.tables.shown import Shown, lay_out

FORMATS = {"markdown": ".md", "latex": ".tex", "csv": ".csv", "html": ".html"}
CSV_COLUMNS = [
    *("table", "model", "params", "tokens", "metric", "length", "published", "source", "source_note"),
    *("stands_in", "window", "run", "measured", "ci_low", "ci_high", "n", "difference", "verdict", "reason", "command"),
]
WIDTH = 160  # columns, on a narrower terminal too: a wrapped line can be read, a cut-off figure cannot


def render_as(kind: str, filled: list[Filled]) -> str:
    """The tables in one of FORMATS."""
    if kind == "csv":
        return csv_text(filled)
    shown = [lay_out(table) for table in filled]
    return {"markdown": markdown, "latex": latex, "html": html}[kind](shown)


def csv_text(filled: Iterable[Filled]) -> str:
    """A row a cell: of every table, and then of what stands beside it, where `model` is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for table in filled:
        for cell in (*table.cells, *(cell for cells in table.own.values() for cell in cells)):
            writer.writerow({key: "" if value is None else value for key, value in _csv_row(cell).items()})
    return text.getvalue()


def _csv_row(cell: Cell) -> dict[str, Any]:
    model, published, measured = cell.model, cell.published, cell.measured
    row = {"table": cell.table.name, "metric": cell.column.metric, "length": cell.column.length}
    if model:
        row |= {"model": model.name, "params": model.params, "tokens": model.tokens}
    if published:
        row |= {"published": published.value, "source": published.source, "source_note": published.note}
    if cell.setting:
        row |= {"stands_in": cell.setting.model, "window": cell.setting.window}
    difference = None if cell.difference is None else round(cell.difference, 6)
    figures = {"measured": measured.value, "ci_low": measured.low, "ci_high": measured.high}
    figures = {name: None if value is None else round(value, 6) for name, value in figures.items()}
    about = {"run": measured.run, "n": measured.n, "difference": difference, "verdict": cell.verdict}
    return {**row, **figures, **about, "reason": cell.reason, "command": cell.command}


def markdown(shown: Iterable[Shown]) -> str:
    """Every table under a heading of its own."""
    parts = []
    for one in shown:
        parts.append(f"## {markdown_text(f'{one.name}: {one.title}')}")
        for table in one.tables:
            parts += [f"**{markdown_text(table.title)}**", table.markdown()]
        parts.append("\n".join(f"- {markdown_text(note)}" for note in one.notes))
        if one.commands:
            parts += [markdown_text(one.commands_say), fenced("\n".join(one.commands))]
    return "\n\n".join(parts) + "\n"


def latex(shown: Iterable[Shown]) -> str:
    """A `table` environment each, for a document that loads booktabs and textcomp."""
    lines = [PREAMBLE]
    for one in shown:
        for place, table in enumerate(one.tables):
            lines += latex_table(table, one.title, f"tab:{one.name}" + (f"-{place}" if place else ""))
        lines += ["\\begin{itemize}", *(f"\\item {latex_text(note)}" for note in one.notes), "\\end{itemize}"]
        if one.commands:
            lines.append(f"\\noindent {latex_text(one.commands_say)}")
            lines += ["\\begin{itemize}", *(f"\\item \\texttt{{{latex_text(c)}}}" for c in one.commands), "\\end{itemize}"]
        lines.append("")
    return "\n".join(lines)


def html(shown: Iterable[Shown]) -> str:
    """One page that loads nothing."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    css = Markup((Path(render.__file__).parent / "page.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html.j2").render(shown=list(shown), css=css)


def print_shown(shown: Iterable[Shown], console: Any = None) -> None:
    """Print the tables to stdout."""
    from rich.console import Console
    from rich.markup import escape
    from rich.padding import Padding

    console = console or Console(highlight=False)
    console.width = max(console.width, WIDTH)
    for one in shown:
        console.rule(f"[bold]{escape(one.name)}[/bold]", align="left")
        console.print(f"[bold]{escape(one.title)}[/bold]\n")
        for table in one.tables:
            console.print(table.title, style="italic", markup=False)
            console.print(_rich_table(table))
        for note in one.notes:
            console.print(Padding(escape(f"- {note}"), (0, 0, 0, 1)))
        if one.commands:
            console.print(f"\n {escape(one.commands_say)}")
            for command in one.commands:
                # Whole on one line, however long, so that it can be copied.
                console.print(f"   {command}", markup=False, soft_wrap=True)
        console.print()


def _rich_table(table: Table) -> Any:
    from rich import box
    from rich.markup import escape
    from rich.table import Table as RichTable

    made = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(table.columns):
        label = place < table.labels or column == "verdict"
        made.add_column(escape(column), justify="left" if label else "right", overflow="fold")
    for row in table.rows:
        made.add_row(*map(escape, row))
    return made
