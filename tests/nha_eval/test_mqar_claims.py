"""The claims: which models meet which, verdicts worked out by hand, what a sliding window can know, and the page."""

import csv

import numpy as np
import pytest
from scipy.stats import ttest_1samp
from test_mqar_training import spec_of

from nha_eval.training.finding import read_training_spec
from nha_eval.training.mqar.cells import first_cells
from nha_eval.training.mqar.claims import compare, write_claims
from nha_eval.training.mqar.claims_page import CLAIMS, EXPECTED
from nha_eval.training.mqar.sweep import COLUMNS, _own_window
from nha_eval.training.mqar.training import build
from tasks.synthetic.mqar import mqar, split_rng

KIND = {"length": 16, "pairs": 2}
# Keys and values of 64 dimensions in two layers.
STATE = 2 * 2 * 64


def row(mixer, accuracies, held, **more):
    """Rows of one model: an accuracy a seed on the test split, and as much on the selection split."""
    window = more.pop("window", "none")
    about = {
        "task": "near",
        "mixer": mixer,
        "variant": "",
        "window": window,
        "trained_window": window,
        "slots": "",
        "d_model": 64,
    }
    about |= {"heads": 2, "state_elements": held * STATE, **KIND, "rate": "0.001", "n": 100, "status": "ok"}
    chosen = more.pop("selection", None)
    return [
        {**dict.fromkeys(COLUMNS, ""), **about, **more, "seed": seed, "split": split, "accuracy": accuracy}
        for seed, given in enumerate(accuracies, 1)
        for split, accuracy in (("test", given), ("selection", given if chosen is None else chosen))
    ]


def places_of(*models, **changes):
    rows = [{key: str(value) for key, value in one.items()} for model in models for one in model]
    return list(compare(spec_of(**changes), rows))


def told(*models, **changes):
    return {(place.claim, place.a, place.b): place for place in places_of(*models, **changes)}


def test_who_is_compared_with_whom():
    nha = [
        row("nha", [0.9, 0.9, 0.9], 8, window="4", slots="4", selection=0.9),
        row("nha", [0.95, 0.95, 0.95], 8, window="2", slots="6", selection=0.8),
        row("nha", [0.99, 0.99, 0.99], 16, window="4", slots="12"),
        row("nha", [0.5, 0.5, 0.5], 8, window="4", slots="4", variant="fusion=sum"),
    ]
    others = [
        row("gsa", [0.7, 0.6, 0.8], 8, slots="8"),
        row("gsa", [0.7, 0.6, 0.8], 12, slots="12"),
        row("swa", [0.95, 0.8, 0.85], 8, window="8"),
        row("gla", [0.6, 0.6, 0.6], 15),
        row("mamba2", [0.6, 0.6, 0.6], 7),
        row("mamba2", [0.6, 0.6, 0.6], 40, d_model=128),
        row("gated-deltanet", [0.993, 0.988, 0.99], 40),
    ]
    found = told(*nha, *others)
    own, larger = "nha d=64 heads=2 w=4 slots=4", "nha d=64 heads=2 w=4 slots=12"
    verdicts = {key: place.verdict for key, place in found.items() if key[0] != "reach"}
    assert verdicts == {
        # Of two NHA with states as large, the selection split takes the one that the test split would not.
        ("same gsa", own, "gsa d=64 heads=2 slots=8"): "holds",
        ("same swa", own, "swa d=64 heads=2 w=8"): "mixed",
        ("smaller gla", own, "gla d=64 heads=2"): "holds",
        ("smaller gated-deltanet", larger, "gated-deltanet d=64 heads=2"): "level",
        ("slots", larger, own): "holds",
        ("fusion=sum", own, "nha d=64 heads=2 w=4 slots=4 fusion=sum"): "holds",
    }
    gsa = found["same gsa", own, "gsa d=64 heads=2 slots=8"]
    low, high = ttest_1samp([0.2, 0.3, 0.1], 0).confidence_interval(0.95)
    assert (gsa.difference, gsa.low, gsa.high) == pytest.approx((0.2, low, high)) and gsa.seeds == 3
    assert (gsa.state_a, gsa.state_b, gsa.trained) == (8 * STATE, 8 * STATE, "yes")


def test_the_sweep_of_minutes_tells_of_every_claim():
    _, spec = read_training_spec("mqar-minutes", {})
    rows = []
    for cell in first_cells(spec):
        shape, model = cell.shape, build(spec, cell)
        own = str(_own_window(spec, cell))
        for window in (own, *map(str, shape.test_windows)):
            about = {"task": cell.task.name, "mixer": shape.mixer, "variant": shape.variant, "window": window}
            about |= {"trained_window": own, "slots": "" if shape.slots is None else str(shape.slots), "split": "test"}
            about |= {"d_model": str(shape.d_model), "heads": str(shape.heads), "seed": "1", "rate": "1", "status": "ok"}
            about |= {"length": "256", "pairs": "64", "state_elements": str(model.state_elements(512)), "accuracy": "0.5"}
            rows.append({**dict.fromkeys(COLUMNS, ""), **about})
    places = list(compare(spec, rows))
    assert {place.claim for place in places} == set(CLAIMS)
    # States of one size: with short convolutions four at the smaller width and one at the larger, without them one.
    assert [sum(place.claim == f"same {mixer}" for place in places) for mixer in ("gsa", "swa")] == [6, 6]


