"""How trainings went: the loss and the held-out KL against the tokens seen, and the KL against the position, a line a run.

    from nha_eval.plots import training_figure
    training_figure({"nha": "results/runs/hybridize-nha-smollm2-135m", "window alone": "..."}).savefig("training.svg")

The files are those that `hybridize` leaves: train.csv, heldout.csv, positions.csv. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ._frames import clean_text
from ._style import LINES, MUTED, PALETTE, NothingToDraw, finish, length_axis, panels, scaled, style, title

INTERVAL = 1.96
TOKENS = ((1e3, "thousands"), (1e6, "millions"))


def training_figure(runs: Mapping[str, str | Path], figure: Figure | None = None) -> Figure:
    """Three panels of the runs, by name. NothingToDraw where none of them has a held-out figure yet."""
    tables = {name: _tables(Path(folder)) for name, folder in runs.items()}
    tables = {name: table for name, table in tables.items() if not table["heldout"].empty}
    if not tables:
        raise NothingToDraw("no held-out figures to draw: wanted are folders of hybridize")
    with style():
        figure, (loss, heldout, positions) = panels(3, figure, 3)
        divisor, unit = scaled(pd.concat([table["heldout"]["seen"] for table in tables.values()]).to_numpy(), TOKENS)
        for number, table in enumerate(tables.values()):
            look = {"color": PALETTE[number % len(PALETTE)], "linestyle": LINES[number // len(PALETTE) % len(LINES)]}
            _loss(loss, table, divisor, look)
            _heldout(heldout, table, divisor, look)
            _positions(positions, table, look)
        for axes, name in ((loss, "training loss, by stage"), (heldout, "held-out KL to the base")):
            axes.set_xlabel(f"tokens seen ({unit})")
            # A conversion alone has no loss, and one of full windows no KL above 0.
            if not any((np.asarray(line.get_ydata(), float) > 0).any() for line in axes.lines):
                title(axes, name)
                continue
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
            title(axes, name)
        loss.set_ylabel("loss")
        heldout.set_ylabel("nats a token")
        title(positions, "held-out KL at the end, by position")
        positions.set_ylabel("nats a token")
        positions.set_ylim(bottom=0)
        spans = pd.concat([table["positions"]["first"] for table in tables.values()]).clip(lower=16)
        length_axis(positions, sorted(set(spans)))
        positions.set_xlabel("position, from (tokens)")
        finish(figure, _handles(list(tables)))
    return figure


def _tables(folder: Path) -> dict[str, pd.DataFrame]:
    found = {}
    for name in ("train", "heldout", "positions"):
        path = folder / f"{name}.csv"
        found[name] = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["stage", "step"])
    # The tokens of a stage's step, and all those of the stages before.
    train, seen = found["train"], {"conversion": (0, 0.0)}
    before = 0
    for stage in train["stage"].unique():
        rows = train[train["stage"] == stage]
        seen[stage] = before, rows["tokens"].iloc[-1] / rows["step"].iloc[-1]
        before += int(rows["tokens"].iloc[-1])
    for table in found.values():
        places = [seen.get(stage, (before, 0.0)) for stage in table["stage"]]
        table["seen"] = [first + step * each for (first, each), step in zip(places, table["step"], strict=True)]
    return found


def _loss(axes: Axes, table: dict[str, pd.DataFrame], divisor: float, look: dict) -> None:
    train = table["train"]
    for stage in train["stage"].unique():
        rows = train[train["stage"] == stage]
        axes.plot(rows["seen"] / divisor, rows["loss"], **look)
        axes.axvline(rows["seen"].iloc[-1] / divisor, color=MUTED, linewidth=0.5)


def _heldout(axes: Axes, table: dict[str, pd.DataFrame], divisor: float, look: dict) -> None:
    rows = table["heldout"]
    rows = rows[rows["length"] == rows["length"].min()]
    bars = INTERVAL * rows["kl_stderr"].fillna(0)
    axes.errorbar(rows["seen"] / divisor, rows["kl"], yerr=bars, marker="o", markersize=3, **look)


def _positions(axes: Axes, table: dict[str, pd.DataFrame], look: dict) -> None:
    rows = table["positions"]
    rows = rows[(rows["seen"] == rows["seen"].max()) & (rows["length"] == rows["length"].max())]
    axes.plot(rows["first"].clip(lower=16), rows["kl"], marker="o", markersize=3, **look)


def _handles(names: list[str]) -> list[Line2D]:
    return [
        Line2D(
            [], [], color=PALETTE[i % len(PALETTE)], linestyle=LINES[i // len(PALETTE) % len(LINES)], label=clean_text(name, 40)
        )
        for i, name in enumerate(names)
    ]
