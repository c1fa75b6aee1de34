"""Tokens/s and memory of a training step of each model, alone on the device: forward, backward, clipping, AdamW.

timed(spec, cell, data) -> {"tokens_per_s": 412000.0, "peak_memory_mb": 9120.0, ...}

What the trainings themselves log is of several at a time; batches here are the training's own, in the same micro-batches.
"""

from __future__ import annotations

import gc
import time
from typing import Any

import numpy as np
import torch

from nha_eval.bench.machine import resolve_device
from nha_eval.errors import MachineError, UserError, is_out_of_memory, one_line
from nha_eval.peak_memory import PeakMemory
from nha_eval.training.graphed import captured
from nha_eval.training.language import NextToken
from nha_eval.training.proxies.cells import Cell, build, moved_layers, set_windows
from nha_eval.training.proxies.data import Batches, Data
from nha_eval.training.proxies.spec import ProxySpec

WARM = 3  # steps before those that are timed: kernels are compiled and tuned in them
QUARTILES = (25, 50, 75)


def timed(spec: ProxySpec, cell: Cell, data: Data) -> dict[str, Any]:
    """tokens_per_s: the median of `speed_steps` steps, with quartiles; peak_memory_mb over them. Out of memory is a result,
    and any other failure costs this model's figures alone, which are tried again another time."""
    device, dtype = resolve_device(spec.device, spec.dtype)
    try:
        with PeakMemory(device) as peak:
            seconds, graph = _steps(spec, cell, data, device, dtype)
    except (UserError, MachineError):
        raise
    except Exception as problem:
        if is_out_of_memory(problem):
            return {"status": "oom", "reason": one_line(problem)}
        return {"status": "error", "reason": one_line(problem), "again": True}
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    low, median, high = np.percentile(spec.batch * spec.text.length / np.array(seconds), QUARTILES)
    return {
        "status": "ok",
        "reason": "",
        "tokens_per_s": round(float(median), 1),
        "tokens_per_s_p25": round(float(low), 1),
        "tokens_per_s_p75": round(float(high), 1),
        "peak_memory_mb": round(peak.mebibytes, 1),
        "steps": spec.speed_steps,
        "graph": graph,
    }


def _steps(spec: ProxySpec, cell: Cell, data: Data, device: torch.device, dtype: torch.dtype) -> tuple[list[float], bool]:
    """(seconds of each step, whether it was a CUDA graph, as it is in the training that the spec asks for)."""
    objective = NextToken(build(spec, cell, data.vocabulary).to(device).train())
    optimizer = torch.optim.AdamW(
        objective.parameters(), lr=cell.rate, weight_decay=spec.weight_decay, fused=device.type == "cuda"
    )
    layers, micro = moved_layers(objective.model), spec.micro_batch or spec.batch
    batches = Batches(data.train)
    seconds, call = [], None
    may = spec.cuda_graph and device.type == "cuda" and micro == spec.batch and not cell.jitter
    for step in range(WARM + spec.speed_steps):
        if cell.jitter:
            set_windows(objective.model, layers, cell.jitter[step % len(cell.jitter)])
        first = step * spec.batch % max(1, len(batches) - spec.batch + 1)
        ids = batches.__getitems__(list(range(first, first + spec.batch)))["input_ids"].to(device)
        if may and step == 0:
            call = captured(objective, ids, dtype)
        _wait(device)
        began = time.perf_counter()
        for part in ids.split(micro):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = (call or objective)(part)
            (loss * len(part) / spec.batch).backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), spec.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return seconds[WARM:], call is not None


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
