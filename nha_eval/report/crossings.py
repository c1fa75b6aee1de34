"""From which length on a setting costs less than full attention, and which settings make the front of accuracy and cost."""

from __future__ import annotations

from nha_eval.plots._crossings import about, courses
from nha_eval.plots._frames import Frames, clean_text
from nha_eval.plots._lines import PHASES, places
from nha_eval.plots._settings import setting_label, suite_label
from nha_eval.plots._summary import longest_groups, suite_groups, suite_scores
from nha_eval.plots.accuracy_cost import front, score_and_cost

from .tables import MISSING, Table, count

CROSSINGS = (
    "A cost is held against full attention's at each length that both were measured at. Timings whose spans between quartiles "
    "overlap are not distinguishable. Where the figures cross is read off a straight line between two measured lengths, in "
    "logarithms of both, and is no better than these are close."
)
_MEASURES = {"latency_ms": "latency", "peak_memory_mb": "peak memory", "state_bytes": "state"}


def crossing_table(frames: Frames) -> Table | None:
    """A row a setting, phase and measure that full attention has as well; None where it has none."""
    wheres = places(frames.costs)
    batches = frames.costs["batch_size"].nunique() > 1
    rows, seen = [], set()
    for column, measure in _MEASURES.items():
        for where, part in wheres:
            for course in courses(part, column):
                batch = course.place[0]
                # The state after a prefill is the one that decoding starts from.
                key = (course.setting, batch, where)
                if column == "state_bytes" and (key in seen or seen.add(key)):
                    continue
                phase = clean_text(PHASES.get(course.phase, course.phase), 40)
                what = measure if column == "state_bytes" else f"{phase}, {measure}"
                what += (f", batch {count(batch)}" if batches and batch is not None else "") + where
                first, last = count(course.lengths[0]), count(course.lengths[-1])
                lengths = first if first == last else f"{first} to {last}"
                crossing = ", ".join(about(length) for length, _ in course.crossings) or MISSING
                sides = [setting_label(side, 60) for side in (course.setting, course.reference)]
                rows.append([*sides, what, course.words(), crossing, lengths])
    columns = ["setting", "reference", "cost", "less or more", "crosses at, tokens", "measured, tokens"]
    return Table("Crossovers", columns, rows, labels=3, words=frozenset({3})) if rows else None


def front_table(frames: Frames) -> Table | None:
    """A row a suite and kind of cost: the settings of the front, cheapest first; None without both scores and costs."""
    table = suite_scores(frames.scores)
    groups = suite_groups(table)
    rows = []
    for suite, length in longest_groups(table):
        for what, where, _, scored in score_and_cost(frames.scores, frames.costs, suite, length):
            best = [f"{setting_label((row.model, row.window), 60)} ({row.value:.3f})" for row in front(scored).itertuples()]
            rows.append([suite_label(suite, length, groups), what + where, "; ".join(best) or MISSING])
    columns = ["suite", "cost", "settings (score)"]
    return Table("On the front, cheapest first", columns, rows, labels=2, words=frozenset({2})) if rows else None
