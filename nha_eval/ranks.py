"""Which of the processes started by `accelerate launch` or `torchrun` this one is, by what these say in the environment.

What a launch leaves is written by its first process, which is any process where there is no launch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from nha_eval.errors import MachineError


@dataclass(frozen=True)
class Launched:
    """Which of how many processes this is; `gpu` is its number on this machine."""

    rank: int
    world: int
    gpu: str


def launched() -> Launched | None:
    """What the launcher said, or None where there is none or this process is the only one."""
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return None
    return Launched(rank, world, os.environ.get("LOCAL_RANK", "0")) if world > 1 else None


def is_first() -> bool:
    """Whether this process writes what its launch leaves."""
    by = launched()
    return by is None or by.rank == 0


def wait_until(ready: Callable[[], bool], what: str, poll: float) -> None:
    """Looks each `poll` seconds. Raises MachineError, which names `what`, when the launcher is gone before."""
    launcher = os.getppid()
    while not ready():
        if os.getppid() != launcher:
            raise MachineError(f"the launcher is gone before {what}: give the same command again")
        time.sleep(poll)
