"""A report's tables as files for a paper: Markdown, LaTeX and CSV, `tables/SECTION.md` and so on, a section's numbered."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from nha_eval.plots import write_bytes

from .latex import PREAMBLE, latex_table
from .sections import Section
from .tables import Table, markdown_text

# What a paper might show; the others are read on the page.
SECTIONS = ("accuracy", "differences", "accuracy-cost", "inside", "tasks", "latency", "costs")
MOST = 12  # of a section
SUFFIXES = ("md", "tex", "csv")


def write_tables(sections: list[Section], folder: Path, name: str) -> list[Path]:
    """Write them, and remove those of an earlier report that no longer hold; `name` is what the tables are of. Returns the
    files."""
    written = []
    for section in sections:
        if section.id in SECTIONS:
            for place, table in enumerate(section.tables[:MOST]):
                stem = section.id if place == 0 else f"{section.id}-{place + 1}"
                for suffix, content in zip(SUFFIXES, _texts(table, name, stem), strict=True):
                    write_bytes(folder / f"{stem}.{suffix}", content.encode("utf-8", errors="replace"))
                    written.append(folder / f"{stem}.{suffix}")
    own = re.compile(rf"({'|'.join(SECTIONS)})(-\d+)?\.({'|'.join(SUFFIXES)})")
    for path in folder.glob("*"):
        if own.fullmatch(path.name) and path not in written:
            path.unlink()
    return written


def _texts(table: Table, name: str, stem: str) -> tuple[str, str, str]:
    latex = "\n".join([PREAMBLE, *latex_table(table, name, f"tab:{stem}")]) + "\n"
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows([table.columns, *table.rows])
    return f"**{markdown_text(table.title)}**\n\n{table.markdown()}\n", latex, lines.getvalue()
