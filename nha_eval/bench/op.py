"""`bench op`: runs the grid into a folder, and shows it.

run(OpRun(plan(device_type="cpu"), torch.device("cpu"), torch.float32, out=Path("results/runs/bench-op")))
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from nha_eval.bench import machine, table
from nha_eval.bench.ahead import call_once, compile_ahead, short_tuning, split
from nha_eval.bench.ceilings import ceilings_of
from nha_eval.bench.grid import Case
from nha_eval.bench.measure import Meter, case_keys
from nha_eval.bench.rows import OP, Rows
from nha_eval.bench.running import Progress, Run
from nha_eval.bench.setting import Draw
from nha_eval.bench.showing import show_folder
from nha_eval.bench.timing import Budget
from nha_eval.errors import DONE

PEERS = ("torch", "triton", "fla-core", "tilelang", "flash-attn")


@dataclass(frozen=True)
class OpRun(Run):
    """A run of the operator's grid."""

    cases: list[Case]
    budget: Budget = field(default_factory=Budget)


def run(wanted: OpRun) -> int:
    """Measure what the folder does not hold yet, print the table, draw the picture; 0 when all rows are there."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with Rows(wanted.out, OP, identity(wanted), wanted.fresh) as rows:
        rows.record(_environment(wanted))
        done = {OP.key_of(row) for row in rows.rows}
        todo = []
        for case in wanted.cases:
            graphs = tuple(graph for graph, about in case_keys(case, wanted.dtype).items() if OP.key_of(about) not in done)
            if graphs:
                todo.append((case, graphs))
        if todo:
            if wanted.device.type == "cuda":
                torch.cuda.set_device(wanted.device)
            with short_tuning(wanted.device):
                _measure(wanted, rows, todo, console)
        else:
            console.print(f"every row is there already ({wanted.out}); --fresh measures anew")
    show(wanted.out)
    return DONE


def show(folder: Path) -> None:
    """Print a folder's table, and draw its picture where matplotlib is installed. UserError when there is no table."""
    show_folder(folder, OP, table.show, "nha_eval.plots._bench_op")


def _measure(wanted: OpRun, rows: Rows, todo: list[tuple[Case, tuple[bool, ...]]], console: Console) -> None:
    ceilings = ceilings_of(rows, Draw(wanted.seed, wanted.device, wanted.dtype), wanted.budget)
    console.print(f"ceilings: {ceilings['gbps']:,.0f} GB/s copy, {ceilings['tflops']:,.4g} TFLOP/s matrix product")
    own, shared = (
        [partial(call_once, case, wanted.device, wanted.dtype, wanted.seed) for case in cases]
        for cases in split([case for case, _ in todo])
    )
    compile_ahead(own, shared, wanted.device, console)
    longest: dict[tuple[str, str, str], int] = {}
    for case in wanted.cases:
        point = (case.implementation, case.shape.name, case.phase)
        longest[point] = max(case.length, longest.get(point, 0))
    meter = Meter(wanted.device, wanted.dtype, wanted.seed, wanted.budget, **ceilings, longest=longest)
    progress = Progress(console, len(todo))
    for place, (case, graphs) in enumerate(todo, 1):
        for row in meter.measure(case, graphs):
            rows.append(row)
            progress.tell(place, row, ("implementation", "phase"), _headline(row))
        machine.healthy(wanted.device)


def _headline(row: dict[str, Any]) -> str:
    window = "" if row["window"] in ("full", "none") else f", window {row['window']}"
    graph = ", graph" if row["graph"] else ""
    what = f"{row['shape']} {row['phase']} {row['length']:,} x {row['batch']}: {row['implementation']}{window}{graph}"
    if row["status"] != "ok":
        return f"{what}: {row['status']}: {row['reason']}"
    memory = "" if row["peak_memory_mb"] is None else f", {table.figures(row['peak_memory_mb'])} MiB"
    return (
        f"{what}: {table.figures(row['latency_ms'])} ms, {table.figures(row['tflops'])} TFLOP/s, "
        f"{table.figures(row['gbps'])} GB/s, {100 * row['roofline_share']:.0f}% of the roofline{memory}"
    )


def identity(wanted: OpRun) -> dict[str, Any]:
    """What must be the same for rows to stand in one table."""
    return machine.identity(wanted.device, wanted.seed, PEERS, source_digest())


def source_digest() -> str:
    """Twelve hex digits of what is measured and how: the files of `kernels` and of the implementations."""
    return machine.digest("kernels", "nha_eval/bench/implementations")


def _environment(wanted: OpRun) -> dict[str, Any]:
    budget = {"warmup_ms": wanted.budget.warmup_ms, "repeat_ms": wanted.budget.repeat_ms}
    return machine.environment(wanted.device, wanted.dtype, wanted.seed, **budget)
