"""The report's paired comparisons: the figures are those that `compare` writes, and the headline's words follow them."""

import csv
import json
import subprocess
import sys

import pytest
from report_run import score, write_run
from scored_run import add, documents
from test_report import HOSTILE, Page, pages

from nha_eval.comparison import Only, compare
from nha_eval.comparison.show import chance
from nha_eval.journal import Journal

FULL, NHA, SWA = "base", "nha-base", "swa-base"
TITLE = "Which differences are real"


def run_of(folder, settings, tasks=("one", "two"), **cell):
    """A run whose `settings` {(model, window): documents right of 40} are scored on tasks of one suite, in cells and tables."""
    rows = []
    for (model, window), right in settings.items():
        for task in tasks:
            answers = [place < right for place in range(40)]
            add(folder, model, window, documents(answers), task=task, **cell)
            suite = cell.get("suite", "recall")
            rows.append(score(model, window, task, right / 40, 0.05, suite=suite, length=cell.get("length", 512)))
    return write_run(folder, rows)


WHOLE = {(FULL, "full"): 36, (NHA, "64"): 35, (NHA, "256"): 36, (SWA, "64"): 12, (SWA, "256"): 20}


def section(markdown):
    return markdown.split(f"## {TITLE}")[1].split("\n## ")[0]


