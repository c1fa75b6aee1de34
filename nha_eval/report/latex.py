"""Tables in LaTeX, for a document that loads booktabs and textcomp: the best in bold, nothing in a name acts as a command."""

from __future__ import annotations

import re

from .tables import STAR, Table

PREAMBLE = "% \\usepackage{booktabs,textcomp}"
_LETTERS = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    # Two hyphens would become a dash; a dash itself is not in every font.
    "-": "-{}",
    "–": "--",
    "±": r"\textpm{}",
}


def latex_text(text: object) -> str:
    """Text in which nothing acts as a command."""
    return re.sub(r"[\\&%$#_{}~^<>'`–±]|-(?=-)", lambda found: _LETTERS[found[0]], str(text))


def latex_table(table: Table, title: str, label: str) -> list[str]:
    """The lines of a `table` environment; a star raised where a score differs from its reference's."""
    alignment = "".join("l" if left else "r" for left in table.left_aligned)
    rows = [
        [_cell(text, (row, column) in table.best) for column, text in enumerate(line)] for row, line in enumerate(table.rows)
    ]
    lines = [" & ".join(line) + r" \\" for line in ([latex_text(column) for column in table.columns], *rows)]
    body = len(lines) - table.foot
    below = ["\\midrule", *lines[body:]] if table.foot else []
    return [
        *("\\begin{table}", "\\centering"),
        f"\\caption{{{latex_text(title)}. {latex_text(table.title)}}}",
        f"\\label{{{label}}}",
        *(f"\\begin{{tabular}}{{{alignment}}}", "\\toprule", lines[0], "\\midrule", *lines[1:body], *below, "\\bottomrule"),
        *("\\end{tabular}", "\\end{table}"),
    ]


def _cell(text: str, best: bool) -> str:
    star = "$^{*}$" if text.endswith(STAR) else ""
    plain = latex_text(text.removesuffix(STAR))
    return (f"\\textbf{{{plain}}}" if best else plain) + star
