"""The results pages, read from results/reference when the site is built: what a README or a report there says, the tables of
CSVs, and from environment.json what made them. No figure is copied by hand.

A result is a folder, or a CSV with its environment and picture beside it; a new one is found by being there.
"""

import csv
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from rich.table import Table as RichTable

from nha_eval.bench import rows as bench

ROOT = Path(__file__).parents[2]
FOLDER = "results/reference"
REFERENCE = ROOT / FOLDER
BENCHES = {
    "bench-op": (bench.OP, "table"),
    "bench-model": (bench.MODEL, "model_table"),
    "bench-harness": (bench.HARNESS, "harness_table"),
}
VERSIONS = ("python", "torch", "transformers", "triton", "fla-core", "lm_eval")
MOST_ROWS = 150  # of a table that is shown whole
ABOUT = """# Results

What was measured with this project's own commands, and lies in the repository under `results/reference`. Each page is made
from the files there when this site is built: the tables from the CSVs, the rest from `environment.json`.
[Read a report](../../how-to/read-a-report.md) says what the figures mean.

"""


@dataclass(frozen=True)
class Result:
    name: str
    text: Path | None  # README.md or report.md, if it has one
    tables: tuple[Path, ...]
    environments: tuple[Path, ...]
    pictures: tuple[Path, ...]
    files: tuple[Path, ...]

    @property
    def address(self) -> str:
        return f"{FOLDER}/{self.name}.md" if self.text is None else str(self.text.relative_to(ROOT))

    @property
    def title(self) -> str:
        """As its README says; a report is called after its run, which is no better than the folder's name."""
        if self.text is not None and self.text.name == "README.md":
            return self.text.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        return self.name


def results() -> list[Result]:
    """Every result there is, by name."""
    found = []
    for path in sorted(REFERENCE.iterdir()):
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            text = next((path / name for name in ("README.md", "report.md") if (path / name).is_file()), None)
            found.append(_result(path.name, text, files))
        elif path.suffix == ".csv":
            found.append(_result(path.stem, None, sorted(REFERENCE.glob(f"{path.stem}.*"))))
    return found


def _result(name: str, text: Path | None, files: list[Path]) -> Result:
    return Result(
        name,
        text,
        tuple(file for file in files if file.suffix == ".csv"),
        tuple(file for file in files if file.name.endswith("environment.json")),
        tuple(file for file in files if file.suffix == ".svg"),
        tuple(file for file in files if file != text),
    )


def page(result: Result) -> str:
    """The page of a result that has no text of its own."""
    parts = [f"# {result.title}"]
    parts += [f"![{picture.stem}, drawn]({_link(result, picture)})" for picture in result.pictures]
    for path in result.tables:
        kind = next((kind for kind in BENCHES if path.name.startswith(kind)), None)
        parts.append(f"## {path.stem}" if len(result.tables) > 1 else "")
        parts.append(_bench(path, kind) if kind else _plain(path))
    return "\n\n".join(part for part in parts if part) + "\n"


def made(result: Result) -> str:
    """What made a result, and its files."""
    parts = ["## What made it"] if result.environments else []
    for path in result.environments:
        about = json.loads(path.read_text(encoding="utf-8"))
        if len(result.environments) > 1:
            parts.append(f"### {path.parent.name}")
        parts.append(f"```sh\n{about['command']}\n```")
        parts.append("\n".join(f"- {line}" for line in _facts(about)))
    links = [
        f"- [{path.relative_to(REFERENCE)}]({_link(result, path)}) ({path.stat().st_size / 1000:,.0f} kB)"
        for path in result.files
    ]
    return "\n\n".join([*parts, "## Files", "\n".join(links)]) + "\n"


def _facts(about: dict[str, Any]) -> list[str]:
    versions = about.get("versions", {})
    named = [f"{name} {versions[name]}" for name in VERSIONS if versions.get(name)]
    made = ", ".join(filter(None, (_date(about), f"commit {_commit(about)}" if _commit(about) else "")))
    return [line for line in (made, _device(about), ", ".join(named)) if line]


