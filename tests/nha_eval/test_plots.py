"""Plots: kinds found by file name, drawn figures equal to the frames', partial tables, and the same bytes twice."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_run import (
    FULL,
    NHA,
    SWA,
    cost,
    full_answers,
    full_costs,
    full_lm,
    full_mqar,
    full_run,
    full_scores,
    full_telemetry,
    recalled,
    score,
)

from nha_eval.plots import draw, figure, load_frames, make_frames, plot_kind, plot_kinds, render, style, training_figure
from nha_eval.plots._style import PALETTE, THEMED, NothingToDraw, length_axis, panels


def frames(*tables):
    return make_frames(*(pd.DataFrame(rows) if rows else None for rows in tables))


@pytest.fixture(scope="module")
def whole():
    return frames(full_scores(), full_costs(), full_telemetry(), full_mqar(), full_lm(), full_answers())


def lines(axes):
    """Label -> x and y of every labelled line, error bars' data lines among them."""
    found = {}
    for line in axes.get_lines():
        if not line.get_label().startswith("_"):
            found[line.get_label()] = (np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float))
    for bars in axes.containers:
        found.setdefault(bars.get_label(), tuple(np.asarray(part, float) for part in bars[0].get_data()))
    return found


def titles(drawn):
    return [axes.get_title(loc="left") for axes in drawn.axes]


def test_kinds_are_the_files():
    assert {"window-accuracy", "latency-length", "memory-length", "accuracy-cost"} <= set(plot_kinds())
    assert not [kind for kind in plot_kinds() if kind.startswith(("-", "_"))]


@pytest.mark.parametrize("kind", plot_kinds())
def test_every_kind_has_its_words_and_draws(kind, whole):
    module = plot_kind(kind)
    assert module.TITLE and module.ALT and module.CAPTION
    for columns in (None, 1):
        drawn = figure(kind, whole, columns=columns)
        assert drawn.axes and drawn.legends


def test_unknown_kind_names_the_nearest():
    with pytest.raises(ValueError, match=r"no plot kind 'window-acuracy'; did you mean 'window-accuracy'\?"):
        plot_kind("window-acuracy")


def test_window_accuracy_draws_what_the_frame_says(whole):
    drawn = figure("window-accuracy", whole)
    assert titles(drawn) == ["recall-local, 512 tokens", "recall-local, 1,024 tokens", "commonsense-local"]
    recall = drawn.axes[1]
    found = lines(recall)
    assert found[NHA][1] == pytest.approx([0.45, 0.675])
    assert found[SWA][1] == pytest.approx([0.25, 0.55])
    assert found[FULL][1] == pytest.approx([0.7, 0.7])
    assert [label.get_text() for label in recall.get_xticklabels()] == ["64", "256"]
    # A bar reaches 1.96 standard errors, 0.025 each, to both sides.
    segments = [segment for bars in recall.containers for segment in bars[2][0].get_segments()]
    assert sorted(segment[1][1] - segment[0][1] for segment in segments) == pytest.approx([2 * 1.96 * 0.025] * 4)
    assert not recall.findobj(lambda artist: artist.get_label() == "constant answer")
    constant = drawn.axes[2].findobj(lambda artist: artist.get_label() == "constant answer")
    assert [line.get_ydata()[0] for line in constant] == [0.4]
    assert lines(drawn.axes[2])[FULL][1] == pytest.approx([0.6, 0.6])


def test_window_accuracy_marks_means_of_some_tasks():
    rows = [score(SWA, "64", "one", 0.5, 0.1), score(SWA, "64", "two", 0.1, 0.1), score(SWA, "16", "one", 0.4, 0.1)]
    drawn = figure("window-accuracy", frames(rows))
    faces = [bars[0].get_markerfacecolor() for bars in drawn.axes[0].containers]
    assert sorted(faces) == sorted(["#ffffff", PALETTE[0]])
    assert "some tasks only" in [text.get_text() for text in drawn.legends[0].get_texts()]


@pytest.mark.parametrize(
    ("windows", "places"),
    [(["0", "8"], ["0", "8"]), ([64, 16], ["16", "64"]), ([64.0, "full"], ["64", "full"]), (["own"], ["own"]), (["full"], [])],
    ids=["zero", "integers", "floats", "own", "full only"],
)
def test_windows_of_any_kind_have_a_place(windows, places):
    drawn = figure("window-accuracy", frames([score("m", window, "one", 0.5, 0.1) for window in windows]))
    assert [label.get_text() for label in drawn.axes[0].get_xticklabels()] == places


