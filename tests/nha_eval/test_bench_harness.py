"""`bench harness`: sides in turn, rows kept and gone on with, scores compared before times, and its verdicts."""

import json
import os
import sys
from types import SimpleNamespace

import pytest
import torch
from tiny_lm import make_model

from models.tokenizer import byte_tokenizer
from nha_eval import cli
from nha_eval.bench import harness
from nha_eval.bench.harness_processes import RunFailed, Timed, Work, _seconds, plain_scores
from nha_eval.bench.harness_table import verdict
from nha_eval.bench.rows import HARNESS, read

TASK = "commonsense_social_iqa"
PLAIN, OURS = {"acc": 0.5, "acc_norm": 0.25}, {"acc": 0.5, "acc_norm": 0.25, "majority": 0.4}


class Machine:
    """Stands for all processes; `calls` are those that ran, in order; at number `stop_at` comes a Ctrl-C."""

    def __init__(self, monkeypatch):
        self.calls, self.stop_at, self.plain, self.failing = [], None, PLAIN, None
        monkeypatch.setattr(harness, "time_lm_eval", lambda work: self._ran("lm_eval", Timed(10.0, 12.0, self.plain)))
        monkeypatch.setattr(harness, "time_eval", self._eval)
        monkeypatch.setattr(harness, "subprocess", SimpleNamespace(Popen=self._scorer, PIPE=None, DEVNULL=None))
        monkeypatch.setattr(harness.machine, "digest", lambda *folders: "these")

    def _ran(self, what, found):
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append(what)
        if what == self.failing:
            raise RunFailed(f"{what} ended with code 1: no room")
        return found

    def _eval(self, work, windows, model=None):
        assert model in (None, f"nha:{work.model}") and work.length is None
        return self._ran(" ".join(windows), Timed(4.0 + 2 * len(windows), 9.0, OURS, 2.0 * len(windows)))

    def _scorer(self, command, **settings):
        work, repeats = json.loads(command[3]), int(command[4])
        assert work["task"] == TASK and work["limit"] == 7
        self.calls.append(f"scoring {repeats}")
        lines = [
            json.dumps({"side": side, "repeat": n, "seconds": n / 2, "processor_s": n, "scores": PLAIN})
            for n in range(1, repeats + 1)
            for side in harness.SIDES
        ]
        return Process(lines)


class Process:
    returncode = 0

    def __init__(self, lines):
        self.stdout = lines

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def kill(self):
        pass


@pytest.fixture
def faked(monkeypatch):
    return Machine(monkeypatch)


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def bench(checkpoint, *arguments):
    given = ["--model", checkpoint, "--limit", 7, "--repeats", 2, "--device", "cpu"]
    given += [] if "--window" in arguments else ["--window", "16,full"]
    return cli.run(["bench", "harness", *map(str, given), "--out", str(checkpoint.parent / "run"), *arguments])


def rows_of(checkpoint):
    return read(checkpoint.parent / "run", HARNESS)


def test_sides_take_turns_and_every_timing_is_a_row(checkpoint, faked, capsys):
    assert bench(checkpoint) == 0
    assert faked.calls == ["lm_eval", "full"] * 2 + ["scoring 2"] + ["16", "full", "16 full"] * 2
    rows = rows_of(checkpoint)
    assert [(row["phase"], row["side"], row["repeat"]) for row in rows] == [
        *(("whole", side, repeat) for repeat in "12" for side in ("lm_eval", "harness")),
        *(("scoring", side, repeat) for repeat in "12" for side in ("lm_eval", "harness")),
        *(("sweep", side, repeat) for repeat in "12" for side in ("separate runs", "one run")),
    ]
    assert {(row["status"], row["score"]) for row in rows} == {("ok", "0.25")}
    assert [row["seconds"] for row in rows if row["phase"] == "sweep"] == ["12.0", "8.0"] * 2
    out = capsys.readouterr().out
    assert "whole, commonsense_social_iqa: harness takes 0.600 of what lm_eval takes (0.600 to 0.600)" in out
    assert "and 0.750 of the processor's time" in out
    # Four seconds a process outside its cells, one of which the sweep spares.
    assert "4.0 s saved; starting and loading 1 times less is worth 4.0 s: met" in out
    environment = json.loads((checkpoint.parent / "run/environment.json").read_text())
    assert environment["identity"]["model"] == "small" and environment["repeats"] == 2
    assert cli.run(["bench", "show", str(checkpoint.parent / "run")]) == 0
    assert "harness takes 0.600" in capsys.readouterr().out


@pytest.mark.parametrize("stop_at", [1, 3, 6])
def test_the_same_command_goes_on_where_it_stopped(checkpoint, faked, stop_at):
    faked.stop_at = stop_at
    assert bench(checkpoint) == 130
    before = rows_of(checkpoint)
    faked.stop_at, faked.calls = None, []
    assert bench(checkpoint) == 0
    rows = rows_of(checkpoint)
    assert rows[: len(before)] == before and len(rows) == 12
    assert len({HARNESS.key_of(row) for row in rows}) == 12
    faked.calls = []
    assert bench(checkpoint) == 0 and faked.calls == []


