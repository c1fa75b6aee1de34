"""The headline's arithmetic and its honesty, against figures worked out by hand."""

import math

import pandas as pd
import pytest
from report_run import FULL, MIB, NHA, SWA, cost, full_costs, full_scores, score

from nha_eval.plots import make_frames, suite_scores, task_scores
from nha_eval.plots._settings import full_setting, role
from nha_eval.report.headline import Score, headline, middle_window
from nha_eval.report.tables import number, share, size, times


def said(scores=None, costs=None):
    return headline(make_frames(*(pd.DataFrame(rows) if rows else None for rows in (scores, costs))))


def recall(model, window, *values, stderr=0.01, length=1024):
    return [score(model, window, f"task{place}", value, stderr, length=length) for place, value in enumerate(values)]


def three(nha, swa, *, full=0.7, stderr=0.01):
    return [
        *recall(FULL, "full", full, stderr=stderr),
        *recall(NHA, "64", nha, stderr=stderr),
        *recall(SWA, "64", swa, stderr=stderr),
    ]


def test_settings_by_name_have_sentences_of_their_own():
    scores = [*recall(FULL, "full", 0.8), *recall(NHA, "searched", 0.6), *recall(NHA, "64", 0.4), *recall(NHA, "own", 0.1)]
    costs = [cost(FULL, "full", "decode", 1024, 100, 84 * MIB), cost(NHA, "searched", "decode", 1024, 50, 21 * MIB)]
    sentences = said(scores, costs)
    assert sentences[0].startswith("At a window of 64 and 1,024 tokens, NHA keeps 50%")
    assert sentences[1] == (
        "At the setting searched and 1,024 tokens, NHA keeps 75% of full attention's recall-local score (0.60 against 0.80)."
    )
    assert sentences[2] == (
        "At 1,024 tokens and the setting searched, NHA's state is 4.0 times smaller than full attention's (21.0 MiB against "
        "84.0 MiB) and decoding a token takes 0.50 of full attention's time."
    )
    assert len(sentences) == 3
    alone = said([*recall(FULL, "full", 0.8), *recall(NHA, "searched", 0.6)])
    assert alone == [sentences[1]]


def test_models_at_a_setting_by_name_are_not_crowded_out_by_those_at_a_window():
    others = [row for i in range(5) for row in recall(f"nha:{FULL}-{i}", "64", 0.5)]
    named = [*recall(FULL, "full", 0.8), *recall(NHA, "searched", 0.6), *recall(SWA, "searched", 0.4)]
    sentences = said([*named, *others])
    assert sum(f"nha:{FULL}-{i}" in sentences[0] for i in range(5)) == 4
    assert sentences[-1].startswith("At the setting searched") and "sliding window alone" in sentences[-1]
    # Nor is the control by them at the same window.
    (only, *_) = said([*recall(FULL, "full", 0.8), *others, *recall(SWA, "64", 0.4)])
    assert "sliding window alone" in only and sum(f"nha:{FULL}-{i}" in only for i in range(5)) == 3


def test_suite_scores_are_means_with_combined_errors():
    table = suite_scores(make_frames(pd.DataFrame(full_scores())).scores)
    row = table[(table["model"] == FULL) & (table["length"] == 1024)].iloc[0]
    # (0.8 + 0.6) / 2 and sqrt(0.03^2 + 0.04^2) / 2
    assert (row["value"], row["stderr"], row["tasks"], row["tasks_total"]) == (pytest.approx(0.7), pytest.approx(0.025), 2, 2)
    choice = table[(table["model"] == NHA) & (table["suite"] == "commonsense-local") & (table["window"] == "64")].iloc[0]
    assert (choice["value"], choice["majority"], choice["metric"]) == (pytest.approx(0.52), pytest.approx(0.4), "acc_norm")


def test_a_task_nobody_could_run_is_no_part_of_a_mean():
    rows = [*recall(FULL, "full", 0.8), score(FULL, "full", "gone", "", length=1024, status="unavailable")]
    assert suite_scores(make_frames(pd.DataFrame(rows)).scores)["tasks_total"].tolist() == [1]


def test_perplexity_enters_no_score():
    rows = [score("m", "64", "text", 12.0, 0.1, metric="word_perplexity,none")]
    assert suite_scores(make_frames(pd.DataFrame(rows)).scores).empty


