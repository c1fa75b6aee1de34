"""`search` from a spec to its run folder.

from nha_eval.search.run import search
search(make_search_spec({"model": "nha:smollm2-135m", "text": "debian"}, {}, where="here"))
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout
from rich.console import Console

from models.assets import AssetCorrupt, AssetUnavailable
from models.configuration import check_window
from models.errors import ModelUnavailable
from models.presets import LoadedModel, load
from nha_eval import environment, store
from nha_eval.bench.machine import device_name, dtype_name, resolve_device
from nha_eval.bench.rows import read_environment
from nha_eval.environment import physical_cores
from nha_eval.errors import DONE, MachineError, UserError, is_disk_trouble, printable
from nha_eval.evaluate import file_name
from nha_eval.journal import Journal, plain, write_atomic
from nha_eval.paths import make_writable, user_path
from nha_eval.search.budgets import check_reach
from nha_eval.search.ending import finish
from nha_eval.search.evaluator import Deadline, Evaluator, Memory, OutOfTime
from nha_eval.search.probe import SHORTEST, probe_seed, probe_texts
from nha_eval.search.spec import WINDOWS, SearchSpec
from nha_eval.search.spending import MEASURING, Latency, Spending, state
from nha_eval.search.stages import AGAIN, Search, label_limits
from nha_eval.search.tokens import open_tokens
from nha_eval.search.windows import order

JOURNAL = "search"  # answers/search.jsonl in the run folder


@dataclass(frozen=True)
class Prepared:
    """A search with what its tables say beside it."""

    search: Search
    state: Spending
    latency: Spending | None
    meter: Latency | None
    about: dict[str, Any]


def search(spec: SearchSpec) -> int:
    """Search, confirm, and leave the tables; the exit code. Raises UserError and MachineError."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    deadline = Deadline(None if spec.time is None else 60 * spec.time)
    torch.set_num_threads(spec.threads or physical_cores())
    device, dtype = resolve_device(spec.device, spec.dtype)
    spec = spec.model_copy(update={"device": str(device), "dtype": dtype_name(dtype)})
    check_lengths(spec)
    loaded = load_model(spec)
    folder = run_folder(spec, loaded)

    def say(text: str) -> None:
        console.print(printable(text), markup=False)

    with opened(folder) as journal:
        memory = Memory(journal.read_answers(JOURNAL), lambda found: journal.note_answers(JOURNAL, found))
        ready = prepare(spec, loaded, memory, deadline, say)
        _record(folder, spec, loaded, ready.about)
        ready.search.sensitivity()
        problem = ready.search.problem()
        ready.search.additive(problem)
        found = ready.search.families(problem)
        ready.search.searches(problem)
        finish(folder, ready, found)
        settings = f"{len(ready.search.found_by)} settings in all"
        say(f"{memory.fresh} evaluations in this run, {settings}, {deadline.spent / 60:.1f} min")
    return DONE


def load_model(spec: SearchSpec) -> LoadedModel:
    """The spec's model, all its windows full. Raises UserError where it cannot be had or has no window."""
    try:
        loaded = load(spec.model, device=spec.device, dtype=spec.dtype)
    except (ModelUnavailable, AssetUnavailable, AssetCorrupt) as problem:
        raise UserError(f"model {spec.model!r} cannot be had: {' '.join(str(problem).split())}") from problem
    if not loaded.has_window:
        mixers = ", ".join(sorted(set(loaded.model.config.mixers)))
        raise UserError(f"model {spec.model!r} has no layer with a window ({mixers}): give one with nha or attention layers")
    loaded.model.set_window(None)
    return loaded


def check_lengths(spec: SearchSpec) -> None:
    """Refuse lengths that no text can have, before anything is loaded."""
    if spec.probe and (spec.probe_length or spec.length) < SHORTEST:
        given = f"probe_length {spec.probe_length}" if spec.probe_length else f"length {spec.length}"
        raise UserError(f"{given}: the probe's texts have at least {SHORTEST} tokens: give more, or --probe off")
    if spec.length < 2:
        raise UserError(f"length {spec.length}: wanted are at least 2 tokens a sequence")


def candidates(spec: SearchSpec, loaded: LoadedModel, say: Any) -> tuple[int | None, ...]:
    """The windows to choose from, narrow to wide, full (None) last.

    A window as long as the texts is full attention there, so nothing could be said of it. Raises UserError for one that is
    asked for all the same, or that a layer cannot have; of the default ones such are left out.
    """
    config = loaded.model.config
    chosen, left_out = [], []
    for window in spec.windows or WINDOWS:
        if window == "full":
            continue
        why = None
        if window >= spec.length:
            why = f"the texts have {spec.length} tokens, in which it is full attention: give a longer --length"
        for i, layer in enumerate(loaded.model.decoder_layers):
            try:
                if layer.self_attn.has_window and why is None:
                    check_window(config.mixers[i], window, i)
            except ValueError as problem:
                why = str(problem)
        if why is None:
            chosen.append(window)
        elif spec.windows:
            raise UserError(f"window {window}: {why}; or leave it out")
        else:
            left_out.append(window)
    if left_out:
        say(f"note: left out of the default windows, as these layers or texts do not take it: {', '.join(map(str, left_out))}")
    return (*sorted(chosen, key=order), None)


