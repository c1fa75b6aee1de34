"""KL against cost of every setting that a search evaluated, from its search.csv and comparison.csv: the front as a line, the
searched settings and the families as marks.

Not one of the kinds of `plots.plot_kinds`, as it draws tables of its own and no run's.

    python -c "from nha_eval.plots._search_front import write; write('results/runs/search-NAME')"
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ._bench_lines import typed, write_figure
from ._frames import clean_text
from ._style import BYTES, INK, MARKERS, MILLISECONDS, MUTED, PALETTE, NothingToDraw, finish, panels, scaled, style, value_axis

NUMBERS = ("state_bytes", "latency_ms", "kl")
LEAST = 1e-5  # nats a token; below it KL is rounding, and full attention's is 0


def write(folder: str | Path) -> list[Path]:
    """Draw a folder's tables as front.svg and .png in `plots`. ValueError when there is nothing to draw."""
    folder = Path(folder)
    tables = [pd.read_csv(folder / f"{name}.csv", dtype=str, keep_default_na=False) for name in ("search", "comparison")]
    with style():
        figure = draw(*tables)
    return write_figure(figure, folder / "plots", "front")


def draw(evaluated: pd.DataFrame, comparison: pd.DataFrame) -> Figure:
    """The figure of both tables read as text; NothingToDraw when no setting has a KL above 0."""
    column, units, name = "state_bytes", BYTES, "state"
    if (comparison["unit"] == "ms").any():
        column, units, name = "latency_ms", MILLISECONDS, "latency"
    rows, named = typed(evaluated, ("model",), NUMBERS), typed(comparison, ("family",), NUMBERS)
    rows, named = (table[(table["kl"] > LEAST) & (table[column] > 0)] for table in (rows, named))
    if rows.empty:
        raise NothingToDraw("no setting to draw: search.csv holds no KL above 0 yet")
    divisor, unit = scaled(rows[column].to_numpy(), units)
    figure, (axes,) = panels(1)
    axes.scatter(rows[column] / divisor, rows["kl"], s=7, color=MUTED, alpha=0.35, linewidths=0)
    best = rows.sort_values([column, "kl"])
    best = best[best["kl"] < best["kl"].cummin().shift(fill_value=float("inf"))]
    axes.step(best[column] / divisor, best["kl"], where="post", color=INK, linewidth=1.3)
    handles = [Line2D([], [], color=INK, linewidth=1.3, label="front")]
    handles.append(Line2D([], [], color=MUTED, marker="o", markersize=3, linestyle="none", label="evaluated"))
    for place, family in enumerate(dict.fromkeys(named["family"])):
        own = named[named["family"] == family]
        searched = family == "searched"
        look = {"color": INK if searched else PALETTE[(place - 1) % len(PALETTE)], "linestyle": "none"}
        look |= {"marker": "*" if searched else MARKERS[(place - 1) % len(MARKERS)], "markersize": 10 if searched else 5.5}
        axes.plot(own[column] / divisor, own["kl"], label=family, **look)
        handles.append(Line2D([], [], label=family, **look))
    axes.set_title(f"{clean_text(rows['model'].iloc[0], 40)}: KL against {name}")
    value_axis(axes, rows["kl"].tolist())
    value_axis(axes, (rows[column] / divisor).tolist(), which="x", zero=False)
    axes.set_xlabel(f"{name} ({unit})")
    axes.set_ylabel("KL, held-out text (nats a token)")
    finish(figure, handles)
    return figure
