"""The grid: a spec unfolded into an ordered list of cells.

A cell is the smallest thing that is measured and stored: one task at one window, or one timing. Its id is readable, and
ends in a hash of all that determines its result (weights, window, of a setting by name its layers' windows, task and its
version, length, limit, contexts, seed, dtype, batch, device), so that a cell is never taken for another. Order: model by
model, as a worker holds one model; its costs first, while the process has loaded nothing but the model (peak memory is the
process's), short lengths before long; then task by task with the windows inside, so that each curve is whole early;
telemetry last, in cells of its own, so that turning it on or off leaves every score where it is.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nha_eval.errors import UserError, nearest
from nha_eval.given_data import GivenData, of_task
from nha_eval.spec import Spec, TaskEntry
from nha_eval.window_settings import Window, resolve
from tasks.protocols import protocol_name

COST_LENGTHS = (512, 1024, 2048)
MOST_CELLS = 100_000  # each is a file, and a second or more of work


@dataclass(frozen=True)
class ModelInfo:
    """What must be known of a model before it is loaded."""

    name: str  # as models.presets.load takes it
    label: str  # as tables show it
    fingerprint: str  # changes when the weights or the configuration do
    own_window: Window  # the window it comes with: tokens, "full", "none" (has no windows), "own" (layers differ)
    max_length: int | None = None  # tokens; None: not known
    needs: tuple[str, ...] = ()  # assets to be fetched first
    # A layer: its least window in tokens, None where its mixer has no window. None: the layers are not known.
    least_windows: tuple[int | None, ...] | None = None
    # Layers that stay full at a window in tokens: those that are full in a model that comes with narrow ones beside them.
    full_layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One measurement. Fields that do not apply to its kind are None."""

    id: str
    kind: str  # score | cost | telemetry
    model: str  # label
    model_name: str  # as loaded
    window: Window
    batch: int | str  # sequences, or "auto"
    seed: int
    dtype: str
    device: str
    suite: str | None = None
    task: str | None = None
    task_version: str | None = None
    protocol: str | None = None
    phase: str | None = None  # prefill | decode
    length: int | None = None  # tokens
    limit: int | None = None
    contexts: int | None = None
    repeats: int | None = None
    decode_tokens: int | None = None
    seconds: float | None = None  # time budget of a cost cell
    truncation: str | None = None  # policy in place of the protocol's
    tokenizer: str | None = None  # whose tokens contexts are cut in; None: the model's own
    data: tuple[tuple[str, str, str], ...] | None = None  # local data in the hub's place: (name, path, digest of its content)
    windows: tuple[Window, ...] | None = None  # of each layer, where they differ; None otherwise

    @property
    def what(self) -> str:
        """The cell in a few words, for people."""
        named = self.windows is not None and not isinstance(self.window, int)
        usual = f"setting {self.window}" if named else f"window {self.window}"
        window = {"full": "full window", "none": "", "own": "its own windows"}.get(str(self.window), usual)
        thing = {"cost": self.phase, "telemetry": f"telemetry of {self.task}"}.get(self.kind, self.task)
        length = f"at {self.length}" if self.length else ""
        return " ".join(part for part in (self.model, window, thing, length) if part)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _cell(info: ModelInfo, **fields: Any) -> Cell:
    fields = {"model": info.label, "model_name": info.name, **fields}
    # The name says where the weights came from, the fingerprint what they are: a moved folder is the same model. So with data.
    determines = {key: value for key, value in fields.items() if key not in ("model_name", "data")}
    determines["weights"] = info.fingerprint
    if fields.get("data"):
        determines["data"] = [(name, digest) for name, _, digest in fields["data"]]
    digest = hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()[:10]
    kind = "telemetry" if fields["kind"] == "telemetry" else None
    readable = [info.label, fields["window"], fields.get("task") or fields["phase"], fields.get("length"), kind]
    slug = "--".join(re.sub(r"[^A-Za-z0-9._-]+", "-", str(part))[:60] for part in readable if part is not None)
    # Not hidden, and not to be taken for an option.
    return Cell(id=f"{slug.lstrip('.-')}--{digest}", **fields)


def _add(cells: list[Cell], cell: Cell) -> None:
    if len(cells) == MOST_CELLS:
        raise _too_many()
    cells.append(cell)


