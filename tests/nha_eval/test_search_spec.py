"""What a search is asked for: budgets, spec files and flags; each mistake one line."""

import pytest
import yaml

from nha_eval import cli
from nha_eval.errors import UserError
from nha_eval.search.budgets import check_reach, parse_budget
from nha_eval.search.spec import make_search_spec


@pytest.mark.parametrize(
    ("given", "label", "limit"),
    [
        ("22MB", "22mb", 22e6),
        ("1.5MiB", "1p5mib", 1.5 * 2**20),
        ("900 kb", "900kb", 900e3),
        ("512B", "512b", 512),
        (0.25, "25pct", 250.0),
        ("0.125", "12p5pct", 125.0),
        (".5", "50pct", 500.0),
    ],
)
def test_budgets(given, label, limit):
    budget = parse_budget(given)
    assert budget.label == label
    assert budget.limit(1000.0) == pytest.approx(limit)


@pytest.mark.parametrize("given", [1, 0, "1.0", "-0.1", "25%", "22", "MB", "1e3B", "", True, None, "0.0B", 1.5, "9" * 40 + "B"])
def test_wrong_budgets(given):
    with pytest.raises(ValueError, match=r"wanted is a share of full attention between 0 and 1, as in 0.25, or bytes"):
        parse_budget(given)


def test_a_latency_is_a_share():
    with pytest.raises(ValueError, match=r"is '22MB': wanted is a share of full attention between 0 and 1, as in 0.25$"):
        parse_budget("22MB", shares_only=True)


def test_budgets_out_of_reach():
    with pytest.raises(UserError, match=r"10b: 10 bytes, but all layers at their cheapest window take 50 \(0.05 of"):
        check_reach(parse_budget("10B"), 10, 50, 1000, "bytes")
    with pytest.raises(UserError, match=r"budget 2kb: 2,000 bytes, and full attention takes 1,000"):
        check_reach(parse_budget("2KB"), 2000, 50, 1000, "bytes")


def test_a_file_and_flags():
    spec = make_search_spec(
        {"model": "nha-tiny", "window": "0,full", "budget": [0.5, "2MB"], "probe": "off", "time": 5},
        {"windows": ["16,0", "full"], "seed": 3},
        where="it",
    )
    assert spec.windows == [0, 16, "full"]
    assert [budget.label for budget in spec.limits] == ["50pct", "2mb"]
    assert spec.probe == 0 and spec.seed == 3 and spec.unit == "bytes"
    assert make_search_spec({"model": "m"}, {}, where="it").limits == [parse_budget(0.25)]
    timed = make_search_spec({"model": "m", "budget_latency": 0.9}, {}, where="it")
    assert timed.unit == "ms" and timed.limits[0].share == 0.9
    # What decides only how far a search gets, or where it lies, is no other search.
    assert spec.settings() == spec.model_copy(update={"time": 7.0, "out": "elsewhere", "threads": 1}).settings()


WRONG = [
    ({"modle": "x"}, "no model"),
    ({"model": "m", "windos": 3}, "unknown key `windos`; did you mean 'windows'"),
    ({"model": "m", "windows": "full"}, "`windows` is full alone"),
    ({"model": "m", "windows": "-1"}, "window '-1'"),
    ({"model": "m", "windows": "16,x"}, "window 'x'"),
    ({"model": "m", "budget": "2"}, "`budgets` is '2': wanted is a share"),
    ({"model": "m", "budget_latency": "2MB"}, "`budgets_latency` is '2MB'"),
    ({"model": "m", "budget": 0.5, "budget_latency": 0.5}, "budgets of state and of latency"),
    ({"model": "m", "sequences": 1}, "`sequences` is 1: wanted is greater than or equal to 2"),
    ({"model": "m", "sequences": "many"}, "`sequences` is 'many'"),
    ({"model": "m", "probe_weight": 1.0, "probe": 0}, "the probe is off"),
    ({"model": "m", "probe_weight": -1.0}, "`probe_weight` is -1.0"),
    ({"model": "m", "method": "random"}, "`method` is 'random'"),
    ({"model": "m", "time": 0}, "`time` is 0"),
    ({"model": "m", "text": []}, "`text` is []"),
    ({"model": "m", "device": "tpu"}, "`device` is 'tpu'"),
    ({"model": "m", "seed": 2**32}, "`seed` is"),
]


@pytest.mark.parametrize(("content", "message"), WRONG, ids=[str(content)[:50] for content, _ in WRONG])
def test_wrong_specs_are_one_line(content, message):
    with pytest.raises(UserError) as problem:
        make_search_spec(content, {}, where="it")
    assert message in str(problem.value) and "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to search"),
        (["nha-tiny", "--budget", "huge"], "`budgets` is 'huge'"),
        (["nha-tiny", "--spec", "nowhere.yaml"], "no such spec file"),
        (["nha-tiny", "--length", "100"], "length 100: the probe's texts have at least 256 tokens"),
        (["nha-tiny", "--length", "1", "--probe", "off"], "wanted are at least 2 tokens"),
        (["nowhere-135m"], "model 'nowhere-135m' cannot be had: no model is called"),
        (["gla-tiny"], "has no layer with a window (gla)"),
        (["nha-tiny", "--windows", "16,64", "--length", "64", "--probe", "off"], "window 64: the texts have 64 tokens"),
        (["swa-tiny", "--windows", "0,16"], "window 0: the window of layer 0 (attention) is 0; wanted an int >= 1"),
        (["nha-tiny", "--length", "20000"], "length 20000 is beyond the model's 16384 tokens"),
        (["nha-tiny", "--context", "20000"], "context 20000 is beyond the model's 16384 tokens"),
        (["nha-tiny", "--budget", "5B"], "budget 5b: 5 bytes, but all layers at their cheapest window take"),
        (["nha-tiny", "--budget", "5GB"], "and full attention takes"),
        (["nha-tiny", "--text", "nowhere/at/all"], "nowhere/at/all"),
        (["nha-tiny", "--device", "cuda:99"], "device 'cuda:99'"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["search", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    problem = [line for line in err.strip().splitlines() if not line.startswith("note: ")]
    assert len(problem) == 1 and problem[0].startswith("error: ")
    assert message in problem[0]


def test_a_spec_file_is_taken(tmp_path, capsys):
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump({"model": "nha-tiny", "budget": "5B", "probe": False}))
    assert cli.run(["search", "--spec", str(path), "--out", str(tmp_path / "run")]) == 2
    assert "budget 5b" in capsys.readouterr().err
