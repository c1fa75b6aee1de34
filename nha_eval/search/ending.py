"""What a search ends with: the settings confirmed on unseen text, the tables, the file of settings, the pictures, the page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nha_eval.journal import write_atomic
from nha_eval.search.confirm import SEARCHED, Entry, confirm, too_few
from nha_eval.search.evaluator import OutOfTime
from nha_eval.search.page import page
from nha_eval.search.sensitivity import sensitivity_rows
from nha_eval.search.stages import row_of
from nha_eval.search.tables import front, write_table
from nha_eval.search.windows import Windows, as_text, words
from nha_eval.window_settings import write_settings

if TYPE_CHECKING:
    from nha_eval.search.run import Prepared

SETTINGS = "settings.yaml"


def finish(folder: Path, ready: Prepared, families: dict[tuple[str, str], Windows | None]) -> None:
    """Confirm, and write everything that the run folder is to hold."""
    search = ready.search
    search.deadline.reserve(0.0)
    entries = search.entries(families)
    search.say(f"confirming {sum(entry.windows is not None for entry in entries)} settings on unseen text")
    with search.deadline.lifted():
        comparison = _comparison(ready, entries)
    _probe_front(ready)
    has_window = ready.state.has_window
    setting = {key: ready.about[key] for key in ("model", "dtype", "device", "seed")}

    def complete(windows: Windows) -> dict[str, Any]:
        return {**row_of(search, windows, ready.state, ready.latency), "windows": as_text(windows, has_window), **setting}

    evaluated = [complete(windows) for windows in search.found_by]
    sensitivity = sensitivity_rows(search.held, search.alone, ready.state, ready.latency)
    write_table(folder, "search", evaluated)
    write_table(folder, "front", front(evaluated, _cost_column(ready)))
    write_table(folder, "sensitivity", [{**row, **setting} for row in sensitivity])
    write_table(folder, "comparison", [{**row, **setting} for row in comparison])
    named = {entry.name: words(entry.windows, has_window) for entry in entries if entry.windows is not None}
    write_settings(folder / SETTINGS, named)
    pictures = _draw(folder, search.say)
    about = {**ready.about, "evaluated": len(evaluated), "in_time": search.in_time}
    about["too_few"] = too_few(comparison, search.spec.unseen)
    write_atomic(folder / "report.md", page(about, comparison, sensitivity, pictures))
    for entry in entries:
        if entry.family == SEARCHED:
            print(f"{entry.name}: {as_text(entry.windows, has_window)}")
    print(folder / "report.md")
    print(folder / SETTINGS)


def _comparison(ready: Prepared, entries: list[Entry]) -> list[dict[str, Any]]:
    """Rows of comparison.csv: what each setting costs, its figures on held-out text, and those of `confirm`."""
    search = ready.search
    rows = []
    for entry, confirmed in zip(entries, confirm(entries, search.unseen, search.spec.seed), strict=True):
        limit = {"limit": search.limits[entry.budget], "unit": search.spending.unit}
        row = {**limit, **confirmed}
        if entry.windows is not None:
            if search.held.texts:
                search.held.answers(entry.windows)
            row |= row_of(search, entry.windows, ready.state, ready.latency)
            row |= {"windows": as_text(entry.windows, ready.state.has_window), "rest_window": _rest(ready, entry.windows)}
            if ready.meter is not None:
                row["latency_ms_measured"] = ready.meter.measure(entry.windows)
        rows.append(row)
    return rows


def _rest(ready: Prepared, windows: Windows) -> int | None:
    """The one window of the layers that are not full; None where they have several, or none is."""
    found = {windows[i] for i in ready.state.layers if windows[i] is not None}
    return next(iter(found)) if len(found) == 1 else None


def _probe_front(ready: Prepared) -> None:
    """Ask the probe of the settings that none beats in cost and KL, as far as the time goes."""
    search = ready.search
    if not search.held.texts:
        return
    rows = [{**row_of(search, windows, ready.state, ready.latency), "setting": windows} for windows in search.found_by]
    # The answers' loss is not known of all yet: it must not decide here.
    rows = [{**row, "answer_loss": None} for row in rows]
    try:
        for row in front(rows, _cost_column(ready)):
            search.held.answers(row["setting"])
    except OutOfTime:
        search.in_time = False


def _cost_column(ready: Prepared) -> str:
    return "state_bytes" if ready.latency is None else "latency_ms"


def _draw(folder: Path, say: Any) -> list[str]:
    """The pictures' paths in the folder, those as SVG; none where there is nothing to draw."""
    from nha_eval.plots import _search_front, _search_sensitivity
    from nha_eval.plots._style import NothingToDraw

    found = []
    for picture in (_search_front, _search_sensitivity):
        try:
            found += [path.relative_to(folder).as_posix() for path in picture.write(folder) if path.suffix == ".svg"]
        except NothingToDraw as problem:
            say(f"no picture: {problem}")
    return found
