"""Who is who in a run: the full-attention setting a model is measured against, and short names for models and
windows.

A setting is a (model, window) pair. Roles are read off the presets' names (`swa-smollm2-135m` and `swa:smollm2-135m` are
`smollm2-135m` with a sliding window alone); a model whose name says nothing is called by its name and measured against its
own full window, or the only full-attention model of the run.
"""

from __future__ import annotations

import re

import pandas as pd

from ._frames import clean_text, window_order

ROLES = {"nha": "NHA", "swa": "sliding window alone"}
KNOWN = {"full": "full attention", "none": "no window", "own": "its own windows"}
Setting = tuple[str, str]


def settings_of(*tables: pd.DataFrame) -> list[Setting]:
    """The settings that occur in the tables: models in order of appearance, windows ascending."""
    pairs = dict.fromkeys(pair for table in tables for pair in zip(table["model"], table["window"], strict=True))
    models = {model: index for index, model in enumerate(dict.fromkeys(model for model, _ in pairs))}
    return sorted(pairs, key=lambda pair: (models[pair[0]], window_order(pair[1])))


def full_setting(settings: list[Setting], model: str) -> Setting | None:
    """The full-attention setting that `model` is measured against; None when the run has none, or several that
    might be meant."""
    full = [name for name, window in settings if window == "full"]
    bases = sorted((name for name in full if model.endswith((f"-{name}", f":{name}"))), key=len)
    if bases:
        return bases[-1], "full"
    if model in full:
        return model, "full"
    return (full[0], "full") if len(full) == 1 else None


def has_windows(settings: list[Setting], model: str) -> bool:
    """Whether the model was run at a window other than `full` (and has windows at all)."""
    return any(name == model and window not in ("full", "none") for name, window in settings)


def is_named(window: str) -> bool:
    """Whether the window is the name of a setting that gives each layer its own."""
    return bool(window) and not window.isdecimal() and window not in KNOWN


def role(models: list[str], model: str) -> str:
    """What to call a model in a sentence: its role when no other model of the run shares it, else its name."""

    own = form_of(model)[0]
    if own and sum(form_of(name)[0] == own for name in models) == 1:
        return ROLES[own]
    return clean_text(model, 48)


def form_of(model: str) -> tuple[str, str]:
    """(`nha` or `swa`, what it is a form of) by the model's name; ("", the name) for others."""
    form, mark, base = re.match("([^-:]*)([-:]?)(.*)", model.rsplit("/", 1)[-1], re.DOTALL).groups()
    return (form.lower(), base) if mark and form.lower() in ROLES else ("", model)


def setting_label(setting: Setting, limit: int = 40) -> str:
    """`nha-smollm2-135m, window 64`, `smollm2-135m, full attention`, or the name alone for a model without windows."""
    model, window = setting
    name = clean_text(model, limit)
    return name if window == "none" else f"{name}, {window_label(window)}"


def window_label(window: str, limit: int = 60) -> str:
    """`window 64`, `window T/8`, `full attention`, `no window`, or the name of a per-layer setting."""
    if window.isdecimal() or window.removeprefix("T/").isdecimal():
        return f"window {window}"
    return KNOWN.get(window, clean_text(window, limit))


def suite_label(suite: str, length: float, groups: list[tuple[str, float]], limit: int = 40) -> str:
    """`recall-local, 1,024 tokens`. Texts at their own length (NaN) are called so only where the suite has others
    among `groups`."""
    name = clean_text(suite, limit)
    if pd.notna(length):
        return f"{name}, {length:,.0f} tokens"
    return f"{name}, own length" if any(suite == other and pd.notna(at) for other, at in groups) else name
