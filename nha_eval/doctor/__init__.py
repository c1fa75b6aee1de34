"""The doctor: what this machine has, whether every mixer gives the right figures on it, and what is missing.

`examine` prints and gives an exit code; `nha_eval.verdicts` keeps what it found of the mixers, and every run's report is
stamped with it. Nothing heavy is imported before it is needed.

    python run_eval.py doctor --mixer nha
"""

from __future__ import annotations

import os
from typing import Any

from nha_eval.errors import DONE, MACHINE, UserError, nearest, one_line


def examine(
    mixers: list[str] | None = None,
    *,
    device: str = "auto",
    as_json: bool = False,
    checks: list | None = None,
    data: str | None = None,
) -> int:
    """Look at the machine and at every mixer, or at the given `mixers` alone; print what is found as it is found, or as one
    JSON object at the end. `checks` stands for the machine's, as `machine.look` takes them.

    Returns the exit code: 0, or 1 where something is bad. Raises UserError for an unknown mixer or a device that is not here.
    """
    from models.mixers import mixer_names
    from nha_eval.doctor import machine
    from nha_eval.doctor.mixers import examine_mixer
    from nha_eval.doctor.show import Show

    for name in mixers or ():
        if name not in mixer_names():
            raise UserError(f"no such mixer: {name!r}; {nearest(name, mixer_names(), what='mixers')}")
    chosen = resolve_device(device)
    if data is not None:
        _keep_in(data)
    show = Show(quiet=as_json)
    lines = []
    if not mixers:
        for line in machine.look(checks):
            lines.append(line)
            show.line(*line)
    wanted = list(dict.fromkeys(mixers or mixer_names()))
    results = []
    for name in wanted:
        with show.working(f"{name} on {chosen}"):
            results.append(examine_mixer(name, chosen))
    lacking = _missing(chosen)
    show.mixers(results, str(chosen))
    show.missing(lacking)
    kept = _remember(chosen, results)
    bad = [name for name, state, _ in lines if state == "bad"]
    bad += [result.mixer for result in results if result.verdict != "passed"]
    show.end(list(dict.fromkeys(bad)), kept)
    if as_json:
        show.json(lines, results, lacking, bad, chosen)
    return MACHINE if bad else DONE


def _keep_in(data: str) -> None:
    """Have verdicts kept where `eval --data` looks for them."""
    from nha_eval.paths import make_writable, user_path

    folder = user_path(data, "--data").absolute()
    try:
        make_writable(folder)
    except OSError as problem:
        told = problem.strerror or problem
        raise UserError(f"--data {data!r} cannot be written: {told}: give another folder, or leave it out") from problem
    os.environ["NHA_EVAL_CACHE"] = str(folder)


def resolve_device(device: str) -> Any:
    """The torch device of a name; `auto` is the GPU where there is one. Raises UserError for one that is not here."""
    import torch

    there = torch.cuda.device_count()
    if device == "auto":
        return torch.device("cuda:0" if there else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as problem:
        raise UserError(f"device {device!r}: wanted is auto, cpu, cuda or cuda:N") from problem
    if chosen.type not in ("cpu", "cuda") or (chosen.type == "cpu" and chosen.index is not None):
        raise UserError(f"device {device!r}: wanted is auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and (chosen.index or 0) >= there:
        raise UserError(f"device {device!r}: torch {torch.__version__} sees {there} GPUs here; give --device cpu, or another")
    return torch.device("cuda", chosen.index or 0) if chosen.type == "cuda" else chosen


def _missing(device: Any) -> list:
    import torch

    from nha_eval.doctor.missing import missing
    from nha_eval.environment import versions

    capability = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else None
    return missing(versions(), capability, _nvcc() if capability else True)


def _nvcc() -> bool:
    """Whether flash-linear-attention finds a CUDA compiler for tilelang; True where it cannot be asked."""
    try:
        from fla.utils.env import has_usable_nvcc
    except ImportError:
        return True
    return has_usable_nvcc()


def _remember(device: Any, results: list) -> str:
    """Where the verdicts were kept, or why they were not."""
    from nha_eval.environment import without_home
    from nha_eval.errors import MachineError
    from nha_eval.verdicts import device_label, remember

    try:
        return f"kept in {without_home(str(remember(device_label(device), {r.mixer: r.as_dict() for r in results})))}"
    except (OSError, MachineError) as problem:
        return f"not kept, so that runs will be stamped `not run` ({one_line(problem)})"
