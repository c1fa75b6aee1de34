"""`train` on text: what it makes small, that it learns and resumes to the bit; what it would take, by torch's own counter."""

import csv
import gzip
import json
import re

import pytest
import torch
import yaml
from tiny_hybrid import make_text
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from kernels.standing import auto_backend
from models import NHAForCausalLM
from models.presets import pattern_config
from models.tokenizer import EOS, byte_tokenizer
from nha_eval import cli
from nha_eval.bench.machine import resolve_device
from nha_eval.errors import UserError
from nha_eval.text.stream import StreamSpec, open_stream
from nha_eval.training.estimate import estimate
from nha_eval.training.finding import read_training_spec
from nha_eval.training.flops import forward_flops, mixer_flops, weights_of
from nha_eval.training.language import NextToken, train_language
from nha_eval.training.spec import make_train_spec
from nha_eval.training.trainer import Steps, StepTrainer, training_arguments

LENGTH = 64
WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_slots": 4}
SIZES = {"pattern": "nha", **WIDTHS}
MATRICES = {
    "mamba2": {"head_dim": 16, "state_size": 8},
    "gated_deltanet": {"num_heads": 2, "head_dim": 8},
    "gla": {"num_heads": 2},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, one_thread):
    folder = tmp_path_factory.mktemp("train")
    make_text(folder / "text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NHA_EVAL_CACHE", str(folder / "cache"))
        yield folder


def spec_of(place, **changes):
    content = {
        "sizes": SIZES,
        "window": 8,
        "text": {"source": str(place / "text"), "length": LENGTH, "packing": "documents"},
        "tokens": 8 * 8 * LENGTH,
        "learning_rate": 3e-3,
        "heldout_tokens": 1024,
        "heldout_every": 4,
        "save_every": 3,
        "device": "cpu",
    }
    return make_train_spec({**content, **changes}, where="spec")


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_model_learns_and_what_is_saved_is_what_was_measured(place, tmp_path):
    made = train_language(spec_of(place, tokens=60 * 8 * LENGTH, heldout_every=20), tmp_path / "run")
    found = rows(tmp_path / "run/heldout.csv")
    assert [row["step"] for row in found] == ["20", "40", "60"]
    # Letters of ten kinds and spaces: 259 tokens at first, fewer than 30 soon.
    assert float(found[-1]["perplexity"]) < 30 < 259
    model, tokenizer = AutoModelForCausalLM.from_pretrained(made), AutoTokenizer.from_pretrained(made)
    from nha_eval.text import open_text

    sequences = open_text(spec_of(place).text, tokenizer).heldout(LENGTH, 16)
    ids = torch.stack([sequences[i]["input_ids"] for i in range(16)])
    with torch.no_grad():
        logp = torch.log_softmax(model(ids).logits[:, :-1].double(), -1)
    nll = -logp.gather(-1, ids[:, 1:, None]).mean().item()
    assert float(found[-1]["nll"]) == pytest.approx(nll, rel=1e-4)
    assert json.loads((tmp_path / "run/environment.json").read_text())["text"]["spec"]["packing"] == "documents"


