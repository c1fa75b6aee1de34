"""Several processes of one launch train what one does, and the first of them writes what they leave."""

import csv
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from tiny_hybrid import LENGTH, make_base, make_text

from nha_eval import cli, ranks
from nha_eval.errors import MachineError, UserError
from nha_eval.training import folder as training
from nha_eval.training.folder import training_folder

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TWO = [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2"]


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def started(monkeypatch, rank):
    for name, value in (("RANK", rank), ("WORLD_SIZE", 2), ("LOCAL_RANK", rank)):
        monkeypatch.setenv(name, str(value))


def test_the_others_of_a_launch_wait_for_the_first_and_write_nothing(tmp_path, monkeypatch):
    started(monkeypatch, 1)
    monkeypatch.setattr(training, "_POLL", 0.01)
    run, settings = tmp_path / "run", {"tokens": 5}
    entered = threading.Event()

    def second():
        with training_folder(run, settings):
            entered.set()

    other = threading.Thread(target=second, daemon=True)
    other.start()
    time.sleep(0.1)
    assert not entered.is_set() and not run.exists()
    started(monkeypatch, 0)
    with training_folder(run, settings):
        assert entered.wait(10)
        # Another run is another matter.
        with pytest.raises(UserError, match="another run is working in"), training_folder(run, settings):
            pass
    other.join()


def test_a_launcher_that_goes_ends_the_waiting(tmp_path, monkeypatch):
    started(monkeypatch, 1)
    parents = iter([7, 7, 1])
    monkeypatch.setattr(ranks.os, "getppid", lambda: next(parents))
    monkeypatch.setattr(training, "_POLL", 0)
    with pytest.raises(MachineError, match="the launcher is gone before"), training_folder(tmp_path / "run", {}):
        pass


@pytest.mark.parametrize("spec", ["mqar-quick", "lm-small"])
def test_what_takes_workers_takes_no_launcher(tmp_path, monkeypatch, capsys, spec):
    started(monkeypatch, 0)
    assert cli.run(["train", spec, "--out", str(tmp_path / "run")]) == 2
    assert "take --workers: give the command without a launcher" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("verb", ["train", "hybridize"])
def test_two_processes_train_as_one(tmp_path, verb):
    make_text(tmp_path / "text")
    text = {"source": str(tmp_path / "text"), "length": LENGTH}
    stage = {"tokens": 8 * LENGTH * 8, "batch": 8, "learning_rate": 3e-3, "save_every": 3}
    if verb == "train":
        content = {"model": "nha-tiny", "tokenizer": "bytes", "text": text, **stage, "heldout_tokens": 1024}
    else:
        make_base(tmp_path / "base")
        more = {
            "distill": stage,
            "heldout": {"tokens": 1024, "lengths": [LENGTH], "windows": [4]},
            "self_text": {"documents": 8, "length": 32},
        }
        content = {"base": str(tmp_path / "base"), "window": 8, "num_slots": 4, "train": "full", "text": text, **more}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump({**content, "device": "cpu"}))
    for name, program in (("one", [sys.executable]), ("two", TWO)):
        command = [*program, str(ROOT / "run_eval.py"), verb, str(tmp_path / "spec.yaml"), "--out", str(tmp_path / name)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr[-2000:]
    for name in ("train.csv", "heldout.csv", *(["windows.csv"] if verb == "hybridize" else [])):
        one, two = (rows(tmp_path / folder / name) for folder in ("one", "two"))
        assert len(one) == len(two) > 0
        for mine, other in zip(one, two, strict=True):
            for key in mine.keys() & {"step", "tokens", "loss", "kl", "nll", "window"}:
                assert float(mine[key]) == pytest.approx(float(other[key]), rel=1e-4), (name, key)
    one, two = (load_file(tmp_path / folder / "model/model.safetensors") for folder in ("one", "two"))
    assert all((one[key] - two[key]).abs().max() < 1e-4 for key in one)
