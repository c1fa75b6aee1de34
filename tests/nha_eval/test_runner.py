"""Runs with a worker that is told to fail: what each calamity becomes, what the next run redoes, what the tables say."""

import csv
import json

import fakes
import pytest

from nha_eval.errors import MachineError, UserError, is_out_of_memory
from nha_eval.executors import LocalWorker


def table(folder, name="scores.csv"):
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def statuses(folder):
    return {row["task"]: row["status"] for row in table(folder)}


def mtimes(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}


def test_a_whole_run(tmp_path):
    run = fakes.make_run(tmp_path)
    assert run.go() == 0
    scores, costs = table(tmp_path), table(tmp_path, "costs.csv")
    assert [row["model"] for row in scores] == ["base"] * 8 + ["hybrid"] * 16
    assert {row["window"] for row in scores} == {"full", "16"}
    assert scores[1]["value"] == "inf"
    assert scores[1]["stderr"] == ""
    assert {row["status"] for row in [*scores, *costs]} == {"ok"}
    assert {row["backend"] for row in [*scores, *costs]} == {"fake"}
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["models"]["hybrid"]["weights_hash"] == "f00"
    assert len(list((tmp_path / "samples").iterdir())) == len(scores) / 2


def test_again_does_nothing(tmp_path):
    fakes.make_run(tmp_path).go()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    drawn = []
    again = fakes.make_run(tmp_path, draw=drawn.append)
    again.executor.command = ["/bin/false"]
    assert again.go() == 0
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert drawn == [tmp_path]


def test_a_report_that_is_up_to_date_is_not_drawn_again(tmp_path):
    drawn = []

    def draw(path):
        drawn.append(path)
        for name in ("report.md", "report.html"):
            (path / name).write_text("drawn")

    fakes.make_run(tmp_path, draw=draw).go()
    drawn.clear()
    fakes.make_run(tmp_path, draw=draw).go()
    assert drawn == []


@pytest.mark.parametrize(
    ("task", "status", "reason", "code"),
    [
        ("segfaults", "error", "the worker was ended by SIGSEGV", 1),
        ("exits", "error", "the worker ended with code 7: the last words", 1),
        ("raises", "error", "RuntimeError: something broke", 1),
        ("is_too_big", "oom", "MemoryError: no room", 0),
        ("has_no_data", "unavailable", "AssetUnavailable: no network", 3),
    ],
)
def test_a_calamity_is_the_cells_and_the_rest_goes_on(tmp_path, task, status, reason, code):
    run = fakes.make_run(tmp_path, {"models": ["base"], "windows": []}, tasks=("before", task, "after"))
    assert run.go() == code
    rows = {row["task"]: row for row in table(tmp_path)}
    assert {name: row["status"] for name, row in rows.items()} == {"before": "ok", task: status, "after": "ok"}
    assert rows[task]["reason"] == reason
    assert rows[task]["value"] == ""


@pytest.mark.parametrize("task", ["raises", "segfaults", "is_too_big", "has_no_data"])
def test_the_next_run_redoes_what_may_now_succeed(tmp_path, task):
    changes = {"models": ["base"], "windows": []}
    run = fakes.make_run(tmp_path, changes, tasks=(task, "fine"))
    run.go()
    before = mtimes(tmp_path)
    again = fakes.make_run(tmp_path, changes, tasks=(task, "fine"))
    again.go()
    redone = {name for name, time in mtimes(tmp_path).items() if time != before[name]}
    assert redone == (set() if task == "is_too_big" else {f"{again.cells[0].id}.json"})


def test_an_unbroken_run_and_a_mended_one_have_equal_tables(tmp_path):
    fakes.make_run(tmp_path / "whole").go()
    broken = fakes.make_run(tmp_path / "mended")
    broken.go()
    files = sorted((tmp_path / "mended/cells").iterdir())
    files[0].unlink()
    files[3].write_text(files[3].read_text()[:100])
    files[5].write_bytes(b"")
    kept = {path.name: path.stat().st_mtime_ns for path in files[6:]}
    assert fakes.make_run(tmp_path / "mended").go() == 0
    for name in ("scores.csv", "costs.csv", "spec.yaml"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "mended" / name).read_bytes()
    assert kept.items() <= mtimes(tmp_path / "mended").items()


def test_a_model_that_cannot_be_had_ends_with_2_and_the_others_are_done(tmp_path, capsys):
    changes = {"models": ["unloadable", "base"], "windows": []}
    assert fakes.make_run(tmp_path, changes).go() == 2
    assert {row["model"] for row in table(tmp_path)} == {"base"}
    assert "wanted is another one" in capsys.readouterr().err


