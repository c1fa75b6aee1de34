"""Latency of the operator and its peers against length, from a bench-op.csv: a panel a shape, dtype and phase, a line an
implementation, a marker a window; medians with bars from quartile to quartile, as called from Python (no CUDA graph).

Not one of the kinds of `plots.plot_kinds`, as it draws a table of its own and no run's.

    python -c "from nha_eval.plots._bench_op import write; write('results/runs/bench-op')"
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nha_eval.plots import render, write_bytes

from ._frames import clean_text, window_order
from ._settings import window_label
from ._style import INK, LINES, MARKERS, MUTED, PALETTE, NothingToDraw, finish, length_axis, panels, style, value_axis

PHASES = ("forward", "forward+backward")
# Fixed, so that an implementation looks the same whichever others a run had: softmax over everything in ink, windows warm.
LOOKS = {
    "nha": (PALETTE[0], "-"),
    "flex": (PALETTE[1], LINES[1]),
    "flash-attn": (PALETTE[6], LINES[2]),
    "sdpa-cudnn": (INK, "-"),
    "sdpa-flash": (INK, LINES[3]),
    "fla-gsa": (PALETTE[2], LINES[1]),
    "fla-gla": (PALETTE[3], LINES[2]),
    "fla-gated-deltanet": (PALETTE[5], LINES[3]),
}
TEXT = ("implementation", "phase", "shape", "window", "dtype", "device", "graph", "status")
NUMBERS = ("batch", "query_heads", "kv_heads", "key_dim", "length", "latency_ms", "latency_ms_p25", "latency_ms_p75")


def write(folder: str | Path) -> list[Path]:
    """Draw a folder's bench-op.csv as bench-op.svg and .png beside it. ValueError when there is nothing to draw."""
    folder = Path(folder)
    with style():
        figure = draw(pd.read_csv(folder / "bench-op.csv", dtype=str, keep_default_na=False))
    written = []
    for suffix in ("svg", "png"):
        path = folder / f"bench-op.{suffix}"
        write_bytes(path, render(figure, suffix))
        written.append(path)
    return written


def draw(table: pd.DataFrame, columns: int | None = None) -> Figure:
    """The figure of a bench-op.csv read as text; NothingToDraw when no whole pass was timed."""
    rows = pd.DataFrame({name: table[name].map(clean_text) for name in TEXT})
    for name in NUMBERS:
        rows[name] = pd.to_numeric(table[name], errors="coerce")
    rows = rows[(rows["status"] == "ok") & rows["phase"].isin(PHASES) & (rows["latency_ms"] > 0) & (rows["graph"] != "True")]
    if rows.empty:
        raise NothingToDraw("no latency to draw: no forward of bench-op.csv is ok yet")
    looks = _looks(rows["implementation"])
    markers = _markers(rows["window"])
    wanted = [
        (shape, phase, part)
        for shape, dtype in dict.fromkeys(zip(rows["shape"], rows["dtype"], strict=True))
        for phase in PHASES
        if len(part := rows[(rows["shape"] == shape) & (rows["dtype"] == dtype) & (rows["phase"] == phase)])
    ]
    figure, all_axes = panels(len(wanted), columns=columns or (2 if len(wanted) > 1 else 1))
    for axes, (shape, phase, part) in zip(all_axes, wanted, strict=True):
        _panel(axes, part, looks, markers)
        first = part.iloc[0]
        axes.set_title(f"Shape {clean_text(shape, 24)}, {phase}\n{_what(first)}")
        axes.set_xlabel(f"tokens ({clean_text(first['dtype'], 12)}, {clean_text(first['device'], 24)})")
    used = [name for name in looks if name in set(rows["implementation"])]
    handles = [Line2D([], [], color=looks[name][0], linestyle=looks[name][1], label=name) for name in used]
    handles += [
        Line2D([], [], color=MUTED, marker=marker, linestyle="none", label=window_label(window))
        for window, marker in markers.items()
    ]
    finish(figure, handles)
    return figure


def _what(row: pd.Series) -> str:
    heads = f"{row['query_heads']:.0f}"
    if row["query_heads"] != row["kv_heads"]:
        heads += f" on {row['kv_heads']:.0f}"
    return f"{heads} heads of {row['key_dim']:.0f}, batch {row['batch']:.0f}"


def _looks(names: pd.Series) -> dict[str, tuple[str, object]]:
    others = [name for name in dict.fromkeys(names) if name not in LOOKS]
    spare = {name: (PALETTE[4], LINES[index % len(LINES)]) for index, name in enumerate(others)}
    return {**LOOKS, **spare}


def _markers(windows: pd.Series) -> dict[str, str]:
    ordered = sorted(set(windows), key=window_order)
    numbered = [window for window in ordered if window not in ("full", "none")]
    known = {window: MARKERS[index % len(MARKERS)] for index, window in enumerate(numbered)}
    return {window: {"full": "*", "none": "h"}.get(window) or known[window] for window in ordered}


def _panel(axes: Axes, rows: pd.DataFrame, looks: dict[str, tuple[str, object]], markers: dict[str, str]) -> None:
    # Those that matter most are drawn last, over the others.
    names = sorted(set(rows["implementation"]), key=lambda name: list(looks).index(name), reverse=True)
    for name in names:
        for window in sorted(set(rows.loc[rows["implementation"] == name, "window"]), key=window_order):
            own = rows[(rows["implementation"] == name) & (rows["window"] == window)].sort_values("length")
            x, y = own["length"].to_numpy(), own["latency_ms"].to_numpy()
            ends = own[["latency_ms_p25", "latency_ms_p75"]].to_numpy().T
            bars = np.nan_to_num(np.maximum(np.array([y - ends[0], ends[1] - y]), 0))
            axes.errorbar(
                *(x, y, bars),
                color=looks[name][0],
                linestyle=looks[name][1],
                marker=markers[window],
                markersize={"full": 8}.get(window, 4.5),
                elinewidth=1.0,
                linewidth=2.0 if name == "nha" else 1.3,
                label=f"{name}|{window}",
            )
    length_axis(axes, rows["length"].tolist())
    value_axis(axes, rows["latency_ms"].tolist())
    axes.set_ylabel("median latency (ms)")
