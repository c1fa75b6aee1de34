"""The tidy tables of a run, read and cleaned once for everything that draws or reports them.

Every column is read as text first and only the columns that hold figures become numbers, so a model named `NA` or a
window named `none` stays what it is. Missing files, columns and values are normal: a run that has not ended is read
like any other.

    from nha_eval.plots import load_frames
    frames = load_frames("results/runs/quickstart")
    frames.scores[frames.scores.status == "ok"]
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

SCORE_TEXT = [
    *("model", "window", "suite", "task", "task_version", "protocol", "metric"),
    *("dtype", "device", "backend", "status", "reason"),
]
SCORE_NUMBERS = ["value", "stderr", "ci_low", "ci_high", "n", "length", "batch_size", "seed"]
# `hardware` is no column of the file: a report of several runs fills it in, and of one run it is empty.
COST_TEXT = ["model", "window", "phase", "dtype", "device", "hardware", "backend", "status", "reason"]
COST_NUMBERS = [
    *("length", "batch_size", "latency_ms", "latency_ms_p25", "latency_ms_p75", "repeats"),
    *("cold_start_ms", "tokens_per_s", "peak_memory_mb", "state_bytes"),
]
TELEMETRY_TEXT = ["model", "window", "suite", "task", "task_version", "dtype", "device", "backend", "status", "reason"]
TELEMETRY_NUMBERS = ["length", "layer", "head", "position_first", "position_last", "share", "n", "seed"]

MQAR_TEXT = ["task", "mixer", "variant", "window", "trained_window", "split", "status", "reason"]
MQAR_NUMBERS = [
    *("slots", "d_model", "heads", "state_elements", "state_bytes", "length", "pairs", "rate", "seed"),
    *("accuracy", "n", "steps", "seconds"),
]

LM_TEXT = ["model", "mixer", "trained_window", "window", "part", "status", "reason"]
LM_NUMBERS = ["seed", "slots", "length", "trained_length", "first", "last", "nll", "perplexity", "ci_low", "ci_high", "tokens"]

ANSWER_TEXT = ["model", "window", "suite", "cluster"]
ANSWER_NUMBERS = ["correct", "distance", "depth", "reach"]

TABLES = ("scores", "costs", "telemetry", "mqar", "lm", "answers")

# Characters that turn the reading direction and so could garble the text around a name.
_BIDI = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}


@dataclass(frozen=True)
class Frames:
    """The tables of one run, made by `load_frames` or `make_frames`: all columns of scores.csv, costs.csv, telemetry.csv,
    mqar.csv and lm.csv are there. `answers` are the recall documents of its samples (see `_answers`), a row each, where they
    were asked for."""

    scores: pd.DataFrame
    costs: pd.DataFrame
    telemetry: pd.DataFrame
    mqar: pd.DataFrame
    lm: pd.DataFrame
    answers: pd.DataFrame


def clean_text(text: object, limit: int = 0) -> str:
    """One printable line made of `text`: no control characters, no line breaks, no direction marks; cut in the
    middle beyond `limit`."""
    kept = (
        " " if character.isspace() or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") else character
        for character in str(text)
        if ord(character) not in _BIDI
    )
    line = re.sub(" +", " ", "".join(kept)).strip()
    if limit and len(line) > limit:
        tail = (limit - 1) // 3
        line = f"{line[: limit - 1 - tail]}…{line[-tail:]}" if tail else f"{line[: limit - 1]}…"
    return line


def clean_block(text: object) -> str:
    """`text` with its line breaks, each line cleaned as by `clean_text` but for its spaces."""
    lines = str(text).expandtabs(4).splitlines()
    return "\n".join(line[: len(line) - len(line.lstrip(" "))] + clean_text(line) for line in lines)


def _window_text(window: object) -> str:
    """A window as the CSV writes it; a notebook's frame may hold 64, 64.0 or None."""
    if window is None or (isinstance(window, float) and pd.isna(window)):
        return "none"
    text = clean_text(window)
    return re.sub(r"^(\d+)\.0+$", r"\1", text)