def test_settings_by_name_stand_behind_and_no_line_joins_them():
    long = ["searched-25pct-of-full", "searched-50pct-of-full"]
    windows = ["64", *long, "own", "tight", "16", "full"]
    rows = [score("m", window, "one", 0.1 * place, 0.1) for place, window in enumerate(windows)]
    drawn = figure("window-accuracy", frames(rows))
    ticks = [label.get_text() for label in drawn.axes[0].get_xticklabels()]
    assert ticks == ["16", "64", "full", "own", "(a)", "(b)", "tight"]
    # Letters and names, so that names cut alike are not taken for each other.
    legend = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert {f"(a) {long[0]}", f"(b) {long[1]}"} <= set(legend)
    x, y = lines(drawn.axes[0])["m"]
    assert x.tolist() == [0, 1, 2] and y == pytest.approx([0.5, 0.0, 0.6])
    marks = {float(x): float(y) for bars in drawn.axes[0].containers for x, y in zip(*bars[0].get_data(), strict=True)}
    assert marks == pytest.approx({0: 0.5, 1: 0.0, 2: 0.6, 3: 0.3, 4: 0.1, 5: 0.2, 6: 0.4})


def test_settings_by_name_are_placed_by_their_cost():
    costs = [cost("m", window, "decode", 64, 10, state) for window, state in (("16", 100), ("searched", 300), ("full", 900))]
    scores = [score("m", window, "one", 0.5, 0.1) for window in ("16", "searched", "full")]
    drawn = figure("accuracy-cost", frames(scores, costs))
    points = lines(drawn.axes[0])
    assert points["m|searched"] == (pytest.approx([300]), pytest.approx([0.5]))
    drawn_through = [line for line in drawn.axes[0].get_lines() if line.get_linestyle() != "None"]
    joined = [line.get_xdata().tolist() for line in drawn_through if line.get_label() != "_front"]
    assert joined == [[100, 900]]
    assert "searched" in [text.get_text() for text in drawn.legends[0].get_texts()]


def test_latency_draws_medians_and_quartiles(whole):
    drawn = figure("latency-length", whole)
    assert titles(drawn) == ["Prefill", "Decoding one token"]
    prefill = lines(drawn.axes[0])
    assert prefill[f"{NHA}|64"][0] == pytest.approx([1024, 4096])
    assert prefill[f"{NHA}|64"][1] == pytest.approx([1.024 * 0.83, 4.096 * 0.83])
    assert drawn.axes[0].get_ylabel() == "median latency (s)"
    decode = lines(drawn.axes[1])
    assert decode[f"{FULL}|full"][1] == pytest.approx([100, 100])
    assert drawn.axes[1].get_ylabel() == "median latency (ms)" and drawn.axes[1].get_ylim()[0] == 0


def test_memory_draws_peak_and_state(whole):
    drawn = figure("memory-length", whole)
    assert titles(drawn) == ["Prefill", "Decoding one token", "State kept while decoding"]
    state = lines(drawn.axes[2])
    assert state[f"{FULL}|full"][1] == pytest.approx([84, 84]) and state[f"{SWA}|64"][1] == pytest.approx([4, 4])
    assert drawn.axes[2].get_ylabel() == "state (MiB)"


def test_accuracy_cost_joins_scores_and_costs(whole):
    drawn = figure("accuracy-cost", whole)
    assert titles(drawn) == ["recall-local, 1,024 tokens"] * 3 + ["commonsense-local"] * 3
    points = lines(drawn.axes[0])
    assert points[f"{NHA}|64"] == (pytest.approx([4]), pytest.approx([0.45]))
    assert points[f"{FULL}|full"] == (pytest.approx([84]), pytest.approx([0.7]))
    assert drawn.axes[0].get_xlabel() == "state at 4,096 tokens (MiB)"
    # Windows that were scored but not timed have no place in this plot.
    assert f"{NHA}|256" not in points


def test_accuracy_cost_takes_the_length_that_most_settings_share():
    costs = [cost(model, "64", "prefill", 512, 10, 100) for model in (SWA, NHA)] + [cost(NHA, "64", "prefill", 4096, 80, 100)]
    scores = [score(model, "64", "one", 0.5, 0.1) for model in (SWA, NHA)]
    assert figure("accuracy-cost", frames(scores, costs)).axes[0].get_xlabel() == "state at 512 tokens (bytes)"


