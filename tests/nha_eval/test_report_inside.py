"""Recall inside the window and beyond, by depth, and the slots' share: figures worked out by hand on made-up samples."""

import math

import numpy as np
import pandas as pd
import pytest
from report_run import NHA, full_costs, full_scores, full_telemetry, share, write_run
from scored_run import add, documents

from nha_eval.plots import figure, make_frames
from nha_eval.plots._answers import read_answers
from nha_eval.plots._shares import by_layer, by_position
from nha_eval.plots._style import NothingToDraw
from nha_eval.report import write_report
from nha_eval.report.inside import inside_tables, inside_text
from nha_eval.stats import wilson_interval

# (right, distance, depth) of each document: four inside 64, the first at the very edge, and six beyond.
ANSWERS = [
    *((1, 63, 0.9), (1, 10, 0.95), (0, 20, 0.81), (1, 0, 1.0)),
    *((0, 64, 0.79), (0, 100, 0.5), (1, 200, 0.5), (0, 300, 0.2), (0, 400, 0.19), (0, 500, 0.0)),
]


def samples(answers, each=None):
    told = documents([right for right, _, _ in answers], each=each)
    return [
        {**one, "correct": one["metrics"]["contains"], "distance": distance, "depth": depth}
        for one, (_, distance, depth) in zip(told, answers, strict=True)
    ]


def tables(folder, telemetry=None):
    frames = make_frames(None, None, telemetry)
    return {table.title: table for table in inside_tables(frames, read_answers(folder))}


def bounds(right, n):
    return "{:.3f} to {:.3f}".format(*wilson_interval(right / n, n))


def test_counts_inside_and_beyond_by_hand(tmp_path):
    run = add(tmp_path / "run", "nha", "64", samples(ANSWERS))
    add(run, "base", "full", samples([(1, distance, depth) for _, distance, depth in ANSWERS]))
    add(run, "nha", "256", samples(ANSWERS))
    found = tables(run)
    assert list(found) == ["recall: inside the window and beyond", "recall: by the answer's depth"]
    rows = found["recall: inside the window and beyond"].rows
    assert rows[0] == ["64", "nha, window 64", "0.750", bounds(3, 4), "4", "0.167", bounds(1, 6), "6"]
    assert rows[1] == ["64", "base, full attention", "1.000", bounds(4, 4), "4", "1.000", bounds(6, 6), "6"]
    # 200 is inside 256.
    assert rows[2][:2] == ["256", "nha, window 256"] and rows[2][2:] == ["0.571", bounds(4, 7), "7", "0.000", bounds(0, 3), "3"]
    assert rows[3][:2] == ["256", "base, full attention"] and [row[0] for row in rows] == ["64", "64", "256", "256"]


def test_a_setting_by_name_is_split_at_the_widest_of_its_windows(tmp_path):
    run = add(tmp_path / "run", "nha", "64", samples(ANSWERS))
    add(run, "nha", "searched", samples(ANSWERS), windows=[16, "full", 64, "none"])
    add(run, "nha", "all-full", samples(ANSWERS), windows=["full", "full", "full", "none"])
    rows = tables(run)["recall: inside the window and beyond"].rows
    assert [row[:2] for row in rows] == [["64", "nha, window 64"], ["64", "nha, searched"], ["64", "nha, all-full"]]
    assert rows[1][2:] == rows[0][2:] == ["0.750", bounds(3, 4), "4", "0.167", bounds(1, 6), "6"]
    told = inside_text(make_frames(None, None, None), read_answers(run))
    assert len(told) == 2 and "still meet what is beyond" in told[1]
    plain = add(tmp_path / "plain", "nha", "64", samples(ANSWERS))
    assert len(inside_text(make_frames(None, None, None), read_answers(plain))) == 1


def test_depth_in_fifths_by_hand(tmp_path):
    run = add(tmp_path / "run", "nha", "64", samples(ANSWERS))
    add(run, "base", "full", samples(ANSWERS[:9]))
    table = tables(run)["recall: by the answer's depth"]
    assert table.columns[1:3] == ["depth 0 to 20%", "depth 20 to 40%"]
    (own,) = [row for row in table.rows if row[0] == "nha, window 64"]
    counts = [(0, 2), (0, 1), (1, 2), (0, 1), (3, 4)]
    assert own[1:] == [f"{right / n:.3f} ({bounds(right, n)})" for right, n in counts]
    assert table.rows[-1] == ["n", "1 to 2", "1", "2", "1", "4"]