def _tidy(table: pd.DataFrame | None, text: list[str], numbers: list[str]) -> pd.DataFrame:
    table = pd.DataFrame() if table is None else table
    columns: dict[str, pd.Series] = {}
    for name in text:
        values = table[name] if name in table else pd.Series("", index=table.index)
        clean = _window_text if name == "window" else (lambda value: "" if pd.isna(value) else clean_text(value))
        values = values.astype(object)
        # The same few names fill thousands of rows: each is cleaned once.
        columns[name] = values.map({value: clean(value) for value in values.unique()}).astype(object)
    for name in numbers:
        values = table[name] if name in table else pd.Series("", index=table.index)
        numeric = pd.to_numeric(values, errors="coerce").astype(float)
        columns[name] = numeric.where(numeric.abs() != float("inf"))
    return pd.DataFrame(columns).reset_index(drop=True)


def make_frames(
    scores: pd.DataFrame | None = None,
    costs: pd.DataFrame | None = None,
    telemetry: pd.DataFrame | None = None,
    mqar: pd.DataFrame | None = None,
    lm: pd.DataFrame | None = None,
    answers: pd.DataFrame | None = None,
) -> Frames:
    """Frames from tables made elsewhere; missing columns are added empty, figures that are no numbers become NaN."""
    return Frames(
        _tidy(scores, SCORE_TEXT, SCORE_NUMBERS),
        _tidy(costs, COST_TEXT, COST_NUMBERS),
        _tidy(telemetry, TELEMETRY_TEXT, TELEMETRY_NUMBERS),
        _tidy(mqar, MQAR_TEXT, MQAR_NUMBERS),
        _tidy(lm, LM_TEXT, LM_NUMBERS),
        _tidy(answers, ANSWER_TEXT, ANSWER_NUMBERS),
    )


def _read(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8", encoding_errors="replace")
    except pd.errors.EmptyDataError:
        return None
    except pd.errors.ParserError as error:
        raise ValueError(
            f"{path} is not a readable CSV file ({clean_text(error, 200)}); run the evaluation again to rewrite it"
        ) from None


def load_frames(source: object, *, answers: bool = False) -> Frames:
    """The tables of `source`: a run folder, a Frames, or a dict with `scores`, `costs`, `telemetry`, `mqar`, `lm` and
    `answers`, of which any may be missing. With `answers` the samples of a folder are read too, which takes a second in 40,000
    documents.

    ValueError when it is none of these, the folder does not exist, or a table cannot be read.
    """
    if isinstance(source, Frames):
        return source
    if isinstance(source, dict):
        return make_frames(*(source.get(name) for name in TABLES))
    if not isinstance(source, str | Path):
        raise ValueError(f"tables wanted as a run folder, Frames or a dict of DataFrames, not {type(source).__name__}")
    folder = Path(source)
    if not folder.is_dir():
        raise ValueError(f"no run folder at {folder}; give the folder that `eval` wrote, such as results/runs/quickstart")
    tables = [_read(folder / f"{name}.csv") for name in TABLES[:-1]]
    return make_frames(*tables, _read_answers(folder) if answers else None)


def _read_answers(folder: Path) -> pd.DataFrame:
    from ._answers import answer_frame, read_answers

    return answer_frame(read_answers(folder))


def window_order(window: str) -> tuple[int, int, str]:
    """Sort key of windows: integers by size, then named settings, then `full`, then `none`."""
    if window.isdecimal():
        return (0, int(window), "")
    return ({"full": 2, "none": 3}.get(window, 1), 0, window)


def model_order(*tables: pd.DataFrame) -> list[str]:
    """Models in the order in which the tables first name them."""
    return list(dict.fromkeys(model for table in tables for model in table["model"]))
