"""The report's sections in order, each with its words, pictures and tables; both the page and the Markdown are
printed from these."""

from __future__ import annotations

from dataclasses import dataclass, field

from markupsafe import Markup

from nha_eval.plots._frames import Frames

from .answers import Answer
from .beside import beside_table, beside_text
from .content import cost_tables, environment_table, every_score, suite_table, task_tables
from .differences import TITLE, Differences, difference_text, slot_differences, suite_differences, task_differences
from .doctor import doctor_table, doctor_text, without_stamps
from .inside import inside_tables, inside_text
from .status import failures
from .tables import Table

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
    code: list[tuple[str, str]] = field(default_factory=list)
    folded: Table | None = None


def make_sections(
    frames: Frames,
    answers: list[Answer],
    pictures: dict[str, Picture],
    environment: dict,
    command: str,
    spec: str,
    found: Differences,
) -> list[Section]:
    """The sections that have something to show."""

    def of(*kinds: str) -> list[Picture]:
        return [pictures[kind] for kind in kinds if kind in pictures]

    suites = suite_table(frames)
    known = {"window-accuracy", "slot-share", "latency-length", "memory-length", "accuracy-cost"}
    others = [picture for kind, picture in pictures.items() if kind not in known]
    failed, paired = failures(frames), [table for table in (suite_differences(found), slot_differences(found)) if table]
    beside, doctor = beside_table(frames, environment), doctor_table(environment)
    about = environment_table(without_stamps(environment))
    code = [*([("The command", command)] if command else []), *([("The spec", spec)] if spec else [])]
    sections = [
        Section("accuracy", "Accuracy against window", [], of("window-accuracy"), [suites] if suites else []),
        Section("differences", TITLE, difference_text(found), [], paired, [], task_differences(found)),
        Section(
            "accuracy-cost",
            "Accuracy against cost",
            beside_text(frames, environment),
            of("accuracy-cost"),
            [beside] if beside else [],
        ),
        Section(
            "inside",
            "Inside the window",
            inside_text(frames, answers),
            of("slot-share"),
            inside_tables(frames, answers),
        ),
        Section("tasks", "Tasks", [], [], task_tables(frames), [], every_score(frames)),
        Section("latency", "Latency against length", [], of("latency-length")),
        Section("memory", "Memory against length", [], of("memory-length")),
        Section("costs", "Costs", [], [], cost_tables(frames)),
        Section("more", "More plots", [], others),
        Section("failures", "What could not be run, and why", [], [], [failed] if failed else []),
        Section("method", "How scores are made", [METHOD] if suites else []),
        Section(
            "environment",
            "Environment",
            doctor_text(environment),
            [],
            [table for table in (doctor, about) if table],
            code,
        ),
    ]
    return [one for one in sections if one.text or one.figures or one.tables or one.code]
