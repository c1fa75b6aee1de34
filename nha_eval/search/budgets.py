"""Budgets as users write them: bytes of state, or a share of what full attention takes.

parse_budget("22MB")       # Budget("22mb", bytes=22_000_000)
parse_budget(0.25)         # Budget("25pct", share=0.25)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from nha_eval.errors import UserError, printable

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_BYTES = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([KMG]I?B|B)", re.IGNORECASE)
_SHARE = re.compile(r"0?\.[0-9]{1,6}|1\.0*|[01]")


@dataclass(frozen=True)
class Budget:
    """One of `bytes` and `share` (of full attention's bytes or latency, between 0 and 1); `label` names settings under it."""

    label: str
    bytes: int | None = None
    share: float | None = None

    def limit(self, full: float) -> float:
        """In the unit of `full`, what full attention costs."""
        return self.bytes if self.share is None else self.share * full


def setting_name(family: str, budget: str, unit: str) -> str:
    """What a setting under a budget is called: `searched-25pct`, or `searched-25pct-latency`."""
    return f"{family}-{budget}" + ("-latency" if unit == "ms" else "")


def parse_budget(value: Any, *, shares_only: bool = False) -> Budget:
    """A budget from what a user wrote. Raises ValueError, one line, to stand behind a name."""
    shown = printable(repr(value), 60)
    wanted = "a share of full attention between 0 and 1, as in 0.25"
    wanted += "" if shares_only else ", or bytes with a unit, as in 22MB or 20MiB"
    text = str(value).strip()
    if not isinstance(value, bool) and _SHARE.fullmatch(text) and 0 < float(text) < 1:
        share = float(text)
        return Budget(f"{100 * share:.6g}pct".replace(".", "p"), share=share)
    found = _BYTES.fullmatch(text)
    if found is None or shares_only or (size := int(float(found[1]) * UNITS[found[2].upper()])) < 1:
        raise ValueError(f"is {shown}: wanted is {wanted}")
    return Budget(f"{found[1]}{found[2]}".lower().replace(".", "p"), bytes=size)


def check_reach(budget: Budget, limit: float, least: float, full: float, unit: str) -> None:
    """UserError where no setting is within `limit`, or where full attention is, so that nothing is to be searched."""
    digits = ",.0f" if unit == "bytes" else ".4g"
    if limit < least:
        share = least / full
        raise UserError(
            f"budget {budget.label}: {limit:{digits}} {unit}, but all layers at their cheapest window take {least:{digits}} "
            f"({share:.3g} of full attention): give more, or cheaper --windows"
        )
    if limit >= full:
        raise UserError(
            f"budget {budget.label}: {limit:{digits}} {unit}, and full attention takes {full:{digits}}: give less, or a longer "
            "--context"
        )
