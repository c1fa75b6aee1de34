"""What a window holds and what it does not: recall of answers inside it and beyond it, by depth, and the slots' share.

An answer is inside a window of w tokens where the prompt's last token still meets the answer's first one. Settings without a
window of that many tokens, full attention first of all, stand beside it on the same documents, split at the same place.
"""

from __future__ import annotations

import math

import pandas as pd

from nha_eval.plots._answers import Answer
from nha_eval.plots._frames import Frames, clean_text
from nha_eval.plots._settings import Setting, setting_label, settings_of
from nha_eval.plots._shares import by_layer, by_position, share_rows
from nha_eval.stats import score_interval

from .tables import MISSING, Table, count, interval, score

INSIDE = (
    "An answer is inside the window where fewer tokens than the window come after the answer's first one in the prompt, in "
    "the model's own tokens; beyond it, that token has left every layer's window before the answer begins, and is known "
    "from slots alone, or from what later tokens have taken of it. Settings without a window of that width are split at the "
    "same place. Intervals are at 95%: Wilson's, over as many documents as would be independent."
)
NAMED = (
    "A setting by name, whose layers have windows of their own, is split at the widest of them short of full; its layers at "
    "full, where it has any, still meet what is beyond, and so do those of a hybrid that keeps full layers."
)
SHARE = (
    "Slots' share: of one softmax over slots and window, what falls on the slots, in the prefill of a few prompts of each "
    "task; all tasks and lengths together. Queries before the slots hold anything are not counted."
)
FIFTHS = 5


def inside_text(frames: Frames, answers: list[Answer]) -> list[str]:
    """How to read the tables that follow."""
    told = [INSIDE] if any(_reaches(part) for part in _by_suite(answers).values()) else []
    told += [NAMED] if any(answer.reach is not None and answer.mixed for answer in answers) else []
    if frames.telemetry.empty:
        return told
    shown = share_rows(frames.telemetry)
    told += [SHARE] if len(shown) else []
    without = [setting for setting in settings_of(frames.telemetry) if setting not in settings_of(shown)]
    failed = frames.telemetry[frames.telemetry["status"] != "ok"]
    bare = [setting_label(setting, 60) for setting in without if setting not in settings_of(failed)]
    return [*told, f"No query met slots in: {'; '.join(bare)}."] if bare else told


def inside_tables(frames: Frames, answers: list[Answer]) -> list[Table]:
    """Inside and beyond, and by depth, a table a suite each; then the slots' share by layer and by position."""
    tables = []
    for suite, own in _by_suite(answers).items():
        tables += [_inside_table(suite, own), _depth_table(suite, own)]
    tables += [_layer_table(frames.telemetry), _position_table(frames.telemetry)]
    return [table for table in tables if table is not None]


def _by_suite(answers: list[Answer]) -> dict[str, list[Answer]]:
    found: dict[str, list[Answer]] = {}
    for answer in answers:
        found.setdefault(answer.suite, []).append(answer)
    return found


def _reaches(answers: list[Answer]) -> list[int]:
    """Where inside ends, in tokens, ascending, of settings whose answers' distances are known."""
    return sorted({answer.reach for answer in answers if answer.distance is not None and answer.reach is not None})


def _by_setting(answers: list[Answer]) -> dict[Setting, list[Answer]]:
    """Each setting's, models in order of appearance, windows ascending."""
    found: dict[Setting, list[Answer]] = {}
    for answer in answers:
        found.setdefault((answer.model, answer.window), []).append(answer)
    return {setting: found[setting] for setting in settings_of(pd.DataFrame(list(found), columns=["model", "window"]))}


def _inside_table(suite: str, answers: list[Answer]) -> Table | None:
    known = _by_setting([answer for answer in answers if answer.distance is not None])
    rows = []
    reach = {setting: own[0].reach for setting, own in known.items()}
    for window in _reaches(answers):
        # Those of this width, then those without one of any.
        for setting in [s for s in known if reach[s] == window] + [s for s in known if reach[s] is None]:
            own = known[setting]
            inside = [answer for answer in own if answer.distance < window]
            beyond = [answer for answer in own if answer.distance >= window]
            rows.append([str(window), setting_label(setting, 60), *_figures(inside), *_figures(beyond)])
    if not rows:
        return None
    measures = [f"{side}: {what}" for side in ("inside", "beyond") for what in ("score", "95% interval", "n")]
    return Table(f"{clean_text(suite, 40)}: inside the window and beyond", ["window", "setting", *measures], rows, 2)


def _figures(answers: list[Answer]) -> list[str]:
    if not answers:
        return [MISSING, MISSING, "0"]
    values = [answer.correct for answer in answers]
    bounds = score_interval(values, [answer.cluster for answer in answers]) or (math.nan, math.nan)
    return [score(sum(values) / len(values)), interval(*bounds), count(len(values))]


def _depth_table(suite: str, answers: list[Answer]) -> Table | None:
    known = [answer for answer in answers if answer.depth is not None]
    if not known:
        return None
    rows, sizes = [], []
    for setting, own in _by_setting(known).items():
        fifths: list[list[Answer]] = [[] for _ in range(FIFTHS)]
        for answer in own:
            fifths[min(FIFTHS - 1, int(answer.depth * FIFTHS))].append(answer)
        told = [_figures(part) for part in fifths]
        rows.append([setting_label(setting, 60), *(f"{value} ({bounds})" if n != "0" else value for value, bounds, n in told)])
        sizes.append([len(part) for part in fifths])
    spans = [(min(column), max(column)) for column in zip(*sizes, strict=True)]
    rows.append(["n", *(count(low) if low == high else f"{count(low)} to {count(high)}" for low, high in spans)])
    step = 100 // FIFTHS
    columns = ["setting", *(f"depth {step * i} to {step * (i + 1)}%" for i in range(FIFTHS))]
    return Table(f"{clean_text(suite, 40)}: by the answer's depth", columns, rows, foot=1)


def _layer_table(telemetry: pd.DataFrame) -> Table | None:
    found = by_layer(telemetry)
    cells = {
        (row.layer, row.model, row.window): f"{row.share:.3f} ({row.low:.3f} to {row.high:.3f})" for row in found.itertuples()
    }
    lines = {layer: count(layer) for layer in sorted(set(found["layer"]))}
    return _share_table("Slots' share by layer: mean over heads (least and most head)", "layer", found, lines, cells)


def _position_table(telemetry: pd.DataFrame) -> Table | None:
    found = by_position(telemetry)
    cells = {(row.position_first, row.model, row.window): f"{row.share:.3f}" for row in found.itertuples()}
    lines = {row.position_first: f"{count(row.position_first)} to {count(row.position_last)}" for row in found.itertuples()}
    return _share_table("Slots' share by position: mean over layers and heads", "position", found, lines, cells)


def _share_table(title: str, what: str, found: pd.DataFrame, lines: dict[float, str], cells: dict) -> Table | None:
    """Layers or positions down, settings across."""
    if found.empty:
        return None
    settings = settings_of(found)
    rows = [[label, *(cells.get((key, *setting), MISSING) for setting in settings)] for key, label in lines.items()]
    return Table(title, [what, *(setting_label(setting, 40) for setting in settings)], rows)
