"""From spec to run with the real worker and small models: a checkpoint that Transformers saved, presets, out of memory."""

import csv
import json
import subprocess
import sys
from types import SimpleNamespace

import fakes
import pytest
import torch

from nha_eval import cli, verdicts
from nha_eval.errors import UserError
from nha_eval.evaluate import prepare, resolve, run_name
from nha_eval.spec import Spec

COSTS = {"lengths": [16, 32], "repeats": 3, "decode_tokens": 3, "seconds": 1}


def rows(folder):
    with (folder / "costs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder as Transformers saves it, with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from models.tokenizer import byte_tokenizer

    folder = tmp_path_factory.mktemp("made") / "little-llama"
    tokenizer = byte_tokenizer(256)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_checkpoint_and_presets_are_measured(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("NHA_EVAL_CACHE", str(tmp_path / "cache"))
    verdicts.remember(verdicts.device_label(torch.device("cpu")), {"gsa": {"verdict": "passed"}})
    models = [{"name": str(checkpoint), "windows": [8, "full"]}, f"nha:{checkpoint}", "gsa-tiny"]
    content = {"models": models, "costs": COSTS, "device": "cpu", "threads": 1, "out": str(tmp_path / "run")}
    run = prepare(Spec.model_validate(content), suites={}, draw=lambda path: None)
    assert run.go() == 0
    found = rows(tmp_path / "run")
    assert {row["status"] for row in found} == {"ok"}
    assert list(dict.fromkeys((row["model"], row["window"]) for row in found)) == [
        ("little-llama", "8"),
        ("little-llama", "full"),
        ("nha:little-llama", "64"),
        ("gsa-tiny", "none"),
    ]
    state = {(row["window"], row["length"]): int(row["state_bytes"]) for row in found if row["model"] == "little-llama"}
    assert state["full", "32"] == 2 * state["full", "16"]
    assert state["8", "32"] == state["8", "16"] < state["full", "16"]
    assert {row["backend"] for row in found} == {"sdpa", "chunked"}
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert environment["models"]["little-llama"]["parameters"] > 1000
    assert {name: about["random_weights"] for name, about in environment["models"].items()} == {
        "little-llama": False,
        "nha:little-llama": False,
        "gsa-tiny": True,
    }
    # What the doctor found of the mixers that each model has.
    stamps = {name: about["doctor"]["mixers"] for name, about in environment["models"].items()}
    assert stamps["little-llama"] == {"attention": {"verdict": "not run"}}
    assert stamps["nha:little-llama"] == {"nha": {"verdict": "not run"}}
    assert stamps["gsa-tiny"]["gsa"]["verdict"] == "passed"
    assert environment["threads"] == 1


def test_out_of_memory_is_a_row(checkpoint, tmp_path):
    costs = {**COSTS, "lengths": [128], "batch": 2 * 10**9}
    content = {"models": [str(checkpoint)], "costs": costs, "device": "cpu", "threads": 1, "out": str(tmp_path / "run")}
    assert prepare(Spec.model_validate(content), suites={}, draw=lambda path: None).go() == 0
    assert [(row["phase"], row["status"]) for row in rows(tmp_path / "run")] == [("prefill", "oom"), ("decode", "oom")]


def test_a_checkpoint_whose_weights_do_not_fit_its_configuration(checkpoint, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    content = {"models": [str(broken)], "costs": COSTS, "device": "cpu", "threads": 1, "out": str(tmp_path / "run")}
    with pytest.raises(UserError, match="model broken cannot be had"):
        prepare(Spec.model_validate(content), suites={}, draw=lambda path: None).go()


def test_assets_that_cannot_be_had(tmp_path):
    known = fakes.suites()
    for task in known["sense"]:
        task.needs = ("facts",)
    run = fakes.make_run(tmp_path / "run")
    run.needs = {"timing": ("facts",), "hybrid": ("weights",)}
    asked = []

    def fetch(names):
        asked.append(names)
        return {"facts": "no network", "weights": "no network either"}

    run.fetch = fetch
    assert run.go() == 2
    assert asked == [["facts", "weights"]]
    assert run.refused == {"hybrid": "no network either"}
    statuses = {record["cell"]["task"]: record["status"] for record in run.records.values() if record["cell"]["task"]}
    assert statuses == {"needle": "ok", "timing": "unavailable", "riddle": "ok"}


@pytest.mark.parametrize("data", ["file", "file/below", "/proc/nowhere"])
def test_a_data_folder_that_cannot_be_written_is_one_line(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NHA_EVAL_CACHE", "replaced by --data")
    (tmp_path / "file").write_text("a file")
    arguments = ["--model", "smollm2-135m", "--costs", "--cost-length", "16", "--out", "run", "--data", data]
    assert cli.run(["eval", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: cannot fetch smollm2") and "give a folder that can be written with --data" in err
    assert err.count("\n") == 1


def test_weights_that_changed_under_a_run_are_noticed(tmp_path):
    run = fakes.make_run(tmp_path / "run")
    run.go()
    cell = tmp_path / "run/cells" / f"{run.cells[-1].id}.json"
    cell.unlink()
    for other in run.cells[:-1]:
        record = run.folder.journal.read(other.id)
        run.folder.journal.write(other.id, {**record, "weights_hash": "another"})
    with pytest.raises(UserError, match="have changed since"):
        fakes.make_run(tmp_path / "run").go()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"models": []}, "no model"),
        ({"models": ["base"]}, "no suite"),
        ({"models": ["base"], "suites": ["recal"]}, "no such suite"),
        ({"models": ["base"], "suites": ["recall"], "lengths": [9999]}, "up to 4096 tokens"),
    ],
)
def test_what_is_wrong_is_found_before_anything_is_written(tmp_path, content, message):
    spec = Spec.model_validate({**content, "out": str(tmp_path / "run")})
    with pytest.raises(UserError, match=message):
        prepare(spec, describe=fakes.describe, suites=fakes.suites())
    assert not (tmp_path / "run").exists()


def test_a_misspelt_task_is_found_before_a_hub_is_asked():
    def describe(name):
        raise AssertionError("asked too early")

    spec = Spec.model_validate({"models": ["org/model"], "tasks": ["neddle"]})
    with pytest.raises(UserError, match="did you mean 'needle'"):
        prepare(spec, describe=describe, suites=fakes.suites())


@pytest.mark.parametrize(
    ("torch_version", "device", "expected"),
    [
        ("2.13.0+cpu", {}, ("cpu", "float32")),
        ("2.13.0+cu130", {"device": "cuda:1"}, ("cuda:1", "bfloat16")),
        ("2.13.0+cu130", {"device": "cuda", "dtype": "float32"}, ("cuda", "float32")),
        ("2.13.0", {"device": "cpu"}, ("cpu", "float32")),
    ],
)
def test_auto_is_resolved_to_what_the_machine_has(monkeypatch, torch_version, device, expected):
    monkeypatch.setattr("nha_eval.evaluate._torch_version", lambda: torch_version)
    spec = resolve(Spec.model_validate(device))
    assert (spec.device, spec.dtype) == expected


def test_a_gpu_asked_of_a_cpu_build_is_refused(monkeypatch):
    monkeypatch.setattr("nha_eval.evaluate._torch_version", lambda: "2.13.0+cpu")
    with pytest.raises(UserError, match="is a CPU build"):
        resolve(Spec.model_validate({"device": "cuda"}))


def test_a_runs_name_is_its_settings():
    model = [SimpleNamespace(label="org/a b")]

    def name(**content):
        return run_name(Spec.model_validate({"suites": ["recall"], **content}), model)

    assert name() == name(out="elsewhere")
    assert name() != name(seed=1)
    assert name().startswith("org-a-b-recall-")


def test_the_worker_ends_with_whoever_started_it(tmp_path):
    code = (
        "import subprocess, sys, time; "
        "w = subprocess.Popen([sys.executable, '-m', 'nha_eval.worker'], stdin=subprocess.PIPE, stdout=subprocess.PIPE); "
        "print(w.pid, flush=True); time.sleep(1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    import time

    import psutil

    time.sleep(0.5)
    pid = int(done.stdout)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_length_that_a_form_cannot_have_is_refused_before_anything_is_loaded(tmp_path):
    spec = Spec(models=["nha-tiny"], suites=["recall-local"], lengths=[100], costs=False, out=str(tmp_path / "run"))
    with pytest.raises(UserError, match="length 100 is too short for recall_facts, whose least is 256"):
        prepare(spec)


def test_windows_of_costs_alone_are_said_to_be_ignored_too(tmp_path, capsys):
    extra = [{"model": "gsa-tiny", "windows": [8, "full"], "lengths": [32]}]
    prepare(
        Spec(models=["gsa-tiny", "nha-tiny"], costs={"lengths": [16], "extra": extra}, out=str(tmp_path / "run")), suites={}
    )
    assert capsys.readouterr().err.startswith("note: gsa-tiny has no window; 8, full is not applied")


def test_windows_of_a_model_without_any_are_said_to_be_ignored(tmp_path, capsys):
    spec = Spec(models=["gsa-tiny"], suites=["recall-local"], windows=[16], costs=False, out=str(tmp_path / "run"))
    prepare(spec)
    assert "gsa-tiny has no window; 16 is not applied" in capsys.readouterr().err