def lines_of(markdown):
    """The first table's rows by setting, as text."""
    rows = [line for line in section(markdown).split("\n### ")[0].splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[2:]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = run_of(tmp_path_factory.mktemp("runs") / "run", WHOLE)
    return folder, *pages(folder)


@pytest.mark.parametrize("by", ["suite", "task"])
def test_the_tables_hold_what_compare_writes(whole, by, tmp_path):
    folder, markdown, page = whole
    compare(str(folder), only=Only(by=by), out=tmp_path)
    with (tmp_path / "comparisons.csv").open(newline="") as file:
        wanted = list(csv.DictReader(file))
    assert len(wanted) == 4 if by == "suite" else 8
    for row in wanted:
        figures = [f"{float(row[name]):.3f}" for name in ("value_a", "value_b")]
        bounds = [f"{float(row[bound]):+.3f}" for bound in ("ci_low", "ci_high") if row[bound]]
        figures += [f"{float(row['difference']):+.3f}", " to ".join(bounds) or "none"]
        if by == "task":
            assert " ".join(figures) in Page(page).text
            continue
        shown = lines_of(markdown)[f"{row['model_a']}, window {row['window_a']}"]
        assert list(shown.values())[3:7] == figures
        assert shown["reference"] == "base, full attention" and shown["documents paired"] == "80"
        better = {"A is better": "better", "B is better": "worse"}
        assert shown["finding"] == better.get(row["verdict"], row["verdict"])
        for column, p in (("p", float(row["p"])), ("p, Holm", float(row["p_holm"]))):
            told = float(shown[column].replace("&lt;", "").strip())
            assert told == pytest.approx(p, rel=0.06, abs=5e-4)


def test_the_headline_says_which_loss_is_significant(whole):
    markdown = whole[1]
    assert "NHA keeps 97% of full attention's recall score (0.88 against 0.90; no difference shown, p = " in markdown
    assert "and sliding window alone 33% (0.30; the loss is significant, p = 0.0004)" in markdown


def test_what_the_slots_bring_is_tested_by_itself(whole, tmp_path):
    folder, markdown, _ = whole
    compare(str(folder), a=NHA, b=SWA, only=Only(by="suite"), out=tmp_path)
    with (tmp_path / "comparisons.csv").open(newline="") as file:
        wanted = {row["window_a"]: row for row in csv.DictReader(file)}
    part = section(markdown).split("\n### What the slots bring")[1]
    assert sorted(wanted) == ["256", "64"]
    for window, row in wanted.items():
        (line,) = [
            line for line in part.splitlines() if line.startswith(f"| {NHA}, window {window} | {SWA}, window {window} |")
        ]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[5] == f"{float(row['difference']):+.3f}" and cells[8] == chance(float(row["p_holm"]))
        assert cells[-1] == "better"
    assert "What the slots bring: NHA is 0.575 ahead of sliding window alone; the gain is significant, p = 0.0002." in markdown


def test_without_a_window_alone_nothing_is_said_of_slots(tmp_path):
    run = {(FULL, "full"): 36, (NHA, "64"): 35, ("swa-other", "64"): 12}
    assert "What the slots bring" not in pages(run_of(tmp_path / "run", run))[0]


def test_the_narrowest_window_agrees_with_the_table(tmp_path):
    """Intervals overlap at 31 against 36 of 40, but five documents lost in each of two tasks and none won are no chance."""
    folder = run_of(tmp_path / "run", {(FULL, "full"): 36, (NHA, "64"): 31, (NHA, "256"): 36})
    markdown, _ = pages(folder)
    assert lines_of(markdown)["nha-base, window 64"]["finding"] == "worse"
    assert "the narrowest window at which NHA is not distinguishably below full attention is 256" in markdown
    (folder / "cells").rename(folder / "elsewhere")
    without, _ = pages(folder)
    assert TITLE not in without and "not distinguishably below full attention at any window measured" in without


def test_without_full_attention_the_first_setting_is_the_reference(tmp_path):
    # Not the first by the alphabet.
    folder = run_of(tmp_path / "run", {("zeta", "none"): 30, ("alpha", "none"): 10})
    markdown, _ = pages(folder)
    shown = lines_of(markdown)
    assert list(shown) == ["alpha"] and shown["alpha"]["reference"] == "zeta" and shown["alpha"]["finding"] == "worse"


def test_one_setting_has_no_section(tmp_path):
    markdown, page = pages(run_of(tmp_path / "run", {(FULL, "full"): 30}))
    assert TITLE not in markdown + page


def test_a_difference_of_other_documents_is_not_quoted(tmp_path):
    folder = run_of(tmp_path / "run", {(FULL, "full"): 36})
    # Half of the documents: paired on those 20, while the table's score is over all of A's.
    add(folder, NHA, "64", documents([True] * 5 + [False] * 15), task="one")
    add(folder, NHA, "64", documents([True] * 5 + [False] * 15), task="two")
    rows = [score(FULL, "full", task, 0.9, 0.05, suite="recall", length=512) for task in ("one", "two")]
    rows += [score(NHA, "64", task, 0.25, 0.05, suite="recall", length=512) for task in ("one", "two")]
    markdown, _ = pages(write_run(folder, rows))
    assert "NHA keeps 28% of full attention's recall score (0.25 against 0.90)." in markdown
    assert lines_of(markdown)["nha-base, window 64"]["reference's"] == "1.000"
    assert "documents left out: 40 that only B has" in section(markdown)


def test_hostile_names_render_inert(tmp_path):
    folder = run_of(tmp_path / "run", {("m", "full"): 30, ("m", "16"): 10}, tasks=("t",))
    for file in sorted((folder / "cells").glob("*.json")):
        record = json.loads(file.read_text())
        record["cell"] |= {"model": HOSTILE, "suite": HOSTILE, "task": HOSTILE}
        file.unlink()
        record.pop("sha256")
        right = 30 if "full" in file.stem else 10
        Journal(folder).write(file.stem, record, documents([place < right for place in range(40)]))
    rows = [score(HOSTILE, w, HOSTILE, v, 0.05, suite=HOSTILE, length=512) for w, v in (("full", 0.75), ("16", 0.25))]
    markdown, text = pages(write_run(folder, rows))
    page = Page(text)
    assert TITLE in page.text and "<script>alert(1)</script>" in page.text
    # The one script is the page's own.
    assert text.lower().count("<script") == 1 and "<script" not in section(markdown).lower()
    widths = {line.replace("\\|", "").count("|") for line in section(markdown).splitlines() if line.startswith("|")}
    assert widths == {12} and "\u202e" not in markdown + text


def test_pairing_imports_no_torch(whole):
    code = (
        f"import sys; from nha_eval.report import write_report; write_report({str(whole[0])!r}); "
        "assert 'nha_eval.paired' in sys.modules; bad = {'torch', 'transformers'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
