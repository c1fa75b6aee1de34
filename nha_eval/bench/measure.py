"""A case becomes rows: had or not, right or not, its peak memory, its times, and what these say beside the ceilings.

Nothing that an implementation does ends the run: what it raises is the row's status and reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch

from nha_eval.bench import implementations
from nha_eval.bench.check import check
from nha_eval.bench.grid import Case
from nha_eval.bench.machine import device_name, dtype_name
from nha_eval.bench.running import explain, tidy
from nha_eval.bench.setting import Draw, Work, set_up
from nha_eval.bench.timing import Budget, captured, quartiles, significant, times_ms
from nha_eval.peak_memory import PeakMemory

TUNING_LENGTH = 8192


@dataclass
class Meter:
    """Measures cases on one device. `tflops` and `gbps` are the ceilings; `longest` the longest length of each
    implementation, shape and phase of the run, at most TUNING_LENGTH of which is what an autotuner meets first.
    """

    device: torch.device
    dtype: torch.dtype
    seed: int
    budget: Budget
    tflops: float
    gbps: float
    longest: dict[tuple[str, str, str], int] = field(default_factory=dict)
    # What was found of (implementation, phase, shape, batch, window): None for right, else (status, reason).
    _found: dict[tuple[Any, ...], tuple[str, str] | None] = field(default_factory=dict)

    def measure(self, case: Case, graphs: tuple[bool, ...]) -> Iterator[dict[str, Any]]:
        """The case's rows, one for each of `graphs` (as a CUDA graph, or not)."""
        left = list(graphs)
        failure = self._failure(case)
        if failure is None:
            try:
                with set_up(case, self._draw()) as work:
                    mebibytes = peak_extra_mb(work, self.device)
                    for graph in graphs:
                        times = self._times(work, graph)
                        row = self._row(case, graph, work, times, None if graph and False in graphs else mebibytes)
                        left.remove(graph)
                        yield row
            except Exception as problem:
                failure = explain(implementations.find(case.implementation), problem)
        # Not inside the handler: the exception would keep its tensors alive.
        for graph in left:
            status, reason = failure
            yield {**self._about(case, graph), "status": status, "reason": reason}
        if failure is not None:
            tidy(self.device)

    def _draw(self) -> Draw:
        return Draw(self.seed, self.device, self.dtype)

    def _failure(self, case: Case) -> tuple[str, str] | None:
        """Why the case is not timed, or None: looked into once, at a short length."""
        module = implementations.find(case.implementation)
        refusal = module.refusal(self.device, self.dtype, case)
        if refusal is not None:
            return "unavailable", refusal
        point = (case.implementation, case.phase, case.shape, case.batch, case.window)
        if point not in self._found:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    self._tune(case, module)
                    check(case, self._draw())
                self._found[point] = None
            except Exception as problem:
                self._found[point] = explain(module, problem)
            tidy(self.device)
        return self._found[point]

    def _tune(self, case: Case, module: Any) -> None:
        if getattr(module, "COMPILES", None) == "tunes" and self.device.type == "cuda":
            longest = self.longest.get((case.implementation, case.shape.name, case.phase), case.length)
            with set_up(case.at(min(longest, TUNING_LENGTH)), self._draw()) as work:
                work.call()

    def _times(self, work: Work, graph: bool) -> list[float]:
        call = captured(work.call) if graph else work.call
        return [spent / work.steps for spent in times_ms(call, self.device, self.budget, work.grads)]

    def _about(self, case: Case, graph: bool) -> dict[str, Any]:
        shape = case.shape
        return {
            "implementation": case.implementation,
            "phase": case.phase,
            "shape": shape.name,
            "batch": case.batch,
            "query_heads": shape.query_heads,
            "kv_heads": shape.kv_heads,
            "key_dim": shape.key_dim,
            "value_dim": shape.value_dim,
            "slots": shape.slots,
            "length": case.length,
            "window": case.window_text,
            "dtype": dtype_name(self.dtype),
            "device": device_name(self.device),
            "graph": graph,
        }

    def _row(self, case: Case, graph: bool, work: Work, times: list[float], mebibytes: float | None) -> dict[str, Any]:
        low, middle, high = quartiles(times)
        cost = implementations.find(case.implementation).COUNT(case, self.dtype.itemsize)
        return {
            **self._about(case, graph),
            "backend": work.backend,
            "latency_ms": significant(middle),
            "latency_ms_p25": significant(low),
            "latency_ms_p75": significant(high),
            "repeats": len(times),
            "tflops": significant(cost.flops / middle / 1e9),
            "gbps": significant(cost.bytes / middle / 1e6),
            "roofline_share": significant(cost.roofline_ms(self.tflops, self.gbps) / middle),
            "peak_memory_mb": None if mebibytes is None else round(mebibytes, 2),
            "note": work.note,
            "status": "ok",
        }


def case_keys(case: Case, dtype: torch.dtype) -> dict[bool, dict[str, Any]]:
    """For each way of timing the case, what the table's key wants to know."""
    about = {
        "implementation": case.implementation,
        "phase": case.phase,
        "shape": case.shape.name,
        "batch": case.batch,
        "length": case.length,
        "window": case.window_text,
        "dtype": dtype_name(dtype),
    }
    return {graph: {**about, "graph": graph} for graph in case.graphs}


def peak_extra_mb(work: Work, device: torch.device) -> float:
    """The most memory, in MiB, that one call takes beyond what stood before: outputs, gradients, scratch. The
    call is the second: the first may compile. On a CPU it is the growth of the process.
    """
    work.call()
    work.forget()
    with PeakMemory(device) as peak:
        if device.type == "cuda":
            before = torch.cuda.memory_allocated(device)
        else:
            before = psutil.Process().memory_info().rss
        # Kept to the end: what a call returns is part of what it takes.
        out = work.call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    del out
    work.forget()
    return max(0.0, peak.mebibytes - before / 2**20)
