"""What the doctor prints: a line a check of the machine, a table of the mixers, what is wrong, what is missing."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nha_eval.doctor.missing import Missing
from nha_eval.doctor.mixers import Finding, Result
from nha_eval.environment import versions

MARKS = {"ok": "[green]ok  [/green]", "note": "[yellow]note[/yellow]", "bad": "[red]bad [/red]"}
COLOURS = {"ok": "green", "passed": "green", "refused": "yellow", "failed": "red"}
CHECKS = ("kernel", "gradients", "split", "steps", "batch")
LEGEND = (
    "Relative RMS errors, the worst over windows. kernel, gradients: against the definition in fp64; split: in pieces, and "
    "steps: token by token, against one pass; batch: eight unlike rows padded on either side, against each alone."
)


class Show:
    """Prints to the terminal as things are found; with `quiet` nothing but `json`."""

    def __init__(self, quiet: bool = False):
        self.console = Console(highlight=False, soft_wrap=True, quiet=quiet)

    def line(self, name: str, state: str, text: str) -> None:
        """A check of the machine."""
        self.console.print(f"{MARKS[state]} {name:16} {escape(text)}")

    def working(self, what: str) -> contextlib.AbstractContextManager:
        """Says what is being done for as long as it is, on a terminal."""
        if self.console.is_terminal and not self.console.quiet:
            return self.console.status(escape(f"{what} (compiling a GPU's kernels takes minutes the first time)"))
        return contextlib.nullcontext()

    def mixers(self, results: list[Result], device: str) -> None:
        """A row a mixer, and under the table every finding that is not well."""
        table = Table(title=f"Mixers on {escape(device)}", title_justify="left", title_style="bold", box=None)
        for head in ("mixer", "backend", *CHECKS, "verdict"):
            table.add_column(head, no_wrap=True)
        table.padding = (0, 2, 0, 0)
        for result in results:
            worst = result.worst()
            cells = [_cell(worst[check]) if check in worst else "" for check in CHECKS]
            verdict = f"[{COLOURS[result.verdict]}]{result.verdict}[/]"
            table.add_row(escape(result.mixer), escape(result.backend), *cells, verdict)
        self.console.print(table)
        self.console.print(LEGEND)
        for result in results:
            for finding in result.findings:
                if finding.status != "ok":
                    text = escape(f"{result.mixer}: {finding.words()}")
                    self.console.print(f"[{COLOURS[finding.status]}]{finding.status}[/] {text}")

    def missing(self, lacking: list[Missing]) -> None:
        """What goes without a package, and the command."""
        for one in lacking:
            self.console.print(f"{MARKS['note']} missing {escape(one.package)}: {escape(one.what)}; {escape(one.command)}")

    def end(self, bad: list[str], kept: str) -> None:
        """The verdict."""
        self.console.print(f"Verdicts on mixers are {escape(kept)}")
        if bad:
            self.console.print(f"[red]verdict: something needs mending[/red] ({escape(', '.join(bad))})")
        else:
            self.console.print("[green]verdict: all is well[/green]")

    def json(self, lines: list, results: list[Result], lacking: list[Missing], bad: list[str], device: Any) -> None:
        """Everything as one JSON object."""
        content = {
            "verdict": "bad" if bad else "ok",
            "device": str(device),
            "versions": versions(),
            "machine": [{"check": name, "state": state, "text": text} for name, state, text in lines],
            "mixers": {result.mixer: result.as_dict() for result in results},
            "missing": [vars(one) for one in lacking],
        }
        print(json.dumps(content, indent=1))


def _cell(finding: Finding) -> str:
    text = finding.status if finding.error is None else f"{finding.error:.0e}"
    return f"[{COLOURS[finding.status]}]{text}[/]"
