"""What whole models cost against length, from a bench-model.csv: latency of prefill, of decoding and of a training step,
memory, and throughput with the largest batch that fits; a line a model, a marker a window, bars from quartile to quartile,
and a ring where a model becomes faster than `transformer++`
(or without that than the first model with full windows). Prefill and training are drawn as milliseconds for each 1,000
tokens: lines that all grow with the length would lie on one another.

Not one of the kinds of `plots.plot_kinds`, as it draws a table of its own and no run's.

    python -c "from nha_eval.plots._bench_model import write; write('results/runs/bench-model')"
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nha_eval.bench.crossover import BASE, base_of, crossover

from ._bench_lines import Looks, draw_lines, handles, looks_of, markers_of, reach, typed, write_figure
from ._frames import clean_text
from ._style import (
    BYTES,
    INK,
    LINES,
    MEBIBYTES,
    MILLISECONDS,
    MIXERS,
    MUTED,
    NothingToDraw,
    finish,
    length_axis,
    panels,
    scaled,
    style,
    value_axis,
)

LARGEST = "largest"
# Fixed, so that a model looks the same whichever others a run had: a colour a mixer, full attention in ink, a hybrid and a
# peer with another line.
LOOKS: Looks = {
    "nha": (MIXERS["nha"], "-"),
    BASE: (INK, "-"),
    "nha-2026": (MIXERS["nha"], LINES[1]),
    "swa": (MIXERS["swa"], "-"),
    "gsa": (MIXERS["gsa"], "-"),
    "gla": (MIXERS["gla"], "-"),
    "gated-deltanet": (MIXERS["gated-deltanet"], "-"),
    "mamba2": (MIXERS["mamba2"], "-"),
    "nha-h": (MIXERS["nha"], LINES[2]),
    "gsa-h": (MIXERS["gsa"], LINES[1]),
    "gdn-h": (MIXERS["gated-deltanet"], LINES[1]),
    "hf-llama": (INK, LINES[3]),
    "fla-gsa": (MIXERS["gsa"], LINES[3]),
    "fla-gla": (MIXERS["gla"], LINES[3]),
    "fla-gated-deltanet": (MIXERS["gated-deltanet"], LINES[3]),
    "fla-mamba2": (MIXERS["mamba2"], LINES[3]),
}
TEXT = ("model", "size", "phase", "batch_asked", "length_asked", "window", "checkpointing", "dtype", "device", "status")
NUMBERS = (
    *("length", "batch", "latency_ms", "latency_ms_p25", "latency_ms_p75", "tokens_per_s"),
    *("peak_memory_mb", "state_bytes_held"),
)


PER_TOKENS = ((1.0, "ms for 1,000 tokens"),)
TOKENS_A_SECOND = ((1.0, "tokens/s"), (1000.0, "thousand tokens/s"))


@dataclass(frozen=True)
class Panel:
    """One panel: the phase, what is drawn of it, and in which units; `race`: latencies, in which crossovers are marked;
    `each`: as drawn, a figure is that of so many tokens, not of the whole call."""

    title: str
    phase: str
    column: str
    units: tuple[tuple[float, str], ...]
    ylabel: str
    race: bool = False
    each: int | None = None
    largest: bool = False


PANELS = (
    Panel("Prefill", "prefill", "latency_ms", PER_TOKENS, "median", race=True, each=1000),
    Panel("Decoding a token", "decode", "latency_ms", MILLISECONDS, "median latency", race=True),
    Panel("Training step", "train", "latency_ms", PER_TOKENS, "median", race=True, each=1000),
    Panel("Memory of prefill", "prefill", "peak_memory_mb", MEBIBYTES, "peak memory"),
    Panel("State of one sequence", "decode", "state_bytes_held", BYTES, "cache held"),
    Panel("Throughput of the largest batch", "decode", "tokens_per_s", TOKENS_A_SECOND, "decoded", largest=True),
)


def write(folder: str | Path) -> list[Path]:
    """Draw a folder's bench-model.csv: for each size and dtype bench-model-SIZE-DTYPE.svg and .png beside it.
    NothingToDraw, a ValueError, when no row is ok."""
    folder = Path(folder)
    table = pd.read_csv(folder / "bench-model.csv", dtype=str, keep_default_na=False)
    written = []
    with style():
        for (size, dtype), figure in draw(table).items():
            # A table may have come from anywhere; a name in it must not lead out of the folder.
            written += write_figure(figure, folder, re.sub(r"[^\w.-]+", "-", f"bench-model-{size}-{dtype}"))
    return written


def draw(table: pd.DataFrame, columns: int | None = None) -> dict[tuple[str, str], Figure]:
    """The figures of a bench-model.csv read as text, by (size, dtype); NothingToDraw when no row is ok."""
    rows = typed(table, TEXT, NUMBERS)
    drawn = rows["phase"].isin([panel.phase for panel in PANELS]) & rows["length_asked"].str.isdecimal()
    rows = rows[drawn & (rows["status"] == "ok") & (rows["latency_ms"] > 0)]
    if rows.empty:
        raise NothingToDraw("nothing to draw: no row of bench-model.csv that is drawn (prefill, decode, train) is ok yet")
    return {(size, dtype): _figure(part, columns) for (size, dtype), part in rows.groupby(["size", "dtype"], sort=False)}


def _figure(rows: pd.DataFrame, columns: int | None) -> Figure:
    looks, markers = looks_of(rows["model"], LOOKS), markers_of(rows["window"])
    base = base_of(zip(rows["model"], rows["window"], strict=True))
    wanted = [(panel, part) for panel in PANELS if len(part := _part(rows, panel))]
    figure, all_axes = panels(len(wanted), columns=columns)
    marked = False
    for axes, (panel, part) in zip(all_axes, wanted, strict=True):
        if panel.each:
            calls = part["length"] * part["batch"] / panel.each
            part = part.assign(**{name: part[name] / calls for name in part if name.startswith(panel.column)})
        divisor, unit = scaled(part[panel.column].to_numpy(), panel.units)
        # Steps with and without checkpointing are two things, and no line leads from one to the other.
        for _, same in part.groupby("checkpointing", sort=False):
            draw_lines(axes, same, "model", panel.column, looks, markers, divisor, quartiles=panel.race)
            marked |= panel.race and _mark(axes, same, divisor, looks, base)
        length_axis(axes, part["length"].tolist())
        value_axis(axes, [value / divisor for value in reach(part, panel.column)])
        axes.set_ylabel(f"{panel.ylabel} ({unit})")
        axes.set_title(f"{panel.title}\n{_what(panel, part)}")
        first = part.iloc[0]
        axes.set_xlabel(f"tokens ({first['size']}, {clean_text(first['dtype'], 12)})")
    legend = handles([name for name in looks if name in set(rows["model"])], looks, markers)
    if marked:
        legend.append(Line2D([], [], label=f"from here on faster than {base}", markeredgecolor=MUTED, **_RING))
    # No sign stands for the device, whose name is too long for under each panel.
    devices = dict.fromkeys(clean_text(device, 34) for device in rows["device"])
    legend += [Line2D([], [], linestyle="none", label=f"on {device}") for device in devices]
    finish(figure, legend)
    return figure


def _part(rows: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """The panel's rows, all of one batch: the largest that fits, or the smallest that was asked for."""
    part = rows[(rows["phase"] == panel.phase) & (rows[panel.column] > 0)]
    part = part[(part["batch_asked"] == LARGEST) == panel.largest]
    return part if panel.largest or part.empty else part[part["batch"] == part["batch"].min()]


