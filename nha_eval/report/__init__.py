"""The report of a run, or of several: report.md, one self-contained report.html, every plot as SVG and PNG, and every table
that a paper might show as Markdown, LaTeX and CSV.

Reads spec.yaml, environment.json, scores.csv, costs.csv and telemetry.csv, and cells/ and samples/ for where answers stood, for
examples, and to pair settings by document; each may be missing or unfinished. Imports no torch. The same files give the same
bytes. Names and texts from the run are printed as text, whatever they hold.

    python -c "from nha_eval.report import write_report; write_report('results/runs/quickstart')"
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

__all__ = ["write_report"]


def write_report(run_dir: str | Path, *others: str | Path, out: str | Path | None = None) -> list[Path]:
    """Write plots/, tables/, report.md and report.html of the run in `run_dir`, or of it and `others` joined, into `out` (by
    default `run_dir`); returns what was written.

    Plots that have nothing to draw are left out, and files of an earlier report that no longer hold are removed.
    ValueError when a folder does not exist, a table in it cannot be read, or several runs are given without `out`.
    """
    if others and out is None:
        raise ValueError("a report of several runs belongs to none of them: give a folder for it")
    # Imported here, as matplotlib and pandas take a second that other verbs should not wait for.
    from nha_eval.plots import write_bytes
    from nha_eval.plots._answers import answer_frame, read_answers

    from .differences import find_differences
    from .doctor import doctor_warning
    from .exports import write_tables
    from .headline import headline
    from .joining import join
    from .pictures import draw_pictures
    from .render import render_html, render_markdown
    from .runs import read_folder
    from .sections import make_sections

    folder = Path(run_dir if out is None else out)
    whole = join([read_folder(one) for one in (run_dir, *others)])
    answers = read_answers(whole.scored) if whole.scored else []
    pictures, written = draw_pictures(replace(whole.frames, answers=answer_frame(answers)), folder / "plots")
    found = find_differences(whole.scored, whole.frames)
    sections = make_sections(whole, answers, pictures, found)
    several = len(whole.runs) > 1
    page = {
        "name": whole.name,
        "statuses": [(run.name if several else "", run.status) for run in whole.runs],
        "headline": [*doctor_warning(whole.environment), *headline(whole.frames, found), *whole.apart],
        "sections": sections,
    }
    written += write_tables(sections, folder / "tables", whole.name)
    for name, render in (("report.md", render_markdown), ("report.html", render_html)):
        write_bytes(folder / name, render(page))
        written.append(folder / name)
    return written