def test_recall_by_distance_splits_at_the_window(whole):
    (axes,) = figure("recall-distance", whole).axes
    found = lines(axes)
    # 10; 30, 50; then 70 to 110, 130 to 190: beyond. No bin spans the window.
    assert found[f"{NHA}|64"][1].tolist() == [1, 1, 1, 0, 0] and found[f"{FULL}|full"][1].tolist() == [1, 1, 1, 1, 1]
    faces = [bars[0].get_markerfacecolor() for bars in axes.containers]
    assert faces.count("#ffffff") == 2 and titles(figure("recall-distance", whole)) == ["recall-local, window 64"]


def test_recall_by_depth_is_in_fifths(whole):
    (axes,) = figure("recall-depth", whole).axes
    assert lines(axes)[f"{NHA}|64"][1].tolist() == [0, 0, 0, 0.5, 1]


def test_slots_are_drawn_head_by_head(whole):
    (axes,) = figure("slot-heads", whole).axes
    (squares,) = axes.collections
    middles = sorted(tuple(path.get_extents().get_points().mean(0).round(6)) for path in squares.get_paths())
    assert middles == [(0, 0), (0, 1), (1, 0), (1, 1)]
    # Darker is more: head 0 of layer 1 pools to 0.3, head 1 of layer 0 to 0.6.
    alphas = sorted(face[3] for face in squares.get_facecolors())
    assert alphas == pytest.approx([0.06 + 0.94 * share for share in (0.2, 0.3, 0.5, 0.6)])


def test_throughput_is_in_tokens_a_second(whole):
    drawn = figure("throughput-length", whole)
    assert titles(drawn) == ["Prefill", "Decoding one token"] and drawn.axes[0].get_ylabel() == "throughput (tokens/s)"
    assert lines(drawn.axes[0])[f"{FULL}|full"][1] == pytest.approx([1000 / 1024, 1000 / 4096])


def test_batches_are_kept_apart():
    costs = [cost("m", "64", "prefill", 512, 10 * batch, 100, batch_size=batch) for batch in (1, 4)]
    assert titles(figure("latency-length", frames(None, costs))) == ["Prefill, batch 1", "Prefill, batch 4"]


@pytest.mark.parametrize("kind", plot_kinds())
@pytest.mark.parametrize("status", [None, "oom", "unavailable", "error"])
def test_nothing_to_draw_is_said_in_one_line(kind, status, tmp_path):
    rows = [score("m", "64", "one", "", status=status)] if status else None
    costs = [
        {**cost("m", "64", "prefill", 512, 1, 1, status=status), "latency_ms": "", "state_bytes": "", "peak_memory_mb": ""}
    ]
    out = tmp_path / "plot.svg"
    with pytest.raises(ValueError, match=r"^no [^\n]+$"):
        draw(kind, frames(rows, costs if status else None), out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("kind", "suffix"), [*((kind, "svg") for kind in plot_kinds()), ("window-accuracy", "png"), ("window-accuracy", "pdf")]
)
def test_two_calls_give_the_same_bytes(kind, suffix, whole, tmp_path):
    first, second = (draw(kind, whole, tmp_path / name / f"plot.{suffix}").read_bytes() for name in "ab")
    assert first == second
    assert first[:5] in (b"<?xml", b"\x89PNG\r", b"%PDF-")
    if suffix == "svg":
        # Other colours would not turn with the page's theme.
        assert set(re.findall(r"#[0-9a-f]{6}\b", first.decode())) <= set(THEMED)


@pytest.mark.parametrize("suffix", ["jpg", ""])
def test_other_formats_are_refused(suffix, whole, tmp_path):
    with pytest.raises(ValueError, match=r"\.svg, \.png or \.pdf"):
        draw("window-accuracy", whole, tmp_path / f"plot.{suffix}")


@pytest.mark.parametrize("name", ["$x_{1", "<b>&\"'", "a\nb", "x" * 10_000, "\u202eevil", "模型🙂", "a\x00b"], ids=range(7))
def test_hostile_names_are_drawn_as_text(name, tmp_path):
    rows = [score(name, "16", name, 0.5, 0.1, suite=name), score(name, "full", name, 0.6, 0.1, suite=name)]
    out = draw("window-accuracy", frames(rows), tmp_path / "plot.svg")
    root = ET.parse(out).getroot()
    assert not [element for element in root.iter() if element.tag.endswith(("}b", "}script"))]
    assert max(len(text) for text in root.itertext()) < 200
    draw("window-accuracy", frames(rows), tmp_path / "plot.png")


