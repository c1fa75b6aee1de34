"""`compare` on run folders with known answers: what is paired, refused, left out and corrected, and what wrong input says."""

import csv
import json

import numpy as np
import pytest
from scored_run import add, documents
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from nha_eval import cli
from nha_eval.comparison.show import COLUMNS, chance
from nha_eval.paired import compare_pairs

RNG = np.random.default_rng(0)
FULL = (RNG.random(120) < 0.8).astype(float)
NARROW = np.where(RNG.random(120) < 0.45, 0.0, FULL)
OTHER = np.where(RNG.random(120) < 0.1, 1 - FULL, FULL)


@pytest.fixture
def run(tmp_path):
    """Three settings; documents of `needle` stand alone, those of `facts` share 20 contexts."""
    folder = tmp_path / "run"
    for model, window, right in (("base", "full", FULL), ("nha-base", 64, NARROW), ("nha-base", "full", OTHER)):
        add(folder, model, window, documents(right))
        add(folder, model, window, documents(right, each=6), task="facts")
    return folder


def call(*arguments):
    return cli.run(["compare", *map(str, arguments)])


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_setting_against_full_attention(run, capsys):
    assert call(run) == 0
    rows = table(run / "comparisons.csv")
    assert list(rows[0]) == COLUMNS
    assert [(row["model_a"], row["window_a"], row["model_b"], row["window_b"], row["task"]) for row in rows] == [
        ("nha-base", window, "base", "full", task) for window in ("64", "full") for task in ("facts", "needle")
    ]
    needle = rows[1]
    assert float(needle["value_a"]) == pytest.approx(NARROW.mean()) and float(needle["value_b"]) == pytest.approx(FULL.mean())
    alone, other = int((NARROW > FULL).sum()), int((NARROW < FULL).sum())
    assert (int(needle["right_a_alone"]), int(needle["right_b_alone"])) == (alone, other)
    exact = mcnemar([[0, alone], [other, 0]], exact=True).pvalue
    assert needle["test"] == "McNemar, mid-p" and exact / 4 < float(needle["p"]) < exact
    assert float(needle["difference"]) == pytest.approx((NARROW - FULL).mean())
    facts = rows[0]
    assert (facts["test"], facts["n"], facts["clusters"]) == ("bootstrap by context", "120", "20")
    expected = compare_pairs(NARROW, FULL, np.repeat(range(20), 6))
    assert float(facts["p"]) == expected.p and float(facts["ci_low"]) == expected.low
    assert [float(row["p_holm"]) for row in rows] == pytest.approx(
        multipletests([float(row["p"]) for row in rows], method="holm")[1]
    )
    assert [row["verdict"] for row in rows] == ["B is better"] * 2 + ["no difference shown"] * 2
    shown = capsys.readouterr().out
    assert "B is better" in shown and f"{(NARROW - FULL).mean():+.3f}" in shown and "120 in 20" in shown
    assert shown.rstrip().endswith(str(run / "comparisons.csv"))


def test_a_suites_mean_over_its_tasks(run, capsys):
    """A task of 80 documents that stand alone, and two of 6 questions a text, whose texts are the same."""
    few = documents(NARROW[:80]), documents(FULL[:80])
    add(run, "nha-base", 64, few[0])
    add(run, "base", "full", few[1])
    add(run, "nha-base", 64, documents(OTHER[:90], each=6), task="more")
    add(run, "base", "full", documents(FULL[:90], each=6), task="more")
    assert call(run, "--a", "nha-base:64", "--b", "base", "--by", "suite") == 0
    (row,) = table(run / "comparisons.csv")
    gaps = [(NARROW - FULL)[:80], NARROW - FULL, (OTHER - FULL)[:90]]
    assert float(row["difference"]) == pytest.approx(np.mean([gap.mean() for gap in gaps]))
    assert (row["task"], row["n"], row["clusters"], row["test"]) == ("mean of 3 tasks", "290", "100", "bootstrap by context")
    assert float(row["ci_low"]) < float(row["difference"]) < float(row["ci_high"]) < 0 and row["verdict"] == "B is better"
    # The same from clustered errors around the suite's mean, texts of two tasks added up before squaring.
    mean = np.mean([gap.mean() for gap in gaps])
    sums = np.zeros(100)
    sums[:20] += (gaps[1] - mean).reshape(20, 6).sum(1) / 120 / 3
    sums[:15] += (gaps[2] - mean).reshape(15, 6).sum(1) / 90 / 3
    sums[20:] += (gaps[0] - mean) / 80 / 3
    width = 2 * 1.96 * np.sqrt((sums**2).sum())
    assert float(row["ci_high"]) - float(row["ci_low"]) == pytest.approx(width, rel=0.1)
    assert "recall, mean of 3 tasks" in capsys.readouterr().out
    assert call(run, "--a", "nha-base:64", "--b", "base", "--by", "suite", "--task", "facts") == 0
    by_suite = table(run / "comparisons.csv")
    assert call(run, "--a", "nha-base:64", "--b", "base", "--task", "facts") == 0
    assert table(run / "comparisons.csv") == by_suite


