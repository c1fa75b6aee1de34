"""The journal: written whole or not at all, and what is broken counts as not there."""

import errno
import json
import math

import numpy as np
import pytest

from nha_eval.errors import MachineError
from nha_eval.journal import Journal, plain, write_atomic

RECORD = {"status": "ok", "rows": [{"value": 0.1 + 0.2}]}


def test_a_cell_comes_back_as_it_was(tmp_path):
    journal = Journal(tmp_path)
    journal.write("a", RECORD, [{"doc_id": 0, "text": "ä\u2028b"}])
    assert journal.read("a")["rows"] == RECORD["rows"]
    assert len((tmp_path / "samples/a.jsonl").read_text(encoding="utf-8").split("\n")) == 2
    assert journal.read("b") is None


@pytest.mark.parametrize("cut", [0, 1, 20, -2])
def test_truncated_cells_are_not_there(tmp_path, cut):
    journal = Journal(tmp_path)
    journal.write("a", RECORD)
    path = tmp_path / "cells/a.json"
    path.write_text(path.read_text()[:cut])
    assert journal.read("a") is None


@pytest.mark.parametrize("text", ["[]", "null", "{}", '"x"', "\x00"])
def test_other_content_is_not_there(tmp_path, text):
    journal = Journal(tmp_path)
    journal.write("a", RECORD)
    (tmp_path / "cells/a.json").write_text(text)
    assert journal.read("a") is None


def test_edited_cells_and_lost_samples_are_not_there(tmp_path):
    journal = Journal(tmp_path)
    journal.write("a", RECORD, [{"doc_id": 0}])
    path = tmp_path / "cells/a.json"
    whole = path.read_text()
    path.write_text(whole.replace('"ok"', '"oom"'))
    assert journal.read("a") is None
    path.write_text(whole)
    assert journal.read("a") is not None
    (tmp_path / "samples/a.jsonl").unlink()
    assert journal.read("a") is None


def test_what_json_cannot_hold_is_made_plain():
    given = {"a": np.float32(0.5), "b": np.int64(3), "c": math.inf, "d": math.nan, "e": np.arange(2), "f": (1, None, True)}
    assert json.loads(json.dumps(plain(given), allow_nan=False)) == {
        "a": 0.5,
        "b": 3,
        "c": "inf",
        "d": "nan",
        "e": [0, 1],
        "f": [1, None, True],
    }


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_keeps_what_was_there(tmp_path, monkeypatch, number):
    path = tmp_path / "table.csv"
    write_atomic(path, "before")

    def full(descriptor):
        raise OSError(number, "full")

    monkeypatch.setattr("nha_eval.journal.os.fsync", full)
    with pytest.raises(MachineError, match=r"what was finished is kept: free some space"):
        write_atomic(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_broken_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("nha_eval.journal.os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a", "text")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_run_are_swept(tmp_path):
    journal = Journal(tmp_path)
    journal.write("a", RECORD)
    (tmp_path / "cells/.b.json.x1.tmp").write_text("half")
    journal.sweep()
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["a.json"]


def test_answers_stay_until_their_cell_is_finished(tmp_path):
    journal = Journal(tmp_path)
    assert journal.read_answers("a") == {}
    journal.note_answers("a", {"x": [-1.5, True], "y": math.inf})
    journal.note_answers("a", {"z": "ä\u2028\nb"})
    assert Journal(tmp_path).read_answers("a") == {"x": [-1.5, True], "y": "inf", "z": "ä\u2028\nb"}
    journal.write("a", {**RECORD, "status": "error"})
    assert len(journal.read_answers("a")) == 3
    journal.write("a", RECORD)
    assert journal.read_answers("a") == {} and not list((tmp_path / "answers").iterdir())
    journal.note_answers("a", {"x": 1})
    journal.sweep()
    assert not list((tmp_path / "answers").iterdir())


@pytest.mark.parametrize("way", ["cut", "flipped", "empty", "not text", "another's"])
def test_broken_answers_are_not_there_and_break_no_others(tmp_path, way):
    journal = Journal(tmp_path)
    for key in "xyz":
        journal.note_answers("a", {key: key})
    path = tmp_path / "answers" / "a.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = {
        "cut": lines[2][:-5],
        "flipped": lines[2].replace(b'"z"', b'"w"', 1),
        "empty": b"\n",
        "not text": b"\xff\xfe\n",
        "another's": b'{"answers": 3}\n',
    }[way]
    path.write_bytes(b"".join(lines))
    assert journal.read_answers("a") == {"x": "x", "y": "y"}
    journal.note_answers("a", {"w": "w"})
    assert journal.read_answers("a") == {"x": "x", "y": "y", "w": "w"}


def test_answers_of_a_share_are_taken_over(tmp_path):
    here, share = Journal(tmp_path / "run"), Journal(tmp_path / "share")
    share.note_answers("begun", {"x": 1, "y": 2})
    here.note_answers("begun", {"x": 1})
    share.note_answers("finished", {"x": 1})
    here.write("finished", RECORD)
    for _ in range(2):
        here.adopt(share)
        assert here.read_answers("begun") == {"x": 1, "y": 2}
        assert len((tmp_path / "run/answers/begun.jsonl").read_text().splitlines()) == 2
    assert here.read_answers("finished") == {}


def test_a_full_disk_is_told_while_answers_come(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.open", full)
    with pytest.raises(MachineError, match="free some space"):
        Journal(tmp_path).note_answers("a", {"x": 1})
