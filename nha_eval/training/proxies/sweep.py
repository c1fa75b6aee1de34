"""The trainings of a proxy spec, several at a time, then each model's speed alone, then the tables.

    sweep(spec, Path("results/runs/train-lm-proxies"), workers=4)

The folder: `spec.yaml` (what all trainings share; models and seeds may be added), `environment.json`, `data/` (the tokens,
`data.py`), `tokenizer/`, `cells/` (a JSON file a finished training, written whole or not at all), `speed/`, `logs/` (losses),
`models/`, and what `tables.py` makes of them. The same command again goes on where it stopped.
"""

from __future__ import annotations

import json
import time
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
from nha_eval.training.workers import KILLED, results


def sweep(spec: ProxySpec, folder: Path, workers: int = 1, console: Console | None = None) -> Path:
    """Goes through what is left and returns the path of the tables' page. Raises UserError for what cannot be trained, and
    MachineError where the disk is full; what was finished until then is kept.
    """
    console = console or Console(stderr=True, highlight=False, soft_wrap=True)
    device, dtype = resolve_device(spec.device, spec.dtype)
    tokenizer, vocabulary = named_tokenizer(spec.tokenizer, spec.text)
    found = cells(spec, vocabulary)
    with training_folder(folder, spec.shared()):
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
        records = _trainings(spec, found, folder, workers, console)
        speeds = _speeds(spec, found, data, folder, console)
        return write_tables(folder, spec, found, records, speeds)


def _trainings(spec: ProxySpec, found: list[Cell], folder: Path, workers: int, console: Console) -> list[dict[str, Any]]:
    """The records of the cells, in their order; those that are there already are taken."""
    paths = [folder / "cells" / f"{cell.id(spec)}.json" for cell in found]
    records = {i: record for i, path in enumerate(paths) if (record := _read(path)) is not None}
    left = [i for i in range(len(found)) if i not in records]
    began, done = time.monotonic(), len(records)
    if done:
        console.print(f"{done} of {len(found)} trainings are done already", markup=False)
    for i, record in results(train_cell, [(i, (spec, found[i], folder)) for i in left], workers):
        records[i] = plain({"model": found[i].model, "seed": found[i].seed, "measured": [], "recall": [], **record})
        write_atomic(paths[i], json.dumps(records[i]) + "\n")
        spent = (time.monotonic() - began) / (len(records) - done)
        left_s = duration(spent * (len(found) - len(records)))
        console.print(f"{len(records)}/{len(found)} {found[i].label}: {_told(record)}, {left_s} left", markup=False)
    return [records[i] for i in range(len(found))]


def _told(record: dict[str, Any]) -> str:
    if record["status"] != "ok":
        return f"{record['status']} ({record['reason']})"
    return f"loss {record['loss']:.3f} after {record['steps']:,} steps, {duration(record['seconds'])}"


def _speeds(spec: ProxySpec, found: list[Cell], data: Data, folder: Path, console: Console) -> dict[str, dict[str, Any]]:
    """The speed of each model, by its name: of one seed, when no training runs beside it."""
    speeds: dict[str, dict[str, Any]] = {}
    for cell in found if spec.speed_steps else ():
        if cell.model in speeds:
            continue
        path = folder / "speed" / f"{cell.id(spec)}.json"
        record = _read(path)
        if record is None:
            record = plain(timed(spec, cell, data))
            write_atomic(path, json.dumps(record) + "\n")
            rate = record.get("tokens_per_s")
            console.print(f"{cell.model}: {record['reason'] if rate is None else f'{rate:,.0f} tokens/s'}", markup=False)
        speeds[cell.model] = record
    return speeds


def _read(path: Path) -> dict[str, Any] | None:
    """A finished record; None where there is none, or one of a training whose process was killed, which is tried again."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if record["status"] and record.get("reason") != KILLED else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
