"""Which verb a spec is for, told by keys that its specs alone have: so that one given to another verb, or a folder that another
verb left, is called what it is.
"""

from __future__ import annotations

from typing import Any

MARKS = {"eval": ("suites",), "hybridize": ("base",), "search": ("budgets", "budgets_latency"), "train": ("tokens", "rates")}
EXAMPLES = {
    "eval": "models: ..., suites: ...",
    "hybridize": "base: ..., text: ..., distill: ...",
    "search": "model: ..., budgets: ...",
    "train": "model: ..., text: ..., tokens: ...",
}


def verb_of(content: dict[str, Any]) -> str | None:
    """The verb that takes a spec of these keys; None where none of its own is among them."""
    return next((verb for verb, marks in MARKS.items() if any(mark in content for mark in marks)), None)
