"""Settings by name, and the file of them that the other verbs take.

write_settings(folder, {"searched-25pct": (64, None)}, (True, True))     # settings.yaml
"""

from __future__ import annotations

from pathlib import Path

import yaml

from nha_eval.journal import write_atomic
from nha_eval.search.windows import Windows, words

FILE = "settings.yaml"


def setting_name(family: str, budget: str, unit: str) -> str:
    """`searched-25pct`, or `searched-25pct-latency`."""
    return f"{family}-{budget}" + ("-latency" if unit == "ms" else "")


def write_settings(folder: Path, settings: dict[str, Windows], has_window: tuple[bool, ...]) -> Path:
    """Write `NAME: [64, full, ...]` for each setting; returns the file. Raises MachineError when the disk is full or gone."""
    text = "".join(
        f"{name}: {yaml.safe_dump(words(windows, has_window), default_flow_style=True, width=10**6).strip()}\n"
        for name, windows in settings.items()
    )
    write_atomic(folder / FILE, text)
    return folder / FILE
