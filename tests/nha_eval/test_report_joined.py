"""Several runs in one report: what is joined, what is kept apart under a name of its own, and that the report says so."""

import pytest
from report_run import FULL, NHA, SWA, cost, score, write_run
from test_report import Page
from whole_run import SETTINGS, whole_run

from nha_eval.cli import run as command
from nha_eval.plots import figure, suite_scores
from nha_eval.report import write_report
from nha_eval.report.beside import beside_tables
from nha_eval.report.crossings import crossing_table
from nha_eval.report.differences import find_differences
from nha_eval.report.headline import headline
from nha_eval.report.joining import join, join_folders
from nha_eval.report.runs import read_folder
from nha_eval.report.several import runs_table


def only(*models):
    return {key: right for key, right in SETTINGS.items() if key[0] in models}


def joined(*folders):
    return join([read_folder(folder) for folder in folders])


def settings(frame):
    return set(zip(frame["model"], frame["window"], strict=True))


def test_one_run_is_itself(tmp_path):
    folder = whole_run(tmp_path / "a")
    whole = joined(folder)
    assert settings(whole.frames.scores) == set(SETTINGS) and not whole.apart and whole.name == "a"
    assert not whole.frames.costs["hardware"].any()


def test_models_of_two_runs_stand_in_one_table_and_are_compared(tmp_path):
    one, other = whole_run(tmp_path / "a", only(FULL)), whole_run(tmp_path / "b", only(NHA, SWA))
    apart, together = joined(one, other), joined(whole_run(tmp_path / "c"))
    assert not apart.apart and settings(apart.frames.scores) == set(SETTINGS)
    for table in ("scores", "costs"):
        assert len(getattr(apart.frames, table)) >= len(getattr(together.frames, table))
    # Run together or in parts, the same comparisons with the same figures.
    parts, whole = (find_differences(found.scored, found.frames).suites for found in (apart, together))
    assert [{**row, "run_a": "", "run_b": ""} for row in parts] == [{**row, "run_a": "", "run_b": ""} for row in whole]
    assert whole


def test_windows_of_one_model_from_two_runs_are_one_line(tmp_path):
    narrow = {key: right for key, right in SETTINGS.items() if key[1] != "256"}
    wide = {key: right for key, right in SETTINGS.items() if key[1] == "256"}
    frames = join_folders([whole_run(tmp_path / "a", narrow), whole_run(tmp_path / "b", wide)])
    (axes,) = figure("window-accuracy", frames).axes
    lines = {line.get_label(): line.get_xdata() for line in axes.get_lines()}
    assert len(lines[NHA]) == 2 and [label.get_text() for label in axes.get_xticklabels()] == ["64", "256"]


@pytest.mark.parametrize("how", ["measured twice", "other weights"])
def test_one_model_measured_twice_or_of_other_weights_bears_its_runs_name(how, tmp_path):
    later = SETTINGS if how == "measured twice" else {(NHA, "16"): 0.3}
    one, other = whole_run(tmp_path / "a"), whole_run(tmp_path / "b", later)
    if how == "other weights":
        other = whole_run(other, later, models={NHA: {"weights_hash": "another"}})
    whole = joined(one, other)
    names = {f"{NHA} @ a", f"{NHA} @ b"}
    assert names <= {model for model, _ in settings(whole.frames.scores)}
    assert NHA not in {model for model, _ in settings(whole.frames.scores) | settings(whole.frames.costs)}
    reason = "each run measured the same" if how == "measured twice" else "weights are not the same"
    assert any(NHA in text and reason in text and "a, b" in text for text in whole.apart)
    assert names <= set(whole.environment["models"])


def test_runs_of_one_name_are_told_apart(tmp_path):
    whole = joined(whole_run(tmp_path / "x/run"), whole_run(tmp_path / "y/run"))
    assert [run.name for run in whole.runs] == ["run", "run (2)"]
    assert (f"{NHA} @ run (2)", "64") in settings(whole.frames.scores)


@pytest.mark.parametrize(
    ("change", "labels"),
    [
        ({"device": "cuda", "dtype": "bfloat16"}, {"recall [cpu float32]", "recall [cuda bfloat16]"}),
        ({"dtype": "bfloat16"}, {"recall [cpu float32]", "recall [cpu bfloat16]"}),
        ({"version": "2.0"}, {"recall [needle 1.0]", "recall [needle 2.0]"}),
    ],
    ids=["device", "dtype", "version"],
)
def test_unlike_scores_share_no_suite_mean_or_test(change, labels, tmp_path):
    one, other = whole_run(tmp_path / "a", only(FULL)), whole_run(tmp_path / "b", only(NHA), **change)
    whole = joined(one, other)
    table = suite_scores(whole.frames.scores)
    assert set(table["suite"]) == labels and len(figure("window-accuracy", whole.frames).axes) == 2
    assert not find_differences(whole.scored, whole.frames).suites
    assert any(all(label.split("recall ")[1] in text for label in labels) for text in whole.apart)


def test_another_protocol_is_named(tmp_path):
    made = {"m": "pla", "k": "lmeval"}
    rows = {name: [score(name, "full", "one", 0.5, 0.1, protocol=protocol)] for name, protocol in made.items()}
    folders = [write_run(tmp_path / name, own, [], {}, "") for name, own in rows.items()]
    assert set(joined(*folders).frames.scores["suite"]) == {"recall-local [one by pla]", "recall-local [one by lmeval]"}


