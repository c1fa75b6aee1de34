"""A SLURM script for a spec: an array of jobs, each of which does a share of the cells, and the command that gathers them.

Shares lie in the run folder's `shares`; a job that is run again goes on with its own, and `eval` without a share takes over
what they have finished and does what is left.
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass

from nha_eval.errors import UserError

# minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes, days-hours:minutes:seconds
TIME = r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}"


@dataclass(frozen=True)
class Jobs:
    """What the array asks SLURM for. `count` jobs, each with `cpus` cores, `gpus` GPUs and `time` (SLURM's own forms, such as
    08:00:00); partition and account where the cluster wants them."""

    count: int
    cpus: int
    gpus: int
    time: str
    partition: str | None = None
    account: str | None = None

    def __post_init__(self) -> None:
        for name in ("time", "partition", "account"):
            value = getattr(self, name)
            if value is not None and (not value or value.split() != [value]):
                raise UserError(f"{name} is {value!r}: wanted is one word, as SLURM takes it")
        if not re.fullmatch(TIME, self.time):
            raise UserError(f"time is {self.time!r}: wanted are minutes, or hours as in 08:00:00, or days as in 2-12:00:00")


def command(spec: str, *more: str) -> str:
    """`eval` of the spec, as a shell takes it."""
    return shlex.join([sys.executable, "-m", "nha_eval.cli", "eval", spec, *more])


def script(spec: str, name: str, jobs: Jobs, folder: str, *more: str) -> str:
    """The batch script for a spec's file or name, run from `folder`; more: further arguments of `eval`."""
    options = {
        "job-name": name,
        "array": f"1-{jobs.count}",
        "ntasks": 1,
        "cpus-per-task": jobs.cpus,
        "gres": f"gpu:{jobs.gpus}" if jobs.gpus else None,
        "time": jobs.time,
        "partition": jobs.partition,
        "account": jobs.account,
        "output": "%x-%A-%a.log",
    }
    lines = ["#!/bin/bash", *(f"#SBATCH --{key}={value}" for key, value in options.items() if value is not None)]
    lines += [
        "# A job that the cluster puts back goes on where it stopped.",
        "#SBATCH --requeue",
        "set -eu",
        f"cd {shlex.quote(folder)}",
        f'exec {command(spec, *more)} --share "$SLURM_ARRAY_TASK_ID/{jobs.count}"',
    ]
    return "\n".join(lines) + "\n"


def gathering(spec: str, file: str, *more: str) -> str:
    """The shell commands that queue the array and, behind it, the job that gathers its shares."""
    wrapped = shlex.quote(command(spec, *more))
    return f"job=$(sbatch --parsable {shlex.quote(file)}) && sbatch --dependency=afterany:$job --wrap {wrapped}"
