"""Trainings side by side: each worker is a process of its own, and one that is killed costs its own training alone.

    for i, record in results(train_cell, [(0, (spec, cell, folder)), ...], workers=4): ...

On a GPU they share it, as one small model leaves most of it idle.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from nha_eval.errors import is_out_of_memory, one_line

# A worker that is killed leaves no word; a training in whose hands this happened so often is given up.
TRIES = 2
KILLED = "its process was killed, as by the system for want of memory"
_ORPHANED = 2.0  # seconds between a worker's looks at who started it

Train = Callable[..., dict[str, Any]]
Arguments = tuple[Any, ...]


def results(train: Train, jobs: list[tuple[int, Arguments]], workers: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, `train(*arguments)`) of each job (number, arguments) as it is done, by one process or several.

    train: a function that a process can import, giving a record with `status`. Out of memory is a record; what else it raises
    is raised here.
    """
    if min(workers, len(jobs)) <= 1:
        for i, arguments in jobs:
            yield i, train(*arguments)
        return
    tries = dict.fromkeys((i for i, _ in jobs), 0)
    left = dict(jobs)
    while left:
        # After a death nobody knows whose it was: those in hand go one at a time then, so that the one that brings it is found.
        suspects = {i: job for i, job in left.items() if tries[i]}
        batch = suspects or dict(left)
        for i, record in _pooled(train, batch, 1 if suspects else min(workers, len(batch)), workers):
            tries[i] += record is None
            if record is None and tries[i] < TRIES:
                continue
            del left[i]
            yield i, record or {"status": "error", "reason": KILLED, "rows": [], "seconds": 0.0}


def _pooled(train: Train, left: dict[int, Arguments], count: int, workers: int) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """(number, record) as they come; None for those in hand when a worker died, after which nothing more comes."""
    before = set(multiprocessing.active_children())
    threads = max(1, torch.get_num_threads() // workers)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker, initargs=(threads, os.getpid()))
    waiting = list(left.items())
    running: dict[Future, int] = {}
    try:
        while waiting or running:
            # No more than there are workers, so that all that is running when one dies was in hand.
            while waiting and len(running) < count:
                i, arguments = waiting.pop(0)
                running[pool.submit(train, *arguments)] = i
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                i = running.pop(future)
                try:
                    record = future.result()
                except BrokenProcessPool:
                    for other in [i, *running.values()]:
                        yield other, None
                    return
                except Exception as problem:
                    if not is_out_of_memory(problem):
                        raise
                    record = {"status": "oom", "reason": one_line(problem), "rows": [], "seconds": 0.0}
                yield i, record
    finally:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(threads: int, parent: int) -> None:
    torch.set_num_threads(threads)

    def watch() -> None:
        # Killed outright, the parent ends nobody: workers would train on for a table that none writes.
        while os.getppid() == parent:
            time.sleep(_ORPHANED)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
