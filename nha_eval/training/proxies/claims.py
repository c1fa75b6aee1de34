"""The order of the paper's models set against the order of the proxies, pair by pair.

Of each pair (NHA and another model) the published figures say which is better (`nha_eval/tables/published/nha.csv`), and the
proxies' do, where the 95% interval of their paired difference leaves 0 out. What a proxy of some 30 M weights does says little
of 1.3 G.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from nha_eval.training.proxies.pooled import Pool

PUBLISHED = Path(__file__).parents[2] / "tables" / "published" / "nha.csv"
# A pattern's name in the published table.
NAMES = {"transformer++": "Trans++", "gsa": "GSA", "gsa-h": "GSA-H", "gdn-h": "GDN-H", "nha": "NHA"}
HOLDS, FAILS, OPEN = "holds", "does not hold", "not told apart"


@dataclass(frozen=True)
class Claim:
    """One published order and what the proxies say of it. difference: NHA's less the other's, with its 95% interval; in nats a
    token, or in points of recall."""

    what: str
    published: str
    measured: str
    difference: tuple[float, float, float]
    verdict: str


def claims(pool: Pool) -> list[Claim]:
    """Those of the published pairs that both stand in the pool; none where NHA is not there."""
    if "nha" not in pool.names:
        return []
    figures = _published()
    found = []
    for name in (name for name in NAMES if name in pool.names and name != "nha"):
        nha, other = pool.at("nha"), pool.at(name)
        theirs, its = figures[NAMES[name]], figures[NAMES["nha"]]
        for part, metric, lower in (("all", "wiki_ppl", True), ("hits", "recall_avg", False)):
            if not nha.tokens(part).sum():
                continue
            difference = nha.against(other, part)
            # A lower loss is better on either side; of published recall the higher.
            better = its[metric] < theirs[metric] if lower else its[metric] > theirs[metric]
            word = "perplexity" if part == "all" else "recall (hits)"
            found.append(
                Claim(
                    f"{word}: NHA {'better' if better else 'worse'} than {name}",
                    f"{its[metric]:g} against {theirs[metric]:g} ({metric})",
                    "nats a token",
                    difference,
                    _verdict(difference, better),
                )
            )
    return found


def _verdict(difference: tuple[float, float, float], better: bool) -> str:
    _, low, high = difference
    if low <= 0 <= high:
        return OPEN
    return HOLDS if (high < 0) == better else FAILS


def _published() -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    with PUBLISHED.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["table"] == "main" and row["value"]:
                found.setdefault(row["model"], {})[row["metric"]] = float(row["value"])
    return found
