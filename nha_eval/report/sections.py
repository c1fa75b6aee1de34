"""The report's sections in order, each with its words, pictures and tables; both the page and the Markdown are
printed from these."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from markupsafe import Markup

from nha_eval.plots._answers import Answer
from nha_eval.plots._frames import Frames

from .beside import beside_tables, beside_text
from .content import cost_tables, environment_table, every_score, suite_table, task_tables
from .crossings import CROSSINGS, crossing_table, front_table
from .differences import (
    TITLE,
    Differences,
    difference_text,
    find_pairs,
    slot_differences,
    suite_differences,
    task_differences,
)
from .doctor import doctor_table, doctor_text, without_stamps
from .examples import TEXT, count_table, example_table, find_examples
from .inside import inside_tables, inside_text
from .joining import Joined
from .runs import Run
from .several import runs_table, runs_text
from .status import failures
from .tables import STAR, Table

METHOD = (
    "A suite's score is the unweighted mean over its tasks of each task's primary metric, one length at a time: contains "
    "for recall; for RULER the share of answers found (any of them for its questions); for choices acc_norm where the task "
    "reports it, else acc. Values are ± one standard error, clustered where questions share a context; where all contexts "
    "scored alike, it is that of as many independent questions with two right and two wrong ones added. That of a suite is "
    "combined from its tasks taken as independent. Bars in plots, and “not distinguishable”, mean 95% intervals (1.96 "
    "standard errors); that is cautious, as the settings answer the same questions, and where a paired comparison with the "
    "reference was made, it decides instead. "
    "The constant answer is the best score to be had by always giving the same answer. Contexts cut: the share of documents "
    "that lost tokens, to their protocol or because the model holds no more. Answers surviving: of the documents whose whole "
    "context holds an answer, the share that still do after the cut."
)


@dataclass(frozen=True)
class Picture:
    """A plot ready to print: inline SVG for wide and narrow pages, its caption and the words for those who cannot
    see it."""

    kind: str
    title: str
    alt: str
    caption: str
    wide: Markup
    narrow: Markup
    across: int


@dataclass(frozen=True)
class Section:
    """One section; `folded` is a long table that the page keeps closed and the Markdown leaves out."""

    id: str
    title: str
    text: list[str] = field(default_factory=list)
    figures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    code: list[tuple[str, str]] = field(default_factory=list)  # title, text
    folded: Table | None = None


def make_sections(whole: Joined, answers: list[Answer], pictures: dict[str, Picture], found: Differences) -> list[Section]:
    """The sections that have something to show."""
    frames, several = whole.frames, len(whole.runs) > 1

    def of(*kinds: str) -> list[Picture]:
        return [pictures[kind] for kind in kinds if kind in pictures]

    suites = suite_table(frames, found)
    known = {kind for kinds in _PLACES.values() for kind in kinds}
    pictured = {place: of(*kinds) for place, kinds in _PLACES.items()}
    sections = [
        Section("runs", "The runs", runs_text(whole), [], [runs_table(whole.runs)]) if several else None,
        Section("accuracy", "Accuracy against window", _marks(suites), pictured["accuracy"], _some(suites)),
        Section(
            "differences",
            TITLE,
            difference_text(found),
            [],
            _some(suite_differences(found), slot_differences(found)),
            [],
            task_differences(found),
        ),
        _examples(whole),
        Section(
            "accuracy-cost",
            "Accuracy against cost",
            beside_text(frames, whole.environment),
            pictured["accuracy-cost"],
            [*beside_tables(frames, whole.environment), *_some(front_table(frames))],
        ),
        Section(
            "inside", "Inside the window", inside_text(frames, answers), pictured["inside"], inside_tables(frames, answers)
        ),
        Section("tasks", "Tasks", [], [], task_tables(frames), [], every_score(frames)),
        _latency(frames, pictured["latency"]),
        Section("memory", "Memory against length", [], pictured["memory"]),
        Section("costs", "Costs", [], [], cost_tables(frames)),
        Section("more", "More plots", [], [picture for kind, picture in pictures.items() if kind not in known]),
        Section("failures", "What could not be run, and why", [], [], _some(failures(frames))),
        Section("method", "How scores are made", [METHOD] if suites else []),
        *(_environment(run, several) for run in whole.runs),
    ]
    return [one for one in sections if one and (one.text or one.figures or one.tables or one.code)]


_PLACES = {
    "accuracy": ("window-accuracy",),
    "accuracy-cost": ("accuracy-cost",),
    "inside": ("recall-distance", "recall-depth", "slot-share", "slot-heads"),
    "latency": ("latency-length", "throughput-length"),
    "memory": ("memory-length",),
}


def _some(*tables: Table | None) -> list[Table]:
    return [table for table in tables if table is not None]


def _marks(suites: Table | None) -> list[str]:
    """What bold and stars mean, where the table has any."""
    if suites is None or not suites.best:
        return []
    starred = any(cell.endswith(STAR) for row in suites.rows for cell in row)
    star = " A star: it differs from the reference's, by the paired comparison below." if starred else ""
    return [f"Bold: the best of a column; others may be as good within their errors.{star}"]


def _examples(whole: Joined) -> Section:
    pairs = [pair for own in find_pairs(whole.scored, whole.frames) for pair in own]
    found = find_examples(pairs)
    table = count_table(found, pairs)
    return Section("examples", "Lost and gained", [TEXT] if table else [], [], _some(table), [], example_table(found))


def _latency(frames: Frames, figures: list[Picture]) -> Section:
    table = crossing_table(frames)
    return Section("latency", "Latency and throughput against length", [CROSSINGS] if table else [], figures, _some(table))


def _environment(run: Run, several: bool) -> Section:
    """The doctor's verdict, the machine and versions, the command and the spec of one run."""
    tables = _some(doctor_table(run.environment), environment_table(without_stamps(run.environment)))
    code = [(title, text) for title, text in (("The command", run.command), ("The spec", run.spec)) if text]
    which = f": {run.name}" if several else ""
    tables = [replace(table, title=table.title + which) for table in tables]
    code = [(title + which, text) for title, text in code]
    place = f"environment-{run.place}" if several else "environment"
    return Section(place, f"Environment{which}", doctor_text(run.environment), [], tables, code)