def test_short_convolutions_are_compared_apart():
    taps = {"variant": "conv_size=3"}
    found = told(
        row("nha", [0.5, 0.5], 8, window="4", slots="4"),
        row("nha", [0.9, 0.9], 9, window="4", slots="4", **taps),
        row("nha", [0.8, 0.8], 9, window="4", slots="4", variant="overlap=true conv_size=3"),
        row("gsa", [0.6, 0.6], 8, slots="8"),
        row("gsa", [0.6, 0.6], 9, slots="8", **taps),
        row("gla", [0.6, 0.6], 9),
    )
    own, convolved = "nha d=64 heads=2 w=4 slots=4", "nha d=64 heads=2 w=4 slots=4 conv_size=3"
    assert {key: place.verdict for key, place in found.items()} == {
        ("same gsa", own, "gsa d=64 heads=2 slots=8"): "fails",
        ("same gsa", convolved, "gsa d=64 heads=2 slots=8 conv_size=3"): "holds",
        ("smaller gla", convolved, "gla d=64 heads=2"): "holds",
        ("convolutions", convolved, own): "holds",
        ("overlap=true", convolved, "nha d=64 heads=2 w=4 slots=4 overlap=true conv_size=3"): "holds",
    }
    # Each of two layers reaches as much further as its convolutions have taps before the token's own.
    (place,) = places_of(row("swa", [0.5], 8, window="4", length=64, pairs=4, **taps))
    assert place.b == "within 10 tokens"


def test_full_attention_and_what_was_not_trained_on():
    found = places_of(
        row("transformer++", [1.0, 0.995], 16, window="full"),
        row("transformer++", [1.0, 0.5], 64, window="full", length=64, pairs=2),
        row("transformer++", [0.9, 0.5], 64, window="full", heads=4),
    )
    assert [(place.length, place.trained, place.verdict) for place in found] == [
        (16, "yes", "holds"), (64, "no", "mixed"), (16, "yes", "fails")
    ]  # fmt: skip


def test_a_sliding_window_knows_what_stands_within_reach():
    inputs, labels = mqar(split_rng(0, "test", 64, 4), 60, length=64, pairs=4, vocabulary=16)
    far = [
        place - np.flatnonzero(ids[:8] == value)[0]
        for ids, answers in zip(inputs, labels, strict=True)
        for place, value in enumerate(answers)
        if value >= 0
    ]
    # Two layers of 8 tokens reach 14 back; of the eight values three are known to be others'.
    within = np.mean(np.array(far) <= 14)
    bound = within + (1 - within) / 5
    known = row("swa", [bound, bound], 8, window="8", length=64, pairs=4)
    knows_more = row("swa", [bound + 0.05] * 2, 8, window="8", length=64, pairs=4, heads=4)
    sees_all = row("swa", [1.0, 1.0], 40, window="40", length=64, pairs=4)
    places = places_of(known, knows_more, sees_all, test_examples=60)
    assert [(place.verdict, place.b) for place in places] == [("holds", "within 14 tokens"), ("fails", "within 14 tokens")]
    assert places[0].accuracy_b == pytest.approx(bound + 0.02) and 0.2 < within < 0.8


def test_other_windows_are_held_against_the_own_one():
    trained = {"slots": "4", "trained_window": "4"}
    found = told(
        row("nha", [0.9, 0.9], 8, window="4", slots="4"),
        row("nha", [0.9, 0.9], 20, **{"window": "16", **trained}),
        row("nha", [0.5, 0.6], 6, **{"window": "2", **trained}),
        row("nha", [0.95, 0.95], 12, window="8", slots="4"),
    )
    assert {(place.claim, place.a.split()[3], place.b.split()[3]): place.verdict for place in found.values()} == {
        ("window", "w=8", "w=4"): "holds",
        ("wider", "w=16", "w=4"): "level",
        ("narrower", "w=2", "w=4"): "fails",
    }


def test_the_page_says_what_holds_and_where_not(tmp_path):
    models = [
        row("transformer++", [1.0, 1.0], 16, window="full"),
        row("nha", [0.9, 0.9], 8, window="4", slots="4"),
        row("gsa", [0.95, 0.95], 8, slots="8"),
        row("gla", [0.7, 0.7], 8),
    ]
    table = tmp_path / "mqar.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(one for model in models for one in model)
        writer.writerow({"mixer": "swa", "rate": "0.1", "split": "test", "status": "oom"})
    text = write_claims(spec_of(rates=[1e-3, 1e-2, 1e-1]), table).read_text()
    assert "Of 4 models 4 are best at the lowest of the rates tried of them" in text
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    by_claim = {cells[0]: cells[1:] for cells in reversed(lines)}
    assert by_claim[CLAIMS["full"]][:5] == ["holds", "1", "0", "0", "0"]
    assert by_claim[CLAIMS["same gsa"]] == ["fails", "0", "0", "0", "1", "-0.050 (-0.050 to -0.050)", "-"]
    assert by_claim[CLAIMS["smaller gla"]][0] == "holds" and CLAIMS["same swa"] not in by_claim
    assert lines[-1][1:] == [
        "near: 16 tokens, 2 pairs", "yes", "nha d=64 heads=2 w=4 slots=4", "gsa d=64 heads=2 slots=8", "0.900, 0.950", "fails"
    ]  # fmt: skip
    with (tmp_path / "claims.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(one["claim"], one["verdict"]) for one in rows] == [
        (CLAIMS["full"], "holds"), (CLAIMS["same gsa"], "fails"),
        (CLAIMS["smaller transformer++"], "fails"), (CLAIMS["smaller gla"], "holds"),
    ]  # fmt: skip
    assert set(EXPECTED) < set(CLAIMS)
    table.write_text(",".join(COLUMNS) + "\n")
    assert write_claims(spec_of(), table) is None
