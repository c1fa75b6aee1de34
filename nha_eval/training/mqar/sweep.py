"""The sweep of an MQAR spec, model by model in the spec's order: its rates, on one seed and the selection split, then its seeds
at the best rate.

    sweep(spec, Path("results/runs/train-mqar-quick"), workers=2)

A finished training is one JSON file in `cells/`, written whole or not at all, and the table `mqar.csv` comes out of these
files, whenever the sweep ends: the same command again goes on where it stopped. With several workers each is a process of its
own; on a GPU they share it, and each trains the rates of a model, or of several, side by side, then their seeds (`together`).
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from nha_eval import environment
from nha_eval.bench.machine import resolve_device
from nha_eval.journal import plain, write_atomic
from nha_eval.progress import duration
from nha_eval.training.folder import training_folder
from nha_eval.training.mqar.cells import (
    OWN,
    Cell,
    choose_rates,
    first_cells,
    mqar_config,
    rate_beyond,
    rates_of,
    seeds_of,
    shapes,
)
from nha_eval.training.mqar.claims import write_claims
from nha_eval.training.mqar.estimate import trainings
from nha_eval.training.mqar.spec import MqarSpec
from nha_eval.training.mqar.together import PRECISION, has_plain_form, train_together
from nha_eval.training.mqar.training import train_cell
from nha_eval.training.workers import Failed, Job, gpus_of, results

COLUMNS = [
    *("task", "mixer", "variant", "window", "trained_window", "slots", "d_model", "heads", "state_elements", "state_bytes"),
    *("length", "pairs", "rate", "seed", "split", "accuracy", "n", "steps", "seconds", "backend", "status", "reason"),
]


def sweep(spec: MqarSpec, folder: Path, workers: int = 1, console: Console | None = None) -> Path:
    """Goes through the trainings that are left and returns the table's path. Raises UserError for what cannot be trained, and
    MachineError where the disk is full; what was finished until then is kept, and stands in the table.
    """
    console = console or Console(stderr=True, highlight=False, soft_wrap=True)
    device, dtype = resolve_device(spec.device, spec.dtype)
    on_gpu = device.type == "cuda"
    # A spec that is refused leaves no folder, which would refuse the one that mends it.
    shapes(spec)
    with training_folder(folder, spec.settings()):
        about = {
            "command": environment.command_line(),
            **environment.describe(),
            "device": torch.cuda.get_device_name(device) if on_gpu else environment.cpu_name(),
            "dtype": str(dtype).removeprefix("torch."),
            "products_of_fp32": PRECISION if on_gpu else "fp32",
            "workers": workers,
            "side_by_side": spec.side_by_side,
            "widen": spec.widen,
            "filler": "random tokens, keys among them" if spec.random_filler else "token 0",
        }
        write_atomic(folder / "environment.json", json.dumps(plain(about), indent=1) + "\n")
        # What lasts as long as a GPU's memory and cannot be kept in parts is trained side by side.
        plan = Plan(spec, folder, spec.side_by_side if on_gpu and spec.save_every is None else 1)
        try:
            _train(plan, workers, console)
        finally:
            table = write_table(folder, spec, *plan.found())
            write_claims(spec, table)
        return table


class Plan:
    """What is left of a sweep, in units of trainings that one worker takes: a model's seeds come once its rates are known, with
    those beyond the spec's where it is widened, and before the next model's. side_by_side: how many of one task and form a unit
    holds at most; as many models as fit are taken together of those that follow each other and have something left.
    """

    def __init__(self, spec: MqarSpec, folder: Path, side_by_side: int):
        self.spec, self.folder, self.side_by_side = spec, folder, side_by_side
        self.models = first_cells(spec)
        self.records: dict[str, dict[str, Any]] = {}
        self.waiting: deque[Job] = deque()
        for models in self._groups():
            self.waiting += self._next(models)

    def _groups(self) -> list[list[Cell]]:
        """Models that are trained together, at least one each; those that are done are in none."""
        each = max(len(self.spec.rates), len(self.spec.seeds))
        groups: list[list[Cell]] = []
        for model in self.models:
            self._keep(self._seeds(model))
            if self._all(self._rates(model)) and self._all(self._seeds(model)):
                continue
            last = groups[-1] if groups else []
            alike = bool(last) and (last[0].task, has_plain_form(last[0])) == (model.task, has_plain_form(model))
            if alike and (len(last) + 1) * each <= self.side_by_side:
                last.append(model)
            else:
                groups.append([model])
        return groups

    def _units(self, cells: list[Cell]) -> list[Job]:
        """Calls of `train_unit` for the cells that are not finished."""
        self._keep(cells)
        left = [cell for cell in cells if not self.has(cell)]
        units = [left[at : at + self.side_by_side] for at in range(0, len(left), self.side_by_side)]
        places = [[str(self.folder / "work" / cell.id(self.spec)) for cell in unit] for unit in units]
        return [Job((self.spec, unit, where)) for unit, where in zip(units, places, strict=True)]

    def _keep(self, cells: list[Cell]) -> None:
        """Takes what an earlier call has finished of them."""
        for cell in cells:
            record = None if self.has(cell) else _read(self.path(cell))
            if record is not None:
                self.records[cell.id(self.spec)] = record

    def _next(self, models: list[Cell]) -> list[Job]:
        """What can be trained of models that go together: the rates that are left, and the seeds of those without any left."""
        rates = self._units([cell for model in models for cell in self._rates(model)])
        return rates + self._units([cell for model in models for cell in self._seeds(model)])

    def _rates(self, model: Cell) -> list[Cell]:
        """The trainings that choose a model's rate: the spec's, and those beyond them as far as they are known to be wanted."""
        rates = rates_of(self.spec, model)
        for _ in range(self.spec.widen if rates else 0):
            self._keep(rates)
            beyond = rate_beyond(self.spec, [cell.rate for cell in rates], self._best(rates)) if self._all(rates) else None
            if beyond is None:
                break
            rates.append(replace(model, rate=beyond))
        return rates

    def _all(self, cells: list[Cell]) -> bool:
        return all(map(self.has, cells))

    def _best(self, rates: list[Cell]) -> float:
        found = {place: self.records[cell.id(self.spec)] for place, cell in enumerate(rates)}
        (rate,) = choose_rates(rates, found).values()
        return rate

    def _seeds(self, model: Cell) -> list[Cell]:
        """The trainings that are reported of a model; none as long as its rates are not all tried."""
        rates = self._rates(model)
        self._keep(rates)
        if not self._all(rates):
            return []
        return seeds_of(self.spec, model, self._best(rates) if rates else model.rate)

    @property
    def total(self) -> int:
        """How many trainings there are, those beyond the spec's rates as far as they are known."""
        beyond = sum(len(self._rates(model)) - len(rates_of(self.spec, model)) for model in self.models)
        return trainings(self.spec, len(self.models) // len(self.spec.tasks)) + beyond

    def path(self, cell: Cell) -> Path:
        return self.folder / "cells" / f"{cell.id(self.spec)}.json"

    def has(self, cell: Cell) -> bool:
        return cell.id(self.spec) in self.records

    def done(self, cells: list[Cell], records: list[dict[str, Any]]) -> None:
        """Keeps the records of a unit; where they were the last of a model's rates, those beyond or its seeds are next."""
        for cell, record in zip(cells, records, strict=True):
            name = cell.id(self.spec)
            about = {"id": name, "label": cell.shape.label, "rate": cell.rate, "seed": cell.seed}
            self.records[name] = plain({**about, **record})
            write_atomic(self.path(cell), json.dumps(self.records[name], indent=1) + "\n")
        if not cells[0].tested:
            done = {(cell.task.name, cell.number) for cell in cells}
            models = [one for one in self.models if (one.task.name, one.number) in done]
            # Of rates in several units the last to be done says what is next.
            ready = [model for model in models if self._all(rates_of(self.spec, model))]
            self.waiting.extendleft(reversed(self._next(ready)))

    def part(self, cells: list[Cell]) -> bool:
        """Has the models of a unit that failed trained apart, so that one costs the others time alone; False for one model."""
        models = dict.fromkeys(cell.number for cell in cells)
        if len(models) == 1:
            return False
        apart = [unit for number in models for unit in self._units([cell for cell in cells if cell.number == number])]
        self.waiting.extendleft(reversed(apart))
        return True

    def found(self) -> tuple[list[Cell], list[dict[str, Any]]]:
        """The finished trainings and their records, all rates before all seeds."""
        cells = [cell for model in self.models for cell in self._rates(model)]
        cells += [cell for model in self.models for cell in self._seeds(model)]
        cells = [cell for cell in cells if self.has(cell)]
        return cells, [self.records[cell.id(self.spec)] for cell in cells]


def _train(plan: Plan, workers: int, console: Console) -> None:
    """All units that are left, told as they are done."""
    began, before = time.monotonic(), len(plan.records)
    if before:
        console.print(f"{before} of {plan.total} trainings are done already", markup=False)
    for cells, records in _results(plan, workers):
        plan.done(cells, records)
        # What a run leaves that is ended from outside is a table too.
        write_table(plan.folder, plan.spec, *plan.found())
        spent = (time.monotonic() - began) / (len(plan.records) - before)
        left = duration(spent * (plan.total - len(plan.records)))
        for cell, record in zip(cells, records, strict=True):
            console.print(f"{len(plan.records)}/{plan.total} {_told(cell, record)}, {left} left", markup=False)


def _told(cell: Cell, record: dict[str, Any]) -> str:
    what = f"{cell.task.name}: {cell.shape.label}, rate {cell.rate:.3g}, seed {cell.seed}:"
    if record["status"] != "ok":
        return f"{what} {record['status']} ({record['reason']})"
    tested = [row["accuracy"] for row in record["rows"] if row["split"] == "test" and row["window"] == OWN]
    test = f", test {sum(tested) / len(tested):.3f}" if tested else ""
    why = record.get("called_from_python")
    slow = f" (called from Python: {why})" if why else ""
    beside = f", {record['side_by_side']} at once, {record['steps_per_s']:,.0f} steps/s" if "steps_per_s" in record else ""
    took = f"{record['steps']:,} steps, {duration(record['seconds'])}{beside}{slow}"
    return f"{what} selection {record['selection']:.3f}{test} after {took}"


def _read(path: Path) -> dict[str, Any] | None:
    """A finished record; None where there is none, or one of a failure that is no result, which is tried again."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if "rows" in record and record["status"] and not record.get("again") else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def train_unit(spec: MqarSpec, cells: list[Cell], places: list[str]) -> list[dict[str, Any]]:
    """The records of a unit, in its order; places: where checkpoints of each may lie until it is done."""
    if len(cells) == 1 and (spec.save_every is not None or resolve_device(spec.device, spec.dtype)[0].type == "cpu"):
        return [train_cell(spec, cells[0], Path(places[0]))]
    return train_together(spec, cells, *resolve_device(spec.device, spec.dtype))


def _results(plan: Plan, workers: int) -> Iterator[tuple[list[Cell], list[dict[str, Any]]]]:
    """(cells, records) of each unit as it is done, by one process or several."""
    for job, records in results(train_unit, plan.waiting, workers, gpus_of(plan.spec.device)):
        _, cells, _ = job.arguments
        if isinstance(records, Failed):
            if plan.part(cells):
                continue
            failure = {"status": records.status, "reason": records.reason, "again": records.again}
            records = [{**failure, "rows": [], "seconds": 0.0} for _ in cells]
        yield cells, records


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
            **{key: record.get(key, "") for key in ("steps", "seconds", "backend", "status", "reason")},
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