def _date(about: dict[str, Any]) -> str:
    return (about.get("date") or "")[:10]


def _commit(about: dict[str, Any]) -> str:
    commit = (about.get("commit") or "")[:7]
    return f"{commit}, changed since" if commit and about.get("dirty") else commit


def _device(about: dict[str, Any]) -> str:
    gpu = about.get("gpu")
    if isinstance(gpu, dict):
        gpu = gpu.get("name")
    # Trainings name the device itself.
    named = about.get("device") or ""
    cpu = f"{about['cpu']}, {about['cores']} cores" if about.get("cpu") else ""
    return gpu or (named if " " in named else cpu)


def _link(result: Result, path: Path) -> str:
    return str(path.relative_to(ROOT / Path(result.address).parent))


class _Collector:
    """Stands for rich's console: what a command prints becomes Markdown."""

    def __init__(self) -> None:
        self.width, self.parts = 0, []

    def print(self, what: Any, **options: Any) -> None:
        self.parts.append(
            _markdown(what) if isinstance(what, RichTable) else f"**{what}**" if "style" in options else str(what)
        )


def _markdown(table: RichTable) -> str:
    head = [str(column.header) for column in table.columns]
    lines = [list(cells) for cells in zip(*([str(cell) for cell in column._cells] for column in table.columns), strict=True)]
    caption = f"**{table.title}**\n\n" if table.title else ""
    return caption + _table(head, lines)


def _table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _bench(path: Path, kind: str) -> str:
    """The tables that `bench show` prints."""
    table, module = BENCHES[kind]
    found = _rows(path)
    if found and tuple(found[0]) != table.columns:
        # Older figures, with other columns: they are shown as they are.
        return _plain(path)
    collector = _Collector()
    importlib.import_module(f"nha_eval.bench.{module}").show(found, collector)
    return "\n\n".join(collector.parts)


def _plain(path: Path) -> str:
    """The columns in which rows differ as a table; what is alike in all of them as a line above it."""
    found = _rows(path)
    if not found:
        return "No rows."
    differ = [column for column in found[0] if len({row[column] for row in found}) > 1]
    alike = [f"{column} {found[0][column]}" for column in found[0] if column not in differ and found[0][column]]
    shown = _table(differ, [[_figure(row[column]) for column in differ] for row in found[:MOST_ROWS]])
    left = f"\n\n{len(found) - MOST_ROWS} rows more are in the file." if len(found) > MOST_ROWS else ""
    return f"In all rows: {', '.join(alike)}.\n\n{shown}{left}"


def _figure(text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        return text
    return text if number.is_integer() and "." not in text else f"{number:,.4g}" if abs(number) < 1000 else f"{number:,.0f}"


def _overview() -> str:
    lines = []
    for result in results():
        about = json.loads(result.environments[0].read_text(encoding="utf-8")) if result.environments else {}
        link = f"[{result.title}]({Path(result.address).relative_to(FOLDER)})"
        lines.append([link, _device(about), _date(about), _commit(about)])
    return ABOUT + _table(["result", "machine", "date", "commit"], lines) + "\n"


def on_config(config):
    """Put the results where the navigation says `Results`."""
    pages = [f"{FOLDER}/index.md", *({result.title: result.address} for result in results())]
    config.nav[:] = [{"Results": pages} if entry == "Results" else entry for entry in config.nav]
    return config


def on_files(files: Files, config) -> Files:
    files.append(File.generated(config, f"{FOLDER}/index.md", content=_overview()))
    for result in results():
        if result.text is None:
            files.append(File.generated(config, result.address, content=page(result)))
        for path in (*result.files, *([result.text] if result.text else [])):
            files.append(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page, config, files: Files) -> str:
    result = next((result for result in results() if result.address == page.file.src_uri), None)
    return markdown if result is None else f"{markdown.rstrip()}\n\n{made(result)}"
