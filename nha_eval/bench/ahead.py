"""Compiling before measuring, in as many processes as there are cores, into the disk caches of Triton and torch.

flash-linear-attention's kernels are chosen by Triton's autotuner, from some 700 configurations a shape: compiled one after
the other, each then timed for 125 ms, they would take a quarter of an hour of a GPU that waits. So each process compiles
its share of them, launching nothing; and a candidate is timed for some 20 ms (`short_tuning`), which for kernels of these
lengths is ten repeats and more. What is chosen, and what is measured, is the run's own process's doing.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from rich.console import Console

from nha_eval.bench import implementations
from nha_eval.bench.check import small
from nha_eval.bench.grid import Case
from nha_eval.bench.setting import Draw, set_up

MOST_PROCESSES = 16
PATIENCE = 240  # seconds, after which what is not compiled is left to the run
SHARED_LENGTH = 2048
CANDIDATE_MS = {"warmup": 3, "rep": 15}
Job = Callable[[], None]


@contextmanager
def short_tuning(device: torch.device) -> Iterator[None]:
    """Triton's autotuner times each candidate for CANDIDATE_MS inside; nothing on a CPU."""
    if device.type != "cuda":
        yield
        return
    from functools import partial

    from triton.runtime import driver
    from triton.testing import do_bench

    active = driver.active
    active.get_benchmarker = lambda: partial(do_bench, **CANDIDATE_MS)
    try:
        yield
    finally:
        # The method of its class is there again.
        del active.get_benchmarker


def split(cases: list[Case]) -> tuple[list[Case], list[Case]]:
    """(cases that one process compiles, cases that all share out), by what their implementations say of themselves."""
    own: dict[Case, None] = {}
    shared: dict[Case, None] = {}
    for case in cases:
        how = getattr(implementations.find(case.implementation), "COMPILES", None)
        if how == "tunes":
            shared[case.at(SHARED_LENGTH)] = None
        elif how is not None:
            own[small(case)] = None
            if how == "lengths" or case.length <= SHARED_LENGTH:
                own[case] = None
    return list(own), list(shared)


def compile_ahead(own: list[Job], shared: list[Job], device: torch.device, console: Console) -> None:
    """Fill the disk caches with what the jobs, which can be pickled, need on a GPU: each of `own` in one process, all of
    `shared` in all. Failures are left for the run to meet.
    """
    processes = min(MOST_PROCESSES, len(os.sched_getaffinity(0)))
    if device.type != "cuda" or processes < 2 or not (own or shared):
        return
    began = time.monotonic()
    spawning = multiprocessing.get_context("spawn")
    workers = [
        spawning.Process(target=_work, args=(rank, processes, own, shared, device), daemon=True) for rank in range(processes)
    ]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(max(0.0, began + PATIENCE - time.monotonic()))
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
    console.print(f"compiled ahead in {processes} processes: {time.monotonic() - began:.0f} s")


def _work(rank: int, of: int, own: list[Job], shared: list[Job], device: Any) -> None:
    # Whatever goes wrong here goes wrong again, and is told, where it is measured.
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    # There are as many processes as cores already.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    torch.set_num_threads(1)
    torch.cuda.set_device(device)
    for job in own[rank::of]:
        with suppress(Exception):
            job()
    if shared:
        compile_only(rank, of)
    for job in shared:
        with suppress(Exception):
            job()


def call_once(case: Case, device: torch.device, dtype: torch.dtype, seed: int) -> None:
    """The job of a case of `bench op`, where it can be had here."""
    draw = Draw(seed, device, dtype)
    if implementations.find(case.implementation).refusal(device, dtype, case) is None:
        with set_up(case, draw) as work:
            work.call()
            work.forget()


def compile_only(rank: int, of: int) -> None:
    """From here on this process launches no Triton kernel, but compiles every `of`th one that it is asked for, an
    autotuner's candidates each counted as one. Processes that are asked the same compile all of it together.
    """
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import JITFunction

    turns = itertools.count()
    launch = JITFunction.run

    def compile_some(self, *args, grid, warmup, **kwargs):
        if next(turns) % of == rank:
            kernel = launch(self, *args, grid=grid, warmup=True, **kwargs)
            # Its launcher is compiled when first looked at.
            return kernel and kernel.run
        return None

    def compile_candidates(self, *args, **kwargs):
        self.nargs = dict(zip(self.arg_names, args, strict=False))
        for config in self.prune_configs(kwargs):
            # A candidate may ask for more than the GPU has.
            with suppress(Exception):
                self.fn.run(*args, **{**kwargs, **config.all_kwargs()})
        self.nargs = None

    JITFunction.run = compile_some
    Autotuner.run = compile_candidates
