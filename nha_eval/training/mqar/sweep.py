"""The sweep of an MQAR spec, model by model in the spec's order: its rates, on one seed and the selection split, then its seeds
at the best rate.

    sweep(spec, Path("results/runs/train-mqar-quick"), workers=2)

A finished training is one JSON file in `cells/`, written whole or not at all, and the table `mqar.csv` comes out of these
files, whenever the sweep ends: the same command again goes on where it stopped. With several workers each is a process of its
own; on a GPU they share it, and each trains the rates of a model side by side, then its seeds (`together`).
"""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from nha_eval import environment
from nha_eval.bench.machine import resolve_device
from nha_eval.errors import MachineError, UserError, is_out_of_memory, one_line
from nha_eval.journal import plain, write_atomic
from nha_eval.progress import duration
from nha_eval.training.folder import training_folder
from nha_eval.training.mqar.cells import OWN, Cell, choose_rates, first_cells, mqar_config, rates_of, seeds_of
from nha_eval.training.mqar.claims import write_claims
from nha_eval.training.mqar.estimate import trainings
from nha_eval.training.mqar.spec import MqarSpec
from nha_eval.training.mqar.together import PRECISION, train_together
from nha_eval.training.mqar.training import train_cell

COLUMNS = [
    *("task", "mixer", "variant", "window", "trained_window", "slots", "d_model", "heads", "state_elements", "state_bytes"),
    *("length", "pairs", "rate", "seed", "split", "accuracy", "n", "steps", "seconds", "backend", "status", "reason"),
]
# A worker that is killed leaves no word; a training in whose hands this happened so often is given up.
TRIES = 2
KILLED = "its process was killed, as by the system for want of memory, or left by its GPU"
_ORPHANED = 2.0  # seconds between a worker's looks at who started it


def sweep(spec: MqarSpec, folder: Path, workers: int = 1, console: Console | None = None) -> Path:
    """Goes through the trainings that are left and returns the table's path. Raises UserError for what cannot be trained, and
    MachineError where the disk is full; what was finished until then is kept, and stands in the table.
    """
    console = console or Console(stderr=True, highlight=False, soft_wrap=True)
    device, dtype = resolve_device(spec.device, spec.dtype)
    on_gpu = device.type == "cuda"
    with training_folder(folder, spec.settings()):
        about = {
            "command": environment.command_line(),
            **environment.describe(),
            "device": torch.cuda.get_device_name(device) if on_gpu else environment.cpu_name(),
            "dtype": str(dtype).removeprefix("torch."),
            "products_of_fp32": PRECISION if on_gpu else "fp32",
            "workers": workers,
            "filler": "random tokens, keys among them" if spec.random_filler else "token 0",
        }
        write_atomic(folder / "environment.json", json.dumps(plain(about), indent=1) + "\n")
        # What lasts as long as a GPU's memory and cannot be kept in parts is trained side by side.
        plan = Plan(spec, folder, side_by_side=on_gpu and spec.save_every is None)
        try:
            _train(plan, workers, console)
        finally:
            table = write_table(folder, spec, *plan.found())
            write_claims(spec, table)
        return table


