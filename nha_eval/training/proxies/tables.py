"""The tables of a proxy run, out of its cells' records: CSV for plots and other tools, and a page for people (`page.py`).

- `lm.csv`: a row a model, seed, window, length and part: `all`, `hits`, `rest` (with 95% intervals over documents), `position`
  (tokens `first` to `last` of a sequence), `seen` and `new` (bigrams that stood in the context before or not, by how often,
  `first` to `last`, they come in training).
- `differences.csv`: models against NHA, and each at other windows against its own; ratios of perplexities, paired by document.
- `recall.csv`: a row a model, seed, window, form and distance.
- `speed.csv`: a row a model: weights, state, tokens/s and memory in training, alone on the device.
"""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

from nha_eval.journal import write_atomic
from nha_eval.training.proxies.cells import Cell
from nha_eval.training.proxies.pooled import PARTS, Pool, Recalled
from nha_eval.training.proxies.spec import ProxySpec

LM = [
    *("model", "mixer", "seed", "trained_window", "window", "slots", "length", "trained_length", "part", "first", "last"),
    *("nll", "perplexity", "ci_low", "ci_high", "tokens", "status", "reason"),
]
DIFFERENCES = ["model", "window", "against", "against_window", "length", "part", "ratio", "ci_low", "ci_high"]
RECALL = [
    *("model", "mixer", "seed", "trained_window", "window", "form", "distance", "accuracy", "control"),
    *("gain", "ci_low", "ci_high", "nats", "nats_low", "nats_high", "n"),
]
SPEED = [
    *("model", "parameters", "embedding", "state_elements", "tokens_per_s", "tokens_per_s_p25", "tokens_per_s_p75"),
    *("peak_memory_mb", "steps", "graph", "backend", "status", "reason"),
]


def write_tables(
    folder: Path, spec: ProxySpec, cells: list[Cell], records: list[dict[str, Any]], speeds: dict[str, dict[str, Any]]
) -> Path:
    """All tables and the page of these records; the page's path."""
    from nha_eval.training.proxies.page import page

    pool = Pool(spec, cells, records)
    _write(folder / "lm.csv", LM, _losses(pool, spec))
    _write(folder / "differences.csv", DIFFERENCES, _differences(pool))
    _write(folder / "recall.csv", RECALL, _recall(pool))
    _write(folder / "speed.csv", SPEED, _speed(pool, speeds))
    path = folder / "README.md"
    write_atomic(path, page(folder, pool, speeds))
    return path


def _losses(pool: Pool, spec: ProxySpec) -> list[dict[str, Any]]:
    rows = []
    for cell, record in zip(pool.cells, pool.records, strict=True):
        common = {
            "model": cell.model,
            "mixer": cell.mixer,
            "seed": cell.seed,
            "trained_window": record.get("trained_window", ""),
            "slots": cell.slots or "",
            "trained_length": spec.text.length,
            "status": record["status"],
            "reason": record["reason"],
        }
        if record["status"] != "ok":
            rows.append(common)
        for one in record["measured"]:
            where = {**common, "window": one["window"], "length": one["length"]}
            losses = pool.losses[cell.model, str(one["window"]), one["length"]]
            for part in PARTS:
                ends = [_perplexity(end) for end in losses.interval(part, cell.seed)]
                rows.append(
                    {
                        **where,
                        "part": part,
                        **_told(losses.nll(part, cell.seed)),
                        **dict(zip(("ci_low", "ci_high"), ends, strict=True)),
                        "tokens": int(losses.tokens(part).sum()),
                    }
                )
            spans = [("position", span) for span in one["positions"]]
            spans += [("seen" if span["seen"] else "new", span) for span in one["bigrams"]]
            for part, span in spans:
                place = {"first": span["first"], "last": "" if span["last"] is None else span["last"]}
                if span["tokens"]:
                    told = _told(span["nll"] / span["tokens"])
                    rows.append({**where, "part": part, **place, **told, "tokens": span["tokens"]})
    return rows


def _differences(pool: Pool) -> list[dict[str, Any]]:
    pairs = [((name, pool.own[name]), (pool.base, pool.own[pool.base])) for name in pool.names if name != pool.base]
    pairs += [
        ((name, window), (name, pool.own[name]))
        for name in pool.names
        for window in pool.windows(name)
        if window != pool.own[name]
    ]
    rows = []
    for (name, window), (against, its) in pairs:
        for times in pool.lengths:
            for part in PARTS:
                mine, theirs = pool.at(name, times, window), pool.at(against, times, its)
                ends = [_perplexity(value) for value in mine.against(theirs, part)]
                rows.append(
                    {
                        "model": name,
                        "window": window,
                        "against": against,
                        "against_window": its,
                        "length": times * pool.spec.text.length,
                        "part": part,
                        **dict(zip(("ratio", "ci_low", "ci_high"), ends, strict=True)),
                    }
                )
    return rows


def _recall(pool: Pool) -> list[dict[str, Any]]:
    rows = []
    for cell, record in pool.done():
        common = {"model": cell.model, "mixer": cell.mixer, "seed": cell.seed, "trained_window": record["trained_window"]}
        for one in record["recall"]:
            found = Recalled.of([one])
            figures = {"accuracy": found.right, "control": found.control, "gain": found.gain}
            figures |= {"ci_low": found.low, "ci_high": found.high}
            figures |= dict(zip(("nats", "nats_low", "nats_high"), found.nats or (), strict=False))
            place = {key: one[key] for key in ("window", "form", "distance")}
            rows.append({**common, **place, **{key: f"{value:.4f}" for key, value in figures.items()}, "n": found.n})
    return rows


def _speed(pool: Pool, speeds: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for name in dict.fromkeys(cell.model for cell in pool.cells):
        kept = ("parameters", "embedding", "state_elements", "backend")
        record = pool.record(name) if name in pool.names else {}
        speed = speeds.get(name) or {"status": "skipped", "reason": "not timed"}
        rows.append({"model": name, **{key: record.get(key, "") for key in kept}, **speed})
    return rows


def _told(nll: float) -> dict[str, str]:
    return {"nll": "" if math.isnan(nll) else f"{nll:.6g}", "perplexity": _perplexity(nll)}


def _perplexity(nll: float) -> str:
    return "" if math.isnan(nll) else f"{math.exp(min(nll, 700.0)):.6g}"


def _write(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())