def test_weights_that_do_not_fit_are_rows(tmp_path):
    assert fakes.make_run(tmp_path, {"models": ["huge"], "windows": []}).go() == 0
    assert {row["status"] for row in table(tmp_path)} == {"oom"}
    assert "while loading the weights" in table(tmp_path)[0]["reason"]


def test_a_full_disk_under_the_worker_stops_the_run(tmp_path):
    run = fakes.make_run(tmp_path, {"models": ["base"], "windows": []}, tasks=("before", "fills_the_disk", "after"))
    with pytest.raises(MachineError, match="No space left"):
        run.go()
    assert statuses(tmp_path) == {"before": "ok"}


def test_workers_that_never_load_stop_the_run(tmp_path):
    run = fakes.make_run(tmp_path, {"models": ["base"]})
    run.executor.command = ["/bin/sh", "-c", "echo lost >&2; exit 5"]
    with pytest.raises(MachineError, match=r"died 3 times while loading.*code 5: lost"):
        run.go()


def test_a_report_that_cannot_be_drawn_is_a_warning(tmp_path, capsys):
    def draw(path):
        raise RuntimeError("no pens")

    assert fakes.make_run(tmp_path, draw=draw).go() == 0
    assert "no pens" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["prints", "fine"])
def test_what_libraries_print_is_not_taken_for_results(tmp_path, task):
    run = fakes.make_run(tmp_path, {"models": ["base"], "windows": []}, tasks=(task,))
    assert run.go() == 0
    assert statuses(tmp_path) == {task: "ok"}


def test_nothing_is_drawn_while_something_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr("nha_eval.runner.REPORT_EVERY", 0)
    monkeypatch.setattr("nha_eval.runner.REPORT_SHARE", 0)
    at_hand = []
    drawn_at = []
    run = fakes.make_run(tmp_path, draw=lambda path: drawn_at.append(at_hand[-1] if at_hand else None))
    send = LocalWorker.send
    finish = run._finish

    def note_send(worker, request):
        at_hand.append(request["cell"]["kind"] if request["do"] == "cell" else None)
        send(worker, request)

    def note_finish(cell, record):
        at_hand.append(None)
        finish(cell, record)

    monkeypatch.setattr(LocalWorker, "send", note_send)
    run._finish = note_finish
    assert run.go() == 0
    assert len(drawn_at) > 3
    assert "cost" not in drawn_at


def test_another_spec_in_the_folder_is_refused(tmp_path):
    fakes.make_run(tmp_path).go()
    with pytest.raises(UserError, match=r"another spec \(differs in: limit, seed\).*--out"):
        fakes.make_run(tmp_path, {"limit": 3, "seed": 2}).go()


def test_a_folder_without_cells_takes_another_spec(tmp_path):
    with pytest.raises(UserError, match="cannot be had"):
        fakes.make_run(tmp_path, {"models": ["unloadable"]}).go()
    assert fakes.make_run(tmp_path).go() == 0


def test_cells_of_unknown_origin_are_not_overwritten(tmp_path):
    fakes.make_run(tmp_path).go()
    (tmp_path / "spec.yaml").unlink()
    with pytest.raises(UserError, match="unknown spec"):
        fakes.make_run(tmp_path).go()


def test_two_runs_refuse_each_other(tmp_path):
    from nha_eval.store import RunFolder

    run = fakes.make_run(tmp_path)
    with (
        RunFolder(tmp_path, run.settings),
        pytest.raises(UserError, match="another run is working"),
    ):
        run.go()
    assert run.go() == 0


@pytest.mark.parametrize("where", ["itself", "its parent", "a file", "proc"])
def test_folders_that_cannot_be_written(tmp_path, where):
    folder = tmp_path / "parent" / "run"
    folder.parent.mkdir()
    if where == "itself":
        folder.mkdir()
        folder.chmod(0o555)
    elif where == "its parent":
        folder.parent.chmod(0o555)
    elif where == "a file":
        folder.write_text("")
    else:
        folder = type(folder)("/proc/nha-run")
    try:
        with pytest.raises(UserError, match="cannot write into"):
            fakes.make_run(folder).go()
    finally:
        folder.parent.chmod(0o755) if where != "proc" else None


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate"), True),
        (RuntimeError("std::bad_alloc"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("size mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(problem, expected):
    assert is_out_of_memory(problem) == expected