def test_scores_that_differ_are_no_timing(checkpoint, faked, capsys):
    faked.plain = {**PLAIN, "acc_norm": 0.25 + 1e-6}
    assert bench(checkpoint) == 0
    whole = [row for row in rows_of(checkpoint) if row["phase"] == "whole"]
    assert [row["status"] for row in whole] == ["ok", "error", "ok", "error"]
    assert whole[1]["reason"].startswith("its score is 0.25, that of lm_eval 0.250001") and whole[1]["seconds"] == ""
    assert "whole, commonsense_social_iqa: harness takes" not in capsys.readouterr().out


def test_a_process_that_fails_is_a_row_with_its_last_words(checkpoint, faked, capsys):
    faked.failing = "16"
    assert bench(checkpoint) == 0
    failed = [row for row in rows_of(checkpoint) if row["status"] == "error"]
    assert [(row["side"], row["reason"]) for row in failed] == [("separate runs", "16 ended with code 1: no room")] * 2
    assert "error: 16 ended with code 1: no room" in capsys.readouterr().out


def test_a_command_that_ends_badly_says_why(tmp_path):
    with pytest.raises(RunFailed, match=r"ended with code 1: nothing of that name$"):
        _seconds([sys.executable, "-c", "import sys; sys.exit('a line\\nnothing of that name')"], Work(tmp_path, TASK, 1))
    slept = _seconds([sys.executable, "-c", "import time; time.sleep(1)"], Work(tmp_path, TASK, 1))
    assert slept[0] >= 1 > slept[1] > 0
    work = "import time\nwhile time.process_time() < 0.5: pass"
    # The system counts in ticks of a hundredth of a second.
    assert _seconds([sys.executable, "-c", work], Work(tmp_path, TASK, 1))[1] >= 0.48


def test_plain_scores_are_the_metrics_alone():
    told = {"alias": "x", "acc,none": 0.5, "acc_stderr,none": 0.1, "acc_norm_stderr,none": "N/A", "sample_len": 3}
    assert plain_scores(told) == {"acc": 0.5}


def timed(*seconds, scoring=None, windows="full"):
    told = {"windows": windows, "scoring_s": "" if scoring is None else str(scoring)}
    figures = [{"seconds": str(value), "processor_s": str(value / 2)} for value in seconds]
    return [{"repeat": str(number), **figure, **told} for number, figure in enumerate(figures, 1)]


@pytest.mark.parametrize(
    ("plain", "ours", "ratio", "spread", "met"),
    [
        ((10, 20, 40), (10, 21, 50), "1.050", "1.025 to 1.150", "met"),
        ((10, 20), (11, 22), "1.100", "1.100 to 1.100", "missed"),
        # Only what stood side by side is compared.
        ((10, 20, 5), (10,), "1.000", "1.000 to 1.000", "met"),
    ],
)
def test_the_verdict_is_of_pairs(plain, ours, ratio, spread, met):
    told = verdict("whole", {"lm_eval": timed(*plain), "harness": timed(*ours)})
    wanted = f"harness takes {ratio} of what lm_eval takes ({spread}), and {ratio} of the processor's time"
    assert told == f"{wanted}; wanted is at most 1.05: {met}"


def test_one_side_alone_is_no_verdict():
    assert verdict("whole", {"lm_eval": timed(10)}) == ""


def test_a_sweep_that_saves_less_than_its_starts_misses():
    separate = timed(50, scoring=10, windows="1 2 3 4 full")
    for seconds, met in ((18, "met"), (19, "missed")):
        told = verdict("sweep", {"separate runs": separate, "one run": timed(seconds, scoring=10, windows="1 2 3 4 full")})
        assert told.endswith(f"starting and loading 4 times less is worth 32.0 s: {met}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "0"], "--limit 0: wanted is an integer from 1"),
        (["--repeats", "-1"], "--repeats -1: wanted is an integer from 1"),
        (["--task", "commonsense_social_iqa_"], "did you mean 'commonsense_social_iqa'"),
        (["--task", ","], "it names nothing"),
        (["--window", "full"], "wanted are two windows at least"),
        (["--window", "16,wide"], "window 'wide'"),
        (["--model", "nowhere"], "a checkpoint's folder with its config.json"),
        (["--device", "tpu"], "device 'tpu'"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(checkpoint, faked, arguments, message, capsys):
    assert bench(checkpoint, *arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and len(err.splitlines()) == 1
    assert faked.calls == [] and not (checkpoint.parent / "run").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("task", ["recall_needle"])
def test_both_sides_are_really_run(tmp_path, task, capsys):
    torch.manual_seed(0)
    tokenizer = byte_tokenizer(8192)
    make_model(vocab_size=len(tokenizer), max_position_embeddings=8192).save_pretrained(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    command = ["--task", task, "--limit", "4", "--sweep-limit", "2", "--repeats", "1"]
    assert bench(tmp_path / "small", *command) == 0
    rows = rows_of(tmp_path / "small")
    assert [row["status"] for row in rows] == ["ok"] * 6, rows
    for row in rows:
        assert float(row["seconds"]) > 0 and int(row["threads"]) <= os.cpu_count()
        assert (row["scoring_s"] == "") == (row["phase"] == "whole" and row["side"] == "lm_eval")
        assert row["scoring_s"] == "" or float(row["scoring_s"]) <= float(row["seconds"])
    assert "one run takes" in capsys.readouterr().out
