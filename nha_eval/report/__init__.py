"""The report of a run: report.md, one self-contained report.html, and every plot as SVG and PNG.

Reads spec.yaml, environment.json, scores.csv, costs.csv and telemetry.csv, and cells/ and samples/ for where answers stood and
to pair settings by document; each may be missing or unfinished. Imports no torch. The same files give the same bytes. Names
and texts from the run are printed as text, whatever they hold.

    python -c "from nha_eval.report import write_report; write_report('results/runs/quickstart')"
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import yaml

from nha_eval import yamls
from nha_eval.environment import planned_cells

__all__ = ["write_report"]


def write_report(run_dir: str | Path) -> list[Path]:
    """Write `run_dir`/plots/*.svg and *.png, report.md and report.html; returns what was written.

    Plots that have nothing to draw are left out, and files of an earlier report that no longer hold are removed.
    ValueError when the folder does not exist or a table in it cannot be read.
    """
    # Imported here, as matplotlib and pandas take a second that other verbs should not wait for.
    from nha_eval.plots import load_frames, write_bytes
    from nha_eval.plots._frames import clean_block

    from .answers import read_answers
    from .differences import find_differences
    from .doctor import doctor_warning
    from .headline import headline
    from .pictures import draw_pictures
    from .render import render_html, render_markdown
    from .sections import make_sections
    from .status import run_status

    folder = Path(run_dir)
    frames = load_frames(folder)
    environment = _read_json(folder / "environment.json")
    spec_text = _read_text(folder / "spec.yaml")
    pictures, written = draw_pictures(frames, folder / "plots")
    found = find_differences(folder, frames)
    texts = clean_block(_command(environment)), clean_block(spec_text)
    sections = make_sections(frames, read_answers(folder), pictures, environment, *texts, found)
    page = {
        "name": folder.resolve().name,
        "status": run_status(frames, planned_cells(environment), _read_spec(spec_text)),
        "headline": [*doctor_warning(environment), *headline(frames, found)],
        "sections": sections,
    }
    for name, render in (("report.md", render_markdown), ("report.html", render_html)):
        write_bytes(folder / name, render(page))
        written.append(folder / name)
    return written


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(_read_text(path))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_spec(text: str) -> dict:
    try:
        content = yamls.load(text)
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, dict) else {}


def _command(environment: dict) -> str:
    command = environment.get("command") or ""
    return shlex.join(map(str, command)) if isinstance(command, list) else str(command)