def test_questions_on_one_text_count_for_less(tmp_path):
    """Six right and six wrong, three texts each way: as Wilson's with fewer documents than there are."""
    answers = [(int(i < 6), 10, 0.5) for i in range(12)]
    alone = tables(add(tmp_path / "alone", "nha", "64", samples(answers)))
    shared = tables(add(tmp_path / "shared", "nha", "64", samples(answers, each=3)))

    def width(found):
        low, high = found["recall: inside the window and beyond"].rows[0][3].split(" to ")
        return float(high) - float(low)

    assert alone["recall: inside the window and beyond"].rows[0][3] == bounds(6, 12)
    assert width(shared) > 1.3 * width(alone)


def test_documents_that_tell_no_place_and_what_cannot_be_read_are_left_out(tmp_path):
    assert read_answers(tmp_path) == []
    run = add(tmp_path / "run", "nha", "64", documents([1, 0]))
    assert read_answers(run) == []
    odd = samples(ANSWERS[:2])
    odd[0] |= {"distance": "near", "depth": 7}
    odd[1] |= {"distance": None}
    add(run, "swa", "64", odd, task="other")
    (answer,) = read_answers(run)
    assert (answer.distance, answer.depth) == (None, 0.95)
    assert list(tables(run)) == ["recall: by the answer's depth"]
    add(run, "failed", "64", samples(ANSWERS), status="error")
    next((run / "samples").glob("swa*")).write_text("{}\n")
    assert read_answers(run) == []


def test_shares_are_pooled_by_queries():
    telemetry = make_frames(None, None, pd.DataFrame(full_telemetry())).telemetry
    layers = {row.layer: row for row in by_layer(telemetry).itertuples()}
    # Heads 0.1 and 0.5 on 300 queries, 0.5 and 0.9 on 100.
    assert (layers[0].low, layers[0].high) == pytest.approx((0.2, 0.6)) and layers[0].share == pytest.approx(0.4)
    assert (layers[1].low, layers[1].high) == pytest.approx((0.3, 0.5))
    positions = by_position(telemetry)
    assert positions["position_first"].tolist() == [64, 128]
    assert positions["share"].tolist() == pytest.approx([0.4, 0.8])


def test_the_picture_draws_what_the_tables_say():
    frames = make_frames(pd.DataFrame(full_scores()), pd.DataFrame(full_costs()), pd.DataFrame(full_telemetry()))
    left, right = figure("slot-share", frames).axes
    (line,) = left.get_lines()
    assert line.get_ydata().tolist() == pytest.approx([0.4, 0.4]) and line.get_xdata().tolist() == [0, 1]
    (band,) = left.collections
    corners = {(round(x, 9), round(y, 9)) for x, y in band.get_paths()[0].vertices}
    assert corners == {(0, 0.2), (0, 0.6), (1, 0.3), (1, 0.5)}
    (line,) = right.get_lines()
    assert np.allclose([line.get_xdata(), line.get_ydata()], [[64, 128], [0.4, 0.8]])
    with pytest.raises(NothingToDraw, match="eval --telemetry"):
        figure("slot-share", make_frames(pd.DataFrame(full_scores())))


def test_the_section_and_what_has_no_share(tmp_path):
    bare = share("swa", "64", "", "", "", reason="no query met slots")
    failed = share("huge", "64", "", "", "", status="oom", reason="no room")
    run = write_run(tmp_path / "run", full_scores(), full_costs(), telemetry=[*full_telemetry(), bare, failed])
    write_report(run)
    for name in ("report.md", "report.html"):
        text = (run / name).read_text(encoding="utf-8")
        assert "Inside the window" in text and "No query met slots in: swa, window 64." in text
        assert "0.400 (0.200 to 0.600)" in text and "128 to 255" in text
    assert (run / "plots" / "slot-share.svg").exists()
    markdown = (run / "report.md").read_text(encoding="utf-8")
    assert f"| layer | {NHA}, window 64 |" in markdown and "| 1 | 0.400 (0.300 to 0.500) |" in markdown
    # A cell that failed is told where the others are.
    assert "| huge | 64 | one | 1,024 | oom | no room |" in markdown
    assert "observed)" in markdown


def test_without_telemetry_and_places_there_is_no_section(tmp_path):
    run = write_run(tmp_path / "run", full_scores(), full_costs())
    write_report(run)
    assert "Inside the window" not in (run / "report.md").read_text(encoding="utf-8")
    assert not (run / "plots" / "slot-share.svg").exists()
    assert inside_text(make_frames(), []) == [] and inside_tables(make_frames(), []) == []


def test_a_window_that_holds_every_answer_has_nothing_beyond(tmp_path):
    run = add(tmp_path / "run", "nha", "1000", samples(ANSWERS))
    (row,) = tables(run)["recall: inside the window and beyond"].rows
    assert row[-3:] == ["–", "–", "0"] and row[4] == "10" and not math.isnan(float(row[2]))
