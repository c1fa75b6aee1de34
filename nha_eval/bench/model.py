"""`bench model`: runs the grid into a folder, and shows it.

run(ModelRun(plan(device_type="cpu"), torch.device("cpu"), torch.float32, out=Path("results/runs/bench-model")))
"""

from __future__ import annotations

import gc
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from nha_eval.bench import families, machine, model_table, model_work
from nha_eval.bench.ahead import compile_ahead, short_tuning
from nha_eval.bench.ceilings import ceilings_of
from nha_eval.bench.model_grid import ModelCase
from nha_eval.bench.model_measure import ModelMeter, RowBudget, case_key
from nha_eval.bench.rows import MODEL, Rows, read_environment
from nha_eval.bench.running import Progress, Run
from nha_eval.bench.setting import Draw
from nha_eval.bench.showing import show_folder
from nha_eval.bench.timing import Budget
from nha_eval.errors import DONE, UserError, shown
from nha_eval.window_settings import Setting

PEERS = ("flash-linear-attention",)  # its models; the operators are fla-core's
PACKAGES = ("torch", "triton", "transformers", "fla-core", *PEERS, "tilelang")
# Compiled ahead: most kernels are the same at any length, some others from some thousand tokens on.
AHEAD_LENGTHS = (2048, 8192)
AHEAD_BATCHES = (1, 8)
# Of what a folder knows by one name alone.
SETTING = "the setting {name!r} as {there}, here it is {here}: give it another name"
CHECKPOINT = "a checkpoint {name!r} whose configuration was another: give another path to it"


@dataclass(frozen=True)
class ModelRun(Run):
    """A run of the models' grid."""

    cases: list[ModelCase]
    budget: RowBudget = field(default_factory=RowBudget)
    settings: dict[str, Setting] = field(default_factory=dict)  # those that windows of the cases name


def run(wanted: ModelRun) -> int:
    """Measure what the folder does not hold yet, print the table, draw the picture; 0 when all rows are there."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    identity = machine.identity(wanted.device, wanted.seed, PACKAGES, source_digest())
    with Rows(wanted.out, MODEL, identity, wanted.fresh, PEERS) as rows:
        budget = {"row_seconds": wanted.budget.seconds, "row_repeats": wanted.budget.repeats}
        known = _known(rows, "settings", wanted.settings, SETTING) | _known(
            rows, "checkpoints", _digests(wanted.cases), CHECKPOINT
        )
        rows.record(machine.environment(wanted.device, wanted.dtype, wanted.seed, **budget, **known))
        done = {MODEL.key_of(row) for row in rows.rows}
        todo = [case for case in wanted.cases if MODEL.key_of(case_key(case, wanted.dtype)) not in done]
        if todo:
            if wanted.device.type == "cuda":
                torch.cuda.set_device(wanted.device)
            with short_tuning(wanted.device), machine.bounded_memory(wanted.device):
                _measure(wanted, rows, todo, console)
        else:
            console.print(f"every row is there already ({wanted.out}); --fresh measures anew")
    show(wanted.out)
    return DONE


def _digests(cases: list[ModelCase]) -> dict[str, str]:
    """Of the configurations of the cases' checkpoints."""
    names = dict.fromkeys(case.model for case in cases if case.size == families.CHECKPOINT)
    return {name: families.find(name).digest(name) for name in names}


def _known(rows: Rows, what: str, own: dict[str, Any], said: str) -> dict[str, Any]:
    """For environment.json, what names in the rows stand for. UserError, as `said`, for one that others of the folder know as
    something else."""
    known = (read_environment(rows.folder).get(what) or {}) if rows.rows else {}
    for name, here in own.items():
        if known.get(name, here) != here:
            why = said.format(name=name, there=shown(known[name]), here=shown(here))
            raise UserError(f"{rows.folder} holds figures of {why}, --fresh to measure anew, or another --out")
    return {what: known | own} if known or own else {}


def show(folder: Path) -> None:
    """Print a folder's table, and draw its picture where matplotlib is installed. UserError when there is no table."""
    show_folder(folder, MODEL, model_table.show, "nha_eval.plots._bench_model")


def source_digest() -> str:
    """Twelve hex digits of what is measured and how: the files of `kernels`, of `models` and of the families."""
    return machine.digest("kernels", "models", "nha_eval/bench/families")


