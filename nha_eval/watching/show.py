"""The terminal view of `nha_eval.watching`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nha_eval.errors import printable
from nha_eval.progress import duration
from nha_eval.watching import Standing, Watched

# Failures beyond these are counted.
_MOST_FAILED = 5


def watch(
    folder: Path,
    *,
    every: float,
    once: bool,
    console: Console | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Shows the run until it is finished, or once. The exit code is 0: what the run's own will be is the run's to say."""
    console = console or Console(highlight=False)
    watched = Watched(folder)
    if once or not console.is_terminal:
        console.print(view(folder, watched.look(), scores(folder)))
        return 0
    with Live(console=console, auto_refresh=False) as live:
        while True:
            standing = watched.look()
            live.update(view(folder, standing, scores(folder)), refresh=True)
            if standing.finished:
                return 0
            sleep(every)


def view(folder: Path, standing: Standing, table: RenderableType | None) -> RenderableType:
    """One picture of a run."""
    done = sum(standing.done.values())
    planned = standing.planned
    bad = [f"{count} {status}" for status, count in sorted(standing.done.items()) if status != "ok"]
    many = f"{done}" if planned is None else f"{done} of {planned}"
    parts = [f"{many} cells", *bad]
    if standing.finished:
        parts.append("finished")
    else:
        parts.append(f"{duration(standing.left)} left" if standing.left is not None else "time left not known yet")
        if standing.quiet is not None:
            parts.append(f"last change {duration(standing.quiet)} ago")
    lines: list[RenderableType] = [Text(f"{printable(str(folder))}: {', '.join(parts)}", style="bold")]
    if planned:
        lines.append(Padding(ProgressBar(total=planned, completed=done), (0, 1, 0, 0)))
    if standing.hand:
        lines.append(
            _rows(
                "in hand",
                [(cell, f"{batches} batches answered", f"{duration(age)} ago") for cell, batches, age in standing.hand],
            )
        )
    if standing.latest:
        lines.append(_rows("last", [(what, figure, duration(seconds)) for what, figure, seconds in standing.latest]))
    if standing.failed:
        shown = [(what, reason, "") for what, reason in standing.failed[:_MOST_FAILED]]
        more = len(standing.failed) - len(shown)
        lines.append(_rows("failed" + (f" ({more} more)" if more else ""), shown))
    if table is not None:
        lines.append(table)
    return Group(*lines)


def _rows(title: str, rows: list[tuple[str, str, str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="dim", box=None, show_header=False, expand=True)
    table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(printable(cell, 200)) for cell in row))
    return table


def scores(folder: Path) -> Table | None:
    """The suites' scores so far, as the report has them; None where there are none yet."""
    # Imported here, as pandas takes a moment that a first look should not wait for.
    from nha_eval.plots import load_frames
    from nha_eval.report.content import suite_table

    try:
        found = suite_table(load_frames(folder))
    except ValueError:
        return None
    if found is None:
        return None
    table = Table(title="scores so far", title_justify="left", title_style="dim", box=None, padding=(0, 2, 0, 0))
    for i, column in enumerate(found.columns):
        table.add_column(escape(column), justify="left" if i < found.labels else "right", overflow="fold")
    for row in found.rows:
        table.add_row(*(escape(cell) for cell in row))
    return table
