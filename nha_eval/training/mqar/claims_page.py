"""The claims that an MQAR sweep can tell of, what is said of each at one place, and the page that sums it up.

page(places)
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

LEVEL = 0.01
NEAR_ALL = 0.99
FULL, WINDOW, SLOTS, NHA = "transformer++", "swa", "gsa", "nha"
SAME = "nha recalls more than {} with a state as large"
SMALLER = "nha recalls more than {} with a state no larger"
CLAIMS = {
    "full": "full attention recalls nearly all",
    "reach": "a sliding window recalls no more than stands within its reach",
    **{f"same {name}": SAME.format(name) for name in (WINDOW, SLOTS)},
    **{
        f"smaller {name}": SMALLER.format(name)
        for name in (FULL, "gla", "gated-deltanet", "mamba2", "gsa-h", "gdn-h", "nha-2026")
    },
    "window": "nha recalls more with a wider window",
    "slots": "nha recalls more with more slots",
    "convolutions": "nha recalls more with short convolutions of queries, keys and values",
    "fusion=sum": "one softmax over slots and window recalls more than a weighed sum of two",
    "overlap=true": "tokens that enter the slots behind the window recall more than those that enter at once",
    "empty_slots=sink": "empty slots that take no share recall more than those that do",
    "wider": "nha recalls more where it is tested at a wider window than it was trained at",
    "narrower": "nha recalls more where it is tested at a narrower window than it was trained at",
}
# What a right implementation is expected to show; of the others it is asked how they come out.
EXPECTED = ("full", "reach", f"same {WINDOW}", f"same {SLOTS}")
VERDICTS = ("holds", "level", "mixed", "fails")


@dataclass(frozen=True)
class Place:
    """One comparison: a against b, or against a bound. Accuracies are means over seeds; low and high bound the difference."""

    claim: str
    task: str
    length: int
    pairs: int
    trained: str  # whether sequences so long and with so many pairs were trained on: yes, or no
    a: str
    b: str
    state_a: int
    state_b: int | str
    accuracy_a: float
    accuracy_b: float
    difference: float
    low: float | str
    high: float | str
    seeds: int
    verdict: str


def page(places: list[Place]) -> str:
    """The Markdown text: a line a claim, and where what is expected does not hold."""
    lines = ["# What the sweep says of what is expected", ""]
    known = [claim for claim in CLAIMS if any(place.claim == claim for place in places)]
    for title, claims in (
        ("Expected of a right implementation", [claim for claim in known if claim in EXPECTED]),
        ("Asked", [claim for claim in known if claim not in EXPECTED]),
    ):
        if not claims:
            continue
        lines += [f"## {title}", "", f"| claim | verdict | {' | '.join(VERDICTS)} | difference | beyond what was trained |"]
        lines += ["|---" * (len(VERDICTS) + 4) + "|"]
        for claim in claims:
            own = [place for place in places if place.claim == claim and place.trained == "yes"]
            beyond = [place for place in places if place.claim == claim and place.trained == "no"]
            counts = [str(sum(place.verdict == verdict for place in own)) for verdict in VERDICTS]
            lines.append(f"| {CLAIMS[claim]} | {_verdict(own)} | {' | '.join(counts)} | {_span(own)} | {_verdict(beyond)} |")
        lines.append("")
    lines += [
        "A place is a kind of sequence and a pair of models, or a model and a bound; counted are places with lengths and pairs "
        f"as they were trained on. Level: within {LEVEL} of each other on every seed. Difference: of accuracies from 0 to 1, "
        "means over seeds; the median over places, the least and the greatest. Every place, its accuracies, and the interval "
        "of its difference over seeds: claims.csv.",
        "",
    ]
    lines += _shortfalls([place for place in places if place.claim in EXPECTED and place.verdict in ("mixed", "fails")])
    return "\n".join(lines)


def _verdict(places: list[Place]) -> str:
    """In words, of a claim at these places."""
    if not places:
        return "-"
    told = [place for place in places if place.verdict != "level"]
    if not told:
        return "level"
    holding = sum(place.verdict == "holds" for place in told)
    if holding == len(told):
        return "holds"
    if holding:
        return f"holds in {holding} of {len(told)}"
    return "fails" if any(place.verdict == "fails" for place in told) else "mixed"


def _span(places: list[Place]) -> str:
    if not places:
        return "-"
    found = [place.difference for place in places]
    return f"{median(found):+.3f} ({min(found):+.3f} to {max(found):+.3f})"


def _shortfalls(places: list[Place]) -> list[str]:
    """Where what is expected does not hold."""
    if not places:
        return []
    head = [
        "## Where what is expected does not hold",
        "",
        "| claim | sequences | trained | a | b | accuracies | verdict |",
        "|---" * 7 + "|",
    ]
    rows = [
        f"| {CLAIMS[p.claim]} | {p.task}: {p.length} tokens, {p.pairs} pairs | {p.trained} | {p.a} | {p.b} | "
        f"{p.accuracy_a:.3f}, {p.accuracy_b:.3f} | {p.verdict} |"
        for p in places
    ]
    return [*head, *rows, ""]