@pytest.mark.parametrize("source", ["text", "stream"])
def test_a_broken_training_ends_as_an_unbroken_one(place, tmp_path, monkeypatch, source):
    changes = {"checkpointing": True}
    if source == "stream":
        changes = {
            "text": None,
            "stream": {"source": str(jsonl(tmp_path / "corpus", 60)), "length": LENGTH, "lot": 7, "heldout_documents": 5},
        }
    spec = spec_of(place, **changes)
    train_language(spec, tmp_path / "whole")
    step, calls = StepTrainer.training_step, [0]

    def breaking(self, *arguments):
        calls[0] += 1
        if calls[0] == 6:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(StepTrainer, "training_step", breaking)
    with pytest.raises(KeyboardInterrupt):
        train_language(spec, tmp_path / "broken")
    monkeypatch.setattr(StepTrainer, "training_step", step)
    train_language(spec, tmp_path / "broken")
    for name in ("heldout.csv", "model/model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()
    losses = [[(row["step"], row["loss"]) for row in rows(tmp_path / run / "train.csv")] for run in ("whole", "broken")]
    assert losses[0] == losses[1] and len(losses[0]) == 8


def test_the_loss_is_of_the_next_token_within_its_document():
    """Two documents packed against each by itself."""
    torch.manual_seed(0)
    model = NHAForCausalLM(pattern_config("nha", {**SIZES, "vocab_size": 50, "initializer_range": 0.3}, window=4))
    first, second = torch.randint(0, 50, (1, 12)), torch.randint(0, 50, (1, 9))
    ids, places = torch.cat([first, second], 1), torch.cat([torch.arange(12), torch.arange(9)])[None]
    labels = ids.clone()
    labels[0, [0, 12]] = -100
    found = NextToken(model)(ids, places, labels)
    total = 0.0
    for part in (first, second):
        logp = torch.log_softmax(model(part, use_cache=False).logits[:, :-1].double(), -1)
        total -= logp.gather(-1, part[:, 1:, None]).sum().item()
    assert found.item() == pytest.approx(total / (11 + 8), rel=1e-5)
    each = NextToken(model)(first, each=True)
    assert each.shape == (1, 11) and NextToken(model)(first).item() == pytest.approx(each.mean().item(), rel=1e-6)


def tokens_of(text):
    return [*byte_tokenizer(1024)(text, add_special_tokens=False)["input_ids"], EOS]


def jsonl(folder, documents):
    folder.mkdir(exist_ok=True)
    for part in range(3):
        lines = [json.dumps({"text": f"document {i} " + "abcdefgh"[i % 8] * (i * 37 % 150)}) for i in range(part, documents, 3)]
        with gzip.open(folder / f"{part}.jsonl.gz", "wt") as file:
            file.write("\n".join(lines) + "\n")
    return folder


def test_a_stream_is_every_document_once_in_lots(tmp_path):
    spec = StreamSpec(source=str(jsonl(tmp_path / "corpus", 60)), length=LENGTH, lot=10, heldout_documents=5)
    stream = open_stream(spec, byte_tokenizer(1024), 10**6, tmp_path)
    items = []
    with pytest.raises(UserError, match=r"ends after \d+ sequences of 64 tokens; 1000000 are wanted"):
        for i in range(len(stream)):
            items.append(stream[i])
    ids = torch.cat([item["input_ids"][item["labels"] != -100] for item in items]).tolist()
    # Each document's first token has no label, nor has that of each 64 further on.
    text = [f"document {i} " + "abcdefgh"[i % 8] * (i * 37 % 150) for part in range(3) for i in range(part, 60, 3)][5:]
    wanted = sorted(
        token for one in text for at in range(0, len(one) + 1, LENGTH) for token in tokens_of(one)[at + 1 : at + LENGTH]
    )
    assert sorted(ids) == wanted and not any("document 0 " in one for one in text)
    for item in items:
        starts = (item["position_ids"] == 0).nonzero().flatten()
        assert (item["labels"][starts] == -100).all() and set(item) == {"input_ids", "position_ids", "labels"}
    # From the middle, with the notes and without, and backwards.
    for notes in (tmp_path, None):
        again = open_stream(spec, byte_tokenizer(1024), 10**6, notes)
        for i in (len(items) - 2, len(items) - 1, 3):
            assert torch.equal(again[i]["input_ids"], items[i]["input_ids"])
    heldout = open_stream(spec, byte_tokenizer(1024), 1).heldout(16, 100)
    first = [f"document {i} " + "abcdefgh"[i % 8] * (i * 37 % 150) for i in range(0, 15, 3)]
    assert (
        torch.cat([item["input_ids"] for item in heldout]).tolist()
        == [t for one in first for t in tokens_of(one)][: 16 * len(heldout)]
    )


def test_streams_of_zstandard_are_the_same(tmp_path):
    import zstandard

    plain = jsonl(tmp_path / "plain", 12)
    (tmp_path / "packed").mkdir()
    for path in plain.iterdir():
        packed = zstandard.compress(gzip.decompress(path.read_bytes()))
        (tmp_path / "packed" / path.with_suffix(".zst").name).write_bytes(packed)
    of = (StreamSpec(source=str(tmp_path / name), length=LENGTH, lot=10, heldout_documents=2) for name in ("plain", "packed"))
    first, second = (open_stream(spec, byte_tokenizer(1024), 5) for spec in of)
    assert all(torch.equal(first[i]["input_ids"], second[i]["input_ids"]) for i in range(5))


@pytest.mark.parametrize("pattern", ["transformer++", "gla", "gated-deltanet", "mamba2", "gsa", "nha"])
def test_flops_of_a_step_against_torchs_counter(pattern):
    """Forward and backward. The counter counts attention over everything whole, of which here the half that is masked is not
    counted; of mixers with a state it counts what their chunks do, so there the weights' products alone are compared.
    """
    config = pattern_config(pattern, {**WIDTHS, "vocab_size": 50, "mixer_options": MATRICES})
    model = NHAForCausalLM(config)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        model(torch.randint(0, 50, (2, LENGTH)), use_cache=False).logits.logsumexp(-1).mean().backward()
    mixers = sum(mixer_flops(config, layer, LENGTH) for layer in range(2))
    counted = 3 * forward_flops(config, weights_of(config), LENGTH)
    if pattern == "transformer++":
        assert counter.get_total_flops() == 2 * LENGTH * (counted + 3 * mixers)
        return
    # A product with a weight is one of two matrices; those of operators are of many at once.
    by_operation = counter.get_flop_counts()["Global"]
    products = sum(flops for operation, flops in by_operation.items() if operation in (torch.ops.aten.mm, torch.ops.aten.addmm))
    filters = sum(n for name, n in weights_of(config).items() if name.endswith("conv1d.weight"))
    assert products == pytest.approx(2 * LENGTH * 3 * (counted / 3 - mixers - 2 * filters), rel=1e-9)


@pytest.mark.parametrize(("pattern", "window"), [("nha", 8), ("nha", 16), ("gsa", None)])
def test_slots_and_window_against_the_definition(pattern, window):
    """Step by step each query meets the window and the slots, once for its logits and once for its output."""
    changes = {} if window is None else {"window": window}
    config = pattern_config(pattern, {**WIDTHS, "vocab_size": 50}, **changes)
    model = NHAForCausalLM(config).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), auto_backend("recurrent"):
        model(torch.zeros(1, LENGTH, dtype=torch.long), use_cache=False)
    mixers = sum(mixer_flops(config, layer, LENGTH) for layer in range(2))
    products = LENGTH * (forward_flops(config, weights_of(config), LENGTH) - mixers)
    # Slots are written without a product of matrices: as much as their keys and values meet queries, one a head here.
    written = LENGTH * 2 * 4 * config.num_slots * 2 * config.head_dim
    assert counter.get_total_flops() - products + written == pytest.approx(LENGTH * mixers, rel=0.15)


