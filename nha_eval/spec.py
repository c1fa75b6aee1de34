"""What is to be evaluated, as the user says it: a YAML file, flags, or both (flags win).

    models:                       # presets, checkpoint folders or hub ids; with windows of their own where wanted
      - name: smollm2-135m
        windows: [full]
      - nha-smollm2-135m
    windows: [16, 64, mostly-64, full]   # for models without their own
    settings:                     # windows a layer, by name (nha_eval.window_settings); or files of them
      mostly-64: {window: 64, full: [7, 18, 20, 23]}
    suites: [recall-local]

Keys may be singular, as the flags are (`model`, `window`). Unknown keys are refused with the nearest known one. A spec
of the package's own is found by its bare name (`eval quickstart`).
"""

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from nha_eval import yamls
from nha_eval.errors import UserError, nearest, shown
from nha_eval.paths import user_path
from nha_eval.spec_verbs import EXAMPLES, MARKS, verb_of
from nha_eval.window_settings import (
    MOST,
    Setting,
    Window,
    check_names,
    check_settings,
    gather,
    parse_window_or_name,
    setting_names,
)

SPECS = Path(__file__).parent / "specs"
# A data set's short name or hub id; a path before the = begins otherwise, or has more parts.
_DATA_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
MOST_THREADS = 1024


