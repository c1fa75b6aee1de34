"""Windows as users write them: tokens, `full`, or the name of a setting that gives each layer its own. Settings are YAML:

    searched: [64, full, 16, 64]                        # one a layer, the first layer's first
    four-full: {window: 64, full: [7, 18, 20, 23]}      # 64 in every layer that has a window, but for these (from 0)
    three: {windows: {16: [0, 1], full: [2], none: [3]}}   # layers by window, each layer once

A layer whose mixer has no window says `none` in a list; the second form leaves such layers as they are, and so fits models of
any number of layers. The third form is kept as the list that it stands for. Nothing here imports torch.

    from nha_eval.window_settings import read_settings, write_settings
    write_settings(Path("settings.yaml"), {"searched": [64, "full", 16, 64]}); read_settings("settings.yaml")
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nha_eval import yamls
from nha_eval.errors import UserError, nearest, printable, shown
from nha_eval.journal import write_atomic
from nha_eval.paths import user_path

Window = int | str  # tokens, "full", "none" (of a layer or model without one), "own" (as the model comes), or a setting's name
Setting = list[Window] | dict[str, Any]  # one window a layer, or {"window": Window, "full": [layers]}
# Token positions and counts are 32 bits wide in places, and Python itself refuses to read very long integers.
MOST = 2**31 - 1
MOST_LAYERS = 10_000  # as of a model's configuration
# No integer, no path, no option; it stands in file names and in tables.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,59}")
TAKEN = ("full", "none", "own")
FORMS = "[64, full, ...] (one window a layer), {window: 64, full: [7, 18]}, or {windows: {64: [0, 1], full: [2]}}"
_LAYER = "wanted is an integer >= 0 (tokens), full, or none where the layer's mixer has no window"


def parse_window(value: Any) -> Window:
    """A window as users write it: an integer >= 0, or "full". Raises ValueError with the one clear line."""
    text = str(value).strip().lower()
    if text == "full":
        return "full"
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]+", text):
        raise ValueError(f"window {shown(value)}: wanted is an integer >= 0 (tokens) or 'full', such as 16,64,full")
    digits = text.lstrip("0") or "0"
    if len(digits) > len(str(MOST)) or int(digits) > MOST:
        raise ValueError(f"window {shown(value)}: wanted are at most {MOST} tokens, or 'full'")
    return int(digits)


def parse_window_or_name(value: Any) -> Window:
    """As `parse_window`; what may be the name of a setting stays as it is, for `check_names` to look up."""
    text = value.strip() if isinstance(value, str) else ""
    return text if is_name(text) else parse_window(value)


def is_name(text: str) -> bool:
    """Whether a setting may be called that."""
    return NAME.fullmatch(text) is not None and text.lower() not in TAKEN


def setting_names(windows: Sequence[Window]) -> list[str]:
    """Those that are names of settings."""
    return [window for window in windows if isinstance(window, str) and window not in TAKEN]


def check_names(windows: Sequence[Window], settings: Mapping[str, Setting]) -> None:
    """Raise UserError for the first name that no setting has."""
    for name in setting_names(windows):
        if name not in settings and settings:
            raise UserError(f"window {name!r}: no setting is called that; {nearest(name, settings, what='settings')}")
        if name not in settings:
            raise UserError(
                f"window {name!r}: wanted is an integer >= 0 (tokens) or 'full', as in 16,64,full; a name wants --settings FILE"
            )


def check_settings(content: Any) -> dict[str, Setting]:
    """Settings by name, in the forms that the rest of the program knows. Raises UserError for the first thing that is wrong."""
    if not isinstance(content, Mapping):
        raise UserError(f"settings are {shown(content)}: wanted is a mapping, NAME: {FORMS}")
    return {_check_name(name): parse_setting(name, value) for name, value in content.items()}


def _check_name(name: Any) -> str:
    if isinstance(name, str) and is_name(name):
        return name
    taken = ", ".join(TAKEN)
    raise UserError(
        f"setting {shown(name)}: wanted as its name is a letter, then letters, digits, - and _, 60 at most, and none of {taken}"
    )


def parse_setting(name: str, value: Any) -> Setting:
    """One setting in any of the three forms, as a list or in the second form. Raises UserError naming the setting."""
    if isinstance(value, list | tuple):
        return _listed(name, value)
    if isinstance(value, Mapping) and set(value) in ({"window"}, {"window", "full"}):
        full = value.get("full", [])
        layers = _layers(name, "full", [] if full is None else full)
        return {
            "window": _one(name, "`window`", value["window"], "wanted is an integer >= 0 (tokens), or full"),
            "full": layers,
        }
    if isinstance(value, Mapping) and set(value) == {"windows"} and isinstance(value["windows"], Mapping):
        return _by_window(name, value["windows"])
    raise UserError(f"setting {name!r} is {shown(value)}: wanted is {FORMS}")


def _listed(name: str, value: Sequence[Any]) -> list[Window]:
    if not 1 <= len(value) <= MOST_LAYERS:
        raise UserError(f"setting {name!r} has {len(value)} windows: give one a layer, 1 to {MOST_LAYERS}")
    return [_one(name, f"layer {i}", item, _LAYER, none=True) for i, item in enumerate(value)]


def _one(name: str, where: str, value: Any, wanted: str, none: bool = False) -> Window:
    if none and isinstance(value, str) and value.strip().lower() == "none":
        return "none"
    try:
        return parse_window(value)
    except ValueError as problem:
        raise UserError(f"setting {name!r}: {where} is {shown(value)}: {wanted}, at most {MOST}") from problem


def _layers(name: str, where: str, value: Any) -> list[int]:
    wrong = not isinstance(value, list | tuple) or any(
        isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < MOST_LAYERS for i in value
    )
    if wrong:
        raise UserError(f"setting {name!r}: {where!r} is {shown(value)}: wanted is a list of layers from 0, as in [7, 18]")
    if len(set(value)) < len(value):
        raise UserError(f"setting {name!r}: {where!r} names a layer twice in {shown(value)}: give each once")
    return sorted(value)


def _by_window(name: str, value: Mapping[Any, Any]) -> list[Window]:
    found: dict[int, Window] = {}
    for key, layers in value.items():
        window = _one(name, "a window", key, _LAYER, none=True)
        for i in _layers(name, str(key), layers):
            if i in found:
                raise UserError(f"setting {name!r} names layer {i} under two windows: give each layer once")
            found[i] = window
    missing = next((i for i in range(len(found)) if i not in found), None)
    if missing is not None or not found:
        raise UserError(
            f"setting {name!r} lacks layer {missing or 0}: give every layer once, `none: [...]` for those without one"
        )
    return [found[i] for i in range(len(found))]


def resolve(name: str, setting: Setting, least: Sequence[int | None] | None, model: str) -> tuple[Window, ...]:
    """The windows of a model's layers, one each: tokens, "full", or "none" for a mixer without a window.

    least: each layer's least window in tokens, None where its mixer has none; None where the layers are not known, which takes
    a list as it is. `model` is its name in messages. Raises UserError where setting and model do not fit.
    """
    if least is None:
        if isinstance(setting, list | tuple):
            return tuple(setting)
        raise UserError(
            f"setting {name!r}: how many layers {model} has is not known before it is loaded: give a list, one window a layer"
        )
    windows = _spread(name, setting, least, model) if isinstance(setting, Mapping) else setting
    if len(windows) != len(least):
        raise UserError(
            f"setting {name!r} has {len(windows)} windows, and {model} has {len(least)} layers: give one a layer, or other "
            "windows to this model"
        )
    for i, (window, lowest) in enumerate(zip(windows, least, strict=True)):
        if lowest is None and window != "none":
            raise UserError(
                f"setting {name!r} gives layer {i} of {model} the window {window}; its mixer has none: give none there"
            )
        if lowest is not None and window == "none":
            raise UserError(f"setting {name!r} says none for layer {i} of {model}, which has a window: give tokens, or full")
        if lowest is not None and isinstance(window, int) and window < lowest:
            raise UserError(
                f"setting {name!r} gives layer {i} of {model} the window {window}: wanted are at least {lowest} tokens"
            )
    return tuple(windows)


def _spread(name: str, setting: Mapping[str, Any], least: Sequence[int | None], model: str) -> list[Window]:
    beyond = [i for i in setting["full"] if i >= len(least)]
    if beyond:
        raise UserError(
            f"setting {name!r} names layer {beyond[0]}, and {model} has {len(least)} layers: give 0 to {len(least) - 1}"
        )
    windows: list[Window] = ["none" if lowest is None else setting["window"] for lowest in least]
    for i in setting["full"]:
        windows[i] = "full"
    return windows


def widest(windows: Sequence[Window]) -> int | None:
    """The widest window of layers short of full, in tokens; None where none is."""
    return max((window for window in windows if isinstance(window, int)), default=None)


def gather(given: Any, where: str) -> dict[str, Setting]:
    """The settings of a mapping, of a YAML file by its path, or of a list of both; `where` says in messages what gave them.

    Raises UserError; for a name too that two of them give unlike windows.
    """
    found: dict[str, Setting] = {}
    for item in given if isinstance(given, list | tuple) else [given]:
        if isinstance(item, str):
            settings = read_settings(item)
        else:
            try:
                settings = check_settings(item)
            except UserError as problem:
                raise UserError(f"{where}: {problem}") from problem
        for name, setting in settings.items():
            if found.setdefault(name, setting) != setting:
                raise UserError(
                    f"{where}: the setting {name!r} is given twice, with unlike windows: keep one, or call one otherwise"
                )
    return found


def read_settings(given: str | Path) -> dict[str, Setting]:
    """The settings of a YAML file. Raises UserError, one line, for what is none."""
    wanted = "a YAML file of NAME: [64, full, ...]"
    path = user_path(given, "settings", f"give {wanted}")
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise UserError(f"the settings file {printable(repr(str(given)), 200)} {what}: give {wanted}")
    try:
        return check_settings(yamls.read(path))
    except UserError as problem:
        raise UserError(f"{path}: {problem}") from problem
    except OSError as problem:
        raise UserError(f"cannot read {path}: {problem.strerror}; give {wanted}") from problem
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        place, told = yamls.told(problem)
        raise UserError(f"{path}{place}: not YAML that settings can be ({told}); give {wanted}") from problem


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write settings, in any of the forms, to a YAML file at once, one a line; `read_settings` gives them back.

    Raises UserError for what is no setting, MachineError when the disk is full or gone.
    """
    lines = [
        yaml.safe_dump({name: setting}, default_flow_style=True, width=float("inf"), sort_keys=False).strip()[1:-1]
        for name, setting in check_settings(settings).items()
    ]
    write_atomic(path, "".join(f"{line}\n" for line in lines))
