"""`accelerate launch` and `torchrun`: each process a share, the first gathers, the tables those of one process."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import fakes
import pytest

from nha_eval import launched, ranks
from nha_eval.errors import MachineError
from nha_eval.spec import Spec

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
EVAL = [
    *("run_eval.py", "eval", "--model", "nha-tiny", "--model", "gla-tiny", "--task", "commonsense_timedial"),
    *("--window", "16,full", "--limit", "6", "--no-costs", "--device", "cpu", "--threads", "1"),
]


@pytest.fixture
def group(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_PORT": "1", "ACCELERATE_X": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")


def test_what_the_launcher_says(group, monkeypatch):
    assert ranks.launched() == ranks.Launched(0, 2, "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert ranks.launched() is None
    monkeypatch.delenv("RANK")
    assert ranks.launched() is None


def test_workers_see_their_gpu_and_no_group(group):
    launched._leave_the_group(ranks.Launched(1, 2, "1"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "ACCELERATE_X"} & set(os.environ)


@pytest.mark.timeout(120)
def test_the_first_gathers_what_the_others_leave(group, tmp_path, monkeypatch):
    fakes.make_run(tmp_path / "one").go()
    # Of the launcher's, one process alone may have it here, where both are threads of one.
    monkeypatch.delenv("MASTER_PORT")
    known = fakes.suites()
    # Each process prepares its run as `eval` does, but for the models.
    monkeypatch.setattr(
        launched, "prepare", lambda spec, name: fakes.prepare(
            spec, name, describe=fakes.describe, suites=known, executor=fakes.executor(), draw=lambda path: None
        )
    )  # fmt: skip
    spec = Spec.model_validate({**fakes.SPEC, "out": str(tmp_path / "two")})
    left = tmp_path / "two" / "shares" / "2-of-2"
    left.mkdir(parents=True)
    (left / ".done-0").touch()  # as a killed launch leaves it
    launched.prepare(spec.model_copy(update={"share": "1/2"}), None).go()  # as `eval --share 1/2` would have done it
    shutil.rmtree(tmp_path / "two" / "shares" / "1-of-2" / "cells")
    codes = {}
    others = threading.Thread(target=lambda: codes.update(second=launched.run_share(spec, None, ranks.Launched(1, 2, "1"))))
    others.start()
    codes["first"] = launched.run_share(spec, None, ranks.Launched(0, 2, "0"))
    others.join()
    assert codes == {"first": 0, "second": 0}
    for name in ("scores.csv", "costs.csv"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    # What is timed was left to the first, alone.
    assert not list((tmp_path / "two" / "shares").rglob("cells/*prefill*"))


def test_a_launcher_that_goes_ends_the_waiting(tmp_path, monkeypatch):
    parents = iter([7, 7, 1])
    monkeypatch.setattr(launched.os, "getppid", lambda: next(parents))
    monkeypatch.setattr(launched, "POLL", 0)
    with pytest.raises(MachineError, match="the launcher is gone before all shares were done"):
        launched._wait([tmp_path / "never"])


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "launcher",
    [
        ["torchrun", "--nproc_per_node", "2"],
        # The only launcher of accelerate's that starts several processes on one machine without MPI; they compute on the CPU.
        ["accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
         "--dynamo_backend", "no"],
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_two_processes_give_the_scores_of_one(launcher, tmp_path):
    def run(program, *more):
        done = subprocess.run([*program, *EVAL, "--out", *more], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]

    run([sys.executable], str(tmp_path / "one"))
    run([str(BIN / launcher[0]), *launcher[1:]], str(tmp_path / "two"))
    assert len(list((tmp_path / "two" / "shares").iterdir())) == 2
    assert (tmp_path / "two" / "scores.csv").read_bytes() == (tmp_path / "one" / "scores.csv").read_bytes()
