"""The slots' share of attention, drawn together from telemetry.csv: each setting over all of its tasks and lengths."""

from __future__ import annotations

import pandas as pd

_SETTING = ["model", "window"]
_BUCKET = ["position_first", "position_last"]


def share_rows(telemetry: pd.DataFrame) -> pd.DataFrame:
    """The rows that hold a share."""
    return telemetry[(telemetry["status"] == "ok") & telemetry["share"].notna() & (telemetry["n"] > 0)]


def by_layer(telemetry: pd.DataFrame) -> pd.DataFrame:
    """A row a (model, window, layer): share, the mean over query heads and queries; low and high, of the heads with the least
    and the most.
    """
    heads = by_head(telemetry)
    found = heads.groupby([*_SETTING, "layer"], sort=False)["share"].agg(["mean", "min", "max"]).reset_index()
    return found.rename(columns={"mean": "share", "min": "low", "max": "high"})


def by_head(telemetry: pd.DataFrame) -> pd.DataFrame:
    """A row a (model, window, layer, head): share, the mean over queries."""
    rows = share_rows(telemetry)
    return _weighted(rows[rows["head"].notna()], [*_SETTING, "layer", "head"])


def by_position(telemetry: pd.DataFrame) -> pd.DataFrame:
    """A row a (model, window, position_first, position_last): share, the mean over layers, heads and queries."""
    rows = share_rows(telemetry)
    return _weighted(rows[rows["position_first"].notna()], [*_SETTING, *_BUCKET]).sort_values("position_first", kind="stable")


def _weighted(rows: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """The mean share of each key, every query counting alike."""
    sums = rows.assign(sum=rows["share"] * rows["n"]).groupby(key, sort=False)[["sum", "n"]].sum()
    return sums.assign(share=sums["sum"] / sums["n"])["share"].reset_index()
