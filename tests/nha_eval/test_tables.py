"""The paper's tables: their specs, what a run makes of them, verdicts and intervals worked out by hand."""

import csv
import math
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from published_run import SHARE_ERROR, columns_of, published_run, rows_of
from report_run import score, write_run

from nha_eval import cli, evaluate
from nha_eval.comparison.folders import Setting
from nha_eval.errors import UserError
from nha_eval.plan import ModelInfo, expand
from nha_eval.tables.cells import (
    NO_INTERVAL,
    NOT_COMPARABLE,
    NOT_MEASURED,
    NOT_REPRODUCED,
    NOTHING_PUBLISHED,
    REPRODUCED,
    fill,
    judge,
    parse_columns,
)
from nha_eval.tables.measured import UNAVAILABLE, Figure, figure, read_measured
from nha_eval.tables.spec import (
    COLUMNS,
    PUBLISHED,
    Column,
    Published,
    published_rows,
    read_table,
    size_in,
    size_text,
    table_names,
)
from tasks.suites import suite_tasks

TABLES = [read_table(name) for name in table_names()]
every_table = pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
MAIN, RECALL, RULER = read_table("nha-main"), read_table("mom-recall-1.3b"), read_table("phba-ruler")


def cells_of(table, run, *, said=None):
    """The table's cells with the run, of which every model is said to be the published one of its name."""
    columns = [f"{model.name}={model.name}" for model in table.models] if said is None else said
    return fill([table], [read_measured(str(run))], parse_columns(columns, [table]))[0]


def measurable(cell):
    return cell.published and not table_metric(cell).not_stated


def table_metric(cell):
    return cell.table.spec.metrics[cell.column.metric]


# The figures


def test_every_published_figure_stands_in_one_table():
    files = sorted(PUBLISHED.glob("*.csv"))
    shipped = Counter(row for file in files for row in published_rows(file.name))
    shown = Counter(row for table in TABLES for row in table.rows)
    assert shipped == shown and max(shown.values()) == 1
    assert {table.spec.published for table in TABLES} == {file.name for file in files}


@pytest.mark.parametrize("file", sorted(PUBLISHED.glob("*.csv")), ids=lambda file: file.stem)
def test_figures_are_numbers_with_a_source(file):
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert rows and list(rows[0]) == COLUMNS
    for row in rows:
        assert row["source"] and row["model"] and row["metric"] and math.isfinite(float(row["value"])), row


@every_table
def test_each_figure_is_at_one_place(table):
    places = [(row.model, row.metric, row.length) for row in table.rows]
    assert (
        len(places)
        == len(set(places))
        == sum(table.published(model.name, column) is not None for model in table.models for column in table.columns)
    )


@every_table
def test_metrics_are_measured_by_tasks_that_there_are(table):
    for column in table.columns:
        for _, how, tokens in table.measures(column):
            info = next(info for info in suite_tasks(how.suite) if info.name == how.task)
            assert info.protocol == how.protocol and (tokens is not None) == info.has_lengths
            assert tokens is None or tokens in info.default_lengths


@every_table
def test_published_averages_are_those_of_their_tasks(table):
    for model in table.models:
        for column in table.columns:
            metric, average = table.spec.metrics[column.metric], table.published(model.name, column)
            parts = [table.published(model.name, Column(part, column.length)) for part in metric.mean_of]
            if average and parts and all(parts):
                # One average was computed again from other digits, as its table says.
                slack = 0.01 if average.note else 0.005
                if column.length:
                    slack = 0.05
                assert float(average.value) == pytest.approx(sum(float(p.value) for p in parts) / len(parts), abs=slack + 1e-9)


@every_table
def test_what_cannot_be_measured_says_why(table):
    for name, metric in table.spec.metrics.items():
        assert bool(metric.not_stated) != bool(table.measures(next(c for c in table.columns if c.metric == name)))


# Runs made out of the published figures


@every_table
def test_a_run_of_the_published_figures_reproduces_all(table, tmp_path):
    cells = cells_of(table, published_run(tmp_path / "run", table)).cells
    judged = [cell for cell in cells if measurable(cell)]
    assert judged and {cell.verdict for cell in judged} == {REPRODUCED}
    assert all(abs(cell.difference) <= 0.05 and cell.command == "" for cell in judged)
    stated = [cell for cell in cells if table_metric(cell).not_stated]
    assert all((cell.verdict, cell.command) == (NOT_MEASURED, "") and cell.reason for cell in stated)