class Plan:
    """What is left of a sweep, in units of trainings that one worker takes: a model's seeds come once its rates are known, and
    before the next model's. side_by_side: units are all rates of a model, and all its seeds; else each training is one.
    """

    def __init__(self, spec: MqarSpec, folder: Path, side_by_side: bool):
        self.spec, self.folder, self.side_by_side = spec, folder, side_by_side
        self.models = first_cells(spec)
        self.records: dict[str, dict[str, Any]] = {}
        self.waiting: deque[list[Cell]] = deque()
        self.total = trainings(spec, len(self.models) // len(spec.tasks))
        for model in self.models:
            self.waiting += self._units(rates_of(spec, model))
            self.waiting += self._units(self._seeds(model))

    def _units(self, cells: list[Cell]) -> list[list[Cell]]:
        """Of the cells that are not finished."""
        for cell in cells:
            record = _read(self.path(cell))
            if record is not None:
                self.records[cell.id(self.spec)] = record
        left = [cell for cell in cells if not self.has(cell)]
        return ([left] if left else []) if self.side_by_side else [[cell] for cell in left]

    def _seeds(self, model: Cell) -> list[Cell]:
        """The trainings that are reported of a model; none as long as its rates are not all tried."""
        rates = rates_of(self.spec, model)
        if not all(map(self.has, rates)):
            return []
        found = {place: self.records[cell.id(self.spec)] for place, cell in enumerate(rates)}
        rate = choose_rates(rates, found)[model.task.name, model.number] if rates else model.rate
        return seeds_of(self.spec, model, rate)

    def path(self, cell: Cell) -> Path:
        return self.folder / "cells" / f"{cell.id(self.spec)}.json"

    def has(self, cell: Cell) -> bool:
        return cell.id(self.spec) in self.records

    def done(self, cells: list[Cell], records: list[dict[str, Any]]) -> None:
        """Keeps the records of a unit; where they were the last of a model's rates, its seeds are next."""
        for cell, record in zip(cells, records, strict=True):
            name = cell.id(self.spec)
            about = {"id": name, "label": cell.shape.label, "rate": cell.rate, "seed": cell.seed}
            self.records[name] = plain({**about, **record})
            write_atomic(self.path(cell), json.dumps(self.records[name], indent=1) + "\n")
        if not cells[0].tested:
            (model,) = (one for one in self.models if (one.task.name, one.number) == (cells[0].task.name, cells[0].number))
            self.waiting.extendleft(reversed(self._units(self._seeds(model))))

    def found(self) -> tuple[list[Cell], list[dict[str, Any]]]:
        """The finished trainings and their records, all rates before all seeds."""
        cells = [cell for model in self.models for cell in rates_of(self.spec, model)]
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
    took = f"{record['steps']:,} steps, {duration(record['seconds'])}{slow}"
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
    if workers == 1:
        while plan.waiting:
            cells = plan.waiting.popleft()
            yield cells, train_unit(plan.spec, cells, _places(plan, cells))
        return
    tries: dict[str, int] = {}
    suspects: deque[list[Cell]] = deque()
    while plan.waiting or suspects:
        # After a death nobody knows whose it was: those in hand go one at a time then, so that the one that brings it is found.
        alone = bool(suspects)
        for cells, records in _pooled(plan, suspects if alone else plan.waiting, 1 if alone else workers, workers):
            if records is not None:
                yield cells, records
                continue
            name = cells[0].id(plan.spec)
            tries[name] = tries.get(name, 0) + 1
            if tries[name] < TRIES:
                suspects.append(cells)
            else:
                yield cells, _failed(cells, "error", KILLED, again=True)


def _failed(cells: list[Cell], status: str, reason: str, again: bool) -> list[dict[str, Any]]:
    return [{"status": status, "reason": reason, "rows": [], "seconds": 0.0, "again": again} for _ in cells]


def _in_worker(train: Callable[..., list[dict[str, Any]]], *unit: Any) -> list[dict[str, Any]]:
    """`train_unit`; a process whose GPU takes no more work after a failure ends, as every other unit would fail in it too."""
    try:
        return train(*unit)
    except Exception:
        if torch.cuda.is_initialized():
            try:
                torch.cuda.synchronize()
            except Exception:
                os._exit(1)
        raise


def _places(plan: Plan, cells: list[Cell]) -> list[str]:
    return [str(plan.folder / "work" / cell.id(plan.spec)) for cell in cells]


def _pooled(
    plan: Plan, waiting: deque[list[Cell]], count: int, workers: int
) -> Iterator[tuple[list[Cell], list[dict[str, Any]] | None]]:
    """(unit, its records) as they come, of what waits and what comes to wait; None for those in hand when a worker died, after
    which nothing more comes."""
    before = set(multiprocessing.active_children())
    threads = max(1, torch.get_num_threads() // workers)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker, initargs=(threads, os.getpid()))
    running: dict[Future, list[Cell]] = {}
    try:
        while waiting or running:
            # No more than there are workers, so that all that is running when one dies was in hand.
            while waiting and len(running) < count:
                cells = waiting.popleft()
                running[pool.submit(_in_worker, train_unit, plan.spec, cells, _places(plan, cells))] = cells
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cells = running.pop(future)
                try:
                    records = future.result()
                except BrokenProcessPool:
                    for other in [cells, *running.values()]:
                        yield other, None
                    return
                except (UserError, MachineError):
                    raise
                except Exception as problem:
                    # One model that fails should not cost the others; nor is that a result, so it is tried again next time.
                    lacks_memory = is_out_of_memory(problem)
                    records = _failed(cells, "oom" if lacks_memory else "error", one_line(problem), again=not lacks_memory)
                yield cells, records
    finally:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(threads: int, parent: int) -> None:
    torch.set_num_threads(threads)

    def watch() -> None:
        # Killed outright, the parent ends nobody: workers would train on for a table that none writes.
        while os.getppid() == parent:
            time.sleep(_ORPHANED)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


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