def _measure(wanted: ModelRun, rows: Rows, todo: list[ModelCase], console: Console) -> None:
    ceilings = ceilings_of(rows, Draw(wanted.seed, wanted.device, wanted.dtype), Budget())
    console.print(f"ceilings: {ceilings['gbps']:,.0f} GB/s copy, {ceilings['tflops']:,.4g} TFLOP/s matrix product")
    compile_ahead(*_jobs(wanted, todo), wanted.device, console)
    meter = ModelMeter(wanted.device, wanted.dtype, wanted.seed, wanted.budget, ceilings["gbps"])
    # Rows collect garbage, which takes a third of a second over all that was imported; what is there now stays anyhow.
    gc.freeze()
    try:
        _rows(meter, rows, todo, console)
    finally:
        gc.unfreeze()


def _rows(meter: ModelMeter, rows: Rows, todo: list[ModelCase], console: Console) -> None:
    progress = Progress(console, len(todo))
    measured = (row for _, cases in groupby(todo, lambda case: (case.model, case.size)) for row in meter.measure(list(cases)))
    for place, row in enumerate(measured, 1):
        rows.append(row)
        progress.tell(place, row, ("model",), _headline(row))


def _jobs(wanted: ModelRun, todo: list[ModelCase]) -> tuple[list[Any], list[Any]]:
    """Jobs for `compile_ahead`: those of models on flash-linear-attention's kernels, which all processes share, come second."""
    own: list[Any] = []
    shared: list[Any] = []
    if wanted.device.type != "cuda":
        return own, shared
    for model, size in dict.fromkeys((case.model, case.size) for case in todo):
        cases = [case for case in todo if (case.model, case.size) == (model, size)]
        phases = tuple(dict.fromkeys(case.work for case in cases))
        windows = tuple({tokens for case in cases for tokens in case.layers or (case.window_tokens(AHEAD_LENGTHS[0]),)})
        family = families.find(model)
        if family.refusal(model, wanted.device) is not None:
            continue
        with suppress(Exception):
            small = families.random_model(model, size, wanted.device, wanted.dtype, wanted.seed, layers=1)
            group = shared if "fla" in family.backend(small) else own
            group.append(partial(compile_model, model, size, phases, windows, wanted.device, wanted.dtype, wanted.seed))
    return own, shared


def compile_model(
    name: str,
    size: str,
    phases: tuple[str, ...],
    windows: tuple[int | None, ...],
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
) -> None:
    """Call what the phases of a model call, by one of its layers: the kernels are the same, and it is small."""
    family = families.find(name)
    model = families.random_model(name, size, device, dtype, seed, layers=1)
    draw = Draw(seed, device, dtype)
    works = [
        *(partial(model_work.prefill, model, family, 1, length, draw) for length in AHEAD_LENGTHS if "prefill" in phases),
        *(
            partial(model_work.decode, model, family, rows, AHEAD_LENGTHS[0], draw)
            for rows in AHEAD_BATCHES
            if "decode" in phases
        ),
        *(partial(model_work.train, model, False, 1, length, draw) for length in AHEAD_LENGTHS if "train" in phases),
    ]
    for window in windows:
        if window is not None:
            family.set_window(model, window)
        for make in works:
            with suppress(Exception), make() as work:
                work.call()


def _headline(row: dict[str, Any]) -> str:
    window = "" if row["window"] in ("full", "none") else f", window {row['window']}"
    asked = f"{row['length_asked']} x {row['batch_asked']}"
    if row["status"] == "ok":
        asked = f"{row['length']:,} x {row['batch']:,}"
    again = ", checkpointing" if row["checkpointing"] else ""
    what = f"{row['size']} {row['phase']} {asked}: {row['model']}{window}{again}"
    if row["status"] != "ok":
        return f"{what}: {row['status']}: {row['reason']}"
    share = "" if "floor_share" not in row else f", {100 * row['floor_share']:.0f}% of it the weights' bytes"
    return (
        f"{what}: {model_table.figures(row['latency_ms'])} ms, {model_table.figures(row['tokens_per_s'])} tokens/s, "
        f"{model_table.figures(row['peak_memory_mb'])} MiB{share}"
    )
