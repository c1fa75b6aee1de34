"""The doctor's verdicts: kept for one subject and no other, and found again in a run's environment and report."""

import os

import pytest
from report_run import full_run, write_run

from nha_eval import verdicts
from nha_eval.report import write_report

DEVICE = "cpu: some processor"
CHECK = {"status": "ok", "bound": 1e-5, "dtype": "float32", "window": "7", "error": 3.1e-7, "reason": None}
PASSED = {"verdict": "passed", "backend": "chunked", "seconds": 1.0, "checks": {"kernel": CHECK}}
FAILED = {**PASSED, "verdict": "failed", "checks": {"kernel": {**CHECK, "status": "failed", "error": 0.02}}}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("NHA_EVAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/doctor"


def known(*mixers, device=DEVICE):
    return {name: found["verdict"] for name, found in verdicts.stamp(device, list(mixers))["mixers"].items()}


def test_a_verdict_is_found_again_with_its_date_and_commit():
    assert known("nha") == {"nha": "not run"}
    verdicts.remember(DEVICE, {"nha": PASSED})
    found = verdicts.stamp(DEVICE, ["nha", "gla"])
    assert found["mixers"]["gla"] == {"verdict": "not run"}
    assert found["mixers"]["nha"]["checks"] == PASSED["checks"]
    assert found["mixers"]["nha"]["date"] and "commit" in found["mixers"]["nha"]
    assert found["device"] == DEVICE and found["versions"]["torch"] and len(found["source"]) == 16


def test_mixers_tried_apart_stand_together_and_the_later_verdict_counts():
    verdicts.remember(DEVICE, {"nha": PASSED, "gla": PASSED})
    verdicts.remember(DEVICE, {"gla": FAILED})
    assert known("nha", "gla", "gsa") == {"nha": "passed", "gla": "failed", "gsa": "not run"}


def test_another_device_version_or_source_has_no_verdict(monkeypatch):
    verdicts.remember(DEVICE, {"nha": PASSED})
    assert known("nha", device="NVIDIA H200") == {"nha": "not run"}
    right = verdicts.versions()
    for package in ("torch", "tilelang"):
        with monkeypatch.context() as changed:
            changed.setattr(verdicts, "versions", lambda package=package: {**right, package: "0.0.1"})
            assert known("nha") == {"nha": "not run"}
    with monkeypatch.context() as changed:
        changed.setattr(verdicts, "versions", lambda: {**right, "matplotlib": "0.0.1"})
        assert known("nha") == {"nha": "passed"}
    monkeypatch.setattr(verdicts, "source_digest", lambda: "0" * 16)
    assert known("nha") == {"nha": "not run"}


def test_the_digest_changes_with_any_source_and_with_nothing_else(tmp_path):
    for name in ("kernels/nha/op.py", "models/a.py", "nha_eval/doctor/b.py", "nha_eval/cli.py", "kernels/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one")
    first = verdicts.source_digest(tmp_path)
    for name in ("nha_eval/cli.py", "kernels/x.txt"):
        (tmp_path / name).write_text("two")
        assert verdicts.source_digest(tmp_path) == first
    seen = {first}
    for name in ("kernels/nha/op.py", "models/a.py", "nha_eval/doctor/b.py"):
        (tmp_path / name).write_text("two")
        seen.add(verdicts.source_digest(tmp_path))
    (tmp_path / "models/a.py").rename(tmp_path / "models/c.py")
    seen.add(verdicts.source_digest(tmp_path))
    assert len(seen) == 5


@pytest.mark.parametrize("text", ["", "{", "[]", '{"mixers": 3}', '{"mixers": {"nha": 3}}', '{"mixers": {"nha": {}}}'])
def test_a_broken_file_is_no_verdict(text):
    verdicts.remember(DEVICE, {"nha": PASSED}).write_text(text)
    assert known("nha") == {"nha": "not run"}
    verdicts.remember(DEVICE, {"nha": PASSED})
    assert known("nha") == {"nha": "passed"}


def test_the_oldest_go(cache):
    cache.mkdir(parents=True)
    for number in range(verdicts.KEPT + 5):
        (cache / f"{number}.json").write_text("{}")
        os.utime(cache / f"{number}.json", (number, number))
    verdicts.remember(DEVICE, {"nha": PASSED})
    assert len(list(cache.iterdir())) == verdicts.KEPT
    assert not (cache / "0.json").exists()
    assert known("nha") == {"nha": "passed"}


def report(folder, models, write=write_run):
    write(folder)
    write_run(folder, environment={"command": "x", "models": models})
    write_report(folder)
    return (folder / "report.md").read_text(encoding="utf-8"), (folder / "report.html").read_text(encoding="utf-8")


def stamped(**mixers):
    return {"doctor": {"device": DEVICE, "mixers": mixers}}


def test_a_report_shows_what_passed_and_what_was_not_run(tmp_path):
    dated = {**PASSED, "date": "2026-01-02T03:04:05+00:00", "commit": "0123456789abcdef", "dirty": True}
    models = {"base": stamped(attention={"verdict": "not run"}), "nha-base": stamped(nha=dated), "other": stamped(nha=dated)}
    markdown, page = report(tmp_path / "run", models)
    row = "| nha | chunked | passed | 2026-01-02T03:04:05+00:00 | 01234567 and changes | 3e-07 (below 1e-05) | – | – | – | – |"
    assert markdown.count(row) == 1
    assert "| attention | – | not run |" in markdown
    assert "not run for attention on this device, versions and sources: nha-eval doctor --mixer attention does it" in markdown
    assert "3e-07 (below 1e-05)" in page
    assert "doctor.mixers" not in markdown
    assert "cannot be relied on" not in markdown


def test_a_report_warns_first_of_a_mixer_found_wrong(tmp_path):
    markdown, _ = report(tmp_path / "run", {"nha-base": stamped(nha=FAILED)}, full_run)
    assert "2e-02 (over 1e-05)" in markdown
    first = markdown.index("The doctor found nha wrong on this machine")
    assert first < markdown.index("At a window of")


@pytest.mark.parametrize("models", [{}, None, 3, {"nha-base": {}}, {"nha-base": {"doctor": 3}}, {"nha-base": stamped()}])
def test_a_run_without_a_stamp_says_nothing_of_it(models, tmp_path):
    markdown, _ = report(tmp_path / "run", models)
    assert "doctor" not in markdown.lower()


@pytest.mark.parametrize("verdict", [3, None, [], {"checks": 3}, {"checks": {"kernel": {"error": "x", "status": ["<b>"]}}}])
def test_a_stamp_that_is_none_does_no_harm(verdict, tmp_path):
    _, page = report(tmp_path / "run", {"nha-base": stamped(nha=verdict)})
    assert "<b>" not in page
