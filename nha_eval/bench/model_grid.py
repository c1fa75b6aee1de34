"""What `bench model` measures: the cases of a run, made from names, lengths, batches and windows that were checked first.

prefill        a whole prompt, the last position's logits alone, a cache filled
decode         one token a sequence at a context of `length` tokens
train          forward, backward and an optimizer's step
prefill-graph  the first captured as a CUDA graph: what it takes where the host is not what is waited for; when asked for alone
train-graph    likewise

plan(device_type="cuda", models=("nha", "transformer++"), phases=("decode",), lengths=("32768",))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nha_eval.bench import families
from nha_eval.bench.crossover import BASE
from nha_eval.bench.families import OWN, SIZES
from nha_eval.catalog import describe
from nha_eval.errors import UserError, nearest
from nha_eval.window_settings import Setting, resolve

# Captured as a CUDA graph, by the phase that is.
GRAPHED = {"prefill-graph": "prefill", "train-graph": "train"}
PHASES = ("prefill", "prefill-graph", "decode", "train", "train-graph")
UNASKED = tuple(phase for phase in PHASES if phase not in GRAPHED)
LARGEST, LONGEST = "largest", "longest"
SHARE = "T/"  # of a window that is a share of the length, as in T/8
QUICK_MODELS = (BASE, "nha", "swa", "gla")


@dataclass(frozen=True)
class Defaults:
    """What is measured on one kind of device unless told otherwise: lengths in tokens, `longest` among those of decode."""

    size: str
    lengths: dict[str, tuple[str, ...]]
    quick_lengths: tuple[str, ...]
    windows: dict[str, tuple[str, ...]]  # by model; "" for the others that have one
    checkpoint_from: int  # tokens of a training step, from which activations are made again in the backward


_CUDA = ("512", "2048", "8192", "32768", "131072")
DEFAULTS = {
    "cuda": Defaults(
        "1.3b",
        {
            "prefill": _CUDA,
            "decode": (*_CUDA, LONGEST),
            "train": ("2048", "4096", "8192", "16384", "32768"),
            # Beyond these a call takes the GPU longer than the host.
            "prefill-graph": ("512", "2048", "8192"),
            "train-graph": ("2048", "4096"),
        },
        ("2048", "32768"),
        {"nha": ("0", "64", "1024", "T/8"), "": ("64",)},
        16384,
    ),
    "cpu": Defaults(
        "tiny",
        {"prefill": ("128", "512"), "decode": ("128", "512", LONGEST), "train": ("128", "512")},
        ("128", "512"),
        {"nha": ("0", "16", "T/8"), "": ("16",)},
        16384,
    ),
}


def work_of(phase: str) -> str:
    """The phase whose work is done, captured or not."""
    return GRAPHED.get(phase, phase)


@dataclass(frozen=True)
class ModelCase:
    """One point. `length` in tokens or LONGEST (that fits), `batch` in sequences or LARGEST (that fits); `window` as tables
    write it: tokens, a share of the length such as `T/8`, `full`, `none`, `own` or a setting's name, whose windows
    `layers` has, in tokens (None: full, or a mixer without one); `checkpointing` is None but in training.
    """

    model: str
    size: str
    phase: str
    length: int | str
    batch: int | str
    window: str
    checkpointing: bool | None = None
    layers: tuple[int | None, ...] | None = None

    @property
    def work(self) -> str:
        """The phase whose work is done, captured or not."""
        return work_of(self.phase)

    def window_tokens(self, length: int) -> int | None:
        """The window to set at a length; None where there is none to set, or one a layer."""
        if self.window.startswith(SHARE):
            return max(1, length // int(self.window.removeprefix(SHARE)))
        return int(self.window) if self.window.isdecimal() else None


def plan(
    *,
    device_type: str,
    models: Sequence[str] | None = None,
    sizes: Sequence[str] | None = None,
    lengths: Sequence[str] | None = None,
    batches: Sequence[str] | None = None,
    windows: Sequence[str] | None = None,
    phases: Sequence[str] | None = None,
    checkpointing: Sequence[str] | None = None,
    quick: bool = False,
    settings: Mapping[str, Setting] | None = None,
) -> list[ModelCase]:
    """The cases, those of a model together, in the order in which they are measured. What is None takes the device's
    defaults. LONGEST counts for decode alone, and so does LARGEST. `settings` are those that windows may name. UserError for an
    unknown name, a setting that does not fit a model, or when nothing is left.
    """
    defaults = DEFAULTS[device_type]
    if quick:
        models, lengths, windows = models or QUICK_MODELS, lengths or defaults.quick_lengths, windows or defaults.windows[""]
    for what, given, known in (("size", sizes, SIZES), ("phase", phases, PHASES)):
        for name in given or ():
            if name not in known:
                raise UserError(f"no such {what}: {name!r}; {nearest(name, known, what=f'{what}s')}")
    own = _checkpoints(models or ())
    if sizes and models and all(name in own for name in models):
        raise UserError(
            f"--size {', '.join(sizes)}: a checkpoint has a size of its own; leave it out, or add a pattern such as nha"
        )
    models = [own.get(name, name) for name in models or families.names()]
    phases = phases or UNASKED
    without = [phase for phase in phases if phase not in defaults.lengths]
    if without:
        raise UserError(f"{', '.join(without)}: a CUDA graph wants a GPU, and this is a run on a {device_type}; leave it out")
    if checkpointing and not {"train", "train-graph"} & set(phases):
        raise UserError(f"--checkpointing is for training alone, and the phases given are {', '.join(phases)}: add train")
    cases = []
    for asked in sizes or (defaults.size,):
        for model in models:
            size = families.CHECKPOINT if model in own.values() else asked
            for phase in (phase for phase in PHASES if phase in phases):
                for window in _windows(model, windows, defaults):
                    found = _phase(model, size, phase, window, defaults, lengths, batches, checkpointing)
                    layers = _layers(model, size, window, settings or {})
                    cases += [replace(case, layers=layers) for case in found]
    if not cases:
        raise UserError(f"nothing to measure: {_given(models, phases, lengths, batches, windows)}")
    return list(dict.fromkeys(cases))


def _checkpoints(models: Sequence[str]) -> dict[str, str]:
    """What tables call those that are a checkpoint, no model of `families`; UserError for what is neither or of no use."""
    known = families.names()
    own: dict[str, str] = {}
    for name in (name for name in models if name not in known):
        pattern, _, size = name.rpartition("-")
        if pattern in known and size in SIZES:
            raise UserError(f"no such model: {name!r}; pattern and size are given apart: --model {pattern} --size {size}")
        try:
            describe(name)
        except UserError as problem:
            if "/" in name or ":" in name:
                raise UserError(f"--model: {problem}") from problem
            close = nearest(name, known, what="models")
            raise UserError(f"no such model: {name!r}; {close} (or give a checkpoint as `eval --model` takes it)") from problem
        try:
            families.find(name).window(name)
        except (ValueError, OSError) as problem:
            raise UserError(f"model {name!r}: {' '.join(str(problem).split())}") from problem
        own[name] = name.rstrip("/") or name
    return own


def _windows(model: str, windows: Sequence[str] | None, defaults: Defaults) -> Sequence[str]:
    family = families.find(model)
    kind = family.window(model)
    if isinstance(kind, str):
        return [kind]
    own = getattr(family, "own_window", None)
    wanted = windows or ([own(model)] if own else defaults.windows.get(model, defaults.windows[""]))
    return [window for window in wanted if not window.isdecimal() or int(window) >= kind]


def _layers(model: str, size: str, window: str, settings: Mapping[str, Setting]) -> tuple[int | None, ...] | None:
    family = families.find(model)
    if window == OWN:
        return family.own_windows(model)
    if window not in settings:
        return None
    least = family.least_windows(model, size)
    fitting = resolve(window, settings[window], least, f"{model}-{size}")
    return tuple(tokens if isinstance(tokens, int) else None for tokens in fitting)


def _phase(model, size, phase, window, defaults, lengths, batches, checkpointing) -> list[ModelCase]:
    at = [int(length) if length.isdecimal() else length for length in lengths or defaults.lengths[phase]]
    rows = [int(batch) if batch.isdecimal() else batch for batch in batches or ("1", LARGEST)]
    cases = []
    for length in at:
        for batch in rows:
            # Two things to be found at once, or a window that is a share of the unknown, have no answer.
            unknown = length == LONGEST and (batch == LARGEST or window.startswith(SHARE))
            if unknown or (phase != "decode" and (length == LONGEST or batch == LARGEST)):
                continue
            ways: Sequence[bool | None] = (None,)
            if work_of(phase) == "train":
                ways = [way == "on" for way in checkpointing] if checkpointing else (length >= defaults.checkpoint_from,)
            cases += [ModelCase(model, size, phase, length, batch, window, way) for way in ways]
    return cases


def _given(models, phases, lengths, batches, windows) -> str:
    named = {"models": models, "phases": phases, "lengths": lengths, "batches": batches, "windows": windows}
    said = "; ".join(f"{what} {', '.join(values)}" for what, values in named.items() if values)
    why = f"{LONGEST} and {LARGEST} are for decode alone, one of them at a time; a window that is a share wants a length"
    return f"{said} leave no case ({why}; sliding windows begin at 1)"
