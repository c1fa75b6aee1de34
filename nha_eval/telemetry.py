"""Telemetry as the journal keeps it and as `telemetry.csv` has it. Nothing here imports torch.

A cell's record has a row a layer, as `models.telemetry.SlotShares.table` gives it; the table has a row a figure.
"""

from typing import Any

NO_SHARE = "no query met slots: no nha layer has a window that is shorter than the prompts"


def tidy(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a head and one a range of positions, for each layer: layer, share, n (queries), and head or position_first and
    position_last (tokens, from 1).
    """
    found = []
    for row in rows:
        found += [{"layer": row["layer"], "head": head, "share": s, "n": row["n"]} for head, s in enumerate(row["heads"])]
        for first, last, share, n in row["positions"]:
            place = {"position_first": first, "position_last": last}
            found.append({"layer": row["layer"], **place, "share": share, "n": n})
    return found


def headline(record: dict[str, Any]) -> str:
    """A finished cell in a few words."""
    if not record["rows"]:
        return record["reason"]
    shares = [share for row in record["rows"] for share in row["heads"]]
    return f"slots take {sum(shares) / len(shares):.3f} of attention, heads from {min(shares):.3f} to {max(shares):.3f}"
