"""Every mixer at `tiny`, and a saved checkpoint, on both local suites in one run, through the command line as a user would."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from models.mixers import mixer_names
from models.presets import PATTERNS, load
from models.tokenizer import byte_tokenizer
from nha_eval.evaluate import known_suites

pytestmark = [pytest.mark.slow, pytest.mark.assets, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
SUITES = ("recall-local", "commonsense-local")
LENGTH = 256
# A preset for each mixer, the first pattern that is made of it.
PRESETS = {mixer: f"{pattern}-tiny" for pattern, (mixer, _, _) in reversed(PATTERNS.items())}


def call(*arguments):
    done = subprocess.run([sys.executable, "run_eval.py", *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder that Transformers saved."""
    folder = tmp_path_factory.mktemp("saved") / "small-llama"
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = byte_tokenizer(16384)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=16384, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(checkpoint, tmp_path_factory):
    """The run's folder, after the doctor has looked at the same machine."""
    folder = tmp_path_factory.mktemp("runs") / "every-mixer"
    call("doctor", *(word for mixer in mixer_names() for word in ("--mixer", mixer)), "--device", "cpu")
    models = [word for name in (*PRESETS.values(), checkpoint) for word in ("--model", name)]
    suites = [word for suite in SUITES for word in ("--suite", suite)]
    size = ["--length", LENGTH, "--contexts", 1, "--limit", 2, "--cost-length", LENGTH]
    call("eval", *models, *suites, *size, "--device", "cpu", "--out", folder)
    return folder


def rows(run, name):
    with (run / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_mixer_has_a_preset():
    assert set(PRESETS) == set(mixer_names())


def test_every_model_is_scored_on_every_task(run):
    wanted = {task.name for suite in SUITES for task in known_suites()[suite]}
    found: dict[str, set] = {}
    for row in rows(run, "scores.csv"):
        assert row["status"] == "ok", row
        assert math.isfinite(float(row["value"])) and row["n"] == "2"
        found.setdefault(row["model"], set()).add(row["task"])
    assert found == dict.fromkeys((*PRESETS.values(), "small-llama"), wanted)


def test_every_model_is_timed_and_its_state_is_what_it_says(run):
    costs = {(row["model"], row["phase"]): row for row in rows(run, "costs.csv")}
    for name in PRESETS.values():
        for phase in ("prefill", "decode"):
            row = costs[name, phase]
            assert row["status"] == "ok" and float(row["latency_ms"]) > 0 and float(row["peak_memory_mb"]) > 0
            assert int(row["state_bytes"]) == load(name).model.state_bytes(1, LENGTH)
    # Keys and values of two layers of 32, in fp32.
    assert int(costs["small-llama", "decode"]["state_bytes"]) == 2 * 2 * 32 * LENGTH * 4


def test_the_report_sets_accuracy_beside_cost(run):
    markdown = (run / "report.md").read_text(encoding="utf-8")
    table = markdown.split("### Accuracy beside cost")[1].split("\n#")[0]
    settings = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in table.splitlines() if line.startswith("| ")}
    for name in PRESETS.values():
        (label,) = [label for label in settings if label.split(",")[0].split(" (")[0] == name]
        assert label.endswith("(random weights)")
        assert all(cell.strip() not in ("–", "not run") for cell in settings[label])
    assert "small-llama, full attention" in settings


def test_the_report_carries_the_doctors_verdict_on_every_mixer(run):
    environment = json.loads((run / "environment.json").read_text())
    found = {}
    for about in environment["models"].values():
        found |= {mixer: verdict["verdict"] for mixer, verdict in about["doctor"]["mixers"].items()}
    assert found == dict.fromkeys(mixer_names(), "passed")
    assert "| gated_deltanet | chunked | passed |" in (run / "report.md").read_text(encoding="utf-8")
