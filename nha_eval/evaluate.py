"""From a spec to a run: everything that can be wrong with the input is found here, before a worker starts.

from nha_eval.evaluate import prepare
prepare(spec, name="quickstart").go()
"""

import hashlib
import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nha_eval import catalog, store
from nha_eval.environment import physical_cores
from nha_eval.errors import UserError, printable
from nha_eval.executors import LocalExecutor
from nha_eval.fetching import hub_needs
from nha_eval.given_data import look_over
from nha_eval.gpus import visible_gpus
from nha_eval.paths import user_path
from nha_eval.plan import ModelInfo, chosen_tasks, expand
from nha_eval.runner import Run
from nha_eval.sharing import share_out
from nha_eval.spec import Spec


def prepare(
    spec: Spec,
    name: str | None = None,
    *,
    describe: Callable[[str], ModelInfo] = catalog.describe,
    suites: dict[str, list[Any]] | None = None,
    executor: Any = None,
    draw: Callable[[Path], Any] | None = None,
) -> Run:
    """The run that a spec asks for; `name` is the run's when the spec gives no `out`.

    `describe`, `suites`, `executor` and `draw` stand for the catalogue, the known suites, where workers run and the
    report. Raises UserError.
    """
    if not spec.models:
        raise UserError(
            "no model: give --model (preset, checkpoint folder or hub id), or `models` in the spec; `list` shows the presets"
        )
    if not (spec.suites or spec.tasks) and "costs" not in spec.model_fields_set:
        raise UserError("no suite: give --suite or --task (`list` shows them), or --costs for costs alone")
    spec = resolve(spec)
    suites = known_suites() if suites is None else suites
    expand_early(spec, suites)
    known = [task for members in suites.values() for task in members]
    chosen = [task for task, _ in chosen_tasks(spec, suites)]
    given = look_over(spec.datasets, chosen, known)
    check_cutting(spec, chosen)
    models = catalog.describe_all([entry.name for entry in spec.models], describe)
    cells = expand(spec, models, suites, given)
    for info, entry in zip(models, spec.models, strict=True):
        asked = entry.windows or spec.windows
        for extra in spec.costs.extra if spec.costs else ():
            asked = [*asked, *(extra.windows if extra.model in (info.name, info.label) else ())]
        if asked and info.own_window == "none":
            windows = ", ".join(dict.fromkeys(map(str, asked)))
            note = f"note: {info.label} has no window; {windows} is not applied to it: it is run once, at window none"
            print(printable(note, 400), file=sys.stderr)
    if spec.telemetry and not any(cell.kind == "telemetry" for cell in cells):
        raise UserError(
            "telemetry: nothing that is asked for has both a task and a window below full, where slots take part: add --suite, "
            "and --window such as 64; or leave --telemetry out"
        )
    threads = spec.threads or physical_cores()
    path = user_path(spec.out, "--out") if spec.out else store.RUNS / (file_name(name or "") or run_name(spec, models))
    part = None
    if spec.share:
        number, count = (int(part) for part in spec.share.split("/"))
        mine = share_out(cells, count)[number - 1 :: count]
        cells = [cell for portion in mine for cell in portion.cells]
        if mine[0].of > 1:
            part = replace(mine[0], cells=[cell for cell in cells if cell.kind == "score"])
        path = path / store.SHARES / f"{number}-of-{count}"
    if spec.data:
        # Read by whoever fetches or looks something up in the cache, here and in workers.
        os.environ["NHA_EVAL_CACHE"] = str(user_path(spec.data, "--data").absolute())
    if executor is None:
        variables = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
        # GNU OpenMP's threads wait for each other in a busy loop; beside any other busy process that makes small
        # operators a hundred times slower. This many turns of the loop cost nothing on an idle machine.
        variables["GOMP_SPINCOUNT"] = os.environ.get("GOMP_SPINCOUNT", "20000")
        executor = make_executor(spec, variables, threads)
    needs = {info.label: info.needs for info in models}
    needs |= {task.name: (*task.needs, *hub_needs(task, given)) for task in known}
    return Run(cells, spec.deciding(), path, threads, executor=executor, draw=draw, needs=needs, part=part)