def test_within_each_device_settings_are_still_compared(tmp_path):
    one, other = whole_run(tmp_path / "a"), whole_run(tmp_path / "b", device="cuda")
    found = find_differences(*(lambda whole: (whole.scored, whole.frames))(joined(one, other)))
    pairs = {(row["suite"], row["model_a"], row["model_b"]) for row in found.suites if row["status"] == "ok"}
    assert ("recall [cpu float32]", f"{NHA} @ a", f"{FULL} @ a") in pairs
    assert ("recall [cuda float32]", f"{NHA} @ b", f"{FULL} @ b") in pairs
    assert all(a.split(" @ ")[1] == b.split(" @ ")[1] for _, a, b in pairs)


def test_costs_of_two_machines_share_no_panel_line_or_table(tmp_path):
    one = whole_run(tmp_path / "a", only(FULL, SWA), cpu="fast")
    other = whole_run(tmp_path / "b", only(NHA), cpu="slow")
    frames = joined(one, other).frames
    assert set(frames.costs["hardware"]) == {"fast, 2 cores", "slow, 2 cores"}
    drawn = figure("latency-length", frames)
    titles = {axes.get_title(loc="left").replace("\n", " ") for axes in drawn.axes}
    phases = ("Prefill", "Decoding one token")
    assert titles == {f"{phase}, {machine}, 2 cores" for phase in phases for machine in ("fast", "slow")}
    tables = beside_tables(frames, {})
    assert [table.title for table in tables] == [f"Accuracy beside cost, {machine}, 2 cores" for machine in ("fast", "slow")]
    assert {row[0].split(",")[0] for row in tables[1].rows} == {NHA}
    # Full attention was timed elsewhere: no ratio of NHA's to it is given, and none of its crossings.
    told = " ".join(headline(frames))
    assert "NHA's state" not in told and "sliding window alone's state" in told
    assert {row[0].split(",")[0] for row in crossing_table(frames).rows} == {SWA}


def test_graphics_cards_are_told_by_name(tmp_path):
    about = {f"{name}": {"device_name": f"NVIDIA {name}"} for name in ("H100", "H200")}
    folders = [
        write_run(tmp_path / name, [], [cost(name, "full", "prefill", 512, 1, 1, device="cuda")], {"models": {name: what}}, "")
        for name, what in about.items()
    ]
    assert set(joined(*folders).frames.costs["hardware"]) == {"NVIDIA H100", "NVIDIA H200"}


def test_machines_that_nothing_is_known_of_are_not_taken_for_one(tmp_path):
    folders = [write_run(tmp_path / name, [], [cost(name, "full", "prefill", 512, 1, 1)], {}, "") for name in "ab"]
    assert set(joined(*folders).frames.costs["hardware"]) == {"machine of a", "machine of b"}


def test_the_report_names_runs_and_what_is_kept_apart(tmp_path):
    one = whole_run(tmp_path / "first", only(FULL, NHA), cells_planned=99)
    other = whole_run(tmp_path / "second", only(FULL, NHA), device="cuda", gpu="NVIDIA H200")
    before = {path: path.read_bytes() for folder in (one, other) for path in folder.rglob("*") if path.is_file()}
    out = tmp_path / "joined"
    write_report(one, other, out=out)
    markdown, page = ((out / name).read_text(encoding="utf-8") for name in ("report.md", "report.html"))
    assert {path: path.read_bytes() for path in before} == before and not (one / "report.md").exists()
    for text in (markdown, Page(page).text):
        assert "Scores of recall are not compared across" in text and "Costs are not compared across" in text
        assert "NVIDIA H200 (float32)" in text
        assert text.count("python run_eval.py eval quickstart") == 2
        for device in ("cpu", "cuda"):
            assert f"NHA keeps 83% of full attention's recall [{device} float32] score" in text.replace("\\", "")
    assert "## Environment: second" in markdown
    assert "first. This run is unfinished" in Page(page).text and page.count('class="unfinished"') == 1


ODD = {FULL: {"weights_hash": [{}], "device_name": {}}}


@pytest.mark.parametrize("junk", [None, 3, "x", [1], {"": None}, {FULL: [1]}, ODD], ids=range(7))
def test_environments_of_junk_join(junk, tmp_path):
    about = dict.fromkeys(("models", "cpu", "cores", "gpu", "date", "commit", "command"), junk)
    one, other = (whole_run(tmp_path / name, only(FULL), **about) for name in "ab")
    whole = joined(one, other)
    assert settings(whole.frames.costs) == {(f"{FULL} @ a", "full"), (f"{FULL} @ b", "full")}
    assert [row[0] for row in runs_table(whole.runs).rows] == ["a", "b"]


def test_a_place_is_wanted_for_several(tmp_path):
    with pytest.raises(ValueError, match="belongs to none of them"):
        write_report(whole_run(tmp_path / "a"), whole_run(tmp_path / "b"))


def test_the_command_joins_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        write_run(tmp_path / f"results/runs/{name}", [score(name, "full", "one", 0.5, 0.1)], [], {}, "models: []\n")
    assert command(["report", "a", "b"]) == 0
    assert (tmp_path / "results/reports/a+b/report.html").stat().st_size > 10_000
    assert command(["plot", "window-accuracy", "a", "b", "--size", "page", "--out", "x.pdf"]) == 0
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")
    capsys.readouterr()
    for arguments, words in (
        (["report", "a", "results/runs/a"], "given twice"),
        (["plot", "window-accuracy", "a", "--size", "wide", "--out", "x.svg"], "no such size of a plot"),
        (["report", "a", "nowhere"], "no such run"),
    ):
        assert command(arguments) == 2
        assert words in capsys.readouterr().err