@every_table
@pytest.mark.parametrize("shift", [5, -5])
def test_a_run_five_intervals_away_reproduces_nothing(table, shift, tmp_path):
    cells = cells_of(table, published_run(tmp_path / "run", table, shift=shift)).cells
    judged = [cell for cell in cells if measurable(cell)]
    assert judged and {cell.verdict for cell in judged} == {NOT_REPRODUCED}
    assert all((cell.difference > 0) == (shift > 0) for cell in judged)


@every_table
@pytest.mark.parametrize("kind", ["folder", "table"])
def test_an_empty_run_measures_nothing(table, kind, tmp_path):
    run = write_run(tmp_path / "run", None if kind == "folder" else [])
    cells = cells_of(table, run).cells
    assert {cell.verdict for cell in cells} == {NOT_MEASURED}
    assert all(bool(cell.command) == bool(table.measures(cell.column)) for cell in cells)


@every_table
def test_without_any_run_each_cell_has_the_command_that_measures_it(table, monkeypatch):
    asked = []
    monkeypatch.setattr(evaluate, "prepare", lambda spec, name: asked.append(spec) or Done())
    suites = evaluate.known_suites()
    filled = fill([table], [], [])[0]
    for cell in {cell.column: cell for cell in filled.cells}.values():
        asked.clear()
        wanted = {(how.suite, how.task, how.protocol, tokens) for _, how, tokens in table.measures(cell.column)}
        for command in filter(None, cell.command.split(" && ")):
            program, *words = shlex.split(command)
            assert program == "nha-eval" and cli.run(words) == 0
        planned = [expand(spec, [ModelInfo("CHECKPOINT", "CHECKPOINT", "", "full")], suites) for spec in asked]
        assert {(c.suite, c.task, c.protocol, c.length) for cells in planned for c in cells} == wanted
        assert cell.verdict == NOT_MEASURED and cell.measured.value is None


class Done:
    def go(self):
        return 0


# Verdicts


def row(value):
    return Published("t", "m", "1.3B", "100B", "FDA", "", value, "s", "")


@pytest.mark.parametrize(
    ("published", "low", "high", "verdict"),
    [
        ("46.14", 46.0, 47.0, REPRODUCED),
        ("46.14", 46.15, 47.0, NOT_REPRODUCED),
        # 46.14 stands for all from 46.135 to 46.145; 46.1 for all from 46.05 to 46.15; 46 for all from 45.5 to 46.5.
        ("46.14", 46.1449, 47.0, REPRODUCED),
        ("46.14", 46.1451, 47.0, NOT_REPRODUCED),
        ("46.1", 46.149, 47.0, REPRODUCED),
        ("46.1", 40.0, 46.04, NOT_REPRODUCED),
        ("46", 46.49, 47.0, REPRODUCED),
        ("46.14", None, None, NO_INTERVAL),
    ],
)
def test_reproduced_is_within_the_interval_and_the_rounding(published, low, high, verdict):
    assert judge(row(published), Figure(46.2, low, high)) == verdict


def test_without_a_figure_there_is_no_verdict():
    assert judge(None, Figure(1.0, 0.0, 2.0)) == NOTHING_PUBLISHED
    assert judge(row("1"), Figure(status="unavailable")) == UNAVAILABLE
    assert judge(row("1"), Figure(status="oom")) == judge(row("1"), Figure()) == NOT_MEASURED


def measured(tmp_path, rows, table=RECALL, column="FDA", length=""):
    run = read_measured(str(write_run(tmp_path / "run", rows)))
    return figure([run], Setting("m", "none"), table, Column(column, length))


def fda(value, stderr="", **other):
    about = {"suite": "recall", "length": 2048, "protocol": "pla", **other}
    return score("m", "none", "recall_pla_fda", value, stderr, **about)


def test_the_runs_own_interval_comes_first(tmp_path):
    found = measured(tmp_path, [fda(0.5, 0.1, ci_low=0.3, ci_high=0.6)])
    assert (found.value, found.low, found.high, found.n) == pytest.approx((50, 30, 60, 100))


def test_else_two_standard_errors_are_it(tmp_path):
    found = measured(tmp_path, [fda(0.5, 0.1)])
    assert (found.low, found.high) == pytest.approx((50 - 19.6, 50 + 19.6))


def test_else_it_is_wilsons(tmp_path):
    # All of 100 right: Wilson's lower bound is n / (n + z^2).
    found = measured(tmp_path, [fda(1.0, 0.0)])
    assert (found.low, found.high) == pytest.approx((100 * 100 / (100 + 1.959964**2), 100), abs=1e-4)