def _whole(value: Any) -> Any:
    """An integer, or one in decimal digits as text. ValueError, to stand behind the field's name, for what Python would
    take for one besides (true, 5.0, 1_0)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,20}", value.strip()):
        return int(value)
    raise ValueError(f"is {shown(value)}: wanted is an integer, as in 64")


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"is {shown(value)}: wanted is a number, as in 2.5")
    return value


def _switch(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError(f"is {shown(value)}: wanted is true or false")
    return value


Switch = Annotated[bool, BeforeValidator(_switch)]
Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_number)]
Count = Annotated[Whole, Field(ge=1, le=MOST)]


def _count_or_auto(value: Any) -> int | str:
    """As `Count`, or "auto"."""
    if value == "auto":
        return value
    with contextlib.suppress(ValueError):
        if 1 <= (number := _whole(value)) <= MOST:
            return number
    raise ValueError(f"is {shown(value)}: wanted is an integer from 1 to {MOST}, or auto")


BatchSize = Annotated[int | str, BeforeValidator(_count_or_auto)]


def split_commas(value: str) -> list[str]:
    """The parts between commas. Raises ValueError, to stand behind a name, when there are none."""
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if not parts:
        raise ValueError(f"is {shown(value)}, which names nothing: give a value, or leave it out")
    return parts


def _listed(value: Any) -> Any:
    """A single entry, or a string with commas, as the list that it stands for."""
    if isinstance(value, str):
        return split_commas(value)
    return value if isinstance(value, list | tuple) or value is None else [value]


def _unique(values: list[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def split_data(given: Any) -> tuple[str | None, dict[str, str]]:
    """A folder and the data sets by name, out of `FOLDER`, `NAME=PATH` (or several in a list) or a mapping.

    Raises ValueError for two folders, a name with two paths, and what is no text or nothing at all.
    """
    items = given if isinstance(given, dict | list | tuple) else [given]
    wrong = next((item for item in items if not isinstance(item, str) or not item), None if items else given)
    if wrong is not None or not items:
        raise ValueError(f"data is {shown(wrong)}: wanted is a folder, or data sets as NAME=PATH")
    if isinstance(given, dict):
        return None, given
    folder, named = None, {}
    for item in items:
        name, equals, path = str(item).partition("=")
        if not equals or not _DATA_NAME.fullmatch(name):
            if folder is not None:
                raise ValueError(f"data {str(item)!r}: the folder is {folder!r} already; data sets are given as NAME=PATH")
            folder = str(item)
        elif name in named:
            raise ValueError(f"data {str(item)!r}: {name} is {named[name]!r} already; give it once")
        else:
            named[name] = path
    return folder, named


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def _named(plural: str) -> Any:
    return Field(default_factory=list, validation_alias=AliasChoices(plural, plural[:-1]))


class ModelEntry(_Strict):
    name: str = Field(min_length=1)
    windows: list[Window] = _named("windows")  # tokens, "full", or a setting's name; empty: the spec's

    @field_validator("windows", mode="before")
    @classmethod
    def _windows(cls, value: Any) -> Any:
        return _unique([parse_window_or_name(item) for item in _listed(value) or []])


class TaskEntry(_Strict):
    name: str = Field(min_length=1)
    lengths: list[Count] = _named("lengths")  # tokens; empty: the spec's
    limit: Count | None = None  # examples; None: the spec's
    contexts: Count | None = None  # contexts made a length; None: the spec's

    _lengths = field_validator("lengths", mode="before")(classmethod(lambda cls, value: _listed(value) or []))


class ExtraCost(_Strict):
    model: str = Field(min_length=1)
    windows: list[Window] = _named("windows")  # tokens, "full", or a setting's name; empty: all that the model is evaluated at
    lengths: list[Count] = _named("lengths")  # tokens

    _lengths = field_validator("lengths", mode="before")(classmethod(lambda cls, value: _listed(value) or []))

    @field_validator("windows", mode="before")
    @classmethod
    def _windows(cls, value: Any) -> Any:
        return _unique([parse_window_or_name(item) for item in _listed(value) or []])


class CostSpec(_Strict):
    lengths: list[Count] | None = Field(
        None, validation_alias=AliasChoices("lengths", "length")
    )  # tokens; None: 512, 1024, 2048 as far as the model goes
    batch: Count = 1  # sequences
    repeats: Count = 5  # timed prefills a cell at most
    decode_tokens: Count = 16  # timed decoding steps a cell
    # a cell's time budget; three timed repeats are made even beyond it
    seconds: Number = Field(20.0, gt=0, allow_inf_nan=False)
    extra: list[ExtraCost] = Field(default_factory=list)  # further lengths for some models and windows

    _lengths = field_validator("lengths", mode="before")(classmethod(lambda cls, value: _listed(value)))


class Spec(_Strict):
    """A whole evaluation. Units and legal values stand beside each field."""

    models: list[ModelEntry] = _named("models")
    suites: list[str] = _named("suites")
    tasks: list[TaskEntry] = _named("tasks")  # restricts the suites to these; or tasks by themselves
    windows: list[Window] = _named("windows")  # tokens, "full", or a setting's name; empty: as each model comes
    settings: dict[str, Any] = Field(default_factory=dict)  # windows a layer, by name, as window_settings.check_settings takes
    lengths: list[Count] = _named("lengths")  # tokens, for tasks generated at a length; empty: each task's own
    limit: Count | None = None  # examples a task; None: all
    contexts: Count | None = None  # contexts generated a task and length; None: the task's own
    batch: BatchSize = 8  # sequences scored together, or "auto": by their lengths and what memory holds
    device: str = "auto"  # auto, cpu, cuda, cuda:N, mps
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: float32 on a CPU, bfloat16 on a GPU
    seed: Whole = Field(0, ge=0, lt=2**32)
    threads: Count | None = Field(None, le=MOST_THREADS)  # CPU threads; None: the physical cores
    costs: CostSpec | None = Field(default_factory=CostSpec)  # false: none
    telemetry: Switch = False  # true: where attention goes, on a sample of each task's prompts
    out: str | None = Field(None, min_length=1)  # run folder; None: results/runs/NAME
    truncation: Literal["around-answer", "left", "head", "skip", "error"] | None = None  # None: as each protocol says
    # folder or hub id; contexts are cut in its tokens; None: in the model's own
    tokenizer: str | None = Field(None, min_length=1)
    # folder of fetched data and weights; None: NHA_EVAL_CACHE or the user's cache folder
    data: str | None = Field(None, min_length=1)
    executor: Literal["local", "ray"] = "local"  # where workers run: this machine, or a Ray cluster
    address: str | None = Field(None, min_length=1)  # of the Ray cluster; "auto": the one of this machine; None: one is started
    workers: Count | None = Field(None, le=MOST_THREADS)  # at a time; None: one here, as many as fit on a cluster
    share: str | None = None  # "2/8": the second of eight shares alone, into the run folder's `shares`
    datasets: dict[str, str] = Field(default_factory=dict)  # data set -> folder or file in the hub's place; also as data: {...}

    @model_validator(mode="before")
    @classmethod
    def _data(cls, content: Any) -> Any:
        if not isinstance(content, dict) or content.get("data") is None:
            return content
        folder, named = split_data(content["data"])
        return {**content, "data": folder, "datasets": {**(content.get("datasets") or {}), **named}}

    @field_validator("models", "tasks", mode="before")
    @classmethod
    def _entries(cls, value: Any) -> Any:
        return [{"name": item} if isinstance(item, str | int) else item for item in _listed(value) or []]

    @field_validator("suites", "lengths", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return _listed(value) or []

    @field_validator("windows", mode="before")
    @classmethod
    def _windows(cls, value: Any) -> Any:
        return _unique([parse_window_or_name(item) for item in _listed(value) or []])

    @field_validator("settings", mode="before")
    @classmethod
    def _settings(cls, value: Any) -> dict[str, Setting]:
        return {} if value is None else check_settings(value)

    @model_validator(mode="after")
    def _names(self) -> "Spec":
        check_names(self._all_windows(), self.settings)
        return self

    @field_validator("costs", mode="before")
    @classmethod
    def _costs(cls, value: Any) -> Any:
        return {True: CostSpec(), False: None}[value] if isinstance(value, bool) else value

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", value):
            raise ValueError(f"device {shown(value)}: wanted is auto, cpu, cuda, cuda:N or mps")
        return value

    @field_validator("share")
    @classmethod
    def _share(cls, value: str | None) -> str | None:
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", "1/1" if value is None else value)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"share {shown(value)}: wanted is I/N with 1 <= I <= N, such as 2/8")
        return value

    def _all_windows(self) -> list[Window]:
        extra = self.costs.extra if self.costs else []
        return [*self.windows, *(window for entry in (*self.models, *extra) for window in entry.windows)]

    def deciding(self) -> dict[str, Any]:
        """All that decides what is measured, as plain data: what a run folder's spec.yaml holds and is compared by."""
        # Data given later fills the cells that lacked it, in the same folder: each cell's id minds what it was made from.
        # What telemetry measures stands in cells of its own and leaves every other figure as it is.
        beside = {"out", "data", "datasets", "executor", "address", "workers", "share", "telemetry"}
        content = self.model_dump(mode="json", exclude=beside)
        # A file of settings may grow by others that this run does not name.
        used = setting_names(self._all_windows())
        content["settings"] = {name: setting for name, setting in content["settings"].items() if name in used}
        # Left out where not given, so that folders of runs from before they existed are taken up again.
        return {key: value for key, value in content.items() if value or key not in ("truncation", "tokenizer", "settings")}