def _too_many() -> UserError:
    return UserError(f"more than {MOST_CELLS} cells: ask for fewer models, windows, lengths or suites, or share them out")


def expand(
    spec: Spec, models: list[ModelInfo], suites: dict[str, list[Any]], given: Mapping[str, GivenData] | None = None
) -> list[Cell]:
    """All cells of the spec, in the order they are worked through.

    `models` are the spec's, in its order; `suites` maps every known suite to its TaskInfo list; `given` is the local data.
    Raises UserError for a suite, task, length, truncation, model in `costs.extra` or setting of windows that does not fit.
    """
    chosen = chosen_tasks(spec, suites)
    cutting = [task.name for task, _ in chosen if task.cut]
    if (spec.truncation or spec.tokenizer) and chosen and not cutting:
        flag = "--truncation" if spec.truncation else "--tokenizer"
        raise UserError(f"{flag}: none of the tasks asked for cuts its contexts; leave it out, or add --suite recall")
    labels = [info.label for info in models]
    for extra in spec.costs.extra if spec.costs else ():
        if extra.model not in {info.name for info in models} | set(labels):
            raise UserError(
                f"costs.extra names the model {extra.model!r}, which the spec does not evaluate; {nearest(extra.model, labels)}"
            )
    cells: list[Cell] = []
    for info, entry in zip(models, spec.models, strict=True):
        windows = _windows(info, entry.windows or spec.windows)
        points = _cost_points(spec, info, windows)
        layers = _layers(spec, info, [*windows, *(window for window, _ in points)])
        common = {"seed": spec.seed, "dtype": spec.dtype, "device": spec.device}
        for window, length in points:
            for phase in ("prefill", "decode"):
                options = {
                    "repeats": spec.costs.repeats,
                    "decode_tokens": spec.costs.decode_tokens,
                    "seconds": spec.costs.seconds,
                }
                fields = {"phase": phase, "length": length, "batch": spec.costs.batch, **options, **layers.get(window, {})}
                _add(cells, _cell(info, kind="cost", window=window, **fields, **common))
        observed = []
        for task, own in chosen:
            for length in _task_lengths(spec, info, task, own):
                for window in windows:
                    fields = {
                        "suite": task.suite,
                        "task": task.name,
                        "task_version": str(task.version),
                        "protocol": task.protocol,
                        "length": length,
                        "limit": own.limit or spec.limit,
                        "contexts": (own.contexts or spec.contexts) if task.takes_contexts else None,
                        **_cutting(spec, task),
                    }
                    if found := of_task(task, given or {}):
                        fields["data"] = tuple((data.name, data.path, data.digest) for data in found)
                    fields |= {"window": window, "batch": spec.batch, **layers.get(window, {})}
                    _add(cells, _cell(info, kind="score", **fields, **common))
                    # Without a window, or at a full one, there are no slots to share with.
                    if spec.telemetry and not {"none", "full"}.issuperset(fields.get("windows") or [window]):
                        observed.append(_cell(info, kind="telemetry", **fields, **common))
        for cell in observed:
            _add(cells, cell)
    unique = {cell.id: cell for cell in cells}
    if not unique:
        raise UserError("nothing to do: the spec has neither suites nor costs; add `suites` (--suite) or `costs`")
    return list(unique.values())


def _cutting(spec: Spec, task: Any) -> dict[str, Any]:
    """What is changed of how the task's protocol cuts contexts, and the name that this gives the protocol."""
    changes = {"truncation": spec.truncation, "tokenizer": spec.tokenizer} if task.cut else {}
    changes = {key: value for key, value in changes.items() if value}
    if changes:
        changes["protocol"] = protocol_name(task.protocol, task.cut, spec.truncation, spec.tokenizer)
    return changes


def _windows(info: ModelInfo, asked: Iterable[Window]) -> list[Window]:
    if info.own_window == "none":
        return ["none"]
    return list(asked) or [info.own_window]


