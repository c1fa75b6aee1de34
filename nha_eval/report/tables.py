"""Tables as data, and the figures in them as text: one Table is printed as Markdown here and as HTML by the page's
template.

from nha_eval.report.tables import Table print(Table("Costs", ["model", "ms"], [["nha", "12.0"]]).markdown())
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from nha_eval.plots._frames import clean_text

NOT_RUN = "not run"
MISSING = "–"
STAR = " *"  # behind a score that differs from its reference's


@dataclass(frozen=True)
class Table:
    """A table of printable text; the first `labels` columns are names (left-aligned), the others figures (right-aligned) but
    for those in `words`. `best` holds (row, column) of what is printed in bold; the last `foot` rows are of another kind than
    those above them, and stay below whatever these are sorted by."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    labels: int = 1
    left_out: int = 0  # rows that were cut for length
    foot: int = 0
    best: frozenset[tuple[int, int]] = frozenset()
    words: frozenset[int] = frozenset()

    @property
    def left_aligned(self) -> list[bool]:
        """A column each."""
        return [place < self.labels or place in self.words for place in range(len(self.columns))]

    def markdown(self) -> str:
        """The table in pipes; names that hold markup come out as the letters they are."""
        bars = ["---" if left else "---:" for left in self.left_aligned]
        lines = [[markdown_text(cell) for cell in row] for row in (self.columns, *self.rows)]
        for row, column in self.best:
            lines[row + 1][column] = f"**{lines[row + 1][column]}**"
        lines.insert(1, bars)
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_text(text: object) -> str:
    """Text for a line of Markdown in which nothing of it acts as markup or HTML."""
    line = clean_text(text).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([`*\[\]|~#!$])", r"\\\1", line)
    # Underscores inside a word never start emphasis; leaving them keeps task names readable in the source.
    line = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)
    # A scheme followed by // would become a link by itself.
    return line.replace("://", ":&#47;&#47;")


def fenced(text: str) -> str:
    """A code block around `text` whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def number(value: float, digits: int = 3) -> str:
    """A figure with `digits` significant digits at least and thousands apart; MISSING for NaN."""
    if value is None or math.isnan(value):
        return MISSING
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"


def score(value: float, stderr: float = math.nan) -> str:
    """`0.412 ± 0.021`, without the error where it is not known."""
    if math.isnan(value):
        return MISSING
    return f"{value:.3f}" if math.isnan(stderr) else f"{value:.3f} ± {stderr:.3f}"


def interval(low: float, high: float) -> str:
    """`0.371 to 0.453`; MISSING where a bound is not known."""
    return MISSING if math.isnan(low) or math.isnan(high) else f"{low:.3f} to {high:.3f}"


def count(value: float) -> str:
    """A whole number with thousands apart; MISSING for NaN."""
    return MISSING if value is None or math.isnan(value) else f"{value:,.0f}"


def share(value: float) -> str:
    """A fraction as per cent in whole numbers, `under 1%` where that would say 0% of something."""
    if 0 < value < 0.005:
        return "under 1%"
    return f"{value:.0%}"


def size(value: float) -> str:
    """Bytes in the largest binary unit of which there is at least one: `4.3 MiB`."""
    if value is None or math.isnan(value):
        return MISSING
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= factor:
            return f"{number(value / factor)} {unit}"
    return f"{value:,.0f} bytes"


def times(ratio: float) -> str:
    """A ratio in words' precision: `21`, `3.4`, `0.83`."""
    return f"{ratio:,.0f}" if ratio >= 9.95 else f"{ratio:.1f}" if ratio >= 1.995 else f"{ratio:.2f}"
