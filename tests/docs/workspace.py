"""A folder in which documented commands can be run as they stand: small ones of everything that they name."""

import json
import shutil
from pathlib import Path

import hub_docs
import yaml
from scored_run import add, documents
from search_models import text_folder
from tiny_hybrid import make_base
from tiny_lm import make_model, make_tokenizer

from models.presets import load

ROOT = Path(__file__).parents[2]
SMOLLM2, NHA, SWA = "smollm2-135m", "nha-smollm2-135m", "swa-smollm2-135m"
SPEC = {
    "models": [{"name": "path/to/small", "windows": [16, "full"]}],
    "suites": ["recall-local"],
    "tasks": ["recall_needle"],
    "lengths": [256],
    "contexts": 1,
    "costs": False,
}
STAGE = {"tokens": 1024, "batch": 8, "save_every": 2}
HYBRID = {
    "base": "path/to/base",
    "window": 8,
    "num_slots": 4,
    "train": "gates",
    "text": {"source": "path/to/text", "length": 64},
    "distill": STAGE,
    "heldout": {"tokens": 256, "lengths": [64]},
    "device": "cpu",
}
TEXT = {
    "sizes": {
        "pattern": "nha",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_slots": 4,
    },
    "window": 8,
    "text": {"source": "path/to/text", "length": 64},
    "tokens": 1024,
    "heldout_tokens": 256,
    "device": "cpu",
}
MQAR = {
    "tasks": [{"name": "near", "train": [{"length": 16, "pairs": 2, "examples": 32}]}],
    "models": [{"mixer": "nha", "d_model": [16], "heads": [1], "windows": [4], "slots": [2, 4]}],
    "rates": [0.001],
    "seeds": [1],
    "vocabulary": 16,
    "epochs": 1,
    "batch": 16,
    "selection_examples": 16,
    "test_examples": 16,
}
STUDY = {
    "text": {"source": "path/to/text", "length": 32},
    "tokenizer": "bpe:320",
    "sizes": {**{key: value for key, value in TEXT["sizes"].items() if key != "pattern"}, "tie_word_embeddings": True},
    "models": [{"mixer": "nha", "windows": [4], "test_windows": [0, 4, "full"]}],
    "seeds": [1],
    "tokens": 256,
    "batch": 4,
    "learning_rate": 0.003,
    "evaluate": {"lengths": [1, 2], "tokens": 512, "resamples": 100},
    "recall": {"forms": ["passage"], "distances": [8], "sequences": 4},
    "speed_steps": 0,
    "device": "cpu",
}
SETTINGS = {"four-full": {"window": 64, "full": [7, 18, 20, 23]}}
SEARCH = {
    "model": "nha:path/to/small",
    "budgets": [0.7],
    "windows": [16],
    "text": "path/to/text",
    "sequences": 2,
    "unseen": 2,
    "length": 64,
    "probe": 0,
    "out": "results/runs/by-spec",
}


def make(folder: Path) -> Path:
    """Everything, in `folder`."""
    for name, layers in (("llama", 24), ("small", 2)):
        sizes = {"num_hidden_layers": layers, "hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 8192}
        make_model(**sizes).save_pretrained(folder / "path/to" / name)
        make_tokenizer().save_pretrained(folder / "path/to" / name)
    make_base(folder / "path/to/base")
    for preset, name in (("gla-tiny", "gla"), ("gsa-tiny", "gsa"), ("nha-tiny", "hybrid")):
        loaded = load(preset)
        loaded.model.save_pretrained(folder / "path/to" / name)
        loaded.tokenizer.save_pretrained(folder / "path/to" / name)
    text_folder(folder / "path/to/text")
    specs = {"SPEC": SPEC, "hybrid": HYBRID, "text": TEXT, "mqar": MQAR, "study": STUDY, "settings": SETTINGS, "search": SEARCH}
    for name, content in specs.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    for name, rows in (("fda", hub_docs.FDA), ("swde", hub_docs.SWDE), ("nq", hub_docs.NQ)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "essays.txt").write_text("It rained. The river rose and fell again. " * 200)
    runs = folder / "results/runs"
    for run in (runs / "tutorial", folder / "RUN", folder / "RUN_A", folder / "RUN_B"):
        scored(run)
    (runs / "train-lm-small/models/nha-seed1").mkdir(parents=True)
    searched = runs / "search-NAME/settings.yaml"
    searched.parent.mkdir(parents=True)
    searched.write_text(yaml.safe_dump({"searched-25pct": {"window": 16, "full": [1]}}))
    for name in ("bench-harness-cpu", "bench-model-h100"):
        kind = name.rpartition("-")[0]
        shown = runs / "shown" / kind
        shown.mkdir(parents=True)
        shutil.copy(ROOT / f"results/reference/{name}.csv", shown / f"{kind}.csv")
        shutil.copy(ROOT / f"results/reference/{name}.environment.json", shown / "environment.json")
    # As in a checkout, where these stand beside results/.
    for name in ("run_eval.py", "tasks"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def scored(run: Path) -> None:
    """A run of full attention, NHA and the sliding window alone, at the windows that the pages name."""
    right = [1, 1, 0, 1, 1, 1, 0, 1] * 6
    add(run, SMOLLM2, "full", documents(right, each=6))
    for shift, model in enumerate((NHA, SWA, "my-nha", "nha-tiny")):
        for window in (16, 64):
            add(run, model, window, documents(right[shift:] + right[:shift], each=6))