def test_a_users_matplotlib_settings_change_nothing(whole, tmp_path):
    import matplotlib

    plain = draw("window-accuracy", whole, tmp_path / "a.svg").read_bytes()
    with matplotlib.rc_context({"lines.linewidth": 9, "svg.fonttype": "path", "axes.grid": False}):
        assert draw("window-accuracy", whole, tmp_path / "b.svg").read_bytes() == plain


def test_names_that_look_like_missing_values_survive(tmp_path):
    run = full_run(tmp_path / "run")
    text = (run / "scores.csv").read_text().replace("nha-base", "NA").replace("swa-base", "null")
    (run / "scores.csv").write_text(text)
    assert set(load_frames(run).scores["model"]) == {FULL, "NA", "null"}


@pytest.mark.parametrize(
    ("source", "message"),
    [("missing", "no run folder at missing"), (3, "not int")],
)
def test_sources_that_are_none_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        load_frames(source)


def test_an_empty_or_cut_table_is_read_as_far_as_it_goes(tmp_path):
    run = full_run(tmp_path / "run")
    (run / "costs.csv").write_text("")
    (run / "scores.csv").write_text("\n".join((run / "scores.csv").read_text().splitlines()[:4]) + "\nbase,full,recall-lo")
    tables = load_frames(run)
    assert tables.costs.empty and len(tables.scores) == 4
    assert figure("window-accuracy", tables).axes