def spec_names(shipped: Path = SPECS) -> list[str]:
    """The package's own specs in a folder (those of evaluations by default), by bare name."""
    return sorted(path.stem for path in shipped.glob("*.yaml"))


def find_spec(given: str, shipped: Path = SPECS) -> Path:
    """The spec file for a path, or for a bare name in the folder `shipped`. Raises UserError when there is none."""
    names = spec_names(shipped)
    path = user_path(given, "spec", f"give a YAML file, or one of {', '.join(names)}")
    if path.is_file():
        return path
    if given in names:
        return shipped / f"{given}.yaml"
    if path.is_dir():
        raise UserError(f"spec {given!r} is a folder: give a YAML file, or one of {', '.join(names)}")
    raise UserError(f"no such spec file: {given!r}; give a YAML file or a spec by name ({nearest(given, names)})")


def read_spec(path: Path, verb: str = "eval") -> dict[str, Any]:
    """The file's mapping, unchecked. Raises UserError for what is not a YAML mapping, or a spec of another verb than `verb`."""
    try:
        content = yamls.read(path)
    except OSError as problem:
        raise UserError(f"cannot read {path}: {problem.strerror}") from problem
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        place, told = yamls.told(problem)
        raise UserError(f"{path}{place}: not YAML that a spec can be ({told}); `{verb} --help` shows an example") from problem
    if content is None:
        raise UserError(f"{path} is empty: wanted are keys and values ({EXAMPLES[verb]}); `{verb} --help` shows an example")
    if not isinstance(content, dict):
        raise UserError(f"{path}: this is a {type(content).__name__}; wanted is a mapping of keys to values ({EXAMPLES[verb]})")
    other = verb_of(content)
    if other not in (None, verb):
        mark = next(mark for mark in MARKS[other] if mark in content)
        raise UserError(f"{path} is a spec of `{other}`, as it has the key `{mark}`: give it to that verb, or `{verb}` another")
    return content