def test_the_whole_runs_headline():
    sentences = said(full_scores(), full_costs())
    # 0.45 / 0.70 = 64.3%, 0.25 / 0.70 = 35.7%; the gap of 0.20 is beyond 1.96 * (0.025 + 0.025) = 0.098.
    assert sentences[0] == (
        "At a window of 64 and 1,024 tokens, NHA keeps 64% of full attention's recall-local score (0.45 against 0.70) "
        "and sliding window alone 36% (0.25). NHA is 0.20 ahead of sliding window alone."
    )
    # At 256: NHA 0.675 lies within 0.098 of 0.70, sliding window alone at 0.55 does not.
    assert sentences[1] == (
        "On recall-local, the narrowest window at which NHA is not distinguishably below full attention is 256; "
        "sliding window alone is below full attention even at the widest window measured, 256."
    )
    # 0.52 / 0.60 = 86.7% and 0.50 / 0.60 = 83.3%; the standard errors are 0.02, so intervals reach 0.0784, just under 0.08.
    assert sentences[2] == (
        "At a window of 64, NHA keeps 87% of full attention's commonsense-local score (0.52 against 0.60) and sliding window "
        "alone 83% (0.50); the constant answer gets 0.40. NHA and sliding window alone are not distinguishable here: their 95% "
        "intervals overlap."
    )
    assert (
        "At 4,096 tokens and a window of 64, NHA's state is 21 times smaller than full attention's (4.00 MiB against 84.0 MiB)"
        ", prefill takes 0.83 of full attention's time and decoding a token takes 1.01 of full attention's time (not "
        "distinguishable: the quartiles of the timings overlap)."
    ) in sentences


@pytest.mark.parametrize(
    ("nha", "swa", "stderr", "wanted"),
    [
        (0.5, 0.4, 0.01, "NHA is 0.10 ahead of sliding window alone."),
        (0.4, 0.5, 0.01, "NHA is 0.10 behind sliding window alone."),
        (0.4, 0.5, 0.03, "NHA and sliding window alone are not distinguishable here: their 95% intervals overlap."),
        (0.4, 0.5, "", "Without standard errors NHA and sliding window alone cannot be ranked."),
    ],
    ids=["better", "worse", "overlap", "no errors"],
)
def test_nha_against_sliding_window_alone(nha, swa, stderr, wanted):
    assert said(three(nha, swa, stderr=stderr))[0].endswith(wanted)


def test_a_score_within_the_error_of_full_attentions_is_called_so():
    assert (
        "NHA keeps 97% of full attention's recall-local score (0.68 against 0.70, not distinguishable from it)"
        in said(three(0.68, 0.2))[0]
    )
    assert "NHA keeps 114% of full attention's recall-local score (0.80 against 0.70, more than it)" in said(three(0.8, 0.2))[0]


@pytest.mark.parametrize("full", [0.0, 0.01])
def test_a_base_that_fails_measures_nothing(full):
    sentences = said(three(0.0, 0.0, full=full))
    assert (
        f"recall-local cannot tell settings apart: full attention itself, at {full:.2f}, is not distinguishable from 0"
        in sentences[0]
    )
    assert len(sentences) == 1 and "keeps" not in sentences[0]


def test_a_base_at_the_constant_answer_measures_nothing():
    rows = [
        score(model, window, "t", value, stderr, suite="choice", metric=metric)
        for model, window, accuracy in ((FULL, "full", 0.55), (NHA, "64", 0.54))
        for metric, value, stderr in (("acc", accuracy, 0.03), ("majority", 0.52, ""))
    ]
    assert "at 0.55, is not distinguishable from the constant answer's 0.52 (NHA 0.54)" in said(rows)[0]


def test_only_tasks_that_all_have_are_compared():
    rows = [*recall(FULL, "full", 0.8, 0.2), *recall(NHA, "64", 0.4), *recall(SWA, "64", 0.2, 0.1)]
    assert said(rows)[0].startswith(
        "At a window of 64 and 1,024 tokens, NHA keeps 50% of full attention's recall-local (on 1 of 2 tasks) score "
        "(0.40 against 0.80) and sliding window alone 25% (0.20)."
    )


def test_missing_settings_are_said_to_be_missing():
    assert said(recall(NHA, "64", 0.4)) == [
        "At a window of 64 and 1,024 tokens, full attention has no recall-local score to compare with yet."
    ]
    alone = said([*recall(FULL, "full", 0.8), *recall(NHA, "64", 0.4)])
    assert alone == [
        "At a window of 64 and 1,024 tokens, NHA keeps 50% of full attention's recall-local score (0.40 against 0.80)."
    ]
    assert said(recall(FULL, "full", 0.8)) == [
        "This run has no window to set against full attention yet; the tables below hold what was measured."
    ]
    assert said() == ["Nothing has been measured in this run yet."]


