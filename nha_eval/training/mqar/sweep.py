"""The sweep of an MQAR spec: first the rates, on one seed and the selection split, then the seeds at the best rate.

    sweep(spec, Path("results/runs/train-mqar-quick"), workers=2)

A finished training is one JSON file in `cells/`, written whole or not at all, and the table `mqar.csv` comes out of these
files: the same command again goes on where it stopped. With several workers each is a process of its own; on a GPU they share
it, as one small model leaves most of it idle.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from nha_eval import environment
from nha_eval.bench.machine import resolve_device
from nha_eval.journal import plain, write_atomic
from nha_eval.progress import duration
from nha_eval.training.folder import training_folder
from nha_eval.training.mqar.cells import OWN, Cell, choose_rates, mqar_config, rate_cells, seed_cells, shapes
from nha_eval.training.mqar.spec import MqarSpec
from nha_eval.training.mqar.training import train_cell
from nha_eval.training.workers import KILLED, results

COLUMNS = [
    *("task", "mixer", "variant", "window", "trained_window", "slots", "d_model", "heads", "state_elements", "state_bytes"),
    *("length", "pairs", "rate", "seed", "split", "accuracy", "n", "steps", "seconds", "status", "reason"),
]


def sweep(spec: MqarSpec, folder: Path, workers: int = 1, console: Console | None = None) -> Path:
    """Goes through the trainings that are left and returns the table's path. Raises UserError for what cannot be trained, and
    MachineError where the disk is full; what was finished until then is kept.
    """
    console = console or Console(stderr=True, highlight=False, soft_wrap=True)
    device, dtype = resolve_device(spec.device, spec.dtype)
    models = len(shapes(spec))
    with training_folder(folder, spec.settings()):
        about = {
            "command": environment.command_line(),
            **environment.describe(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else environment.cpu_name(),
            "dtype": str(dtype).removeprefix("torch."),
            "workers": workers,
            "filler": "random tokens, keys among them" if spec.random_filler else "token 0",
        }
        write_atomic(folder / "environment.json", json.dumps(plain(about), indent=1) + "\n")
        trying = rate_cells(spec)
        found = _all(spec, trying, folder, workers, console, "rates")
        if trying:
            chosen = choose_rates(trying, dict(enumerate(found)))
        else:
            chosen = {(task.name, i): spec.rates[0] for task in spec.tasks for i in range(models)}
        write_table(folder, spec, trying, found)
        reported = seed_cells(spec, chosen)
        found += _all(spec, reported, folder, workers, console, "seeds")
        return write_table(folder, spec, [*trying, *reported], found)


def _all(spec: MqarSpec, cells: list[Cell], folder: Path, workers: int, console: Console, phase: str) -> list[dict[str, Any]]:
    """The records of the cells, in their order; those that are there already are taken."""
    ids = [cell.id(spec) for cell in cells]
    records = {i: record for i, name in enumerate(ids) if (record := _read(folder / "cells" / f"{name}.json")) is not None}
    left = [i for i in range(len(cells)) if i not in records]
    began, done = time.monotonic(), len(records)
    if done:
        console.print(f"{phase}: {done} of {len(cells)} trainings are done already", markup=False)
    for i, record in _results(spec, [(i, cells[i], str(folder / "work" / ids[i])) for i in left], workers):
        records[i] = plain(
            {"id": ids[i], "label": cells[i].shape.label, "rate": cells[i].rate, "seed": cells[i].seed, **record}
        )
        write_atomic(folder / "cells" / f"{ids[i]}.json", json.dumps(records[i], indent=1) + "\n")
        spent = (time.monotonic() - began) / (len(records) - done)
        left_s = duration(spent * (len(cells) - len(records)))
        console.print(f"{phase} {len(records)}/{len(cells)} {_told(cells[i], record)}, {left_s} left", markup=False)
    return [records[i] for i in range(len(cells))]


def _told(cell: Cell, record: dict[str, Any]) -> str:
    what = f"{cell.task.name}: {cell.shape.label}, rate {cell.rate:.3g}, seed {cell.seed}:"
    if record["status"] != "ok":
        return f"{what} {record['status']} ({record['reason']})"
    tested = [row["accuracy"] for row in record["rows"] if row["split"] == "test" and row["window"] == OWN]
    test = f", test {sum(tested) / len(tested):.3f}" if tested else ""
    return f"{what} selection {record['selection']:.3f}{test} after {record['steps']:,} steps, {duration(record['seconds'])}"


def _read(path: Path) -> dict[str, Any] | None:
    """A finished record; None where there is none, or one of a training whose process was killed, which is tried again."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if "rows" in record and record["status"] and record.get("reason") != KILLED else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _results(spec: MqarSpec, jobs: list[tuple[int, Cell, str]], workers: int) -> Iterator[tuple[int, dict[str, Any]]]:
    return results(train_cell, [(i, (spec, cell, Path(place))) for i, cell, place in jobs], workers)


def write_table(folder: Path, spec: MqarSpec, cells: list[Cell], records: list[dict[str, Any]]) -> Path:
    """mqar.csv of these cells; one without figures gives a row that says why."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for cell, record in zip(cells, records, strict=True):
        trained = _own_window(spec, cell)
        common = {
            "task": cell.task.name,
            "mixer": cell.shape.mixer,
            "variant": cell.shape.variant,
            "window": trained,
            "trained_window": trained,
            "slots": "" if cell.shape.slots is None else cell.shape.slots,
            "d_model": cell.shape.d_model,
            "heads": cell.shape.heads,
            "rate": f"{cell.rate:.6g}",
            "seed": cell.seed,
            **{key: record.get(key, "") for key in ("steps", "seconds", "status", "reason")},
        }
        for row in record["rows"] or [{"split": "test" if cell.tested else "selection"}]:
            given = {**row, "window": trained if row.get("window", OWN) == OWN else row["window"]}
            if "accuracy" in row:
                given["accuracy"] = f"{row['accuracy']:.6g}"
            writer.writerow({**common, **given})
    path = folder / "mqar.csv"
    write_atomic(path, text.getvalue())
    return path


def _own_window(spec: MqarSpec, cell: Cell) -> int | str:
    """The window that the cell's layers are trained at, hybrids' full layers aside: tokens, `full`, or `none`."""
    if cell.shape.window != OWN:
        return cell.shape.window
    windows = mqar_config(spec, cell.shape, cell.task.longest).windows
    if windows[0] is not None:
        return windows[0]
    return "full" if cell.shape.mixer == "transformer++" else "none"
