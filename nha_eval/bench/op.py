"""`bench op`: runs the grid into a folder, and shows it.

run(OpRun(plan(device_type="cpu"), torch.device("cpu"), torch.float32, out=Path("results/runs/bench-op")))
"""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from nha_eval.bench import table
from nha_eval.bench.ahead import compile_ahead, short_tuning
from nha_eval.bench.ceilings import measure_ceilings
from nha_eval.bench.grid import Case
from nha_eval.bench.measure import Meter, case_keys, device_name
from nha_eval.bench.rows import Rows, key, read
from nha_eval.bench.setting import Draw
from nha_eval.bench.timing import Budget
from nha_eval.environment import command_line, describe
from nha_eval.errors import DONE, UserError

PEERS = ("torch", "triton", "fla-core", "tilelang", "flash-attn")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class OpRun:
    """What a run is: its cases in order, where they run, and where the figures go."""

    cases: list[Case]
    device: torch.device
    dtype: torch.dtype
    out: Path
    seed: int = 0
    budget: Budget = field(default_factory=Budget)
    fresh: bool = False


def resolve_device(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of a run; `auto` is the GPU where there is one and bf16 there, fp32 on a CPU. UserError for what
    cannot be had.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cuda", "cpu"):
        raise UserError(f"device {device!r}: wanted is auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {device!r}: GPUs that torch can use here: {torch.cuda.device_count()}; give --device cpu")
    if chosen.type == "cuda":
        chosen = torch.device("cuda", chosen.index or 0)
    if dtype == "auto":
        dtype = "bfloat16" if chosen.type == "cuda" else "float32"
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}: wanted is auto, {', '.join(DTYPES)}")
    return chosen, DTYPES[dtype]


def run(wanted: OpRun) -> int:
    """Measure what the folder does not hold yet, print the table, draw the picture; 0 when all rows are there."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with Rows(wanted.out, identity(wanted), wanted.fresh) as rows:
        rows.record(_environment(wanted))
        done = {key(row) for row in rows.rows}
        todo = []
        for case in wanted.cases:
            graphs = tuple(graph for graph, about in case_keys(case, wanted.dtype).items() if key(about) not in done)
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
    rows = read(folder)
    if not rows:
        raise UserError(f"no table of `bench op` in {folder}; give the folder that it wrote, such as results/runs/bench-op")
    table.show(rows)
    print(folder / "bench-op.csv")
    try:
        from nha_eval.plots import _bench_op
        from nha_eval.plots._style import NothingToDraw
    except ImportError as problem:
        print(f"no picture: {problem}; `bench show {folder}` draws it where matplotlib is installed")
        return
    try:
        for path in _bench_op.write(folder):
            print(path)
    except NothingToDraw as problem:
        print(problem)


def _measure(wanted: OpRun, rows: Rows, todo: list[tuple[Case, tuple[bool, ...]]], console: Console) -> None:
    ceilings = _ceilings(wanted, rows)
    console.print(f"ceilings: {ceilings['gbps']:,.0f} GB/s copy, {ceilings['tflops']:,.4g} TFLOP/s matrix product")
    compile_ahead([case for case, _ in todo], wanted.device, wanted.dtype, wanted.seed, console)
    longest: dict[tuple[str, str, str], int] = {}
    for case in wanted.cases:
        point = (case.implementation, case.shape.name, case.phase)
        longest[point] = max(case.length, longest.get(point, 0))
    meter = Meter(wanted.device, wanted.dtype, wanted.seed, wanted.budget, **ceilings, longest=longest)
    told = set()
    for place, (case, graphs) in enumerate(todo, 1):
        for row in meter.measure(case, graphs):
            rows.append(row)
            # What cannot be had here is said once, not at every length.
            why = (row["implementation"], row["phase"], row.get("reason")) if row["status"] == "unavailable" else None
            if why is None or why not in told:
                console.print(f"[{place}/{len(todo)}] {_headline(row)}", markup=False)
            told.add(why)
        meter.healthy()


def _ceilings(wanted: OpRun, rows: Rows) -> dict[str, float]:
    """Those of the folder, so that all its shares are of the same ones, else measured now."""
    dtype = str(wanted.dtype).removeprefix("torch.")

    def there() -> dict[str, float]:
        own = [row for row in rows.rows if row["phase"] == "ceiling" and row["dtype"] == dtype]
        return {column: float(row[column]) for row in own for column in ("tflops", "gbps") if row[column]}

    if len(there()) < 2:
        about = {"dtype": dtype, "device": device_name(wanted.device)}
        for row in measure_ceilings(Draw(wanted.seed, wanted.device, wanted.dtype), wanted.budget):
            rows.append({**row, **about})
    return there()


def _headline(row: dict[str, Any]) -> str:
    window = "" if row["window"] in ("full", "none") else f", window {row['window']}"
    graph = ", graph" if row["graph"] else ""
    what = f"{row['shape']} {row['phase']} {row['length']:,} x {row['batch']}: {row['implementation']}{window}{graph}"
    if row["status"] != "ok":
        return f"{what}: {row['status']}: {row['reason']}"
    memory = "" if row["peak_memory_mb"] is None else f", {table.figures(row['peak_memory_mb'])} MB"
    return (
        f"{what}: {table.figures(row['latency_ms'])} ms, {table.figures(row['tflops'])} TFLOP/s, "
        f"{table.figures(row['gbps'])} GB/s, {100 * row['roofline_share']:.0f}% of the roofline{memory}"
    )


def identity(wanted: OpRun) -> dict[str, Any]:
    """What must be the same for rows to stand in one table."""
    return {
        "device": device_name(wanted.device),
        "seed": wanted.seed,
        "python": platform.python_version(),
        **{name: _version(name) for name in PEERS},
        "sources": source_digest(),
    }


def source_digest() -> str:
    """Twelve hex digits of what is measured and how: the files of `kernels` and of the implementations."""
    root = Path(__file__).resolve().parent
    digest = hashlib.sha256()
    for folder in (root.parent.parent / "kernels", root / "implementations"):
        for file in sorted(folder.rglob("*.py")):
            digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _environment(wanted: OpRun) -> dict[str, Any]:
    gpu = torch.cuda.get_device_properties(wanted.device) if wanted.device.type == "cuda" else None
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(),
        **describe(),
        "gpu": None
        if gpu is None
        else {"name": gpu.name, "memory_gb": gpu.total_memory / 2**30, "l2_bytes": gpu.L2_cache_size},
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "seed": wanted.seed,
        "device": str(wanted.device),
        "dtype": str(wanted.dtype).removeprefix("torch."),
        "warmup_ms": wanted.budget.warmup_ms,
        "repeat_ms": wanted.budget.repeat_ms,
    }