def test_a_suite_in_which_all_documents_differ_alike_has_no_interval(tmp_path):
    """Nothing is known of a spread that did not show, whatever rounding says."""
    folder = tmp_path / "run"
    for task, number in (("needle", 18), ("facts", 42), ("squad", 30)):
        for model, value in (("a", 1.0), ("b", 0.0)):
            add(folder, model, "full", documents([value] * number, each=6), task=task)
    assert call(folder, "--a", "a", "--b", "b", "--by", "suite") == 0
    (row,) = table(folder / "comparisons.csv")
    assert (row["ci_low"], row["ci_high"], float(row["difference"])) == ("", "", pytest.approx(1.0))
    # Texts of one name are one text: seven of them, of which two choices of signs in 2^7 are as far out.
    assert float(row["p"]) == 2 / 2**7 and row["verdict"] == "A is better"


@pytest.mark.parametrize(("contexts", "verdict"), [(6, "too few to tell"), (7, "B is better")])
def test_where_no_answers_could_have_told_the_verdict_says_so(tmp_path, contexts, verdict):
    """Two rows: with 6 contexts the least p is 2 * 2 / 2^6, with 7 it is below 5%."""
    for window, right in (("full", 1), ("16", 0), ("64", 0)):
        answers = [right and i % 7 != 0 for i in range(6 * contexts)]
        add(tmp_path, "nha", window, documents(answers, each=6))
    call(tmp_path)
    rows = table(tmp_path / "comparisons.csv")
    assert [row["verdict"] for row in rows] == [verdict] * 2
    assert float(rows[0]["p_holm"]) == pytest.approx(2 * 2 / 2**contexts)


def test_two_named_settings_on_one_task(run, capsys):
    assert call(run, "--a", "base:full", "--b", "nha-base:64", "--task", "needle", "--out", run / "new/table.csv") == 0
    (row,) = table(run / "new/table.csv")
    assert row["p"] == row["p_holm"] and row["verdict"] == "A is better"
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == ["A: base:full", "B: nha-base:64"]
    assert not (run / "comparisons.csv").exists()


def test_a_model_with_all_its_windows(run):
    assert call(run, "--a", "nha-base", "--b", "base") == 0
    assert len(table(run / "comparisons.csv")) == 4
    assert call(run, "--baseline", "nha-base:64", "--task", "facts") == 0
    assert [row["model_a"] for row in table(run / "comparisons.csv")] == ["base", "nha-base"]


def test_models_with_colons_in_their_names(tmp_path):
    folder = add(tmp_path / "run", "nha:llama", 64, documents(NARROW))
    add(folder, "nha:llama", 16, documents(OTHER))
    assert call(folder, "--a", "nha:llama:64", "--b", "nha:llama:16") == 0
    (row,) = table(folder / "comparisons.csv")
    assert (row["model_a"], row["window_a"], row["window_b"]) == ("nha:llama", "64", "16")


def test_two_runs_pair_equal_settings(run, tmp_path, capsys):
    other = add(tmp_path / "other/run", "nha-base", 64, documents(FULL))
    assert call(run, other) == 0
    rows = table(run / "comparisons.csv")
    assert [(row["run_a"], row["run_b"]) for row in rows] == [(f"{tmp_path.name}/run", "other/run")] * 2
    assert [row["status"] for row in rows] == ["missing", "ok"]
    assert rows[0]["reason"] == "B has no score of it"
    assert "not compared: B has no score of it" in capsys.readouterr().out
    assert str(tmp_path) not in (run / "comparisons.csv").read_text().replace(tmp_path.name, "")
    assert call(run, other, "--a", "base:full", "--b", "nha-base:64", "--task", "needle") == 0
    (row,) = table(run / "comparisons.csv")
    assert (row["p"], row["difference"], row["verdict"]) == ("1.0", "0.0", "no difference shown")
    assert float(row["ci_low"]) < 0 < float(row["ci_high"])
    assert call(run, other, "--baseline", "base:full", "--task", "needle") == 0
    assert [row["model_a"] for row in table(run / "comparisons.csv")] == ["nha-base"]