def make_spec(content: dict[str, Any], overrides: dict[str, Any], *, where: str) -> Spec:
    """The checked spec of a file's mapping with the flags laid over it; `where` names the source in messages.

    Raises UserError, one line, for the first thing that is wrong.
    """
    merged = _singular_to_plural(content)
    if overrides.get("data"):
        # A data set given by flag stands beside the file's own.
        merged["data"], merged["datasets"] = _merged_data(merged, overrides.pop("data"), where)
    # What the flags' files hold stands beside the file's own settings, and before those of the same name.
    files = overrides.pop("settings", None)
    if files or merged.get("settings") is not None:
        own = {} if merged.get("settings") is None else gather(merged["settings"], where)
        given = gather(files or [], "--settings")
        merged["settings"] = {**own, **given}
    costs = overrides.pop("costs", None)
    merged.update({key: value for key, value in overrides.items() if value is not None})
    if isinstance(costs, dict):
        base = merged.get("costs")
        merged["costs"] = {**(base if isinstance(base, dict) else {}), **costs}
        if "lengths" in costs:
            merged["costs"].pop("length", None)
    elif costs is not None:
        merged["costs"] = (merged.get("costs") or True) if costs else False
    try:
        spec = Spec.model_validate(merged)
    except ValidationError as problem:
        raise UserError(first_problem(problem, where, _fields_at)) from problem
    if files and not set(given) & set(spec.deciding().get("settings", ())):
        names = ", ".join(list(given)[:8])
        raise UserError(f"--settings: no window names one of its settings ({names}): add --window NAME, or leave it out")
    return spec


def _merged_data(merged: dict[str, Any], flags: list[str], where: str) -> tuple[str | None, dict[str, str]]:
    try:
        folder, named = split_data(flags)
        own_folder, own = (None, {}) if merged.get("data") is None else split_data(merged["data"])
    except ValueError as problem:
        raise UserError(f"{where}: {problem}") from problem
    return folder or own_folder, {**(merged.get("datasets") or {}), **own, **named}


def _singular_to_plural(content: dict[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for key, value in content.items():
        if not isinstance(key, str):
            raise UserError(f"the spec has the key {shown(key)}: keys are words; {nearest(str(key), Spec.model_fields)}")
        plural = f"{key}s" if f"{key}s" in Spec.model_fields else key
        if plural in merged:
            raise UserError(f"the spec gives both `{plural}` and `{plural[:-1]}`: keep one")
        merged[plural] = value
    return merged


def first_problem(problem: ValidationError, where: str, fields_at: Callable[[tuple[Any, ...]], list[str]]) -> str:
    """One line on the first thing wrong; `where` names the source, `fields_at` gives the known keys at a place."""
    errors = problem.errors(include_url=False)
    # A misspelt key is also a missing one, and its name says more.
    error = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        parents, key = error["loc"][:-1], str(error["loc"][-1])
        known = fields_at(parents)
        inside = f" in `{'.'.join(str(part) for part in parents)}`" if parents else ""
        return f"{where}: unknown key `{key}`{inside}; {nearest(key, known, what='known keys')}"
    if error["type"] == "value_error":
        told = str(error["ctx"]["error"])
        named = told.startswith(("window ", "device ", "data ", "share ", "setting"))
        return f"{where}: {told}" if named or not place else f"{where}: `{place}` {told}"
    if error["type"] == "missing":
        parent, _, key = place.rpartition(".")
        return f"{where}: `{parent}` lacks `{key}`: give one" if parent else f"{where}: `{key}` is missing: give one"
    if error["type"] == "invalid_key":
        return f"{where}: the key {shown(error['loc'][-1])} in `{place.rpartition('.')[0]}`: keys are words"
    wanted = re.sub("(Input|String) should (be|have) ", "wanted is ", error["msg"]).split(" or instance of ")[0]
    return f"{where}: `{place}` is {shown(error['input'])}: {wanted}"


def _fields_at(parents: tuple[Any, ...]) -> list[str]:
    kinds = {"models": ModelEntry, "tasks": TaskEntry, "costs": CostSpec, "extra": ExtraCost}
    names = [part for part in parents if part in kinds]
    return list((kinds[names[-1]] if names else Spec).model_fields)


def lay_change(content: dict[str, Any], change: str) -> None:
    """Lays KEY=VALUE over a spec's content: dots between the keys of what is nested, the value in YAML.

    UserError for another form.
    """
    key, equals, text = change.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"--set {change!r}: wanted is KEY=VALUE, as in gate.activation=softmax")
    try:
        value = yamls.load(text)
    except yaml.YAMLError as problem:
        raise UserError(f"--set {change!r}: its value is no YAML ({yamls.told(problem)[1]})") from problem
    for part in parts[:-1]:
        inner = content.get(part)
        content[part] = dict(inner) if isinstance(inner, dict) else {}
        content = content[part]
    content[parts[-1]] = value
