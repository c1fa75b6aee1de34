"""The site builds without a warning, shows its pictures, asks no other host for anything, and its figures are the CSVs'."""

import csv
import html
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documented import ROOT
from test_documented import root  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
TAG = re.compile(r"<(script|img|link|iframe|source)\b[^>]*>")
ADDRESS = re.compile(r'\b(?:src|href)="?([^"\s>]+)')


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    made = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", made], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return made


def pages(site):
    return [(path, path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))]


def test_what_a_page_loads_lies_in_the_site(site):
    pictures = 0
    for path, text in pages(site):
        for tag in TAG.finditer(text):
            if tag[1] == "link" and "canonical" in tag[0]:
                continue
            for address in ADDRESS.findall(tag[0]):
                target = html.unescape(address).split("#")[0].split("?")[0]
                assert not re.match(r"[a-z]+:|//", target) or target.startswith("data:"), f"{path}: {tag[0]}"
                if target and not target.startswith("data:"):
                    # 404.html is asked for from anywhere, and names its files from the root.
                    found = (site / target[1:]) if target.startswith("/") else path.parent / target
                    assert found.exists() or (found / "index.html").exists(), f"{path}: {target}"
                    pictures += tag[1] == "img"
    assert pictures > 8


def test_style_sheets_load_nothing_from_elsewhere(site):
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", path.read_text(encoding="utf-8")), path


def test_every_verb_has_a_page_with_its_options(site, root):  # noqa: F811
    for name, command in root.commands.items():
        for part, leaf in getattr(command, "commands", {"": command}).items():
            page = site / "reference/commands" / f"{name}-{part}".rstrip("-") / "index.html"
            text = html.unescape(page.read_text(encoding="utf-8"))
            for option in (option for param in leaf.params for option in param.opts if option.startswith("--")):
                assert option in text, f"{page}: {option}"


def test_results_are_the_figures_of_their_csvs(site):
    with (ROOT / "results/reference/bench-model-h100.csv").open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["phase"] == "prefill" and row["status"] == "ok"]
    text = (site / "results/reference/bench-model-h100/index.html").read_text(encoding="utf-8")
    shown = {float(cell.split(" ")[0].replace(",", "")) for cell in re.findall(r"<td[^>]*>([\d.,]+(?: [^<]*)?)</td>", text)}
    for row in rows:
        assert any(abs(figure - float(row["latency_ms"])) < 0.006 * figure for figure in shown), row
    report = (ROOT / "results/reference/quickstart-cpu/report.md").read_text(encoding="utf-8")
    text = (site / "results/reference/quickstart-cpu/report/index.html").read_text(encoding="utf-8")
    for figure in re.findall(r"\d\.\d{3} ± \d\.\d{3}", report):
        assert figure in text


def test_every_result_has_a_page(site):
    for path in (ROOT / "results/reference").iterdir():
        if path.is_dir() or path.suffix == ".csv":
            assert Path(site / "results/reference" / path.name.removesuffix(".csv")).is_dir()
    index = (site / "results/reference/index.html").read_text(encoding="utf-8")
    assert all(word in index for word in ("bench-op-h200", "NVIDIA H200", "de6387e"))
