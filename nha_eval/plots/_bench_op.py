"""Latency of the operator and its peers against length, from a bench-op.csv: a panel a shape, dtype and phase, a line an
implementation, a marker a window; medians with bars from quartile to quartile, as called from Python (no CUDA graph).

Not one of the kinds of `plots.plot_kinds`, as it draws a table of its own and no run's.

    python -c "from nha_eval.plots._bench_op import write; write('results/runs/bench-op')"
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ._bench_lines import draw_lines, handles, looks_of, markers_of, reach, typed, write_figure
from ._frames import clean_text
from ._style import INK, LINES, PALETTE, NothingToDraw, finish, length_axis, panels, style, value_axis

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
    return write_figure(figure, folder, "bench-op")


def draw(table: pd.DataFrame, columns: int | None = None) -> Figure:
    """The figure of a bench-op.csv read as text; NothingToDraw when no whole pass was timed."""
    rows = typed(table, TEXT, NUMBERS)
    rows = rows[(rows["status"] == "ok") & rows["phase"].isin(PHASES) & (rows["latency_ms"] > 0) & (rows["graph"] != "True")]
    if rows.empty:
        raise NothingToDraw("no latency to draw: no forward of bench-op.csv is ok yet")
    looks = looks_of(rows["implementation"], LOOKS)
    markers = markers_of(rows["window"])
    wanted = [
        (shape, phase, part)
        for shape, dtype in dict.fromkeys(zip(rows["shape"], rows["dtype"], strict=True))
        for phase in PHASES
        if len(part := rows[(rows["shape"] == shape) & (rows["dtype"] == dtype) & (rows["phase"] == phase)])
    ]
    figure, all_axes = panels(len(wanted), columns=columns or (2 if len(wanted) > 1 else 1))
    for axes, (shape, phase, part) in zip(all_axes, wanted, strict=True):
        draw_lines(axes, part, "implementation", "latency_ms", looks, markers, quartiles=True)
        length_axis(axes, part["length"].tolist())
        value_axis(axes, reach(part, "latency_ms"))
        axes.set_ylabel("median latency (ms)")
        first = part.iloc[0]
        axes.set_title(f"Shape {clean_text(shape, 24)}, {phase}\n{_what(first)}")
        axes.set_xlabel(f"tokens ({clean_text(first['dtype'], 12)}, {clean_text(first['device'], 24)})")
    used = [name for name in looks if name in set(rows["implementation"])]
    finish(figure, handles(used, looks, markers))
    return figure


def _what(row: pd.Series) -> str:
    heads = f"{row['query_heads']:.0f}"
    if row["query_heads"] != row["kv_heads"]:
        heads += f" on {row['kv_heads']:.0f}"
    return f"{heads} heads of {row['key_dim']:.0f}, batch {row['batch']:.0f}"