@pytest.mark.parametrize("value", [12.5, "inf"])
def test_a_perplexity_without_an_error_has_no_interval(value, tmp_path):
    about = {"suite": "commonsense", "metric": "word_perplexity", "protocol": "lmeval"}
    found = measured(tmp_path, [score("m", "none", "wikitext", value, **about)], MAIN, "wiki_ppl")
    assert (found.value, found.low, found.high) == (float(value), None, None)
    assert judge(row("12.5"), found) == NO_INTERVAL


def test_the_error_of_an_average_is_that_of_independent_tasks(tmp_path):
    table = read_table("mom-recall-1.3b")
    run = published_run(tmp_path / "run", table)
    cell = next(cell for cell in cells_of(table, run).cells if (cell.model.name, cell.column.metric) == ("GSA", "avg"))
    half = 1.96 * 100 * SHARE_ERROR / math.sqrt(6)
    assert (cell.measured.high - cell.measured.low) / 2 == pytest.approx(half) and cell.measured.n == 3000


def test_an_average_that_lacks_a_task_is_not_measured(tmp_path):
    rows = [row for row in rows_of(RECALL) if row["task"] != "recall_pla_drop"]
    cells = cells_of(RECALL, write_run(tmp_path / "run", rows)).cells
    assert {(c.verdict, c.reason) for c in cells if c.column.metric == "avg"} == {(NOT_MEASURED, "it lacks DROP")}
    assert all("recall_pla_fda" in cell.command for cell in cells if cell.column.metric == "avg")


def test_data_that_could_not_be_had_is_unavailable(tmp_path):
    rows = [
        {**row, "status": "unavailable", "reason": "no hub", "metric": "", "value": "", "stderr": ""} for row in rows_of(RECALL)
    ]
    cells = cells_of(RECALL, write_run(tmp_path / "run", rows)).cells
    assert {(cell.verdict, cell.reason) for cell in cells} == {(UNAVAILABLE, "no hub")}


@pytest.mark.parametrize("status", ["oom", "error"])
def test_a_cell_that_failed_is_not_measured_and_says_why(status, tmp_path):
    found = measured(tmp_path, [fda("", metric="", status=status, reason="no room")])
    assert (found.value, found.status, found.reason) == (None, status, "no room")


@pytest.mark.parametrize(
    ("change", "reason"), [({"protocol": "pla, cut: head"}, "protocol 'pla, cut: head'"), ({"length": 1024}, "")]
)
def test_another_protocol_or_length_is_no_measurement(change, reason, tmp_path):
    found = measured(tmp_path, [fda(0.5, 0.1, **change)])
    assert found.value is None and reason in found.reason


def test_figures_of_several_runs_stand_together_and_the_first_counts(tmp_path):
    rows = rows_of(RECALL)
    one = write_run(tmp_path / "one", [row for row in rows if row["task"] != "recall_pla_drop"])
    two = write_run(tmp_path / "two", [{**row, "value": 0.0} for row in rows])
    runs = [read_measured(str(run)) for run in (one, two)]
    cells = fill([RECALL], runs, parse_columns(["GSA=GSA"], [RECALL]))[0].cells
    found = {cell.column.metric: cell.measured for cell in cells if cell.model.name == "GSA"}
    assert (found["FDA"].run, found["DROP"].run, found["avg"].run) == ("one", "two", "one, two")


# Which model stands in which column


def sized(folder, size, rows=None, **other):
    environment = {"models": {"mine": {"parameters": size}}} if size else {}
    rows = (
        [{**row, "model": "mine", "window": "64"} for row in rows_of(MAIN) if row["model"] == "NHA"] if rows is None else rows
    )
    return write_run(folder, rows, environment=environment, **other)


def test_a_model_that_nobody_says_to_be_published_gets_no_verdict(tmp_path):
    filled = cells_of(MAIN, sized(tmp_path / "run", 1_360_000_000), said=[])
    assert {cell.verdict for cell in filled.cells} == {NOT_MEASURED} and not filled.columns
    (own,) = filled.own.values()
    found = {cell.column.metric: (cell.verdict, cell.reason) for cell in own}
    assert found["recall_avg"] == (NOT_COMPARABLE, "its training is not said to be the published one (100B tokens)")
    assert found["commonsense_avg"][0] == NOT_MEASURED


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (137_838_528, "138M against 1.3B"),
        (8_030_000_000, "8.03B against 1.3B"),
        (None, "the model's size is not recorded, the table is of 1.3B"),
    ],
)
def test_another_size_stands_beside_the_table(size, reason, tmp_path):
    filled = cells_of(MAIN, sized(tmp_path / "run", size), said=[])
    (own,) = filled.own.values()
    assert {cell.reason for cell in own if cell.measured.value is not None} == {reason}
    assert all(cell.model is None and cell.published is None and cell.difference is None for cell in own)


