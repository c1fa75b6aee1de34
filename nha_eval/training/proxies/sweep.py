"""The trainings of a proxy spec, several at a time, then each model's speed alone, then the tables.

    sweep(spec, Path("results/runs/train-lm-proxies"), workers=4)

The folder: `spec.yaml` (what all trainings share; models and seeds may be added), `environment.json`, `data/` (the tokens,
`data.py`), `tokenizer/`, `cells/` (a JSON file a finished training, written whole or not at all), `speed/`, `logs/` (losses),
`models/`, and what `tables.py` makes of them. The same command again goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from nha_eval import environment
from nha_eval.bench.machine import resolve_device
from nha_eval.journal import plain, write_atomic
from nha_eval.progress import duration
from nha_eval.training.folder import training_folder
from nha_eval.training.language import named_tokenizer
from nha_eval.training.proxies.cells import Cell, cells
from nha_eval.training.proxies.data import Data, prepare
from nha_eval.training.proxies.spec import ProxySpec
from nha_eval.training.proxies.speed import timed
from nha_eval.training.proxies.tables import write_tables
from nha_eval.training.proxies.training import DATA, TOKENIZER, train_cell
from nha_eval.training.workers import Failed, Job, gpus_of, results

NOT_YET = {"status": "skipped", "reason": "not trained yet", "measured": [], "recall": []}


def sweep(spec: ProxySpec, folder: Path, workers: int = 1, console: Console | None = None) -> Path:
    """Goes through what is left and returns the path of the tables' page. Raises UserError for what cannot be trained, and
    MachineError where the disk is full; what was finished until then is kept.
    """
    console = console or Console(stderr=True, highlight=False, soft_wrap=True)
    device, dtype = resolve_device(spec.device, spec.dtype)
    tokenizer, vocabulary = named_tokenizer(spec.tokenizer, spec.text)
    found = cells(spec, vocabulary)
    with training_folder(folder, spec.shared()):
        paths = [folder / "cells" / f"{cell.id(spec)}.json" for cell in found]
        timings = _timings(spec, found, folder)

        def tables() -> Path:
            speeds = {cell.model: record for cell, path in timings.items() if (record := _read(path)) is not None}
            return write_tables(folder, spec, found, [_read(path) or NOT_YET for path in paths], speeds)

        if not all(_is_done(path) for path in (*paths, *timings.values())):
            data = prepare(spec, tokenizer, vocabulary, folder / DATA)
            tokenizer.save_pretrained(folder / TOKENIZER)
            about = {
                "command": environment.command_line(),
                **environment.describe(),
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else environment.cpu_name(),
                "dtype": str(dtype).removeprefix("torch."),
                "workers": workers,
                "models": spec.settings()["models"],
                "seeds": spec.seeds,
                "data": data.about,
            }
            write_atomic(folder / "environment.json", json.dumps(plain(about), indent=1) + "\n")
            for _ in _trained(spec, found, paths, folder, workers, console):
                # What a run that is cut short leaves is a table too.
                tables()
            _time(spec, timings, data, console)
        return tables()


def _trained(
    spec: ProxySpec, found: list[Cell], paths: list[Path], folder: Path, workers: int, console: Console
) -> Iterator[Cell]:
    """The cells that are left as they are trained, each record in its file of `paths`."""
    left = [i for i, path in enumerate(paths) if not _is_done(path)]
    done = before = len(found) - len(left)
    began = time.monotonic()
    if before:
        console.print(f"{before} of {len(found)} trainings are done already", markup=False)
    jobs = {Job((spec, found[i], folder)): i for i in left}
    for job, record in results(train_cell, deque(jobs), min(workers, max(1, len(jobs))), gpus_of(spec.device)):
        i = jobs[job]
        if isinstance(record, Failed):
            record = {**asdict(record), "rows": [], "seconds": 0.0}
        kept = plain({"model": found[i].model, "seed": found[i].seed, "measured": [], "recall": [], **record})
        write_atomic(paths[i], json.dumps(kept) + "\n")
        done += 1
        left_s = duration((time.monotonic() - began) / (done - before) * (len(found) - done))
        console.print(f"{done}/{len(found)} {found[i].label}: {_told(record)}, {left_s} left", markup=False)
        yield found[i]


def _told(record: dict[str, Any]) -> str:
    if record["status"] != "ok":
        return f"{record['status']} ({record['reason']})"
    return f"loss {record['loss']:.3f} after {record['steps']:,} steps, {duration(record['seconds'])}"


def _timings(spec: ProxySpec, found: list[Cell], folder: Path) -> dict[Cell, Path]:
    """Where the speed of each model is kept, of the first seed; none where none is timed."""
    first = {cell.model: cell for cell in reversed(found)} if spec.speed_steps else {}
    return {cell: folder / "speed" / f"{cell.id(spec)}.json" for cell in found if first.get(cell.model) == cell}


def _time(spec: ProxySpec, timings: dict[Cell, Path], data: Data, console: Console) -> None:
    """The models that are left, when no training runs beside them."""
    for cell, path in timings.items():
        if not _is_done(path):
            record = plain(timed(spec, cell, data))
            write_atomic(path, json.dumps(record) + "\n")
            rate = record.get("tokens_per_s")
            console.print(f"{cell.model}: {record['reason'] if rate is None else f'{rate:,.0f} tokens/s'}", markup=False)


def _read(path: Path) -> dict[str, Any] | None:
    """A finished record; None where there is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if record["status"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_done(path: Path) -> bool:
    """Whether there is a record, and not one of a failure that may go well another time."""
    record = _read(path)
    return record is not None and not record.get("again")
