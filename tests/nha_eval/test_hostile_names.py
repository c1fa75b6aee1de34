"""Names that would lead elsewhere, run, or garble: none leaves the run folder, none is more than text in a page or picture."""

import csv
import html.parser
import json
import os
import re
import unicodedata
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import fakes
import pytest
from hostile import NAMES, writes

from nha_eval import cli, runner, store
from nha_eval.evaluate import file_name, prepare
from nha_eval.spec import Spec

FOLDERS = [key for key in NAMES if key not in ("long", "nul", "absolute", "dots")]
TAGS = {"html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "strong", "div", "nav", "a", "section"}
TAGS |= {"figure", "figcaption", "table", "thead", "tbody", "tfoot", "tr", "th", "td", "pre", "details", "summary"}
TAGS |= {"span", "button", "script"}
SHAPES = {"svg", "g", "path", "defs", "use", "clippath", "rect", "text", "tspan", "metadata", "style", "circle"}


def suite(name, task):
    return {name: [SimpleNamespace(**{**vars(fakes.suites()["sense"][0]), "name": task, "suite": name, "protocol": task})]}


@pytest.fixture(scope="module", params=["models", "suites"])
def run(request, tmp_path_factory):
    """A whole run whose models, or whose suites, tasks and protocols, have such names; what it wrote, and what it said."""
    folder = tmp_path_factory.mktemp("names") / "a" / "run"
    folder.parent.mkdir()
    every, one = list(NAMES.values()), [NAMES["script"]]
    models, named = (every, one) if request.param == "models" else (one, every)
    suites = {}
    for name in named:
        suites |= suite(name, name)
    content = {"models": models, "suites": list(suites), "windows": [16], "costs": {"lengths": [64]}}
    spec = Spec.model_validate({**content, "device": "cpu", "out": str(folder)})
    said = []
    with writes() as written:
        begun = prepare(spec, describe=fakes.describe, suites=suites, executor=fakes.executor())
        begun.display = lambda *given: Recorder(said, *given)
        assert begun.go() == 0
    return SimpleNamespace(folder=folder, written=written, said=said, models=models, suites=named)


class Recorder(runner.Display):
    """A display whose lines are kept."""

    def __init__(self, said, *given):
        from rich.console import Console

        class Lines:
            encoding = "utf-8"

            def write(self, text):
                said.append(text)

            def flush(self):
                pass

        super().__init__(*given, console=Console(file=Lines(), highlight=False, soft_wrap=True, color_system=None))


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)


def test_nothing_is_written_outside_the_run_folder(run):
    assert not run.written.outside(run.folder)
    assert len({path for path in run.written.paths if "/cells/" in path}) > len(NAMES)
    assert [path.name for place in list(run.folder.parents)[:2] for path in place.iterdir()] == ["run", "a"]


def test_files_have_plain_names(run):
    names = [path.name for path in run.folder.rglob("*") if path.name != ".lock"]
    assert len(names) > len(NAMES)
    for name in names:
        assert name.isascii() and len(name) < 255 and name[0] not in ".-" and not set(name) & set("/\\<>:\"|?*'$`;& \n\0"), name


def test_tables_hold_the_names_as_they_are(run):
    csv.field_size_limit(2**20)
    with (run.folder / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == set(run.models)
    for column in ("suite", "task"):
        assert {row[column] for row in rows} == set(run.suites)
    assert set(json.loads((run.folder / "environment.json").read_text())["models"]) == set(run.models)


def test_the_page_has_no_tag_and_no_attribute_of_theirs(run):
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag in TAGS | SHAPES, tag
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("src", "srcdoc", "action", "formaction"), (tag, name)
            assert not name.endswith("href") or value.startswith("#") or (run.folder / value).is_file(), value
    # The page's own, whose hash its policy names.
    assert [tag for tag, _ in page.tags].count("script") == 1
    words = " ".join(" ".join(page.words).split())
    assert "<script>alert(1)</script>" in words and "{{7*7}}" in words and "${HOME}" in words
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in text if c not in "\n\t") and "\u202e" not in text
    # The spec stands there as it was given; everywhere else a name is cut.
    assert "x" * 1000 not in re.sub("(?s)<pre>.*?</pre>", "", text)