def _what(panel: Panel, part: pd.DataFrame) -> str:
    if panel.largest:
        return "the largest batch found to fit"
    again = part.loc[part["checkpointing"] == "True", "length"]
    said = f", checkpointing from {again.min():,.0f}" if len(again) else ""
    return f"batch {part['batch'].iloc[0]:.0f}{said}"


_RING = {"linestyle": "none", "marker": "o", "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.3}


def _mark(axes: Axes, rows: pd.DataFrame, divisor: float, looks: Looks, base_name: str | None) -> bool:
    """Rings where lines cross that of the base and stay under it; False where none does between two measured lengths."""
    latencies = {
        key: dict(zip(part["length"].astype(int), part["latency_ms"], strict=True))
        for key, part in rows.groupby(["model", "window"], sort=False)
    }
    base = next((found for (model, _), found in latencies.items() if model == base_name), {})
    marked = False
    for (model, _), own in latencies.items():
        found = crossover(own, base) if model != base_name else None
        if found is not None and not found.measured:
            x = sorted(base)
            y = np.exp(np.interp(np.log(found.length), np.log(x), np.log([base[length] for length in x])))
            axes.plot(
                [found.length], [y / divisor], **_RING, markeredgecolor=looks[model][0], zorder=5, label=f"_crossover {model}"
            )
            marked = True
    return marked
