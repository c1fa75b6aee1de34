"""A setting: one window a layer, as the search holds, writes and reads it.

as_text((64, None, None), (True, True, False))      # '64 full none'
"""

from __future__ import annotations

from collections.abc import Sequence

# One a layer: tokens, or None for full attention and for layers without a window.
Windows = tuple[int | None, ...]


def words(windows: Windows, has_window: Sequence[bool]) -> list[int | str]:
    """The windows as tables and files write them: tokens, `full`, and `none` for a layer without one."""
    return [
        "none" if not has else "full" if window is None else window for window, has in zip(windows, has_window, strict=True)
    ]


def as_text(windows: Windows, has_window: Sequence[bool]) -> str:
    """The windows on one line."""
    return " ".join(map(str, words(windows, has_window)))


def with_window(windows: Windows, layer: int, window: int | None) -> Windows:
    """The setting with another window in one layer."""
    return (*windows[:layer], window, *windows[layer + 1 :])


def order(window: int | None) -> float:
    """Sort key: narrow to wide, full last."""
    return float("inf") if window is None else window