def test_settings_of_one_name_with_other_windows_are_no_equal_settings(run, tmp_path, capsys):
    other = tmp_path / "other"
    for folder, windows in ((run, [64, "full"]), (other, [16, "full"])):
        add(folder, "nha-base", "searched", documents(NARROW), windows=windows)
    add(other, "base", "full", documents(FULL))
    assert call(run, other) == 0
    assert [(row["model_a"], row["window_a"]) for row in table(run / "comparisons.csv")] == [("base", "full")] * 2
    assert "left out: nha-base:searched, which has other windows" in capsys.readouterr().out
    assert call(run, other, "--a", "nha-base:searched", "--b", "nha-base:searched", "--task", "needle") == 0
    (row,) = table(run / "comparisons.csv")
    assert (row["window_a"], row["window_b"], float(row["difference"])) == ("searched", "searched", 0.0)
    alone = add(tmp_path / "alone", "nha-base", "searched", documents(NARROW), windows=[8, 8])
    assert call(run, alone) == 2
    assert "nha-base:searched has other windows" in capsys.readouterr().err


def test_one_setting_each_is_paired_whatever_it_is_called(tmp_path):
    one, two = add(tmp_path / "one", "a", 8, documents(FULL)), add(tmp_path / "two", "b", 16, documents(NARROW))
    assert call(one, two) == 0
    assert table(one / "comparisons.csv")[0]["verdict"] == "A is better"


def test_documents_of_one_side_are_left_out_and_counted(run, capsys):
    add(run, "nha-base", 64, documents(NARROW[:100]), limit=100)
    assert call(run, "--a", "nha-base:64", "--b", "base", "--task", "needle") == 0
    (row,) = table(run / "comparisons.csv")
    assert (row["n"], row["left_out_a"], row["left_out_b"]) == ("100", "0", "20")
    assert float(row["value_b"]) == pytest.approx(FULL[:100].mean())
    assert "documents left out: 20 that only B has" in capsys.readouterr().out


def test_other_figures_than_right_and_wrong(tmp_path):
    rng = np.random.default_rng(3)
    a, b = rng.random(50), rng.random(50) + 0.4
    folder = tmp_path / "run"
    for model, values in (("a", a), ("b", b)):
        add(folder, model, "full", documents(values, metric="f1"), metric="f1", length=None)
        add(folder, model, "full", documents(values, metric="loss"), metric="loss", task="text", length=None)
    assert call(folder, "--a", "a", "--b", "b", "--metric", "loss", "--task", "text") == 0
    assert table(folder / "comparisons.csv")[0]["verdict"] == "A is better"
    assert call(folder, "--a", "a", "--b", "b", "--task", "needle", "--seed", "5") == 0
    (row,) = table(folder / "comparisons.csv")
    expected = compare_pairs(a, b, range(50), seed=5)
    assert (row["test"], row["right_a_alone"], row["verdict"]) == ("bootstrap", "", "B is better")
    assert (float(row["p"]), float(row["ci_low"]), float(row["ci_high"])) == (expected.p, expected.low, expected.high)


