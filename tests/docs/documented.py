"""The commands that README and docs show: found in their `sh` blocks, one way of writing each."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = ("make", "mkdir", "nha-eval", "python", "pip", "lm_eval", "accelerate", "torchrun", "source", "git", "mkdocs")
OWN = "nha-eval "


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of every block of code."""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            yield token.info.split(" ")[0], token.content


def spans(page: Path) -> Iterator[str]:
    """What stands between backticks in the text, tables included."""
    for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")):
        for child in token.children or ():
            if child.type == "code_inline":
                yield child.content


def links(page: Path) -> Iterator[str]:
    """Where links and pictures lead."""
    for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")):
        for child in token.children or ():
            if child.type in ("link_open", "image"):
                yield str(child.attrs.get("href") or child.attrs.get("src"))


def lines(text: str) -> list[str]:
    """A shell's commands, one by one, lines that go on joined, without what stands behind #."""
    joined = re.sub(r"\\\n\s*", "", text)
    parts = (part for line in joined.splitlines() for part in line.split(" && "))
    return [one_way(part) for part in parts if shlex.split(part, comments=True)]


def one_way(line: str) -> str:
    """Without comment and environment: `.venv/bin/nha-eval` and `python run_eval.py` are `nha-eval`."""
    words = shlex.split(line, comments=True)
    words[0] = words[0].removeprefix(".venv/bin/")
    if words[:2] == ["python", "run_eval.py"]:
        words[:2] = ["nha-eval"]
    return shlex.join(words)


def commands() -> dict[str, list[Path]]:
    """Every command once, and the pages that show it."""
    found: dict[str, list[Path]] = {}
    for page in PAGES:
        for language, text in blocks(page):
            for command in lines(text) if language == "sh" else ():
                found.setdefault(command, []).append(page)
    return found