def prepare(spec: SearchSpec, loaded: LoadedModel, memory: Memory, deadline: Deadline, say: Any) -> Prepared:
    """Text, probe, costs and evaluators of a search. Raises UserError for what does not fit together."""
    model = loaded.model
    context = spec.context or spec.length
    probe_length = spec.probe_length or spec.length
    windows = candidates(spec, loaded, say)
    costs = state(model, context)
    device = next(model.parameters()).device
    identity = {"weights": loaded.weights_hash, "dtype": spec.dtype, "device": device_name(device)}
    latency = meter = None
    if spec.unit == "ms":
        meter = Latency(model, identity, spec.phase, context, spec.seed, memory, deadline)
    for what, length in (("length", spec.length), ("context", context)):
        if length > loaded.max_length:
            raise UserError(f"{what} {length} is beyond the model's {loaded.max_length} tokens: give a shorter one")
    if spec.unit == "bytes":
        _check_budgets(spec, costs, windows)
    text = open_tokens(spec.text, loaded.tokenizer, length=spec.length, heldout=spec.sequences, unseen=spec.unseen)
    counts = {"heldout": spec.probe, "unseen": spec.unseen if spec.probe else 0}
    probes = {
        split: probe_texts(loaded.tokenizer, count, probe_length, probe_seed(spec.seed, split))
        for split, count in counts.items()
    }
    longest = max((len(probe.ids) for texts in probes.values() for probe in texts), default=0)
    if longest > loaded.max_length:
        raise UserError(
            f"the probe's texts of {probe_length} tokens take {longest} of this model's, which has {loaded.max_length}: give a "
            "shorter --probe-length, or --probe off"
        )
    held = Evaluator(model, identity, text.heldout, probes["heldout"], memory, batch=spec.batch, deadline=deadline)
    unseen = Evaluator(model, identity, text.unseen, probes["unseen"], memory, batch=spec.batch)
    if meter is not None:
        say(f"measuring {spec.phase} at {context:,} tokens with the layers of each mixer at each window")
        try:
            latency = meter.spending(windows)
        except OutOfTime as problem:
            raise UserError(f"--time {spec.time:g}: over before latency was measured: give more; {AGAIN}") from problem
        _check_budgets(spec, latency, windows)
    spending = latency or costs
    if context > spec.length:
        say(f"note: budgets are meant at {context:,} tokens, KL is over {spec.length:,}: what is lost beyond is not seen")
    limits = label_limits(spec.limits, spending.full)
    about = _about(spec, loaded, text.about, windows, context, probe_length)
    found = Search(spec, held, unseen, spending, windows, limits, deadline, say, MEASURING["seconds"] if meter else 0.0)
    return Prepared(found, costs, latency, meter, about)


def _check_budgets(spec: SearchSpec, spending: Spending, windows: tuple[int | None, ...]) -> None:
    for budget in spec.limits:
        check_reach(budget, budget.limit(spending.full), spending.least(windows), spending.full, spending.unit)


def _about(
    spec: SearchSpec,
    loaded: LoadedModel,
    text: dict[str, Any],
    windows: tuple[int | None, ...],
    context: int,
    probe_length: int,
) -> dict[str, Any]:
    """What the tables and the page say of the search."""
    device = next(loaded.model.parameters()).device
    return {
        **{key: getattr(spec, key) for key in ("model", "dtype", "seed", "sequences", "unseen", "length", "probe", "method")},
        "device": device.type,
        "device_name": device_name(device),
        "source": environment.without_home(loaded.source),
        "weights_hash": loaded.weights_hash,
        "text": spec.text if isinstance(spec.text, list) else [spec.text],
        "text_about": text,
        "windows": ["full" if window is None else window for window in windows],
        "context": context,
        "probe_length": probe_length,
        "unit": spec.unit,
    }


def run_folder(spec: SearchSpec, loaded: LoadedModel) -> Path:
    """Where the search leaves what it finds: `out`, or a folder named after the model and the settings."""
    if spec.out:
        return user_path(spec.out, "--out")
    digest = hashlib.sha256(json.dumps([spec.settings(), loaded.weights_hash], sort_keys=True).encode()).hexdigest()[:8]
    name = file_name(Path(spec.model).name)[:60] or "model"
    return store.RUNS / f"search-{name}-{digest}"


@contextmanager
def opened(folder: Path) -> Iterator[Journal]:
    """The folder's journal, kept from other runs while the block lasts. Raises UserError where it cannot be written or another
    run works in it."""
    try:
        make_writable(folder)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout as problem:
        raise UserError(f"another run is working in {folder}: wait for it, or give another folder with --out") from problem
    except OSError as problem:
        told = f"cannot write into {folder}: {problem.strerror or problem}"
        if is_disk_trouble(problem) and problem.errno != 30:
            raise MachineError(f"{told}; free some space, then give the same command again") from problem
        raise UserError(f"{told}; give a folder that can be written with --out") from problem
    try:
        yield Journal(folder)
    finally:
        lock.release()


def _record(folder: Path, spec: SearchSpec, loaded: LoadedModel, about: dict[str, Any]) -> None:
    """search.yaml and environment.json; a run that goes on keeps the first one's date and adds its own."""
    write_atomic(folder / "search.yaml", yaml.safe_dump(spec.settings(), sort_keys=False, allow_unicode=True))
    before, now = read_environment(folder), datetime.now(timezone.utc).isoformat(timespec="seconds")
    content = {
        "date": before.get("date", now),
        "resumed": [*before.get("resumed", []), now] if before else [],
        "command": environment.command_line(),
        **environment.describe(),
        "gpu": about["device_name"] if about["device"] == "cuda" else None,
        "threads": torch.get_num_threads(),
        **{key: about[key] for key in ("seed", "device", "dtype", "model", "source", "weights_hash")},
        "backend": loaded.model.backend(),
        "text": about["text_about"],
    }
    write_atomic(folder / "environment.json", json.dumps(plain(content), indent=1) + "\n")
