"""Thousands of wrong inputs: each is one clear line on stderr and exit code 2, leaves nothing behind, and reaches no run.

`rules.py` says independently which of them are right after all; those must reach the run as they were meant.
"""

import contextlib
import io
import os
import re
import unicodedata
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from option_inputs import inputs, others

from nha_eval import cli, runner

ADVICE = re.compile(
    "wanted|give|did you mean|known|there are|shows what there is|shows an example|leave|keep|add |choose|has no window"
    r"|; \w+s?: "
)
CONTROLS = ("Cc", "Cf", "Cs", "Zl", "Zp")


@pytest.fixture
def reached(monkeypatch, tmp_path):
    """What got through: the runs that would have begun. Nothing is measured, and nothing outside tmp_path can be written."""
    found = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NHA_EVAL_CACHE", str(tmp_path.parent / "cache"))
    monkeypatch.setattr(runner.Run, "go", lambda run: found.append(run) or 0)
    monkeypatch.setattr("nha_eval.bench.op.run", lambda wanted: found.append("reached") or 0)
    monkeypatch.setattr("nha_eval.bench.model.run", lambda wanted: found.append("reached") or 0)
    monkeypatch.setattr("nha_eval.bench.harness.run", lambda wanted: found.append("reached") or 0)
    monkeypatch.setattr("models.assets.smollm2_folder", lambda: tmp_path)
    monkeypatch.setattr("nha_eval.doctor.machine.look", lambda checks: [])
    monkeypatch.setattr("nha_eval.doctor.mixers.examine_mixer", lambda *_: (_ for _ in ()).throw(SystemExit(0)))
    return found


def tried(one, reached, folder):
    """(exit code, stdout, stderr) of an input; its files are there before and nothing else after."""
    for name, content in one.files.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
    out, err = io.StringIO(), io.StringIO()
    reached.clear()
    cache = os.environ["NHA_EVAL_CACHE"]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = cli.run(one.arguments)
            except SystemExit as left:
                # The doctor's mixers are not tried here: to get to them is to be taken.
                code, _ = left.code, reached.append("reached")
        left = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    finally:
        os.environ["NHA_EVAL_CACHE"] = cache
        for name in one.files:
            (folder / name).rmdir() if one.files[name] is None else (folder / name).unlink()
    return code, out.getvalue(), err.getvalue(), left - set(one.files)


def check(one, reached, folder):
    """Hold one input against what must come of it; gives back the refusal, or None."""
    code, out, err, left = tried(one, reached, folder)
    if one.right is None:
        assert code == 2, (one, code, err, reached)
        assert out == "" and not reached and not left, (one, out, left)
        assert err.endswith("\n") and err.count("\n") == 1 and err.startswith("error: "), (one, err)
        assert len(err) < 720 and not any(unicodedata.category(c) in CONTROLS for c in err[:-1]), (one, err)
        assert "Traceback" not in err and ADVICE.search(err) and one.named in err, (one, err)
        return err
    assert code == 0 and len(reached) == 1, (one, code, err)
    if one.right == "reached":
        for path in sorted(left, key=len, reverse=True):
            (folder / path).rmdir()
        assert reached == ["reached"] and left <= {"cache"}, (one, left)
    else:
        windows = {}
        for cell in reached[0].cells:
            windows.setdefault(cell.model, set()).add(cell.window)
        for model, wanted in one.right.items():
            assert wanted is None or windows[model] == wanted, (one, windows)
        assert set(windows) == set(one.right) and not left, (one, windows, left)
        assert all(line.startswith("note: ") and "has no window" in line for line in err.splitlines()), (one, err)
    return None


def campaign(count, reached, folder):
    """Try `count` inputs, the same at every call; gives back how many of each verb were refused and taken."""
    seen = Counter()

    def each(one):
        refused = check(one, reached, folder)
        seen[one.arguments[0] if one.arguments else "", refused is not None] += 1

    # What Hypothesis draws changes with the modules that are loaded, and few of its inputs are of the verbs that take little.
    for one in others("y"):
        each(one)
    drawn = settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    drawn(given(inputs)(each))()
    return seen


def assert_both_kinds(seen, count):
    refused = sum(number for (_, wrong), number in seen.items() if wrong)
    assert sum(seen.values()) >= count
    assert refused > 0.6 * count and sum(seen.values()) - refused > 0.03 * count
    assert {verb for (verb, wrong) in seen if wrong} >= {"eval", "bench", "doctor", "plot", "report", "list"}


def test_two_hundred_inputs(reached, tmp_path):
    assert_both_kinds(campaign(200, reached, tmp_path), 200)


@pytest.mark.slow
def test_two_thousand_inputs(reached, tmp_path):
    seen = campaign(2000, reached, tmp_path)
    print(dict(seen))
    assert_both_kinds(seen, 2000)
