"""What there is: presets, suites and their tasks, specs, plots, tables, gathered from the places that hold them."""

import runpy
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def collect() -> dict[str, Any]:
    """Everything `list` shows, as plain data. Imports no torch."""
    from nha_eval.evaluate import known_suites
    from nha_eval.plots import plot_kinds
    from nha_eval.spec import SPECS, read_spec, spec_names
    from nha_eval.tables.spec import table_names

    return {
        "presets": preset_names(),
        "suites": {suite: [_task(task) for task in tasks] for suite, tasks in known_suites().items()},
        "specs": {
            name: [_model(entry) for entry in read_spec(SPECS / f"{name}.yaml").get("models", [])] for name in spec_names()
        },
        "plots": list(plot_kinds()),
        "tables": table_names(),
    }


def preset_names() -> list[str]:
    """The presets' names, as `models.presets.preset_names` gives them."""
    # From their file by itself: importing the package around it registers with Transformers, which takes seconds.
    (folder,) = find_spec("models").submodule_search_locations
    return runpy.run_path(str(Path(folder) / "patterns.py"))["preset_names"]()


def _task(task: Any) -> dict[str, Any]:
    return {
        "task": task.name,
        "lengths": list(task.default_lengths) if task.has_lengths else None,
        "protocol": task.protocol,
        "version": str(task.version),
        "data": [source for source, _ in task.sources],
    }


def _model(entry: Any) -> str:
    return entry["name"] if isinstance(entry, dict) else str(entry)


def show(found: dict[str, Any]) -> None:
    """Print it as tables."""
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table

    console = Console(highlight=False)

    def table(*columns: str) -> Table:
        # A name is there to be given back: it is never cut, whatever else has to be folded.
        first, *others = columns
        return Table(Column(first, no_wrap=True), *(Column(name, overflow="fold") for name in others), box=box.SIMPLE_HEAD)

    def headed(title: str, rows: Table) -> None:
        # A title of the table's own would be folded to the table's width.
        console.print(title, style="bold", markup=False)
        console.print(rows)

    console.print(f"[bold]Models[/bold] (--model; or a checkpoint folder, or a hub id)\n  {', '.join(found['presets'])}\n")
    for suite, tasks in found["suites"].items():
        protocols, data = {task["protocol"] for task in tasks}, any(task["data"] for task in tasks)
        # What all tasks share is said once, so that the rest has room in a narrow terminal.
        title = f"Suite {suite} (--suite)" + (f", protocol {tasks[0]['protocol']}" if len(protocols) == 1 else "")
        rows = table("task", "lengths", *["protocol"] * (len(protocols) > 1), "version", *["data (--data)"] * data)
        for task in tasks:
            lengths = ", ".join(map(str, task["lengths"])) if task["lengths"] else "as they come"
            row = [task["task"], lengths, *[task["protocol"]] * (len(protocols) > 1), task["version"]]
            rows.add_row(*row, *[", ".join(task["data"])] * data)
        headed(title, rows)
    specs = table("name", "models")
    for name, models in found["specs"].items():
        specs.add_row(name, ", ".join(models))
    headed("Specs (eval NAME)", specs)
    console.print(f"[bold]Plots[/bold] (plot KIND RUN --out FILE)\n  {', '.join(found['plots'])}\n")
    console.print(f"[bold]Tables[/bold] (tables NAME)\n  {', '.join(found['tables'])}")