def make_executor(spec: Spec, variables: dict[str, str], threads: int) -> Any:
    """Where the spec's workers run, with these environment variables and so many threads each. UserError for settings that do
    not go together."""
    on_gpu = spec.device.startswith("cuda")
    if spec.executor == "ray":
        from nha_eval.ray_executor import RayExecutor, carried

        return RayExecutor(spec.address, cores=threads, gpus=int(on_gpu), most=spec.workers, environment=carried(variables))
    if spec.address is not None:
        raise UserError(f"address {spec.address!r} is of a Ray cluster: add --executor ray")
    room = spec.workers or 1
    if room == 1 or not on_gpu:
        return LocalExecutor(environment=variables, room=room)
    if spec.device != "cuda":
        raise UserError(
            f"{room} workers were asked for on {spec.device!r}: give --device cuda, whose GPUs they are dealt out to"
        )
    return LocalExecutor(environment=variables, room=room, gpus=visible_gpus())


def check_cutting(spec: Spec, chosen: list[Any]) -> None:
    """Say which of the tasks take no other truncation or tokenizer. Raises UserError for a tokenizer that cannot be meant."""
    named = spec.tokenizer
    if named and not user_path(named, "--tokenizer").is_dir() and not catalog.HUB_ID.fullmatch(named):
        raise UserError(f"no such tokenizer: {named!r}; give a folder that holds one, or a hub id (org/name)")
    uncut = [task.name for task in chosen if not task.cut]
    if (spec.truncation or spec.tokenizer) and uncut:
        flag = "--truncation" if spec.truncation else "--tokenizer"
        print(f"note: {', '.join(uncut)} cut nothing by a protocol; {flag} is not applied there", file=sys.stderr)


def expand_early(spec: Spec, suites: dict[str, list[Any]]) -> None:
    """Check suites and tasks before models are looked up: a hub takes seconds to answer, a misspelt task none."""
    stand_ins = [ModelInfo(entry.name, entry.name, "", "full") for entry in spec.models]
    # Whether settings of windows fit is for the models themselves to say.
    bare = {"settings": {}} | ({"costs": None} if spec.suites or spec.tasks else {})
    expand(spec.model_copy(update=bare), stand_ins, suites)


def known_suites() -> dict[str, list[Any]]:
    """Every suite with its tasks."""
    from tasks.suites import suite_names, suite_tasks

    return {suite: suite_tasks(suite) for suite in suite_names()}


def resolve(spec: Spec) -> Spec:
    """The spec with `auto` replaced by what this machine gives. Raises UserError for a device that it has not."""
    device = spec.device
    cpu_build = _torch_version().endswith("+cpu")
    if device == "auto":
        device = "cuda" if not cpu_build and any(Path(node).exists() for node in ("/dev/nvidia0", "/dev/dxg")) else "cpu"
    elif device.startswith("cuda") and cpu_build:
        raise UserError(
            f"device {device!r}: the torch installed here ({_torch_version()}) is a CPU build: give --device cpu, or install "
            "another build"
        )
    dtype = spec.dtype if spec.dtype != "auto" else ("bfloat16" if device.startswith("cuda") else "float32")
    return spec.model_copy(update={"device": device, "dtype": dtype})


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError as problem:
        raise UserError("torch is not installed: `make setup`, or `pip install torch`, then try again") from problem


def run_name(spec: Spec, models: list[ModelInfo]) -> str:
    """A folder name for a run without one: readable, and the same for the same settings and no others."""
    digest = hashlib.sha256(json.dumps(spec.deciding(), sort_keys=True).encode()).hexdigest()[:8]
    words = [*(info.label for info in models[:3]), *(spec.suites or ["costs"])[:2]]
    return f"{file_name('-'.join(words))[:80]}-{digest}"


def file_name(text: str) -> str:
    """The text as the name of one file on any system: it cannot lead elsewhere, hide or pass for an option. May be empty."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip(".-")[:100]