def test_shipped_specs_can_be_estimated(capsys):
    for name, parameters, tokens, steps in (("nha-340m-15b", 380e6, 16.1e9, 30_720), ("nha-1.3b-100b", 1.39e9, 100e9, 47_683)):
        _, spec = read_training_spec(name, {})
        found = estimate(spec)
        assert found.parameters == pytest.approx(parameters, rel=0.01) and found.tokens == pytest.approx(tokens, rel=0.01)
        assert found.steps == steps and found.gpu_bytes < 80e9
        # Six FLOPs a weight and token, embeddings aside, and attention's few.
        assert 6 * 0.9 * found.parameters * found.tokens < found.flops < 6 * 1.1 * found.parameters * found.tokens
    assert -(-spec.warmup * 30_720 // 1) > 600
    assert cli.run(["train", "nha-340m-15b", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "380.2 M parameters" in out and "TFLOP/s a GPU, measured in bench-model-" in out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modl": "nha-tiny"}, "unknown key `modl`; did you mean 'model'"),
        ({"model": "nha-tiny"}, "model and sizes: both are given"),
        ({"text": None}, "text and stream: neither is given"),
        ({"tokens": 100}, "tokens is 100, less than one step of 512"),
        ({"sizes": {**SIZES, "pattern": "nhaa"}}, "this model cannot be made: no pattern is called 'nhaa'; did you mean nha"),
        ({"sizes": {**SIZES, "hiden": 3}}, "unknown key `hiden` in `sizes`; did you mean 'hidden_size'"),
        ({"sizes": {**SIZES, "pattern": "gla"}}, "window is given, but no layer of this model has one"),
        ({"tokenizer": "no/such"}, "tokenizer 'no/such' is no folder, and the hub cannot be reached"),
        ({"text": {"source": "nowhere", "length": 64}}, "no such source: 'nowhere'"),
        (
            {"text": None, "stream": {"source": "org/none", "length": 64}},
            "source 'org/none' is on the hub, which cannot be reached",
        ),
        ({"text": None, "stream": {"source": "none", "length": 64}}, "no such source: 'none'"),
        ({"micro_batch": 3}, "a batch of 8 sequences is no multiple of 3"),
        ({"heldout_tokens": 10**8}, "the held-out text has"),
    ],
)
def test_wrong_specs_are_one_line(place, tmp_path, capsys, changes, said):
    content = {**spec_of(place).model_dump(mode="json", exclude_unset=True), **changes}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    assert cli.run(["train", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "run")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ") and re.search(said, lines[-1]), lines


def test_what_is_asked_for_by_name(tmp_path, capsys):
    assert cli.run(["train", "nha-340m-15c"]) == 2
    assert "did you mean 'nha-340m-15b'" in capsys.readouterr().err
    assert cli.run(["train", "nha-340m-15b", "--workers", "2", "--out", str(tmp_path)]) == 2
    assert "--workers is for MQAR and proxies" in capsys.readouterr().err


def test_one_process_trains_on_one_device_whatever_it_sees(tmp_path, monkeypatch):
    """Trainer would share a batch out among all GPUs that it sees, each with a whole one."""
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda arguments: 2))
    steps = Steps(count=4, batch=8, micro_batch=4, rates={"": 1e-3})
    arguments = training_arguments(steps, tmp_path)
    assert arguments.n_gpu == 1 and arguments.train_batch_size == 4 and arguments.gradient_accumulation_steps == 2
    assert arguments.device == torch.device("cpu")


def test_of_launched_processes_each_has_its_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [resolve_device(given, "auto")[0].index for given in ("auto", "cuda", "cuda:1")] == [0, 0, 1]
    with pytest.raises(UserError, match="GPUs that torch can use here: 2"):
        resolve_device("cuda:2", "auto")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [resolve_device(given, "auto")[0].index for given in ("auto", "cuda")] == [1, 1]
    assert resolve_device("cpu", "auto")[0] == torch.device("cpu")
    with pytest.raises(UserError, match="the launcher gives each process a GPU; wanted is auto or cuda"):
        resolve_device("cuda:0", "auto")