def test_a_model_is_its_own_reference_when_there_is_no_other():
    rows = [*recall("mine", "full", 0.8), *recall("mine", "16", 0.2), *recall("mine", "64", 0.4)]
    assert (
        said(rows)[0]
        == "At a window of 16 and 1,024 tokens, mine keeps 25% of full attention's recall-local score (0.20 against 0.80)."
    )


def test_slower_and_larger_are_said_as_such():
    costs = [cost(FULL, "full", "prefill", 512, 100, 2 * MIB), cost(NHA, "64", "prefill", 512, 250, 6 * MIB)]
    assert said(None, costs) == [
        "At 512 tokens and a window of 64, NHA's state is 3.0 times larger than full attention's (6.00 MiB against 2.00 MiB)"
        " and prefill takes 2.5 times full attention's time."
    ]


@pytest.mark.parametrize(
    "other", [{"device": "cuda"}, {"dtype": "bfloat16"}, {"batch_size": 4}, {"length": 1024}, {"status": "oom"}]
)
def test_costs_that_do_not_compare_are_not_compared(other):
    costs = [cost(FULL, "full", "prefill", 512, 100, 2 * MIB), {**cost(NHA, "64", "prefill", 512, 50, MIB), **other}]
    assert "full attention's" not in " ".join(said(None, costs)).replace("against full attention", "")


def test_each_cost_is_taken_at_the_longest_length_that_both_have():
    costs = [cost(FULL, "full", "prefill", length, length, length * 1000) for length in (512, 4096)]
    costs += [cost(NHA, "64", "prefill", length, length / 2, 512_00) for length in (512, 8192)]
    assert said(None, costs)[0].startswith("At 512 tokens and a window of 64, NHA's state is 10 times smaller")


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        (Score(0.5, 0.1), Score(0.9, 0.1), "below"),
        (Score(0.9, 0.1), Score(0.5, 0.1), "above"),
        # The intervals end at 0.5 + 0.196 and 0.892 - 0.196: they touch.
        (Score(0.5, 0.1), Score(0.892, 0.1), "same"),
        (Score(0.5, math.nan), Score(0.9, 0.1), "unknown"),
    ],
)
def test_verdicts(one, other, verdict):
    assert one.verdict(other) == verdict


def test_the_window_of_the_headline():
    settings = [("a", "16"), ("a", "64"), ("a", "256"), ("b", "64"), ("b", "full"), ("b", "own")]
    assert middle_window(settings, ["a", "b"]) == "64"
    assert middle_window(settings, ["a"]) == "64"
    assert middle_window([("a", "16"), ("a", "64")], ["a"]) == "16"
    assert middle_window([("a", "full")], ["a"]) is None


def test_who_is_measured_against_whom():
    settings = [("m", "full"), ("big-m", "full"), ("nha-big-m", "64"), ("nha-m", "64"), ("other", "64")]
    assert full_setting(settings, "nha-big-m") == ("big-m", "full")
    assert full_setting(settings, "nha-m") == ("m", "full")
    assert full_setting(settings, "other") is None
    assert role(["nha-m", "swa-m"], "nha-m") == "NHA" and role(["nha-m", "nha-n"], "nha-m") == "nha-m"


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (share(0.4143), "41%"),
        (share(0.002), "under 1%"),
        (share(0.0), "0%"),
        (times(20.6), "21"),
        (times(3.44), "3.4"),
        (times(0.834), "0.83"),
        (size(4.5 * MIB), "4.50 MiB"),
        (size(100), "100 bytes"),
        (number(1234.5), "1,234"),
        (number(0.01234), "0.0123"),
        (number(math.nan), "–"),
    ],
)
def test_figures_in_words(shown, wanted):
    assert shown == wanted


def test_contexts_that_all_score_alike_are_no_certainty():
    row = {"suite": "s", "task": "t", "length": 512, "model": "m", "window": "64", "metric": "contains", "status": "ok"}
    table = task_scores(make_frames(pd.DataFrame([row | {"value": 0.0, "stderr": 0.0, "n": 18}])).scores)
    # Two of 22 right: sqrt(2/22 * 20/22 / 22).
    assert table["stderr"].tolist() == pytest.approx([(2 / 22 * 20 / 22 / 22) ** 0.5])
    table = task_scores(make_frames(pd.DataFrame([row | {"value": 0.5, "stderr": 0.1, "n": 18}])).scores)
    assert table["stderr"].tolist() == [0.1]