def test_perplexities_are_compared_by_their_logarithms(tmp_path, capsys):
    """Log-likelihoods of texts of unlike lengths, aggregated by lm-eval itself as a perplexity a word and as bits a byte."""
    from lm_eval.api.metrics import bits_per_byte, perplexity, weighted_perplexity

    rng = np.random.default_rng(4)
    words = rng.integers(20, 400, 40)
    likelihoods = {"a": -3.0 * words + 9 * rng.normal(size=40), "b": -3.05 * words + 9 * rng.normal(size=40)}
    kinds = {"word_perplexity": weighted_perplexity, "bits_per_byte": bits_per_byte, "perplexity": perplexity}
    folder = tmp_path / "run"
    for model, found in likelihoods.items():
        for metric, aggregate in kinds.items():
            items = [(float(x) / 100, int(w)) for x, w in zip(found, words, strict=True)]
            items = [x for x, _ in items] if metric == "perplexity" else items
            samples = [{**s, "metrics": {metric: item}} for s, item in zip(documents([0] * 40), items, strict=True)]
            add(folder, model, "full", samples, metric=metric, task=metric, value=aggregate(items), length=None)
    assert call(folder, "--a", "a", "--b", "b") == 0
    rows = {row["task"]: row for row in table(folder / "comparisons.csv")}
    assert {row["metric"] for row in rows.values()} == {"log word_perplexity", "bits_per_byte", "log perplexity"}
    gap = (likelihoods["b"] - likelihoods["a"]).sum() / 100 / words.sum()
    assert float(rows["word_perplexity"]["difference"]) == pytest.approx(gap)
    assert float(rows["bits_per_byte"]["difference"]) == pytest.approx(gap / np.log(2))
    assert rows["bits_per_byte"]["p"] == rows["word_perplexity"]["p"] and float(rows["perplexity"]["p"]) < 0.01
    # Of perplexity less is better.
    assert {row["verdict"] for row in rows.values()} == {"A is better"}
    samples = [{**s, "metrics": {"word_perplexity": (-1.0, 7)}} for s in documents([0] * 40)]
    add(folder, "c", "full", samples, metric="word_perplexity", task="word_perplexity", value=float(np.exp(1 / 7)), length=None)
    assert call(folder, "--a", "a", "--b", "c") == 2
    assert "word_perplexity is over other amounts of text in A and B" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cell": {"protocol": "paper"}}, "other protocols: A's is paper, B's contains"),
        ({"cell": {"task_version": "2.0"}}, "other versions of the task: A's is 2.0, B's 1.0"),
        (
            {"documents": {"seed": 1}, "cell": {"seed": 1}},
            "other prompts in 120 of 120 shared documents, document 0 first (seed 1",
        ),
        ({"documents": {"prompt": "new"}}, "(the data or the template has changed)"),
        ({"documents": {"metric": "acc"}, "cell": {"metric": "acc"}}, "no metric in common (A: acc; B: contains)"),
        ({"cell": {"value": 0.123}}, "contains is no mean over documents"),
    ],
)
def test_what_must_not_be_compared_is_refused(run, changes, words, capsys):
    """Alone it is wrong input; beside what can be compared, a row with its reason, and the exit code says so."""
    samples = documents(NARROW, **changes.get("documents", {}))
    add(run, "nha-base", 128, samples, **changes.get("cell", {}))
    add(run, "nha-base", 128, documents(NARROW, each=6), task="facts")
    assert call(run, "--a", "nha-base:128", "--b", "base:full", "--task", "needle") == 2
    out, err = capsys.readouterr()
    assert (
        words in err and len(err.strip().splitlines()) == 1 and err.startswith("error: nothing to compare in run") and not out
    )
    assert call(run, "--a", "nha-base:128", "--b", "base:full") == 2
    rows = {row["task"]: row for row in table(run / "comparisons.csv")}
    assert (rows["facts"]["status"], rows["needle"]["status"]) == ("ok", "refused")
    assert words in rows["needle"]["reason"] and rows["needle"]["p"] == ""
    # What is refused takes no part in the correction.
    assert rows["facts"]["p"] == rows["facts"]["p_holm"]
    assert "refused: " in capsys.readouterr().out


def test_other_right_answers_are_refused(run, capsys):
    samples = [{**sample, "gold": ["17"]} if sample["doc_id"] == 7 else sample for sample in documents(NARROW)]
    add(run, "nha-base", 64, samples)
    assert call(run, "--a", "nha-base:64", "--b", "base", "--task", "needle") == 2
    assert "other right answers in 1 of 120 shared documents, document 7 first" in capsys.readouterr().err


def test_a_cell_that_failed_is_missing_not_refused(run):
    add(run, "nha-base", 64, [], status="oom", task="facts")
    assert call(run, "--a", "nha-base:64", "--b", "base") == 0
    rows = {row["task"]: row for row in table(run / "comparisons.csv")}
    assert (rows["facts"]["status"], rows["facts"]["reason"]) == ("missing", "A is oom: no room")
    assert rows["needle"]["status"] == "ok"


def test_cells_that_cannot_be_read_are_left_out_and_counted(run, capsys):
    (run / "cells/half.json").write_text('{"cell": {')
    next((run / "samples").glob("nha-base-full-facts-*")).unlink()
    assert call(run, "--baseline", "base:full") == 0
    assert [row["status"] for row in table(run / "comparisons.csv")] == ["ok", "ok", "missing", "ok"]
    assert f"left out: 2 cells of {run} that are broken or without their samples" in capsys.readouterr().out


def test_the_newest_version_of_a_task_counts(run):
    for model, window, right in (("base", "full", FULL), ("nha-base", 64, FULL)):
        add(run, model, window, documents(right, prompt="new"), task_version="2.0", finished="2026-02-01T00:00:00+00:00")
    assert call(run, "--a", "nha-base:64", "--b", "base", "--task", "needle") == 0
    (row,) = table(run / "comparisons.csv")
    assert (row["task_version"], row["difference"]) == ("2.0", "0.0")


