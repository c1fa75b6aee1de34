"""One proxy: a model, its steps, what is measured of it, and its checkpoint.

train_cell(spec, cell, Path("results/runs/train-x")) -> {"status": "ok", "measured": [...], "recall": [...], ...}
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import AutoTokenizer

from models.modeling import NHAForCausalLM
from models.quiet import quiet_transformers
from nha_eval.bench.machine import device_name, resolve_device
from nha_eval.errors import is_out_of_memory, one_line
from nha_eval.training.flops import forward_flops, peak_flops, weights_of
from nha_eval.training.language import NextToken
from nha_eval.training.progress import Log, read_rows
from nha_eval.training.proxies.card import write_card
from nha_eval.training.proxies.cells import Cell, build, moved_layers, set_windows, trained_window
from nha_eval.training.proxies.data import Batches, Data, read
from nha_eval.training.proxies.measure import measure
from nha_eval.training.proxies.recall import recall_tasks
from nha_eval.training.proxies.spec import ProxySpec
from nha_eval.training.trainer import Diverged, Steps, StepTrainer, drawn, steps_of

DATA, TOKENIZER, LOGS, MODELS, WORK = "data", "tokenizer", "logs", "models", "work"


def train_cell(spec: ProxySpec, cell: Cell, run: Path) -> dict[str, Any]:
    """The record of a training in the folder `run`, where `data` and `tokenizer` lie. Out of memory and a loss without end are
    results; checkpoints lie in `work` until the training is done.
    """
    began = time.monotonic()
    work = run / WORK / cell.id(spec)
    try:
        record = _trained(spec, cell, run, work)
    except Exception as problem:
        if not (is_out_of_memory(problem) or isinstance(problem, Diverged)):
            raise
        record = {"status": "oom" if is_out_of_memory(problem) else "error", "reason": one_line(problem)}
    shutil.rmtree(work, ignore_errors=True)
    return {"measured": [], "recall": [], **record, "seconds": round(time.monotonic() - began, 3)}


def _trained(spec: ProxySpec, cell: Cell, run: Path, work: Path) -> dict[str, Any]:
    device, dtype = resolve_device(spec.device, spec.dtype)
    data = read(run / DATA)
    tokenizer = AutoTokenizer.from_pretrained(run / TOKENIZER, trust_remote_code=False)
    model = build(spec, cell, data.vocabulary).to(device)
    own = list(model.config.windows)
    flops = 3 * forward_flops(model.config, weights_of(model.config), spec.text.length)
    (run / LOGS).mkdir(exist_ok=True)
    log = Log(
        cell.folder, run / LOGS / f"{cell.folder}.csv", spec.batch * spec.text.length,
        Console(stderr=True, highlight=False, soft_wrap=True), flops=flops, peak=peak_flops(device_name(device), dtype),
    )  # fmt: skip
    trainer = StepTrainer(
        NextToken(model), cell_steps(spec, cell, device, dtype), Batches(data.train), work,
        callbacks=[log], before_step=_jitter(spec, cell, model), collator=dict,
    )  # fmt: skip
    trainer.run()
    if cell.jitter:
        for layer in moved_layers(model):
            model.set_window(own[layer], layers=[layer])
    record = {
        "status": "ok",
        "reason": "",
        "steps": trainer.state.global_step,
        "loss": float(read_rows(run / LOGS / f"{cell.folder}.csv")[-1]["loss"]),
        "parameters": model.num_parameters(),
        "embedding": model.model.embed_tokens.weight.numel(),
        "state_elements": model.state_elements(spec.text.length),
        "trained_window": trained_window(own, cell),
        "backend": model.backend(),
        **measured(spec, cell, model, data, tokenizer, device, dtype),
    }
    if spec.keep_models:
        # As it is kept, without the fp32 weights that the figures above are of. Angles are no weights, and stay as they are.
        for p in model.parameters():
            p.data = p.data.to(torch.bfloat16)
        record["kept"] = measure(model, data, spec, record["trained_window"], device, torch.float32, [1])[0]
        folder = run / MODELS / cell.folder
        with quiet_transformers():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        write_card(folder, run, spec, cell, record)
    return record


def measured(
    spec: ProxySpec, cell: Cell, model: NHAForCausalLM, data: Data, tokenizer: Any, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Perplexity and recall at the model's own window and at each of the cell's test windows."""
    tasks = recall_tasks(data, tokenizer, spec)
    layers, own = moved_layers(model), list(model.config.windows)
    name = trained_window(own, replace(cell, jitter=()))
    found: dict[str, Any] = {"measured": [], "recall": []}
    for window in (name, *(given for given in cell.test_windows if given != name)):
        if window != name:
            set_windows(model, layers, window)
        found["measured"] += measure(model, data, spec, window, device, dtype)
        found["recall"] += [{"window": window, **task.answered(model, device, dtype)} for task in tasks]
        for layer in layers:
            model.set_window(own[layer], layers=[layer])
    return found


def cell_steps(spec: ProxySpec, cell: Cell, device: torch.device, dtype: torch.dtype) -> Steps:
    own = {"count": spec.steps, "rates": {"": cell.rate}, "seed": cell.seed, "graph": spec.cuda_graph and not cell.jitter}
    return steps_of(spec, device, dtype, log_every=max(1, min(50, spec.steps // 10)), **own)


def _jitter(spec: ProxySpec, cell: Cell, model: NHAForCausalLM) -> Callable[[int], None] | None:
    """Sets the windows to one drawn for each step, by the text's seed and the step alone."""
    if not cell.jitter:
        return None
    layers = moved_layers(model)

    def before_step(step: int) -> None:
        set_windows(model, layers, drawn(cell.jitter, spec.text.seed, step))

    return before_step