def _layers(spec: Spec, info: ModelInfo, windows: Iterable[Window]) -> dict[Window, dict[str, Any]]:
    """What a cell holds besides, by window: the windows of the model's layers where they differ."""
    settings: dict[Window, Any] = {}
    for window in dict.fromkeys(windows):
        if window in spec.settings:
            settings[window] = spec.settings[window]
        elif info.full_layers and isinstance(window, int):
            settings[window] = {"window": window, "full": list(info.full_layers)}
    found = {window: resolve(str(window), setting, info.least_windows, info.label) for window, setting in settings.items()}
    return {window: {"windows": layers} for window, layers in found.items()}


def chosen_tasks(spec: Spec, suites: dict[str, list[Any]]) -> list[tuple[Any, TaskEntry]]:
    """The tasks that the spec asks for, each with what it says of it. Raises UserError for an unknown suite or task."""
    for suite in spec.suites:
        if suite not in suites:
            raise UserError(f"no such suite: {suite!r}; {nearest(suite, suites, what='suites')}")
    searched = spec.suites or (list(suites) if spec.tasks else [])
    # A task that several suites hold is evaluated once, under the first of them.
    tasks = {task.name: task for suite in reversed(searched) for task in reversed(suites[suite])}
    ordered = list(dict.fromkeys(task.name for suite in searched for task in suites[suite]))
    if not spec.tasks:
        return [(tasks[name], TaskEntry(name=name)) for name in ordered]
    for entry in spec.tasks:
        if entry.name not in tasks:
            elsewhere = [suite for suite, members in suites.items() if entry.name in {task.name for task in members}]
            if elsewhere:
                raise UserError(
                    f"task {entry.name!r} is in suite {elsewhere[0]!r}, not in {', '.join(searched)}: "
                    f"add --suite {elsewhere[0]}"
                )
            raise UserError(f"no such task: {entry.name!r}; {nearest(entry.name, tasks, what='tasks')}")
        if entry.lengths and not tasks[entry.name].has_lengths:
            raise UserError(f"task {entry.name!r} is not generated at a length: leave its `lengths` out")
    return [(tasks[entry.name], entry) for entry in spec.tasks]


def _fitting(lengths: Iterable[int], asked: bool, info: ModelInfo, what: str) -> list[int]:
    lengths = list(dict.fromkeys(lengths))
    beyond = [length for length in lengths if info.max_length is not None and length > info.max_length]
    if beyond and (asked or len(beyond) == len(lengths)):
        raise UserError(
            f"length {beyond[0]} ({what}) is beyond {info.label}, which takes up to {info.max_length} tokens: "
            f"give a shorter {'--cost-length' if what.startswith('costs') else '--length'}"
        )
    return [length for length in lengths if length not in beyond]


def _task_lengths(spec: Spec, info: ModelInfo, task: Any, own: TaskEntry) -> list[int | None]:
    if not task.has_lengths:
        return [None]
    asked = own.lengths or spec.lengths
    short = [length for length in asked or () if length < task.least_length]
    if short:
        raise UserError(
            f"length {short[0]} is too short for {task.name}, whose least is {task.least_length} tokens: give a longer --length"
        )
    return _fitting(asked or task.default_lengths, bool(asked), info, task.name)


def _cost_points(spec: Spec, info: ModelInfo, windows: list[Window]) -> list[tuple[Window, int]]:
    if spec.costs is None:
        return []
    # Without lengths of the user's own, a model shorter than all of the usual ones is measured at its longest.
    usual = [length for length in COST_LENGTHS if length <= (info.max_length or COST_LENGTHS[-1])] or [info.max_length]
    asked = spec.costs.lengths
    if len(usual if asked is None else asked) * len(windows) > MOST_CELLS:
        raise _too_many()
    points = [
        (length, window)
        for length in _fitting(usual if asked is None else asked, asked is not None, info, "costs")
        for window in windows
    ]
    for extra in spec.costs.extra:
        if extra.model in (info.name, info.label):
            lengths, own = _fitting(extra.lengths, True, info, "costs.extra"), _windows(info, extra.windows or windows)
            if len(lengths) * len(own) > MOST_CELLS:
                raise _too_many()
            points += [(length, window) for length in lengths for window in own]
    order = {window: place for place, window in enumerate(windows)}
    points = sorted(dict.fromkeys(points), key=lambda point: (point[0], order.get(point[1], len(order))))
    return [(window, length) for length, window in points]