WRONG = {
    "no such folder": (["nowhere"], "no such run: 'nowhere'"),
    "no such second folder": (["RUN", "nowhere"], "no such run: 'nowhere'"),
    "no samples": (["EMPTY"], "holds no samples to compare (it has no scored cell)"),
    "samples that are gone": (["GONE"], "(broken or without their samples: 1 cells)"),
    "samples that are broken": (["BROKEN", "--a", "a", "--b", "b"], "(broken or without their samples: 2 cells)"),
    "a document twice": (["TWICE", "--a", "a", "--b", "b"], "holds a document twice"),
    "nothing shared": (["RUN", "APART", "--a", "base:full", "--b", "c"], "no document in common (120 in A, 30 in B)"),
    "no setting in common": (["RUN", "TWICE"], "have no setting in common: give --a and --b, or --baseline (settings in"),
    "no such setting": (["RUN", "--a", "nha-bose:64", "--b", "base"], "--a 'nha-bose:64': no such setting in"),
    "one side alone": (["RUN", "--a", "base"], "--b is missing: give both --a and --b, or --baseline (settings in"),
    "the same twice": (["RUN", "--a", "base", "--b", "base:full"], "are the same scores"),
    "the same run twice": (["RUN", "RUN"], "is given twice"),
    "a baseline with sides": (["RUN", "--baseline", "base", "--a", "base"], "--baseline does not go with --a and --b"),
    "a baseline of several": (
        ["RUN", "--baseline", "nha-base"],
        "names several settings: give one of nha-base:64, nha-base:full",
    ),
    "a baseline alone": (["APART", "--baseline", "c"], "holds no setting beside the baseline 'c'"),
    "no full attention": (["TWICE"], "has no full attention to compare with"),
    "no such task": (
        ["RUN", "--task", "facts", "--task", "neddle"],
        "--task neddle: nothing of it was scored; did you mean 'needle'?",
    ),
    "no such length": (["RUN", "--length", "4"], "--length 4: nothing of it was scored; scored: 512"),
    "a task at another's length": (
        ["LENGTHS", "--baseline", "a", "--task", "needle", "--length", "64"],
        "leave nothing to compare",
    ),
    "no such metric": (["RUN", "--metric", "contain"], "no metric 'contain' (there: contains) (and 3 more)"),
    "no such row": (["RUN", "--by", "suites"], "--by 'suites': did you mean 'suite'?"),
    "no number": (["RUN", "--seed", "many"], "--seed"),
    "a seed below 0": (["RUN", "--seed", "-1"], "--seed -1: wanted is an integer from 0"),
    "no table": (["RUN", "--out", "RUN/x.txt"], "wanted is a folder, or a name that ends in .csv"),
    "no place for a table": (["RUN", "--out", "RUN/spec.yaml/x.csv"], "give another place with --out"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_code_2(run, tmp_path, case, capsys):
    add(tmp_path / "APART", "c", "none", [{**s, "doc_id": s["doc_id"] + 500} for s in documents(FULL[:30])])
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "EMPTY/spec.yaml").write_text("models: []\n")
    add(tmp_path / "GONE", "a", 8, documents(FULL))
    next((tmp_path / "GONE/samples").iterdir()).unlink()
    for model in "ab":
        add(tmp_path / "BROKEN", model, 8, documents(FULL))
        twice = documents(FULL)
        add(tmp_path / "TWICE", model, 8, [twice[0], *twice[:-1]])
    for path in (tmp_path / "BROKEN" / "samples").iterdir():
        path.write_text("{" + path.read_text()[1:].replace('"', " ", 1))
    for model in "ab":
        add(tmp_path / "LENGTHS", model, 8, documents(FULL))
        add(tmp_path / "LENGTHS", model, 8, documents(FULL), task="facts", length=64)
    arguments, words = WRONG[case]
    assert (
        call(*(str(a).replace("RUN", str(run)) if "RUN" in a else tmp_path / a if a.isupper() else a for a in arguments)) == 2
    )
    out, err = capsys.readouterr()
    assert words in err and err.startswith("error: ") and len(err.strip().splitlines()) == 1
    assert not (run / "comparisons.csv").exists()
    assert out == ""


@pytest.mark.parametrize(("p", "text"), [(1.0, "1.000"), (0.0432, "0.043"), (0.00123, "0.0012"), (1e-7, "< 0.0001")])
def test_chances(p, text):
    assert chance(p) == text


def test_samples_are_as_the_journal_wrote_them(run):
    """The made-up folder has what `eval` leaves: cells that the journal reads, and a sample a line."""
    assert all(json.loads(line)["metrics"] for path in (run / "samples").iterdir() for line in path.read_text().splitlines())
