"""Processes that share weights out by FSDP train what one does, go on where they were broken off, and leave whole weights."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_hybrid import LENGTH, make_base, make_text

from nha_eval import cli

ROOT = Path(__file__).parents[2]
ON_CPU = ROOT / "tests/nha_eval/fsdp_on_cpu.py"
LAUNCH = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "FSDP",
    "num_machines": 1,
    "num_processes": 2,
    "fsdp_config": {"fsdp_version": 2, "fsdp_reshard_after_forward": True},
}


def test_settings_of_fsdp_that_cannot_work_are_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec_of(tmp_path, "train")))
    command = ["train", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "run")]
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert cli.run(command) == 2
    assert "FSDP of version 1 is not taken: give fsdp_version: 2" in capsys.readouterr().err
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    assert cli.run(command) == 2
    assert "give fsdp_offload_params: false" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def spec_of(place, kind, **more):
    text = {"source": str(place / "text"), "length": LENGTH}
    # A process's share at a time, so that one process adds up what two do: alignment's loss is a ratio of what is at hand.
    stage = {"tokens": 8 * LENGTH * 8, "batch": 8, "micro_batch": 4, "learning_rate": 3e-3, "save_every": 3}
    if kind == "train":
        own = {"checkpointing": True, "heldout_tokens": 1024, "heldout_every": 4}
        return {"model": "nha-tiny", "tokenizer": "bytes", "text": text, **stage, **own, **more}
    stages = {"align": {**stage, "heldout_every": 4}, "distill": stage, "finetune": stage}
    measured = {
        "heldout": {"tokens": 1024, "lengths": [LENGTH], "windows": [4]},
        "copying": {"sequences": 4, "passage": 8, "distances": [16]},
    }
    trained = {"train": "full"} if kind == "full" else {"train": "lora", "window_jitter": [4, 8]}
    return {"base": str(place / "base"), "window": 8, "num_slots": 4, "text": text, **trained, **stages, **measured, **more}


def launched(place, kind, program, name):
    (place / "fsdp.yaml").write_text(yaml.safe_dump(LAUNCH))
    accelerate = str(Path(sys.executable).parent / "accelerate")
    launch = [accelerate, "launch", "--config_file", str(place / "fsdp.yaml"), "--main_process_port", "0", str(program)]
    run(place, kind, launch, name)


def run(place, kind, program, name):
    verb = "train" if kind == "train" else "hybridize"
    command = [*program, verb, str(place / "spec.yaml"), "--out", str(place / name)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]


def weights(folder):
    (file,) = (folder / "model").glob("*.safetensors")
    return load_file(file)


def figures(path):
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("step", "tokens", "loss", "grad_norm", "kl", "nll", "right", "window")
    assert rows
    return [{name: float(row[name]) for name in names if name in row} for row in rows]


def same_figures(one, two, rel):
    found = sorted(path.name for path in one.glob("*.csv"))
    assert found and found == sorted(path.name for path in two.glob("*.csv"))
    for name in found:
        for mine, other in zip(figures(one / name), figures(two / name), strict=True):
            assert mine == pytest.approx(other, rel=rel), name


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["train", "full", "lora"])
def test_two_processes_with_shared_weights_train_as_one(tmp_path, kind):
    make_text(tmp_path / "text")
    make_base(tmp_path / "base")
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec_of(tmp_path, kind, device="cpu")))
    run(tmp_path, kind, [sys.executable, str(ROOT / "run_eval.py")], "one")
    launched(tmp_path, kind, ON_CPU, "two")
    same_figures(tmp_path / "one", tmp_path / "two", 1e-4)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys() and all((one[key].float() - two[key].float()).abs().max() < 1e-4 for key in one)

    stages = ["checkpoints"] if kind == "train" else ["align", "distill", "finetune"]
    # Broken off in the second stage, where there are several, after its checkpoint of step 6.
    broken, *later = stages[-2:]
    for name in later:
        shutil.rmtree(tmp_path / "two" / name)
    shutil.rmtree(tmp_path / "two" / broken / "checkpoint-8")
    (tmp_path / "two" / broken / "trained.safetensors").unlink(missing_ok=True)
    shutil.rmtree(tmp_path / "two/model")
    launched(tmp_path, kind, ON_CPU, "two")
    again = weights(tmp_path / "two")
    assert all(torch.equal(two[key], again[key]) for key in two)


@pytest.mark.gpu
@pytest.mark.timeout(900)
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("kind, dtype", [("train", "float32"), ("full", "float32"), ("lora", "bfloat16")])
def test_two_gpus_with_shared_weights_train_as_one(tmp_path, kind, dtype):
    make_text(tmp_path / "text")
    make_base(tmp_path / "base")
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec_of(tmp_path, kind, dtype=dtype)))
    run(tmp_path, kind, [sys.executable, str(ROOT / "run_eval.py")], "one")
    launched(tmp_path, kind, ROOT / "run_eval.py", "two")
    same_figures(tmp_path / "one", tmp_path / "two", 1e-3 if dtype == "float32" else 3e-2)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    apart = torch.cat([(one[key].float() - two[key].float()).abs().flatten() for key in one])
    assert one.keys() == two.keys() and apart.mean() < (1e-4 if dtype == "float32" else 1e-3)
