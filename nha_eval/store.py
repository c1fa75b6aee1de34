"""A run folder: opening it, keeping others out of it, and its tables.

`scores.csv`, `costs.csv` and, where it was asked for, `telemetry.csv` are tidy, a row a figure, in the order of the grid;
they are rewritten whole from the cells each time, so they depend on nothing but the cells. This module imports neither torch
nor pandas.
"""

import contextlib
import csv
import io
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from nha_eval import environment, yamls
from nha_eval.errors import MachineError, UserError, is_disk_trouble
from nha_eval.journal import Journal, write_atomic
from nha_eval.paths import make_writable, user_path
from nha_eval.plan import Cell
from nha_eval.spec_verbs import verb_of
from nha_eval.telemetry import tidy

# Where the shares of a run are worked on that several machines do at once.
SHARES = "shares"
SCORE_COLUMNS = [
    "model",
    "window",
    "suite",
    "task",
    "task_version",
    "protocol",
    "metric",
    "value",
    "stderr",
    "n",
    "length",
    "batch_size",
    "dtype",
    "device",
    "backend",
    "seed",
    "status",
    "reason",
    # The 95% interval; last, so that what reads the columns before them by place still does.
    "ci_low",
    "ci_high",
]
COST_COLUMNS = [
    "model",
    "window",
    "phase",
    "length",
    "batch_size",
    "dtype",
    "device",
    "backend",
    "latency_ms",
    "latency_ms_p25",
    "latency_ms_p75",
    "repeats",
    "cold_start_ms",
    "tokens_per_s",
    "peak_memory_mb",
    "state_bytes",
    "status",
    "reason",
]
# A row a query head (position_* empty), and one a range of positions (head empty).
TELEMETRY_COLUMNS = [
    "model",
    "window",
    "suite",
    "task",
    "task_version",
    "length",
    "layer",
    "head",
    "position_first",
    "position_last",
    "share",
    "n",
    "dtype",
    "device",
    "backend",
    "seed",
    "status",
    "reason",
]
TABLES = {
    "score": ("scores.csv", SCORE_COLUMNS),
    "cost": ("costs.csv", COST_COLUMNS),
    "telemetry": ("telemetry.csv", TELEMETRY_COLUMNS),
}
RUNS = Path("results/runs")
REPORTS = Path("results/reports")  # of several runs


class RunFolder:
    """One run's folder, locked for as long as the `with` block lasts.

    Raises UserError when it cannot be written, holds another spec, or another run is working in it.
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path = path
        self.settings = settings
        self.journal = Journal(path)
        self._lock = FileLock(path / ".lock", timeout=0)

    def __enter__(self) -> "RunFolder":
        self._make_writable()
        try:
            self._lock.acquire()
        except Timeout as problem:
            raise UserError(
                f"another run is working in {self.path}: wait for it, or give another folder with --out"
            ) from problem
        try:
            self._check_spec()
            self.journal.sweep()
            shares = sorted(self.path.glob(f"{SHARES}/*"))
            for share in shares:
                self.journal.adopt(Journal(share))
            environment.gather(self.path, shares)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        # The file stays: removing it would let two later runs lock two different files of that name.
        self._lock.release()

    def _make_writable(self) -> None:
        try:
            make_writable(self.path)
            for folder in (self.journal.cells, self.journal.samples):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            if is_disk_trouble(problem) and problem.errno != 30:
                raise MachineError(
                    f"cannot write into {self.path}: {problem.strerror}; free some space, then give the same command again"
                ) from problem
            raise UserError(
                f"cannot write into {self.path}: {problem.strerror or problem}; give a folder that can be written with --out"
            ) from problem

    def _check_spec(self) -> None:
        """Refuse cells of another spec; where there are no cells yet, this spec takes the folder over."""
        path = self.path / "spec.yaml"
        text = yaml.safe_dump(self.settings, sort_keys=False, allow_unicode=True)
        there = _read_mapping(path)
        if there == yaml.safe_load(text):
            return
        if any(self.journal.cells.glob("*.json")):
            keys = [key for key, value in yaml.safe_load(text).items() if there.get(key) != value]
            differs = (
                f"another spec (differs in: {', '.join(keys)})"
                if there
                else "an unknown spec (its spec.yaml is gone or broken)"
            )
            last = "or remove that one" if there else "or put that file back"
            raise UserError(f"{self.path} holds a run of {differs}: choose another folder with --out, {last}")
        other = made_by(self.path)
        if other in ELSEWHERE or (not path.exists() and (self.path / "environment.json").exists()):
            what = f"a run of `{other}`" if other in ELSEWHERE else "figures of another command"
            raise UserError(f"{self.path} holds {what}: choose another folder with --out")
        (self.path / "environment.json").unlink(missing_ok=True)
        write_atomic(path, text)

    def write_tables(self, cells: list[Cell], records: dict[str, dict[str, Any]]) -> None:
        """Rewrite the tables from the finished cells; a run without telemetry has no table of it."""
        found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in TABLES}
        for cell in cells:
            if cell.id in records:
                found[cell.kind].extend(table_rows(cell, records[cell.id]))
        if not any(cell.kind == "telemetry" for cell in cells):
            # Its cells stay, from which a later run with telemetry makes the table again.
            del found["telemetry"]
            (self.path / TABLES["telemetry"][0]).unlink(missing_ok=True)
        for kind, rows in found.items():
            name, columns = TABLES[kind]
            text = io.StringIO()
            writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
            writer.writeheader()
            writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
            path = self.path / name
            if not path.exists() or path.read_text(encoding="utf-8") != text.getvalue():
                write_atomic(path, text.getvalue())

    def tables_newer_than_report(self) -> bool:
        """Whether the report is missing or older than what it shows."""
        reports = [self.path / "report.md", self.path / "report.html"]
        names = [*(name for name, _ in TABLES.values()), "environment.json"]
        shown = [self.path / name for name in names if (self.path / name).exists()]
        if not all(path.exists() for path in reports):
            return True
        return max(path.stat().st_mtime_ns for path in shown) > min(path.stat().st_mtime_ns for path in reports)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        content = yamls.read(path)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def table_rows(cell: Cell, record: dict[str, Any]) -> list[dict[str, Any]]:
    """The cell's rows for its table; a cell without figures gives one row that says why."""
    columns = TABLES[cell.kind][1]
    common = {
        **cell.as_dict(),
        "batch_size": record.get("batch") or cell.batch,
        "backend": record.get("backend"),
        "status": record["status"],
        "reason": record.get("reason"),
    }
    rows = record.get("rows") or []
    rows = (tidy(rows) if cell.kind == "telemetry" else rows) or [{}]
    return [{key: value for key, value in {**common, **row}.items() if key in columns} for row in rows]