def test_markdown_holds_no_html_of_theirs(run):
    lines = (run.folder / "report.md").read_text(encoding="utf-8")
    outside = "".join(part for place, part in enumerate(lines.split("```")) if place % 2 == 0)
    assert "<script" not in outside and "<img" not in outside and not re.search(r"(?<!\\)\]\(javascript", outside)


def test_pictures_are_shapes_and_text(run):
    pictures = sorted((run.folder / "plots").glob("*.svg"))
    assert len(pictures) >= 2
    for picture in pictures:
        for element in ET.parse(picture).getroot().iter():
            space, _, tag = element.tag.rpartition("}")
            assert not space.endswith("svg") or tag.lower() in SHAPES, tag
            for name, value in element.attrib.items():
                assert not name.lower().startswith("on") and (not name.endswith("href") or value.startswith("#")), (tag, name)


def test_what_is_said_cannot_steer_a_terminal(run):
    said = "".join(run.said)
    assert len(run.said) > len(NAMES) and "red" in said
    assert not [c for c in said if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n"]


@pytest.mark.parametrize("name", FOLDERS)
def test_out_is_where_it_says_and_nowhere_else(name, tmp_path, monkeypatch):
    here = tmp_path / "a" / "b" / "c"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    given = NAMES[name].replace("/", "∕") if name in ("script", "attribute", "markup", "formula") else NAMES[name]
    with writes() as written:
        assert fakes.make_run(Path(given), {"models": ["base"], "suites": ["sense"], "costs": False}).go() == 0
    assert (here / given / "scores.csv").is_file()
    assert not written.outside(os.path.normpath(here / given))


TAKEN = ["--model=nha-tiny", "--suite=recall-local"]
PLACES = {
    "model": ["eval", "--suite=recall-local", "--model={}"],
    "suite": ["eval", "--model=nha-tiny", "--suite={}"],
    **{option: ["eval", *TAKEN, f"--{option}={{}}"] for option in ("task", "window", "length", "device", "dtype", "limit")},
    "spec": ["eval", "--", "{}"],
    "mixer": ["doctor", "--mixer={}"],
    "only": ["bench", "op", "--only={}"],
    "shape": ["bench", "op", "--shape={}"],
    "bench-model": ["bench", "model", "--model={}"],
    "figures": ["bench", "show", "--", "{}"],
    "run": ["report", "--", "{}"],
    "plot-run": ["plot", "--out=x.svg", "window-accuracy", "--", "{}"],
    "plot-kind": ["plot", "--out=x.svg", "--", "{}", "nowhere"],
    "table": ["tables", "--", "{}"],
    "tables-run": ["tables", "--run={}", "--column=NHA={}"],
    "column": ["tables", "nha-main", "--column={}"],
    "plot-out": ["plot", "window-accuracy", "nowhere", "--out={}"],
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", PLACES)
def test_as_an_option_or_argument_it_is_one_line(place, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with writes() as written:
        code = cli.run([part.replace("{}", NAMES[name]) for part in PLACES[place]])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and len(err) < 720
    assert not [c for c in err[:-1] if unicodedata.category(c) in ("Cc", "Cf", "Cs")]
    assert not written.outside(tmp_path) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["..yaml", "...yaml", "-rf.yaml", "<script>.yaml", "a\nb.yaml", "🙂.yaml", "CON.yaml", "\u202ea.yaml", ".yaml"]
)
def test_a_run_named_after_its_spec_lies_under_the_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("models: [nha-tiny]\nsuites: [recall-local]\n")
    paths = []
    monkeypatch.setattr(runner.Run, "go", lambda run: paths.append(run.path) or 0)
    assert cli.run(["eval", "--", name]) == 0
    assert paths[0].parent == store.RUNS and paths[0].name[0].isalnum() and paths[0].name.isascii()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_made_a_files_is_one_files(name):
    made = file_name(NAMES[name])
    assert made == "" or (Path(made).name == made and made[0] not in ".-" and made.isascii() and len(made) <= 100)
