"""How long a call takes: on a GPU by `triton.testing.do_bench` (events, the L2 cache flushed before each), else by the clock.

Eager calls on a GPU are timed as they come: what Python takes to launch shows where the GPU would wait for it. A CUDA graph
of the same call has no such wait, so the two together tell launching from computing.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LEAST_REPEATS = 5
WARM_CALLS = 3  # before a capture


@dataclass(frozen=True)
class Budget:
    """Milliseconds of warm-up and of repeats for one row; at least five repeats are made however long they take."""

    warmup_ms: float = 10.0
    repeat_ms: float = 50.0


def times_ms(call: Callable[[], Any], device: torch.device, budget: Budget, grads: Sequence[Tensor] = ()) -> list[float]:
    """Milliseconds of each repeat; gradients of `grads` are set to None before each."""
    if device.type != "cuda":
        return _by_the_clock(call, budget, grads)
    from triton.testing import do_bench

    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    call()
    started.record()
    call()
    ended.record()
    torch.cuda.synchronize(device)
    least = 1.1 * LEAST_REPEATS * started.elapsed_time(ended)
    return do_bench(
        call,
        warmup=budget.warmup_ms,
        rep=max(budget.repeat_ms, least),
        grad_to_none=list(grads) or None,
        return_mode="all",
    )


def _by_the_clock(call: Callable[[], Any], budget: Budget, grads: Sequence[Tensor]) -> list[float]:
    def timed() -> float:
        for tensor in grads:
            tensor.grad = None
        began = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - began)

    spent = 0.0
    while spent < budget.warmup_ms:
        spent += timed()
    times: list[float] = []
    while len(times) < LEAST_REPEATS or sum(times) < budget.repeat_ms:
        times.append(timed())
    return times


def one_ms(call: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds of one call that finds the device idle: on a GPU from its first event to its last, launching included."""
    if device.type != "cuda":
        began = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - began)
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    started.record()
    call()
    ended.record()
    torch.cuda.synchronize(device)
    return started.elapsed_time(ended)


def captured(call: Callable[[], Any]) -> Callable[[], None]:
    """The replay of a CUDA graph of `call`. RuntimeError where something in it cannot be captured."""
    aside = _aside(torch.cuda.current_device())
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_CALLS):
            call()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


@functools.cache
def _aside(device: int) -> torch.cuda.Stream:
    """One for all captures, as cuBLAS keeps a workspace for each stream that it has run on (32 MiB on Hopper), which a peak of
    memory would count."""
    return torch.cuda.Stream(device)


def quartiles(times: list[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile."""
    if len(times) == 1:
        return (times[0],) * 3
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return low, middle, high


def significant(value: float) -> float:
    """Rounded to five significant digits, so that small figures do not become 0."""
    return float(f"{value:.5g}")
