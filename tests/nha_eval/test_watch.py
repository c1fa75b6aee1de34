"""`watch`: what it says of a folder is what lies there, whatever else is being written into it."""

import io
import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from report_run import score, write_run
from rich.console import Console
from scored_run import add, documents

from nha_eval import cli
from nha_eval.journal import Journal
from nha_eval.watching import Watched
from nha_eval.watching.show import scores, view, watch

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def at(seconds):
    return (START + timedelta(seconds=seconds)).isoformat()


def wants(folder, cells):
    (folder / "environment.json").write_text(json.dumps({"cells_planned": cells}))


def shown(folder, width=120):
    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
    console.print(view(folder, Watched(folder).look(), scores(folder)))
    return console.file.getvalue()


@pytest.fixture
def run(tmp_path):
    """Three of eight cells done, ten seconds apart, the last an error; a fourth in hand."""
    folder = tmp_path / "run"
    for i, window in enumerate(("16", "64")):
        add(folder, "nha-base", window, documents([1, 0, 1, 1]), finished=at(10 * i))
    add(folder, "swa-base", "64", [], status="error", finished=at(20))
    wants(folder, 8)
    for i in range(3):
        Journal(folder).note_answers("swa-base--16--needle--512--abc", {f"request {i}": "answer"})
    return folder


def test_what_is_done_in_hand_and_failed(run):
    now = (START + timedelta(seconds=25)).timestamp()
    standing = Watched(run).look(now)
    assert (standing.planned, dict(standing.done), standing.finished) == (8, {"ok": 2, "error": 1}, False)
    assert [what for what, _, _ in standing.latest] == [
        "swa-base window 64 needle at 512", "nha-base window 64 needle at 512", "nha-base window 16 needle at 512"
    ]  # fmt: skip
    assert standing.latest[0][1] == "error: no room" and standing.latest[1][1].startswith("contains 0.750")
    assert standing.failed == [("swa-base window 64 needle at 512", "no room")]
    # Three cells in twenty seconds, five to go.
    assert standing.left == pytest.approx(50)
    ((cell, batches, _),) = Watched(run).look().hand
    assert (cell, batches) == ("swa-base--16--needle--512", 3)


def test_each_look_sees_what_is_new_and_nothing_half_written(run):
    watched = Watched(run)
    assert sum(watched.look().done.values()) == 3
    (run / "cells" / "torn.json").write_text('{"status": "ok", "cell"')
    assert sum(watched.look().done.values()) == 3
    add(run, "swa-base", "64", documents([1, 1]), finished=at(30))
    assert dict(watched.look().done) == {"ok": 3} and watched.look().failed == []


def test_a_runs_shares_count(run):
    for share, window in (("1-of-2", "128"), ("2-of-2", "256")):
        add(run / "shares" / share, "nha-base", window, documents([1, 1]), finished=at(40))
    assert sum(Watched(run).look().done.values()) == 5


def test_the_view(run):
    text = shown(run)
    assert "3 of 8 cells, 1 error, 50 s left, last change " in text
    assert "3 batches answered" in text and "no room" in text
    write_run(run, [score("nha-base", "16", "needle", 0.75, 0.1)])
    wants(run, 3)
    text = shown(run)
    assert "3 of 3 cells, 1 error, finished" in text and "scores so far" in text and "nha-base, window 16" in text


def test_before_the_first_cell(tmp_path):
    (tmp_path / "spec.yaml").write_text("models: []\n")
    assert "0 cells, time left not known yet" in shown(tmp_path)


@pytest.mark.parametrize("name", ["[red]x[/red]", "a\x1b[31mb", "x" * 10_000, "../..", "line\nbreak"])
def test_hostile_names_are_letters(tmp_path, name):
    folder = tmp_path / "run"
    add(folder, "plain", "16", documents([1]), finished=at(0))
    path = next((folder / "cells").iterdir())
    record = json.loads(path.read_text())
    record.pop("sha256")
    record["cell"]["model"] = name
    Journal(folder).write(path.stem, record, documents([1]))
    text = shown(folder)
    assert "\x1b" not in text and len(text) < 3000 and name[0] in text and "1 cells" in text


def test_it_goes_on_until_the_run_is_finished(run):
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 2:
            wants(run, 3)

    assert watch(run, every=0.5, once=False, console=console, sleep=sleep) == 0
    assert naps == [0.5, 0.5] and "finished" in console.file.getvalue()


def test_the_command(run, capsys, monkeypatch):
    monkeypatch.setattr("nha_eval.watching.show.time.sleep", lambda seconds: None)
    assert cli.run(["watch", str(run)]) == 0
    assert "3 of 8 cells" in capsys.readouterr().out
    assert cli.run(["watch", str(run / "nowhere")]) == 2
    assert "no such run" in capsys.readouterr().err
    assert cli.run(["watch", str(run), "--every", "0"]) == 2


def test_looking_imports_no_torch(run):
    code = (
        "import sys; from pathlib import Path; from nha_eval.watching import Watched; Watched(Path(sys.argv[1])).look(); "
        "print(sorted({'torch', 'pandas'} & set(sys.modules)))"
    )
    arguments = [sys.executable, "-c", code, str(run)]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "[]", done.stderr
