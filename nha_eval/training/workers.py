"""Trainings side by side: each worker is a process of its own, and one that is killed costs its own training alone.

    for job, record in results(train_cell, deque([Job((spec, cell, folder)), ...]), workers=4): ...

On a GPU they share it, as one small model leaves most of it idle; of several GPUs each worker has one, in turns.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch

from nha_eval.errors import MachineError, UserError, is_out_of_memory, one_line
from nha_eval.gpus import visible_gpus

# A worker that is killed leaves no word; a training in whose hands this happened so often is given up.
TRIES = 2
KILLED = "its process was killed, as by the system for want of memory, or left by its GPU"
_ORPHANED = 2.0  # seconds between a worker's looks at who started it

Train = Callable[..., Any]


@dataclass(eq=False)
class Job:
    """A call of the training's function, and how often a worker has died with it in hand."""

    arguments: tuple[Any, ...]
    deaths: int = 0


@dataclass(frozen=True)
class Failed:
    """What came of a job in a worker but a record. again: it is no result, and may go well another time."""

    status: str
    reason: str
    again: bool


def gpus_of(device: str) -> list[str]:
    """The GPUs that workers of a spec's `device` are dealt out to: all where it names none."""
    return visible_gpus() if device in ("auto", "cuda") else []


def results(train: Train, waiting: deque[Job], workers: int, gpus: Sequence[str] = ()) -> Iterator[tuple[Job, Any]]:
    """(job, `train(*arguments)`) of each job as it is done, by one process or several; more may come to wait meanwhile.

    train: a function that a process can import. In several processes one that fails costs no other: it gives `Failed`; gpus:
    those that they are dealt out to, by the names that CUDA_VISIBLE_DEVICES takes; none: each sees what this process sees.
    UserError and MachineError, and with one process whatever else it raises, are raised here.
    """
    if workers == 1:
        while waiting:
            job = waiting.popleft()
            yield job, train(*job.arguments)
        return
    suspects: deque[Job] = deque()
    while waiting or suspects:
        # After a death nobody knows whose it was: those in hand go one at a time then, so that the one that brings it is found.
        alone = bool(suspects)
        for job, record in _pooled(train, suspects if alone else waiting, 1 if alone else workers, workers, gpus):
            if record is not None:
                yield job, record
                continue
            job.deaths += 1
            if job.deaths < TRIES:
                suspects.append(job)
            else:
                yield job, Failed("error", KILLED, again=True)


def _pooled(train: Train, waiting: deque[Job], count: int, workers: int, gpus: Sequence[str]) -> Iterator[tuple[Job, Any]]:
    """(job, record) as they come, of what waits and what comes to wait; None for those in hand when a worker died, after which
    nothing more comes."""
    before = set(multiprocessing.active_children())
    threads = max(1, torch.get_num_threads() // workers)
    context = multiprocessing.get_context("spawn")
    started = context.Value("i", 0)
    begin = (threads, os.getpid(), tuple(gpus), started)
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker, initargs=begin)
    running: dict[Future, Job] = {}
    try:
        while waiting or running:
            # No more than there are workers, so that all that is running when one dies was in hand.
            while waiting and len(running) < count:
                try:
                    future = pool.submit(_in_worker, train, *waiting[0].arguments)
                except BrokenProcessPool:
                    # A worker has died since; those in hand tell so below.
                    break
                running[future] = waiting.popleft()
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                try:
                    record = future.result()
                except BrokenProcessPool:
                    for other in [job, *running.values()]:
                        yield other, None
                    return
                except (UserError, MachineError):
                    raise
                except Exception as problem:
                    lacks_memory = is_out_of_memory(problem)
                    record = Failed("oom" if lacks_memory else "error", one_line(problem), again=not lacks_memory)
                yield job, record
    finally:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _in_worker(train: Train, *arguments: Any) -> Any:
    """`train`; a process whose GPU takes no more work after a failure ends, as every other job would fail in it too."""
    try:
        return train(*arguments)
    except Exception:
        if torch.cuda.is_initialized():
            try:
                torch.cuda.synchronize()
            except Exception:
                os._exit(1)
        raise


def _start_worker(threads: int, parent: int, gpus: tuple[str, ...], started: Any) -> None:
    torch.set_num_threads(threads)
    if gpus:
        with started.get_lock():
            number, started.value = started.value, started.value + 1
        # Read when CUDA is first used, which is later.
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]

    def watch() -> None:
        # Killed outright, the parent ends nobody: workers would train on for a table that none writes.
        while os.getppid() == parent:
            time.sleep(_ORPHANED)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
