"""`tables` as it is given: what it prints, measures and writes, its exit codes, and one line for what is wrong."""

import csv
import io
import json
import shutil
from types import SimpleNamespace

import pytest
from hostile import NAMES, writes
from published_run import columns_of, published_run, rows_of
from report_run import write_run

from nha_eval import cli
from nha_eval.plan import ModelInfo
from nha_eval.tables import running
from nha_eval.tables.formats import FORMATS
from nha_eval.tables.sizes import parameters
from nha_eval.tables.spec import read_table, table_names

MAIN = read_table("nha-main")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_out(capsys):
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_all_tables_are_printed(here, capsys):
    with writes() as written:
        assert cli.run(["tables"]) == 0
    out = capsys.readouterr().out
    assert (
        all(read_table(name).spec.title in out for name in table_names())
        and "Not measured: 15 of 15 published figures, 5 of which cannot be." in out
    )
    assert not written.outside(here) and not list(here.iterdir())


def test_a_commands_line_can_be_copied(capsys):
    assert cli.run(["tables", "mom-recall-1.3b"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "nha-eval tables mom-recall-1.3b --model CHECKPOINT --column Transformer++=CHECKPOINT" in lines
    assert any(line.startswith("nha-eval eval") and line.endswith("--length 2048 --no-costs") for line in lines)


@pytest.mark.parametrize(("shift", "verdict"), [(0, "reproduced"), (5, "not reproduced")])
def test_a_run_gets_its_verdicts(shift, verdict, here, capsys):
    published_run(here / "results/runs/mine", MAIN, shift=shift)
    assert cli.run(["tables", "nha-main", "--run", "mine", "--format", "csv", *columns_of(MAIN)]) == 0
    rows = rows_out(capsys)
    judged = [row for row in rows if row["published"] and row["metric"] != "commonsense_avg"]
    assert len(judged) == 10 and {row["verdict"] for row in judged} == {verdict}


@pytest.mark.parametrize(("kind", "suffix"), FORMATS.items())
def test_written_to_a_file_by_its_ending(kind, suffix, here, capsys):
    assert cli.run(["tables", "nha-main", "--out", f"new/main{suffix}"]) == 0
    assert capsys.readouterr().out == f"new/main{suffix}\n"
    assert cli.run(["tables", "nha-main", "--format", kind]) == 0
    assert (here / f"new/main{suffix}").read_text(encoding="utf-8") == capsys.readouterr().out


def test_list_shows_them(capsys):
    assert cli.run(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tables"] == table_names()


def test_a_run_that_has_nothing_to_say_is_told(here, capsys):
    write_run(here / "run", [])
    assert cli.run(["tables", "nha-main", "--run", "run"]) == 0
    assert capsys.readouterr().err == "note: nothing that these tables are of was measured in the run\n"


# Measuring


@pytest.fixture
def evaluation(monkeypatch, here):
    """Stands for the evaluation: `rows` are what it leaves in its folder, `code` its exit code; `spec` is what it was asked."""
    told = SimpleNamespace(code=0, rows=[], spec=None, name=None, longest=None)
    monkeypatch.setattr(running.catalog, "describe", lambda name: ModelInfo(name, "mine", "", 64, told.longest))
    monkeypatch.setattr(running, "parameters", lambda name: 137_838_528)

    def prepare(spec, name, describe):
        told.spec, told.name = spec, name
        path = here / (spec.out or f"results/runs/{name}")
        return SimpleNamespace(path=path, go=lambda: write_run(path, told.rows, spec="models: []\n") and told.code)

    monkeypatch.setattr(running, "prepare", prepare)
    return told


def test_the_evaluation_is_what_the_table_needs(evaluation):
    words = ["--limit=3", "--device=cpu", "--dtype=bfloat16", "--batch=2", "--data=fda=fda.jsonl"]
    assert cli.run(["tables", "phba-ruler", "--model", "some/model", *words]) == 0
    spec = evaluation.spec
    assert (spec.models[0].name, spec.suites, spec.costs) == ("some/model", ["ruler"], None)
    assert {task.name for task in spec.tasks} > {"ruler_niah_single_1", "ruler_niah_multivalue"} and len(spec.tasks) == 8
    assert all(task.lengths == [4096, 8192] for task in spec.tasks)
    assert (spec.limit, spec.device, spec.dtype, spec.batch, spec.datasets) == (3, "cpu", "bfloat16", 2, {"fda": "fda.jsonl"})
    assert evaluation.name == "tables-phba-ruler"
    assert cli.run(["tables", "nha-main", "--model", "m", "--into", "there"]) == 0
    assert evaluation.spec.suites == ["commonsense", "recall"] and evaluation.spec.out == "there"
    assert {task.name: task.lengths for task in evaluation.spec.tasks}["wikitext"] == []


def test_lengths_beyond_the_model_are_left_out(evaluation, capsys):
    evaluation.longest = 4096
    assert cli.run(["tables", "phba-ruler", "--model", "m"]) == 0
    assert all(task.lengths == [4096] for task in evaluation.spec.tasks)
    assert "mine takes up to 4,096 tokens: 8,192 are left out" in capsys.readouterr().err
    assert cli.run(["tables", "phba-long", "--model", "m"]) == 2
    assert capsys.readouterr().err.startswith("error: phba-long is of 16,384, 32,768, 65,536 tokens, mine takes up to 4,096")


def test_what_could_be_had_is_filled_and_the_rest_is_marked(evaluation, capsys):
    mine = [{**row, "model": "mine", "window": "64"} for row in rows_of(MAIN) if row["model"] == "NHA"]
    gone = {"metric": "", "value": "", "stderr": "", "n": "", "status": "unavailable", "reason": "no hub"}
    evaluation.rows = [{**row, **(gone if row["task"] == "recall_pla_drop" else {})} for row in mine]
    evaluation.code = 3
    assert cli.run(["tables", "nha-main", "--model", "some/model", "--format", "csv"]) == 3
    rows = rows_out(capsys)
    own = {row["metric"]: row for row in rows if not row["model"]}
    assert (own["FDA"]["verdict"], own["FDA"]["reason"]) == ("not comparable", "138M against 1.3B")
    assert (own["DROP"]["verdict"], own["recall_avg"]["verdict"]) == ("unavailable", "unavailable")
    assert own["DROP"]["command"] and own["commonsense_avg"]["verdict"] == "not measured"
    assert {row["verdict"] for row in rows if row["model"]} == {"not measured"}


def test_a_model_may_be_called_as_it_was_given(evaluation, monkeypatch, capsys):
    monkeypatch.setattr(running, "parameters", lambda name: 1_360_000_000)
    evaluation.rows = [{**row, "model": "mine", "window": "64"} for row in rows_of(MAIN) if row["model"] == "NHA"]
    for name in ("some/model", "mine", "mine:64"):
        assert cli.run(["tables", "nha-main", "--model=some/model", f"--column=NHA={name}", "--format=csv"]) == 0
        verdicts = {row["metric"]: row["verdict"] for row in rows_out(capsys) if row["model"] == "NHA"}
        assert verdicts["recall_avg"] == verdicts["wiki_ppl"] == "reproduced"


def test_a_small_model_cannot_be_said_to_be_the_published_one(evaluation, capsys):
    evaluation.rows = [{**row, "model": "mine", "window": "64"} for row in rows_of(MAIN) if row["model"] == "NHA"]
    assert cli.run(["tables", "nha-main", "--model=m", "--column=NHA=m"]) == 2
    assert "mine has 138M parameters, NHA here 1.3B" in capsys.readouterr().err


def test_without_the_hub_all_of_it_is_unavailable(here, capsys):
    assert cli.run(["tables", "nha-main", "--model", "nha-smollm2-135m", "--device", "cpu"]) == 3
    out, err = capsys.readouterr()
    assert "nha-smollm2-135m (138M, own)" in out and "NHA        16.16" in " ".join(out.split()).replace(
        "NHA 16.16", "NHA        16.16"
    )
    assert out.count("unavailable") >= 8 and "7 unavailable" in err
    assert (here / "results/runs/tables-nha-main/scores.csv").is_file()
    assert cli.run(["tables", "nha-main", "--model", "nha-tiny", "--device", "cpu"]) == 2
    assert "choose another folder with --into" in capsys.readouterr().err


@pytest.mark.slow
def test_without_the_hub_what_needs_no_data_is_measured(capsys):
    words = ["--model=nha-tiny", "--limit=1", "--device=cpu", "--format=csv"]
    assert cli.run(["tables", "phba-ruler", *words]) == 3
    own = {(row["metric"], row["length"]): row["verdict"] for row in rows_out(capsys) if not row["model"]}
    assert own["NIAH S1", "4K"] == own["NIAH MK3", "8K"] == "not comparable" and own["NIAH S2", "4K"] == "unavailable"


def test_parameters_are_counted_without_loading(tmp_path):
    from models.presets import preset_config
    from nha_eval.training.flops import weights_of

    assert parameters("nha-tiny") == sum(weights_of(preset_config("nha-tiny")).values())
    # Counted by a loaded model, in results/reference/quickstart-cpu/environment.json.
    assert parameters("nha-smollm2-135m") == 137_838_528
    assert parameters("org/name") is None and parameters(str(tmp_path)) is None


def test_parameters_of_a_folder(tmp_path):
    from models.presets import load
    from nha_eval.training.flops import weights_of

    loaded = load("nha-tiny")
    loaded.model.save_pretrained(tmp_path / "nha")
    assert parameters(str(tmp_path / "nha")) == sum(weights_of(loaded.model.config).values())
    shutil.copytree(tmp_path / "nha", tmp_path / "other")
    (tmp_path / "other/config.json").write_text('{"model_type": "llama"}')
    assert parameters(str(tmp_path / "other")) == parameters(f"nha:{tmp_path / 'other'}") == parameters("nha-tiny")


# What is wrong is one line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nha-mian"], "no such table: 'nha-mian'; did you mean 'nha-main'"),
        (["x" * 10_000], "no such table"),
        (["nha-main", "--run", "nowhere"], "no such run: 'nowhere'"),
        (["nha-main", "--run", ""], "run is empty"),
        (["nha-main", "--run", "a\0b"], "no file's name can have"),
        (["nha-main", "--run", "x" * 300], "File name too long"),
        (["nha-main", "--run", "run", "--column", "NHAA=NHA"], "no column 'NHAA' in what is shown; did you mean 'NHA'"),
        (["nha-main", "--run", "run", "--column", "NHA=nha"], "the run has no model 'nha'; models of the run: Trans++"),
        (["nha-main", "--run", "run", "--column", "NHA"], "wanted is a published model and a run's"),
        (["nha-main", "--run", "run", "--column", "=NHA"], "wanted is a published model and a run's"),
        (["nha-main", "--run", "run", "--column", "NHA=NHA", "--column", "NHA=GSA"], "NHA has a model already"),
        (["nha-main", "--column", "NHA=NHA"], "add --run with the run that has it, or --model"),
        (["nha-main", "--format", "pdf"], "--format 'pdf': wanted: markdown, latex, csv, html"),
        (["nha-main", "--out", "tables.pdf"], "wanted is a name that ends in .md, .tex, .csv, .html"),
        (["nha-main", "--out", "run"], "this is a folder; wanted is a file"),
        (["nha-main", "--out", ""], "--out is empty"),
        (["nha-main", "--limit", "3"], "--limit is for --model: give one"),
        (["nha-main", "--into", "x"], "--into is for --model: give one"),
        (["--model", "nha-tiny"], "--model nha-tiny: name one table to measure"),
        (["nha-main", "nha-ruler", "--model", "nha-tiny"], "name one table to measure"),
        (["nha-main", "--model", "nha-tinny"], "no such model: 'nha-tinny'"),
        (["nha-main", "--model", "nha-tiny", "--limit", "0"], "`limit` is 0"),
        (["nha-main", "--model", "nha-tiny", "--dtype", "int4"], "`dtype` is 'int4'"),
        (["nha-main", "--model", "nha-tiny", "--data", "fda=nowhere.jsonl"], "nowhere.jsonl"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else None,
)
def test_wrong_inputs(words, message, here, capsys):
    published_run(here / "run", MAIN)
    before = set(here.rglob("*"))
    assert cli.run(["tables", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and message in err and len(err) < 720
    assert set(here.rglob("*")) == before


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_are_one_line(name, here, capsys):
    given = NAMES[name]
    for words in (["--", given], ["nha-main", f"--run={given}"], ["nha-main", f"--format={given}"], [f"--column={given}"]):
        with writes() as written:
            assert cli.run(["tables", *words]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and not written.outside(here)


HEADER = "model,window,task,protocol,metric,value,stderr,n,length,status,reason\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column model, window"),
        (b"a,b\n1,2\n", "no column model, window"),
        (b"\xff\xfe\x00", "cannot be read"),
        (HEADER.encode() + b"m,64,t,p,x,many,,,,ok,\n", "line 2: value is 'many', no number"),
        (HEADER.encode() + b'm,64,t,p,"x', None),
        (HEADER.encode() + b"m,64,t,p,x,1,1,1,1e999,ok,,,,,\n", None),
        (HEADER.encode() + b"m,64\n", None),
    ],
    ids=["empty", "other", "bytes", "word", "open", "infinite", "short"],
)
def test_broken_tables(content, message, here, capsys):
    (here / "run").mkdir()
    (here / "run/scores.csv").write_bytes(content)
    assert cli.run(["tables", "nha-main", "--run", "run"]) == (2 if message else 0)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and (message or "note: ") in err


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"models": []}', '{"models": {"m": 3}}', '{"models": {"m": {"parameters": "x"}}}']
)
def test_what_a_run_says_besides_may_be_broken(content, here):
    run = published_run(here / "run", MAIN)
    (run / "environment.json").write_text(content)
    (run / "spec.yaml").write_text(content)
    assert cli.run(["tables", "nha-main", "--run", "run", "--column", "NHA=NHA"]) == 0


def test_a_folder_of_something_else_is_no_run(here, capsys):
    (here / "other").mkdir()
    (here / "other/notes.txt").write_text("x")
    assert cli.run(["tables", "--run", "other"]) == 2
    assert "neither scores.csv nor spec.yaml" in capsys.readouterr().err