def test_plots_import_neither_torch_nor_pyplot():
    code = (
        "import sys; from nha_eval import plots; plots.plot_kinds(); assert 'pandas' not in sys.modules; "
        "[plots.plot_kind(kind) for kind in plots.plot_kinds()]; plots.make_frames(); "
        "bad = {'torch', 'matplotlib.pyplot', 'transformers'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_state_recall_draws_what_selection_prefers(whole):
    drawn = figure("state-recall", whole)
    assert titles(drawn) == ["near: 64 tokens, 4 pairs", "near: 128 tokens, 8 pairs"]
    for axes, less in zip(drawn.axes, (0.0, 0.2), strict=True):
        found = lines(axes)
        assert found[NHA][0] == pytest.approx([0.5, 2.0]) or found[NHA][0] == pytest.approx([1.0, 4.0])
        assert found[NHA][1] == pytest.approx([0.4 - less, 0.9 - less])
        assert found["transformer++"][1] == pytest.approx([1.0]) and axes.get_xscale() == "log"


def test_a_state_that_does_no_better_than_a_smaller_one_stands_beside_the_curve():
    # On the selection split the third is behind the second; on the test split it is ahead.
    rows = [
        recalled("nha", value, size=size, window=str(size), split=split)
        for size, *values in ((8, 0.2, 0.2), (16, 0.6, 0.5), (32, 0.4, 0.7), (64, 0.9, 0.9))
        for split, value in zip(("selection", "test"), values, strict=True)
    ]
    axes = figure("state-recall", frames(None, None, None, rows)).axes[0]
    (bars,) = axes.containers
    (line,) = (line for line in axes.lines if line.get_linestyle() != "None")
    assert bars.lines[0].get_ydata() == pytest.approx([0.2, 0.5, 0.7, 0.9])
    assert line.get_ydata() == pytest.approx([0.2, 0.5, 0.9])


def test_recall_against_pairs_and_length_is_of_one_setting_a_mixer(whole):
    for kind, where in (("mqar-pairs", [4, 8]), ("mqar-length", [64, 128])):
        drawn = figure(kind, whole)
        found = lines(drawn.axes[0])
        assert found[NHA][0] == pytest.approx(where) and found[NHA][1] == pytest.approx([0.9, 0.7])
        assert [text.get_text() for text in drawn.legends[0].get_texts()] == [
            "transformer++ d=64",
            f"{NHA} d=64 w=32 slots=32",
        ]


def test_bars_of_recall_go_from_the_worst_seed_to_the_best():
    rows = [recalled("gsa", 0.2 * seed, seed=seed, split=split) for seed in (1, 2, 4) for split in ("test", "selection")]
    (bars,) = figure("mqar-pairs", frames(None, None, None, rows)).axes[0].containers
    ((_, low), (_, high)) = bars[2][0].get_segments()[0]
    assert (low, high) == pytest.approx((0.2, 0.8)) and bars[0].get_ydata() == pytest.approx([1.4 / 3])


def test_a_variant_is_a_curve_of_its_own():
    rows = [
        recalled("nha", value, variant=variant, split=split)
        for variant, value in (("", 0.9), ("fusion=sum", 0.5))
        for split in ("test", "selection")
    ]
    found = lines(figure("mqar-length", frames(None, None, None, rows)).axes[0])
    assert {name: value[1].tolist() for name, value in found.items()} == {"nha": [0.9], "nha, fusion=sum": [0.5]}


def test_language_models_are_drawn_at_the_window_trained_at_and_seeds_are_averaged(whole):
    everything, hits = figure("lm-length", whole).axes
    found = lines(everything)
    assert set(found) == {"transformer++", "nha w=8", "nha w=16"}
    assert found["nha w=8"][0] == pytest.approx([64, 128]) and found["nha w=8"][1] == pytest.approx(np.exp([3.3, 3.35]))
    assert lines(hits)["nha w=16"][1] == pytest.approx(np.exp([2.1, 2.15]))
    bars = {bars.get_label(): bars[2][0].get_segments()[0][:, 1] for bars in everything.containers}
    # Of one seed its interval, of two the one and the other.
    assert bars["nha w=16"] == pytest.approx(np.exp([3.0, 3.2])) and bars["nha w=8"] == pytest.approx(np.exp([3.2, 3.4]))
    assert lines(figure("lm-position", whole).axes[0])["transformer++"][1] == pytest.approx(np.exp([3.25, 3.05]))
    seen, new = figure("lm-hits", whole).axes
    assert [label.get_text() for label in new.get_xticklabels()] == ["0", "4"]
    assert lines(seen)["transformer++"][1] == pytest.approx(np.exp([3.5])) and lines(new)["nha w=16"][0] == pytest.approx([1])


def test_windows_are_a_heat_map_framed_where_trained(whole):
    axes, _ = figure("lm-windows", whole).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["nha w=8", "nha w=16"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "16"]
    assert np.asarray(axes.images[0].get_array()) == pytest.approx(np.exp([[3.3, 3.4], [3.6, 3.1]]))
    assert [frame.get_xy() for frame in axes.patches] == [(-0.5, -0.5), (0.5, 0.5)]
    one = [row for row in full_lm() if row["model"] == "transformer++"]
    with pytest.raises(ValueError, match=r"no windows to draw: no model of lm\.csv was measured at several"):
        figure("lm-windows", frames(None, None, None, None, one))


REFERENCE = Path(__file__).parents[2] / "results/reference"


def test_trainings_are_drawn_as_their_tables_say(tmp_path):
    folder = REFERENCE / "hybrid-smollm2-h200/nha-4full"
    drawn = training_figure({"slots": folder, "nothing yet": tmp_path})
    loss, heldout, positions = drawn.axes
    table = pd.read_csv(folder / "heldout.csv")
    table = table[table["length"] == table["length"].min()]
    (bars,) = heldout.containers
    x, y = (np.asarray(part, float) for part in bars[0].get_data())
    np.testing.assert_allclose(y, table["kl"])
    tokens = pd.read_csv(folder / "train.csv").groupby("stage")["tokens"].max().sum()
    # train.csv has a line every ten steps.
    np.testing.assert_allclose(x[[0, -1]], [0, tokens / 1e6], rtol=0.01)
    assert loss.get_xlabel() == "tokens seen (millions)" and positions.get_ylim()[0] == 0
    with pytest.raises(NothingToDraw, match="folders of hybridize"):
        training_figure({"nothing yet": tmp_path})


def test_a_short_training_is_drawn_in_thousands(tmp_path):
    (tmp_path / "train.csv").write_text("stage,step,tokens,loss\nalign,2,4096,0.5\nalign,4,8192,0.25\n")
    (tmp_path / "heldout.csv").write_text("stage,step,length,kl,kl_stderr\nconversion,0,64,1,0.1\nalign,4,64,0.5,0.1\n")
    (tmp_path / "positions.csv").write_text("stage,step,length,first,kl\nalign,4,64,0,0.5\nalign,4,64,32,0.4\n")
    loss, heldout, _ = training_figure({"short": tmp_path}).axes
    assert loss.get_xlabel() == heldout.get_xlabel() == "tokens seen (thousands)"
    np.testing.assert_allclose(np.asarray(heldout.containers[0][0].get_xdata(), float), [0, 8.192])


def test_points_of_models_whose_colours_come_again_are_told_apart():
    rows = [score(f"model{i}", "64", "task", 0.5, 0.01, length=512) for i in range(2 * len(PALETTE) + 1)]
    (axes,) = figure("window-accuracy", make_frames(pd.DataFrame(rows), None)).axes
    drawn = {bars[0] for bars in axes.containers}
    looks = {(points.get_color(), points.get_marker()) for points in drawn}
    assert len(drawn) == len(looks) == len(rows)


def test_what_is_drawn_in_the_style_takes_the_palette():
    from matplotlib.figure import Figure

    with style():
        axes = Figure().add_subplot()
        drawn = [axes.plot([0, 1])[0].get_color() for _ in PALETTE]
    assert drawn == list(PALETTE)


@pytest.mark.parametrize("powers", [range(4, 12), range(11, 18), range(9, 14), range(8, 9)])
def test_ticks_of_a_length_axis_do_not_collide(powers):
    drawn, axes = panels(2)
    for one in axes:
        one.plot([2**n for n in powers], [0.0] * len(powers))
        length_axis(one, [2**n for n in powers])
    drawn.set_size_inches(6.8, 3)
    render(drawn, "svg")  # lays it out
    for one in axes:
        boxes = [label.get_window_extent() for label in one.get_xticklabels()]
        assert boxes and all(left.x1 < right.x0 for left, right in pairwise(sorted(boxes, key=lambda box: box.x0)))


def test_convolutions_make_a_curve_of_their_own():
    rows = [
        recalled("nha", value, variant=variant, split=split)
        for variant, value in (("", 0.1), ("conv_size=4", 0.9))
        for split in ("test", "selection")
    ]
    pairs = figure("mqar-pairs", frames(None, None, None, rows))
    assert [text.get_text().split(" d=")[0] for text in pairs.legends[0].get_texts()] == ["nha", "nha, conv_size=4"]


def test_options_of_a_mixer_are_sizes_of_one_curve():
    rows = [
        recalled("mamba2", value, variant=f"state_size={size}", size=256 * size, window="none", slots="", split=split)
        for size, value in ((16, 0.4), (64, 0.8))
        for split in ("test", "selection")
    ]
    state, pairs = (figure(kind, frames(None, None, None, rows)) for kind in ("state-recall", "mqar-pairs"))
    (curve,) = lines(state.axes[0]).values()
    assert curve[1].tolist() == [0.4, 0.8] and curve[0].tolist() == [4.0, 16.0]
    assert [text.get_text() for text in pairs.legends[0].get_texts()] == ["mamba2 d=64 state_size=64"]
    # And of the same colour beside others.
    beside = figure("mqar-pairs", frames(None, None, None, [*full_mqar(), *rows]))
    drawn = [bars for picture in (state, pairs, beside) for bars in picture.axes[0].containers if bars.get_label() == "mamba2"]
    assert len(drawn) == 3 and len({bars.lines[0].get_color() for bars in drawn}) == 1


def look_of(picture, panel=0):
    """(colour, marker) of each curve of a panel, by its label."""
    drawn = [(bars.get_label(), bars.lines[0]) for bars in picture.axes[panel].containers]
    return {label: (line.get_color(), line.get_marker()) for label, line in drawn}


def test_a_mixer_has_a_colour_and_what_is_changed_in_it_a_marker():
    rows = [
        recalled(mixer, value, variant=variant, size=size, split=split)
        for mixer, size, value in (("nha", 1024, 0.5), ("gsa", 2048, 0.6), ("gsa-h", 4096, 0.9))
        for variant in ("", "conv_size=4")
        for split in ("test", "selection")
    ]
    looks = look_of(figure("state-recall", frames(None, None, None, rows)))
    colours = {name: colour for name, (colour, _) in looks.items()}
    assert len(set(looks.values())) == len(looks) == 6 and len(set(colours.values())) == 2
    assert len({colours[name] for name in ("gsa", "gsa-h", "gsa-h, conv_size=4")}) == 1
    assert looks["nha, conv_size=4"][1] == looks["gsa, conv_size=4"][1] != looks["nha"][1] == looks["gsa"][1]


def test_many_forms_of_one_mixer_have_colours_of_their_own():
    rows = [row for row in full_lm() if row["model"] == "nha w=8"]
    few, many = (
        look_of(
            figure("lm-length", frames(None, None, None, None, [{**row, "model": f"nha w={n}"} for n in names for row in rows]))
        )
        for names in (range(3), range(11))
    )
    assert len({colour for colour, _ in few.values()}) == 1 and len(set(few.values())) == 3
    assert len({colour for colour, _ in many.values()}) == 7 and len(set(many.values())) == 11