def test_another_size_cannot_be_said_to_be_the_published_one(tmp_path):
    with pytest.raises(UserError, match=r"mine has 138M parameters, NHA here 1.3B: leave the option out"):
        cells_of(MAIN, sized(tmp_path / "run", 137_838_528), said=["NHA=mine"])


def test_the_published_size_can(tmp_path):
    filled = cells_of(MAIN, sized(tmp_path / "run", 1_360_000_000), said=["NHA=mine:64"])
    found = {cell.column.metric: cell.verdict for cell in filled.cells if cell.model.name == "NHA"}
    assert found["recall_avg"] == found["wiki_ppl"] == REPRODUCED and found["FDA"] == NOTHING_PUBLISHED and not filled.own
    assert {cell.verdict for cell in filled.cells if cell.model.name != "NHA"} == {NOT_MEASURED}


def test_random_weights_are_not_compared_with_anything(tmp_path):
    run = sized(tmp_path / "run", 1_360_000_000)
    (run / "environment.json").write_text('{"models": {"mine": {"parameters": 1360000000, "random_weights": true}}}')
    (own,) = cells_of(MAIN, run, said=[]).own.values()
    assert {c.reason for c in own if c.measured.value is not None} == {"its weights are random, never trained"}
    with pytest.raises(UserError, match="the weights of mine are random"):
        cells_of(MAIN, run, said=["NHA=mine"])


def test_of_tables_of_two_sizes_the_models_own_is_filled(tmp_path):
    both = [read_table("mom-recall-380m"), RECALL]
    rows = [{**row, "model": "mine"} for row in rows_of(RECALL) if row["model"] == "GSA"]
    run = read_measured(str(sized(tmp_path / "run", 1_400_000_000, rows)))
    small, large = fill(both, [run], parse_columns(["GSA=mine"], both))
    assert not small.columns and small.own and large.columns and not large.own
    unsized = read_measured(str(sized(tmp_path / "other", None, rows)))
    with pytest.raises(UserError, match=r"GSA of 380M and 1.3B, and the run does not say how large mine is: name one table"):
        fill(both, [unsized], parse_columns(["GSA=mine"], both))


def test_of_several_windows_one_has_to_be_said(tmp_path):
    rows = [{**row, "window": window} for row in rows_of(MAIN) for window in ("16", "64")]
    run = write_run(tmp_path / "run", rows)
    with pytest.raises(UserError, match="'NHA' was measured at the windows 16, 64: say one, as 'NHA:16'"):
        cells_of(MAIN, run, said=["NHA=NHA"])
    assert cells_of(MAIN, run, said=["NHA=NHA:64"]).columns


def test_a_run_of_other_tasks_leaves_the_tables_as_they_are(tmp_path):
    filled = cells_of(MAIN, write_run(tmp_path / "run", [score("m", "64", "recall_needle", 0.5)]), said=[])
    assert not filled.own and not filled.columns


def test_documents_left_out_are_told(tmp_path):
    spec = "limit: 50\ntasks: [{name: recall_pla_fda, limit: 70}, {name: wikitext, limit: null}]\n"
    run = sized(tmp_path / "run", 1_360_000_000, spec=spec)
    assert cells_of(MAIN, run, said=["NHA=mine"]).limited == {"mine": 70}
    assert [read_measured(str(run)).limit(task) for task in ("recall_pla_fda", "wikitext")] == [70, 50]


def test_sizes_in_words():
    assert [size_in(text) for text in ("1.3B", "380M", "8B", "10B finetune", "", "B")] == [1.3e9, 3.8e8, 8e9, None, None, None]
    assert [size_text(n) for n in (113_000, 4_200_000, 137_838_528, 1_364_000_000)] == ["0.11M", "4.2M", "138M", "1.36B"]


def test_printing_imports_no_torch(tmp_path):
    published_run(tmp_path / "run", MAIN)
    words = ["tables", "nha-main", "--run", str(tmp_path / "run"), *columns_of(MAIN)]
    code = (
        f"import sys; from nha_eval import cli; code = cli.run({words!r}); "
        "heavy = {'torch', 'transformers', 'lm_eval', 'matplotlib', 'models'} & set(sys.modules); "
        "print(heavy, file=sys.stderr); sys.exit(code)"
    )
    root = Path(cli.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert (done.returncode, done.stderr.strip()) == (0, "set()") and "reproduced" in done.stdout
