"""A run started several times at once by `accelerate launch` or `torchrun`: each process does a share, the first gathers them.

    accelerate launch --multi_gpu --num_processes 4 run_eval.py eval SPEC.yaml

The launcher says which process is which through RANK and WORLD_SIZE, and which GPU is whose through LOCAL_RANK; on several
machines the run folder has to be one that all of them see. What is timed is left to the first, when the others are done.
"""

from __future__ import annotations

import os
from pathlib import Path

from nha_eval.errors import DONE
from nha_eval.evaluate import prepare
from nha_eval.gpus import visible_gpus
from nha_eval.ranks import Launched, wait_until
from nha_eval.spec import Spec

POLL = 0.5  # seconds
GROUP = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK")


def run_share(spec: Spec, name: str | None, by: Launched) -> int:
    """Do this process's share of the scores; the first process then waits for the others', gathers them, does what is left, and
    its exit code is the run's. Raises MachineError when the launcher is gone before all are done.
    """
    mark = f".done-{os.environ.get('MASTER_PORT', '0')}"
    _leave_the_group(by)
    if spec.suites or spec.tasks:
        share = prepare(spec.model_copy(update={"share": f"{by.rank + 1}/{by.world}"}), name)
        share.cells = [cell for cell in share.cells if cell.kind != "cost"]
        done = share.path / mark
        # One that a killed launch left would have the first gather too early.
        done.unlink(missing_ok=True)
        share.go()
        done.touch()
        if by.rank == 0:
            _wait([share.path.with_name(f"{rank + 1}-of-{by.world}") / mark for rank in range(by.world)])
    # A launcher ends all when one ends with another code; what a share could not do is tried, and told of, by the first.
    return prepare(spec, name).go() if by.rank == 0 else DONE


def _wait(marks: list[Path]) -> None:
    wait_until(lambda: all(mark.exists() for mark in marks), "all shares were done", POLL)
    for mark in marks:
        mark.unlink()


def _leave_the_group(by: Launched) -> None:
    """Have this process and its workers see their GPU alone, and no group of processes that they would wait for."""
    seen = visible_gpus()
    os.environ["CUDA_VISIBLE_DEVICES"] = seen[int(by.gpu)] if len(seen) > int(by.gpu) else by.gpu
    for variable in list(os.environ):
        if variable in GROUP or variable.startswith(("ACCELERATE_", "TORCHELASTIC_", "MASTER_")):
            del os.environ[variable]
