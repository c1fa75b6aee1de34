"""Telemetry in the grid, the journal and the table: cells of its own, beside scores that never notice."""

import csv
import json

import fakes
import pytest
from typer.testing import CliRunner

from nha_eval.cli import make_app
from nha_eval.errors import UserError
from nha_eval.plan import expand
from nha_eval.spec import Spec
from nha_eval.telemetry import headline, tidy

ROWS = [{"layer": 3, "n": 9, "heads": [0.25, 0.5], "positions": [[16, 31, 0.5, 4], [32, 63, 0.275, 5]]}]
CHANGES = {"costs": False, "suites": ["recall"]}


def cells_of(**content):
    spec = Spec.model_validate({"models": ["a", "flat"], "suites": ["recall"], "costs": False, **content})
    return expand(spec, [fakes.describe(entry.name) for entry in spec.models], fakes.suites())


def table(folder, name="telemetry.csv"):
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_its_cells_stand_behind_the_scores_and_change_none_of_them():
    off, on = (cells_of(windows=[16, 64, "full"], lengths=[64, 128], telemetry=on) for on in (False, True))
    scores = [cell for cell in on if cell.kind == "score"]
    assert scores == off
    observed = [cell for cell in on if cell.kind == "telemetry"]
    # Neither a full window nor a model without windows has slots to observe.
    assert [(cell.model, cell.window, cell.length) for cell in observed] == [
        ("a", window, length) for length in (64, 128) for window in (16, 64)
    ]
    assert [cell.kind for cell in on if cell.model == "a"] == ["score"] * 6 + ["telemetry"] * 4
    assert len({cell.id for cell in on}) == len(on)
    assert all("telemetry" in cell.id and "telemetry of needle" in cell.what for cell in observed)


def test_tidy_rows():
    by_head, by_position = tidy(ROWS)[:2], tidy(ROWS)[2:]
    assert by_head == [{"layer": 3, "head": head, "share": share, "n": 9} for head, share in enumerate((0.25, 0.5))]
    assert by_position[1] == {"layer": 3, "position_first": 32, "position_last": 63, "share": 0.275, "n": 5}
    assert tidy([]) == []
    assert headline({"rows": ROWS}) == "slots take 0.375 of attention, heads from 0.250 to 0.500"


def test_turned_on_later_the_scores_are_kept_and_turned_off_the_table_goes(tmp_path):
    """The same folder without, with, without and with it again."""
    folder = tmp_path / "run"
    assert fakes.make_run(folder, CHANGES).go() == 0
    scores, before = (folder / "scores.csv").read_bytes(), {f.name: f.read_bytes() for f in (folder / "cells").iterdir()}
    assert not (folder / "telemetry.csv").exists()
    drawn = []
    for on in (True, False, True):
        run = fakes.make_run(folder, CHANGES | {"telemetry": on}, draw=lambda path: drawn.append(path))
        assert run.go() == 0
        assert (folder / "scores.csv").read_bytes() == scores
        assert all((folder / "cells" / name).read_bytes() == content for name, content in before.items())
        assert (folder / "telemetry.csv").exists() == on
        planned = json.loads((folder / "environment.json").read_text())["cells_planned"]
        assert planned == len(run.cells) == len(before) + 2 * on
    assert len(list((folder / "cells").iterdir())) == len(before) + 2
    rows = table(folder)
    # `hybrid` at window 16, two lengths; two heads and one range of positions each.
    assert {(row["model"], row["window"], row["task"]) for row in rows} == {("hybrid", "16", "needle")}
    assert [(row["length"], row["layer"], row["head"], row["position_first"], row["share"], row["n"]) for row in rows[:3]] == [
        ("64", "3", "0", "", "0.25", "9"),
        ("64", "3", "1", "", "0.5", "9"),
        ("64", "3", "", "16", "0.375", "9"),
    ]
    assert len(rows) == 6 and {row["status"] for row in rows} == {"ok"}


def test_a_model_without_slots_says_so_in_one_row(tmp_path):
    run = fakes.make_run(tmp_path / "run", CHANGES | {"models": ["slotless"], "lengths": [64], "telemetry": True})
    assert run.go() == 0
    (row,) = table(tmp_path / "run")
    assert row["status"] == "ok" and "no nha layer" in row["reason"] and row["share"] == ""


@pytest.mark.parametrize(
    "changes", [{"suites": []}, {"windows": ["full"]}, {"models": ["flat-a"]}], ids=["no task", "full window", "no window"]
)
def test_nothing_to_observe_is_refused(tmp_path, changes):
    with pytest.raises(UserError, match="--suite, and --window such as 64; or leave --telemetry out") as refusal:
        fakes.make_run(tmp_path / "run", {"telemetry": True, **changes})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("word", ["--telemetry=yes", "--telemetri", "--telemetry-on"])
def test_a_mistyped_flag_is_wrong_input(word):
    done = CliRunner().invoke(make_app(), ["eval", "--model", "nha-tiny", "--suite", "recall-local", word])
    assert done.exit_code == 2 and "Traceback" not in done.output
