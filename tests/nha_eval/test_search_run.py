"""A whole search on a tiny checkpoint: what it leaves, that it goes on, and that it keeps its limits."""

import csv
import json

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import ttest_rel
from search_models import LAYERS, loud_model, text_folder
from tiny_lm import make_tokenizer

from models import NHAConfig, NHAForCausalLM
from models.presets import load
from nha_eval import cli
from nha_eval.search import run as running
from nha_eval.search.confirm import Entry, confirm, too_few
from nha_eval.search.evaluator import Deadline, Evaluator, OutOfTime
from nha_eval.search.families import FAMILIES
from nha_eval.search.spec import make_search_spec
from nha_eval.search.spending import state
from nha_eval.window_settings import read_settings, resolve

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = {"windows": [0, 16, 64], "budgets": [0.7, 0.5], "sequences": 3, "unseen": 6, "length": 96, "probe": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkpoint's folder and one of text; the cache of tokens beside them."""
    folder = tmp_path_factory.mktemp("search")
    loud_model(folder)
    text_folder(folder / "text")
    patch = pytest.MonkeyPatch()
    patch.setenv("NHA_EVAL_CACHE", str(folder / "cache"))
    yield folder
    patch.undo()


def asked(place, out, **changes):
    given = {"model": f"nha:{place / 'loud-2-4'}", "text": str(place / "text"), "out": str(place / out), "threads": 1}
    return make_search_spec({**given, **SETTINGS, **changes}, {}, where="the test")


def table(folder, name):
    with (folder / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


TABLES = ("search", "sensitivity", "front", "comparison")


@pytest.fixture(scope="module")
def searched(place):
    assert running.search(asked(place, "run", method="evolution", generations=1)) == 0
    return place / "run"


def windows_of(text):
    return tuple(None if word == "full" else int(word) for word in text.split())


def test_it_leaves_its_tables(searched):
    kinds = {path.relative_to(searched).as_posix() for path in searched.rglob("*") if path.is_file()}
    wanted = {f"{name}.csv" for name in TABLES} | {"settings.yaml", "report.md", "environment.json", "search.yaml"}
    wanted |= {f"plots/{name}.{suffix}" for name in ("front", "sensitivity") for suffix in ("svg", "png")}
    assert wanted <= kinds
    rows = table(searched, "sensitivity")
    assert [(row["layer"], row["window"]) for row in rows] == [(str(i), str(w)) for i in range(LAYERS) for w in (0, 16, 64)]
    for window in ("0", "16", "64"):
        alone = [float(row["kl"]) for row in rows if row["window"] == window]
        assert np.argmax(alone) == 2
    evaluated = table(searched, "search")
    assert len({row["windows"] for row in evaluated}) == len(evaluated) >= 20
    assert {"sensitivity", "additive", "greedy", "evolution"} <= {row["found_by"] for row in evaluated}
    assert {row["windows"] for row in table(searched, "front")} <= {row["windows"] for row in evaluated}
    record = json.loads((searched / "environment.json").read_text())
    assert record["weights_hash"] and record["text"] and record["threads"] == 1


def test_costs_are_the_models_and_budgets_are_kept(searched, place):
    model = load(f"nha:{place / 'loud-2-4'}").model
    full = state(model, 96).full
    for row in table(searched, "search"):
        for i, window in enumerate(windows_of(row["windows"])):
            model.set_window(window, layers=[i])
        assert int(row["state_bytes"]) == model.state_bytes(1, 96)
        assert float(row["state_share"]) == pytest.approx(model.state_bytes(1, 96) / full, abs=1e-6)
    compared = table(searched, "comparison")
    assert [row["family"] for row in compared] == ["searched", *FAMILIES] * 2
    for row in compared:
        assert float(row["limit"]) == pytest.approx({"70pct": 0.7, "50pct": 0.5}[row["budget"]] * full)
        assert not row["windows"] or int(row["state_bytes"]) <= float(row["limit"])


def test_the_searched_setting_is_the_best_of_all_evaluated(searched):
    evaluated = table(searched, "search")
    for row in table(searched, "comparison"):
        if row["family"] != "searched":
            continue
        fitting = [float(each["kl"]) for each in evaluated if int(each["state_bytes"]) <= float(row["limit"])]
        assert float(row["kl"]) == min(fitting)
        assert windows_of(row["windows"])[2] is None


def test_settings_are_named_for_the_other_verbs(searched):
    settings = read_settings(searched / "settings.yaml")
    compared = {row["name"]: row["windows"] for row in table(searched, "comparison") if row["windows"]}
    # As `eval` takes them: a window a layer, of a model whose layers take any.
    least = [0] * LAYERS
    assert {name: " ".join(map(str, resolve(name, setting, least, "it"))) for name, setting in settings.items()} == compared
    assert {"searched-70pct", "searched-50pct", "uniform-50pct"} <= set(settings)


def test_confirmation_is_on_other_text_and_paired(searched, place, monkeypatch):
    compared = table(searched, "comparison")
    rows = [row for row in compared if row["kl_p"]]
    assert rows
    for row in rows:
        best = next(each for each in compared if each["budget"] == row["budget"] and each["family"] == "searched")
        assert float(row["kl_difference"]) == pytest.approx(float(row["unseen_kl"]) - float(best["unseen_kl"]), abs=1e-9)
        assert float(row["kl_p_holm"]) >= float(row["kl_p"])
    assert all(row["unseen_kl"] != row["kl"] for row in compared if row["windows"])


def test_confirm_agrees_with_a_paired_t_test():
    rng = np.random.default_rng(0)
    base = rng.gamma(3, 1.0, size=40)
    figures = {(0,): base, (1,): base + 0.5 + 0.3 * rng.normal(size=40), (2,): base + 0.01 * rng.normal(size=40)}

    class Fake(Evaluator):
        def __init__(self):
            self.texts, self.kl_of, self.answers_of = [], figures, {}

        def kl(self, windows):
            return figures[windows]

    names = (("searched", (0,)), ("first", (1,)), ("last", (2,)), ("guided", (0,)), ("uniform", None))
    entries = [Entry("50pct", family, family, windows, None if windows else "none fits") for family, windows in names]
    found = {row["family"]: row for row in confirm(entries, Fake(), seed=0)}
    for family, windows in (("first", (1,)), ("last", (2,))):
        row = found[family]
        plain = ttest_rel(figures[windows], base)
        assert row["kl_difference"] == pytest.approx(np.mean(figures[windows] - base))
        assert row["kl_p"] == pytest.approx(plain.pvalue, abs=0.02)
        low, high = plain.confidence_interval()
        assert (row["kl_low"], row["kl_high"]) == pytest.approx((low, high), abs=0.3 * (high - low))
    assert found["first"]["kl_p_holm"] == pytest.approx(2 * found["first"]["kl_p"])
    assert "kl_p" not in found["guided"] and "this one" in found["guided"]["reason"]
    assert found["uniform"]["reason"] == "none fits" and "unseen_kl" not in found["uniform"]


def test_an_interrupted_search_ends_with_the_same_tables_and_asks_nothing_twice(searched, place, monkeypatch):
    class Stop(Exception):
        pass

    find, asked_of = Evaluator._find_kl, []
    left = [9]

    def until(self, windows):
        if left[0] == 0:
            raise Stop
        left[0] -= 1
        asked_of.append((len(self._ids), windows))
        return find(self, windows)

    monkeypatch.setattr(Evaluator, "_find_kl", until)
    spec = asked(place, "resumed", method="evolution", generations=1)
    runs = 0
    while True:
        runs += 1
        try:
            assert running.search(spec) == 0
            break
        except Stop:
            left[0] = 9 if runs < 3 else 10_000
    assert runs == 4
    assert len(set(asked_of)) == len(asked_of)
    for name in TABLES:
        assert (place / "resumed" / f"{name}.csv").read_text() == (searched / f"{name}.csv").read_text()
    left[0] = 0
    assert running.search(spec) == 0
    assert json.loads((place / "resumed" / "environment.json").read_text())["resumed"]
    for name in TABLES:
        assert (place / "resumed" / f"{name}.csv").read_text() == (searched / f"{name}.csv").read_text()


def test_with_the_probe_and_a_weight_on_it(place, capsys):
    spec = asked(place, "probed", budgets=[0.5], windows=[16], length=256, probe=1, probe_weight=0.5, sequences=2, unseen=2)
    assert running.search(spec) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("searched-50pct: ")
    evaluated = table(place / "probed", "search")
    assert all(row["answer_loss"] and row["recall"] for row in evaluated)
    best = table(place / "probed", "comparison")[0]
    fitting = [row for row in evaluated if int(row["state_bytes"]) <= float(best["limit"])]
    assert best["windows"] == min(fitting, key=lambda row: float(row["kl"]) + 0.5 * float(row["answer_loss"]))["windows"]
    assert any(row["answer_loss_p_holm"] for row in table(place / "probed", "comparison"))
    assert "answer loss, unseen" in (place / "probed" / "report.md").read_text()


def test_a_hybrid_keeps_its_layers_without_windows(place):
    torch.manual_seed(0)
    sizes = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = NHAConfig(**sizes, num_hidden_layers=3, mixers=["nha", "gsa", "attention"], windows=[8, None, None], num_slots=8)
    NHAForCausalLM(config).save_pretrained(place / "hybrid")
    make_tokenizer().save_pretrained(place / "hybrid")
    spec = asked(place, "hybrid-run", model=str(place / "hybrid"), windows=[1, 16], budgets=[0.6])
    assert running.search(spec) == 0
    settings = yaml.safe_load((place / "hybrid-run" / "settings.yaml").read_text())
    assert {windows[1] for windows in settings.values()} == {"none"}
    rows = table(place / "hybrid-run", "sensitivity")
    assert [(row["layer"], row["mixer"]) for row in rows] == [("0", "nha")] * 2 + [("2", "attention")] * 2
    model = load(str(place / "hybrid")).model
    model.set_window(None)
    full = model.state_bytes(1, 96)
    for row in table(place / "hybrid-run", "search"):
        for layer, window in enumerate(row["windows"].split()):
            if window != "none":
                model.set_window(None if window == "full" else int(window), layers=[layer])
        assert int(row["state_bytes"]) == model.state_bytes(1, 96)
        assert float(row["state_share"]) == pytest.approx(model.state_bytes(1, 96) / full, abs=1e-6)


def test_under_a_budget_of_latency(place, monkeypatch, capsys):
    from nha_eval.costs import CostMeter

    def milliseconds(self, phase, **settings):
        assert phase == "prefill" and settings["length"] == 96
        costs = {0: 1.0, 16: 2.0, 64: 3.0, None: 10.0}
        return {"latency_ms": 5.0 + sum(costs[window] for window in self.model.config.windows)}

    monkeypatch.setattr(CostMeter, "measure", milliseconds)
    limits = {"budgets": [], "budgets_latency": [0.8, 0.5], "phase": "prefill"}
    assert running.search(asked(place, "timed", **limits)) == 0
    for row in table(place / "timed", "comparison"):
        if not row["windows"]:
            continue
        # Here layers do add up, so the model of the sum is what is measured.
        assert float(row["latency_ms_measured"]) == pytest.approx(float(row["latency_ms"]), abs=1e-4)
        assert float(row["latency_ms"]) <= float(row["limit"]) == pytest.approx({"80pct": 36.0, "50pct": 22.5}[row["budget"]])
    assert "searched-80pct-latency" in yaml.safe_load((place / "timed" / "settings.yaml").read_text())
    assert "ms, measured" in (place / "timed" / "report.md").read_text()


def test_a_time_limit_that_is_too_short_is_refused_before_the_sweep(place, capsys, monkeypatch):
    # All but a tenth of a millisecond is over, whatever the clock says.
    monkeypatch.setattr(Deadline, "spent", property(lambda self: 30 - 1e-4))
    spec = asked(place, "hurried")
    arguments = ["search", spec.model, "--text", spec.text, "--out", spec.out, "--time", "0.5", "--probe", "off"]
    arguments += ["--length", "96", "--windows", "0,16", "--sequences", "3", "--unseen", "4"]
    assert cli.run(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: --time 0.5: ") and "give more" in error
    assert not (place / "hurried" / "report.md").exists()


def test_a_time_limit_ends_the_search_and_not_the_report(place, monkeypatch):
    check, after = Deadline.check, [30]

    def short(self, wanted):
        check(self, wanted)
        if self.limit is not None:
            after[0] -= 1
            if after[0] < 0:
                raise OutOfTime

    monkeypatch.setattr(Deadline, "check", short)
    assert running.search(asked(place, "short", time=60.0)) == 0
    folder = place / "short"
    assert "The time limit ended the search" in (folder / "report.md").read_text()
    for row in table(folder, "comparison"):
        assert row["unseen_kl"] or row["reason"] in ("not reached within --time", "no layer can be full within the budget")
    assert {"searched-70pct", "searched-50pct"} <= set(yaml.safe_load((folder / "settings.yaml").read_text()))


def test_two_searches_do_not_share_a_folder_at_once(place, capsys):
    from filelock import FileLock

    spec = asked(place, "locked")
    (place / "locked").mkdir()
    with FileLock(place / "locked" / ".lock"), pytest.raises(Exception, match="another run is working in"):
        running.search(spec)


def test_where_no_outcome_could_be_significant_nothing_is_concluded(searched):
    rows = [{"kl_p": 0.1, "answer_loss_p": 0.1}] * 6
    # Of n sequences the least p is 2 of 2^n choices of signs; 12 tests.
    assert [too_few(rows, n) for n in (8, 9, 10, 11, 16)] == [True, False, False, False, False]
    assert 2 / 2**8 * 12 > 0.05 > 2 / 2**9 * 12
    assert not too_few([{"reason": "none fits"}], 2)
    # Six sequences and a dozen tests.
    assert "no outcome could have been significant" in (searched / "report.md").read_text()
