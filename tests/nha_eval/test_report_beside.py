"""The table of accuracy beside cost: the figures of a made-up run that can be worked out by hand, and what is not there."""

import pandas as pd
from report_run import FULL, MIB, NHA, cost, full_costs, full_run, full_scores, score, write_run

from nha_eval.plots._frames import make_frames
from nha_eval.report import write_report
from nha_eval.report.beside import beside_table, beside_text

ENVIRONMENT = {"models": {FULL: {"parameters": 134_515_008}, NHA: {"parameters": 1_361_000, "random_weights": True}}}


def table(scores, costs, environment=ENVIRONMENT):
    return beside_table(make_frames(pd.DataFrame(scores), pd.DataFrame(costs)), environment)


def test_scores_stand_beside_costs_at_the_longest_shared_length():
    found = table(full_scores(), full_costs())
    assert found.columns == [
        *("setting", "weights, M", "recall-local, 1,024 tokens", "commonsense-local"),
        *("prefill, ms at 4,096 tokens", "one token, ms at 4,096 tokens", "peak memory, MiB", "state"),
    ]
    rows = {row[0]: row[1:] for row in found.rows}
    # recall (0.8 + 0.6) / 2 and (0.5 + 0.4) / 2; sqrt(0.03^2 + 0.04^2) / 2; prefill 4096 and 4096 * 0.83.
    assert rows["base, full attention"] == ["135", "0.700 ± 0.025", "0.600 ± 0.020", "4,096", "100", "800", "84.0 MiB"]
    narrow = ["1.36", "0.450 ± 0.025", "0.520 ± 0.020", "3,400", "101", "800", "4.00 MiB"]
    assert rows["nha-base, window 64 (random weights)"] == narrow
    # Of this window nothing was timed, and of the sliding window's weights nothing is known.
    assert rows["nha-base, window 256 (random weights)"][3:] == ["–"] * 4
    assert rows["swa-base, window 64"][0] == "–"


def test_a_setting_that_was_timed_alone_and_one_of_a_part_of_the_tasks():
    scores = [score("a", "full", "one", 0.5, 0.1), score("a", "full", "two", 0.7, 0.1), score("b", "none", "one", 0.5, 0.1)]
    scores.append(score("b", "none", "two", "", status="error"))
    costs = [cost(model, window, "prefill", 64, 2, MIB) for model, window in (("a", "full"), ("b", "none"), ("c", "8"))]
    rows = {row[0]: row for row in table(scores, costs, {}).rows}
    assert rows["b"][2] == "0.500 ± 0.100 (1 of 2 tasks)"
    assert rows["c, window 8"][2:4] == ["not run", "2.00"]
    assert rows["c, window 8"][4] == "–"


def test_the_smallest_batch_is_taken_and_named():
    costs = [cost("a", "full", "prefill", 64, 2.0 * batch, MIB, batch_size=batch) for batch in (4, 8)]
    found = table([score("a", "full", "one", 0.5, 0.1)], costs, {})
    assert found.columns[3] == "prefill, ms at 64 tokens, batch 4"
    assert found.rows[0][3] == "8.00"


def test_without_scores_or_without_costs_there_is_no_table():
    assert table([], full_costs()) is None
    assert table(full_scores(), []) is None


def test_random_weights_are_said_of_models_with_scores_alone():
    frames = make_frames(pd.DataFrame(full_scores()), pd.DataFrame(full_costs()))
    assert beside_text(frames, ENVIRONMENT) == [
        "Random weights, never trained, so that scores are chance and costs are not: nha-base."
    ]
    for models in ({}, None, 3, {NHA: 3}, {NHA: {"random_weights": "yes"}}, {"other": {"random_weights": True}}):
        assert beside_text(frames, {"models": models}) == []
        assert beside_table(frames, {"models": models}) is not None


def test_it_is_in_the_report(tmp_path):
    folder = write_run(full_run(tmp_path / "run"), environment=ENVIRONMENT)
    write_report(folder)
    row = "| nha-base, window 64 (random weights) | 1.36 | 0.450 ± 0.025 | 0.520 ± 0.020 | 3,400 | 101 | 800 | **4.00 MiB** |"
    markdown = (folder / "report.md").read_text()
    assert row in markdown
    assert "scores are chance and costs are not: nha-base" in markdown