# What shows the figures of runs that have no scores.csv.
ELSEWHERE = {
    "hybridize": "its figures are in heldout.csv and training.svg",
    "search": "its report.md was written with it",
    "train": "its figures are in train.csv, or in mqar.csv, which `plot state-recall` draws",
}


def lost_tables(folder: Path) -> list[str]:
    """Tables of scores and costs that are gone, empty or torn though cells that they are made of are there."""
    suspect = {}
    for kind in ("score", "cost"):
        path = folder / TABLES[kind][0]
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            if content.count(b"\n") > 1 and content.endswith(b"\n"):
                continue
        suspect[kind] = path.name
    journal, found = Journal(folder), set()
    for file in sorted(journal.cells.glob("*.json")):
        if found == set(suspect):
            break
        found |= {((journal.read(file.stem) or {}).get("cell") or {}).get("kind")} & set(suspect)
    return [name for kind, name in suspect.items() if kind in found]


def made_by(folder: Path) -> str | None:
    """The verb that the run in a folder is of; None where nothing in it says so."""
    return "search" if (folder / "search.yaml").is_file() else verb_of(_read_mapping(folder / "spec.yaml"))


def find_run(given: str, verbs: tuple[str, ...] = ("eval",)) -> Path:
    """The run folder for a path or a bare name under results/runs. Raises UserError when there is none, or it is one of another
    verb than `verbs`."""
    path = user_path(given, "run", "give a run folder")
    for folder in (path, RUNS / given):
        # A path longer than a system's longest is one that is not there.
        with contextlib.suppress(OSError):
            verb = made_by(folder)
            if verb in ELSEWHERE and verb not in verbs:
                raise UserError(f"{given!r} is a run of `{verb}`; {ELSEWHERE[verb]}: give a run of `{verbs[0]}`")
            if (folder / "spec.yaml").is_file():
                return folder
    runs = sorted(path.parent.name for path in RUNS.glob("*/spec.yaml"))
    there = f" (runs: {', '.join(runs)})" if runs else ""
    problem = f"no such run: {given!r}"
    if path.is_dir():
        problem = f"{given!r} is a folder, but no run, as it has no spec.yaml"
    elif path.is_file():
        problem = f"{given!r} is a file, and no run"
    raise UserError(f"{problem}; give a run folder, or the name of one under {RUNS}{there}")


def find_runs(given: list[str], verbs: tuple[str, ...] = ("eval",)) -> list[Path]:
    """The folder of each of them, as `find_run` finds it. Raises UserError as it does, and when one is given twice."""
    folders = [find_run(one, verbs) for one in given]
    places = [folder.resolve() for folder in folders]
    twice = next((one for place, one in enumerate(given) if places[place] in places[:place]), None)
    if twice is not None:
        raise UserError(f"the run {twice!r} is given twice: give each run once")
    return folders


def joined_folder(folders: list[Path]) -> Path:
    """Where the report of several runs goes when no place is given. Raises UserError where their names make none."""
    name = "+".join(folder.resolve().name for folder in folders)
    if len(name.encode("utf-8", errors="replace")) > 200:
        raise UserError("the runs' names together are too long for a folder's: give one with --out")
    return REPORTS / name
