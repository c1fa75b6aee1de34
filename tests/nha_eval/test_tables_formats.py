"""Tables as Markdown, LaTeX, HTML and CSV: whole, readable back, and with names that are nothing but text."""

import csv
import html.parser
import io
import itertools
import re
import unicodedata

import pytest
from hostile import NAMES
from published_run import rows_of
from report_run import write_run

from nha_eval.tables.cells import NOT_MEASURED, REPRODUCED, fill, parse_columns
from nha_eval.tables.formats import CSV_COLUMNS, FORMATS, latex_text, print_shown, render_as
from nha_eval.tables.measured import read_measured
from nha_eval.tables.shown import lay_out
from nha_eval.tables.spec import read_table, table_names

TABLES = [read_table(name) for name in table_names()]
MAIN = read_table("nha-main")


@pytest.fixture(scope="module")
def bare():
    return fill(TABLES, [], [])


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    rows = [row for row in rows_of(MAIN) if row["model"] == "NHA"]
    run = write_run(tmp_path_factory.mktemp("runs") / "run", rows)
    return fill([MAIN], [read_measured(str(run))], parse_columns(["NHA=NHA"], [MAIN]))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run whose models and reasons have such names; one of them stands in a column."""
    rows = []
    for name in NAMES.values():
        rows += [{**row, "model": name, "window": name} for row in rows_of(MAIN) if row["model"] == "NHA"]
        rows.append({**rows[-1], "task": "recall_pla_fda", "status": "error", "reason": name, "value": ""})
    rows = [row for row in rows if "\0" not in row["model"]]
    # One figure less each, so that reasons are shown.
    rows = [row for row in rows if row["task"] != "recall_pla_fda" or row["status"] == "error"]
    run = read_measured(str(write_run(tmp_path_factory.mktemp("runs") / "run", rows)))
    return fill([MAIN], [run], parse_columns([f"NHA={NAMES['formula']}"], [MAIN]))


def terminal(filled):
    from rich.console import Console

    text = io.StringIO()
    print_shown(map(lay_out, filled), Console(file=text, highlight=False))
    return text.getvalue()


def test_csv_is_read_back(bare):
    rows = list(csv.DictReader(io.StringIO(render_as("csv", bare))))
    assert list(rows[0]) == CSV_COLUMNS
    shipped = {(row.model, row.metric, row.length, row.value, row.source) for table in TABLES for row in table.rows}
    assert {(r["model"], r["metric"], r["length"], r["published"], r["source"]) for r in rows if r["published"]} == shipped
    assert {row["verdict"] for row in rows} == {NOT_MEASURED}
    assert all(row["command"].startswith("nha-eval eval") or row["reason"] for row in rows)


def test_csv_holds_figures_and_verdict(compared):
    rows = list(csv.DictReader(io.StringIO(render_as("csv", compared))))
    (row,) = [row for row in rows if (row["model"], row["metric"]) == ("NHA", "recall_avg")]
    assert (row["published"], row["measured"], row["difference"]) == ("46.43", "46.43", "0.0")
    assert (row["verdict"], row["stands_in"], row["run"], row["n"]) == (REPRODUCED, "NHA", "run", "3000")
    assert float(row["ci_low"]) < 46.43 < float(row["ci_high"])


@pytest.mark.parametrize("kind", [*FORMATS, "terminal"])
def test_every_format_has_every_figure_once(kind, bare):
    text = terminal(bare) if kind == "terminal" else render_as(kind, bare)
    figures = re.findall(r"(?<![\d.(])\d+\.\d+(?![\d.])", text)
    for table in TABLES:
        for row in table.rows:
            assert row.value in figures, (table.name, row)
        if kind != "csv":
            assert table.spec.title.replace("_", r"\_" if kind == "latex" else "_") in text


def test_markdown_tables_are_rectangular(bare, compared):
    for filled in (bare, compared):
        lines = [line for line in render_as("markdown", filled).splitlines() if line.startswith("|")]
        assert len(lines) > 5
        for above, line in itertools.pairwise(lines):
            if set(line) <= set("|-: "):
                width = above.count("|")
            if set(line) <= set("|-: ") or above.startswith("| ---"):
                assert line.count("|") == width


def check_latex(text):
    begun = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if what == "begin":
            begun.append(name)
        else:
            assert begun.pop() == name
    assert not begun
    bare = re.sub(r"\\[\\{}&%$#_]", "", text)
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    for block in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.S):
        rows = [line for line in block[1].splitlines() if line.rstrip().endswith(r"\\")]
        assert rows and all(len(re.findall(r"(?<!\\)&", line)) == len(block[0]) - 1 for line in rows)
    assert text.count("\\toprule") == text.count("\\midrule") == text.count("\\bottomrule") == text.count("\\begin{tabular}")
    commands = set(re.findall(r"\\([a-z]+)", text))
    assert commands <= {
        *("begin", "end", "centering", "caption", "label", "toprule", "midrule", "bottomrule", "item", "texttt", "noindent"),
        *("usepackage", "textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater"),
        *("textquotesingle", "textasciigrave"),
    }, commands


def test_latex_is_balanced(bare, compared, hostile):
    for filled in (bare, compared, hostile):
        check_latex(render_as("latex", filled))


def test_latex_escapes_each_character():
    assert latex_text(r"50% & $x_1 \cmd{a} ~^#") == (
        r"50\% \& \$x\_1 \textbackslash{}cmd\{a\} \textasciitilde{}\textasciicircum{}\#"
    )
    assert latex_text("--my-model <a> '") == r"-{}-my-model \textless{}a\textgreater{} \textquotesingle{}"


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_html_is_one_whole_page_without_script_or_reference(bare, compared, hostile):
    for filled in (bare, compared, hostile):
        text = render_as("html", filled)
        page = Page(text)
        assert not page.open
        allowed = {"html", "head", "meta", "title", "style", "body", "main", "section", "div", "p", "pre", "h1", "h2", "h3"}
        assert {tag for tag, _ in page.tags} <= allowed | {"table", "thead", "tbody", "tr", "th", "td"}
        for tag, attributes in page.tags:
            assert not {name for name in attributes if name.startswith("on") or name in ("src", "href", "style")}, tag
        assert "url(" not in text and "@import" not in text


def test_hostile_names_are_text(hostile):
    words = " ".join(Page(render_as("html", hostile)).words)
    assert "<script>alert(1)</script>" in words and "{{7*7}}" in words
    markdown = render_as("markdown", hostile)
    outside = "".join(markdown.split("```")[::2])
    assert "<script" not in outside and "<img" not in outside and not re.search(r"(?<!\\)\]\(javascript", outside)
    for text in (markdown, render_as("latex", hostile), render_as("html", hostile), terminal(hostile)):
        assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n"] and "\u202e" not in text
        assert "x" * 1000 not in text
    assert "[bold]x" in terminal(hostile)


def test_unknown_cells_stay_empty(bare):
    shown = next(lay_out(table) for table in bare if table.table.name == "phba-commonsense")
    (grid,) = shown.tables
    moba = next(row for row in grid.rows if row[0] == "MoBA")
    assert moba == ["MoBA", *[""] * 8, "57.97"]


def test_the_comparison_as_it_is_read(compared):
    _, table = lay_out(compared[0]).tables
    assert table.title == "NHA, measured here: NHA (size not recorded), said to be NHA (1.3B, 100B tokens)"
    found = {row[0]: row[1:] for row in table.rows}
    assert found["wiki_ppl"] == ["16.16", "16.16", "15.77 to 16.55", "+0.00", "500", "reproduced"]
    assert found["FDA"] == ["", "46.43", "44.47 to 48.39", "–", "500", "nothing published"]
    assert found["commonsense_avg"] == ["52.89", "–", "–", "–", "–", "not measured"]


def test_assumptions_and_gaps_are_told(bare):
    notes = {table.table.name: " ".join(lay_out(table).notes) for table in bare}
    assert "does not say which LAMBADA" in notes["mom-commonsense-380m"] and "acc or acc_norm" in notes["phba-commonsense"]
    assert "task by task, its rows at 340M" in notes["nha-main"] and "does not say of which tasks" in notes["nha-hybridised"]
    assert "other lists of words" in notes["phba-ruler"] and "average re-computed" in notes["phba-long"]
    for table in bare:
        assert notes[table.table.name].startswith("Source: ")
