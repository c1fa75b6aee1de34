"""What a run shows while it goes: a bar with the time left and the cell at hand on a terminal, a line a cell elsewhere.

All of it goes to stderr; stdout is for results.
"""

import time
from collections import defaultdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from nha_eval import telemetry
from nha_eval.errors import printable
from nha_eval.plan import Cell


class Estimate:
    """Seconds that cells take, learnt from those that are done."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Any, ...], list[float]] = defaultdict(list)

    @staticmethod
    def _keys(cell: Cell) -> list[tuple[Any, ...]]:
        thing = cell.task or cell.phase
        return [
            (cell.kind, thing, cell.length, cell.model, cell.window),
            (cell.kind, thing, cell.length),
            (cell.kind, thing),
            (cell.kind,),
            (),
        ]

    def add(self, cell: Cell, seconds: float) -> None:
        for key in self._keys(cell):
            self._seen[key].append(seconds)

    def seconds(self, cells: list[Cell]) -> float | None:
        """For all these cells; None when nothing is known yet."""
        total = 0.0
        for cell in cells:
            known = next((self._seen[key] for key in self._keys(cell) if key in self._seen), None)
            if known is None:
                return None
            total += sum(known) / len(known)
        return total


def duration(seconds: float | None) -> str:
    """`45 s`, `12 min`, `2 h 05 min`; `?` for None."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Display:
    """Progress of a run over `cells`, of which those in `records` are done."""

    def __init__(self, cells: list[Cell], records: dict[str, dict[str, Any]], console: Console | None = None):
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self.cells = cells
        self.left = {cell.id: cell for cell in cells if cell.id not in records}
        self.estimate = Estimate()
        for cell in cells:
            if cell.id in records:
                self.estimate.add(cell, records[cell.id].get("seconds") or 0.0)
        self._live = self.console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            refresh_per_second=4,
        )
        self._all = self._progress.add_task("cells", total=len(cells), completed=len(cells) - len(self.left), note="")
        self._one = self._progress.add_task("", total=None, note="", visible=False)
        self._begun = time.monotonic()

    def __enter__(self) -> "Display":
        if self._live:
            self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._progress.update(self._one, visible=False)
            self._progress.stop()

    def say(self, text: str) -> None:
        """A line of its own."""
        self.console.print(escape(printable(text)))

    def warn(self, text: str) -> None:
        self.console.print(f"[yellow]warning:[/yellow] {escape(printable(text))}")

    def loading(self, model: str) -> None:
        self._note(f"loading {model}")

    def begin(self, cell: Cell) -> None:
        self._begun = time.monotonic()
        self._note(cell.what)

    def _note(self, text: str) -> None:
        self._progress.update(
            self._one, description=escape(printable(text, 160)), total=None, completed=0, note="", visible=True
        )

    def step(self, done: int, total: int) -> None:
        self._progress.update(self._one, completed=done, total=total)

    def tick(self) -> None:
        """Bring the time left up to date."""
        left = self.estimate.seconds(list(self.left.values()))
        if left is not None:
            left = max(0.0, left - (time.monotonic() - self._begun)) if self.left else 0.0
            self._progress.update(self._all, note=f"{duration(left)} left")

    def done(self, cell: Cell, record: dict[str, Any]) -> None:
        """Count the cell, and say its figures."""
        self.estimate.add(cell, record.get("seconds") or 0.0)
        self.left.pop(cell.id, None)
        finished = len(self.cells) - len(self.left)
        self._progress.update(self._all, completed=finished)
        left = duration(self.estimate.seconds(list(self.left.values())))
        if self._live:
            self.say(f"{cell.what}: {headline(cell, record)}")
        else:
            seconds = record.get("seconds") or 0.0
            self.say(f"[{finished}/{len(self.cells)}] {cell.what}: {headline(cell, record)} ({seconds:.1f} s, {left} left)")
        self.tick()


def headline(cell: Cell, record: dict[str, Any]) -> str:
    """The cell's main figure, or why there is none."""
    if record["status"] != "ok":
        return f"{record['status']}: {record['reason']}"
    if cell.kind == "telemetry":
        return telemetry.headline(record)
    row = record["rows"][0]
    if cell.kind == "score":
        spread = f" ± {row['stderr']:.3f}" if isinstance(row.get("stderr"), float) else ""
        # Where all documents score alike, no spread is no certainty.
        if not row.get("stderr") and isinstance(row.get("ci_low"), float):
            spread = f" ({row['ci_low']:.3f} to {row['ci_high']:.3f})"
        value = f"{row['value']:.3f}" if isinstance(row["value"], int | float) else row["value"]
        return f"{row['metric']} {value}{spread} (n={row['n']})"
    return f"{row['latency_ms']:.1f} ms, {row['peak_memory_mb']:.0f} MiB, state {row['state_bytes'] / 2**20:.2f} MiB"
