"""MQAR trainings: NHA learns it where a sliding window cannot, a broken one ends as an unbroken one; their data and models."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from kernels import sliding_window
from kernels.nha import op
from kernels.standing import auto_backend
from models.presets import pattern_names
from nha_eval.errors import MachineError
from nha_eval.training import trainer
from nha_eval.training.finding import read_training_spec
from nha_eval.training.mqar import together
from nha_eval.training.mqar.cells import Cell, first_cells, shapes
from nha_eval.training.mqar.data import Batches, split_of, split_on
from nha_eval.training.mqar.spec import Asked, make_mqar_spec
from nha_eval.training.mqar.together import train_together
from nha_eval.training.mqar.training import Recall, build, measured_rows, train_cell
from nha_eval.training.trainer import StepTrainer
from tasks.synthetic.mqar import NOT_ASKED, mqar, split_rng

CPU = torch.device("cpu")
SMALL = {
    "tasks": [{"name": "near", "train": [{"length": 16, "pairs": 2, "examples": 64}]}],
    "models": [{"mixer": "nha", "windows": [4], "slots": [4]}],
    "rates": [3e-3],
    "seeds": [1],
    "vocabulary": 16,
    "initializer_range": 0.1,
    "epochs": 2,
    "batch": 16,
    "selection_examples": 50,
    "test_examples": 60,
    "device": "cpu",
}

CHANGED = {"sum": {"mixer": "nha", "fusion": ["sum"]}, "conv": {"mixer": "nha", "options": [{"conv_size": 4}]}}


def spec_of(**changes):
    return make_mqar_spec({**SMALL, **changes}, where="spec")


def cell_of(spec, number=0, **changes):
    given = {"task": spec.tasks[0], "number": number, "shape": shapes(spec)[number], "rate": spec.rates[0], "seed": 1}
    return Cell(**{**given, "tested": True, **changes})


@pytest.mark.parametrize(
    ("taps", "rate", "steps"),
    [(4, 1.5e-2, 250), pytest.param(1, 2e-3, 1000, marks=pytest.mark.slow)],
    ids=["convolved", "published"],
)
def test_nha_learns_what_a_sliding_window_cannot(tmp_path, one_thread, taps, rate, steps):
    options = [{"conv_size": taps}]
    spec = spec_of(
        tasks=[{"name": "far", "train": [{"length": 64, "pairs": 4, "examples": 16 * steps}]}],
        models=[
            {"mixer": "nha", "windows": [16], "slots": [8], "options": options},
            {"mixer": "swa", "windows": [8], "options": options},
        ],
        rates=[rate],
        epochs=1,
        selection_examples=100,
        test_examples=400,
        select_every=50,
        stop_at=0.97,
    )
    nha, swa = (train_cell(spec, cell_of(spec, number, seed=2), tmp_path / str(number)) for number in (0, 1))
    (own,) = [row["accuracy"] for row in nha["rows"] if row["split"] == "test"]
    (theirs,) = [row["accuracy"] for row in swa["rows"] if row["split"] == "test"]
    assert own > 0.95 and nha["status"] == "ok"
    assert theirs < 0.8 and swa["steps"] == steps
    # Two layers of 8 tokens, with their convolutions, reach so far back: of what was told before, no more than the four values
    # can be known.
    inputs, places, _ = split_of(spec, "test", spec.tasks[0].asked[0], 400)
    keys, asked = inputs[:, 0:8:2], np.take_along_axis(inputs, places, 1)
    told = 2 * (keys[:, None] == asked[:, :, None]).argmax(2) + 1
    within = (places - told <= 2 * (7 + taps - 1)).mean()
    assert within > 0.3 and theirs < within + (1 - within) / 2


@pytest.mark.parametrize("mixer", [{"mixer": "nha", "windows": [4], "slots": [4]}, {"mixer": "gdn-h"}], ids=["nha", "gdn-h"])
def test_a_broken_training_ends_as_an_unbroken_one(tmp_path, monkeypatch, mixer):
    spec = spec_of(models=[mixer], save_every=3, select_every=2)
    whole = train_cell(spec, cell_of(spec), tmp_path / "whole")
    step = StepTrainer.training_step
    calls = [0]

    def breaking(self, *arguments):
        calls[0] += 1
        if calls[0] == 6:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(StepTrainer, "training_step", breaking)
    with pytest.raises(KeyboardInterrupt):
        train_cell(spec, cell_of(spec), tmp_path / "broken")
    monkeypatch.setattr(StepTrainer, "training_step", step)
    seen = []
    monkeypatch.setattr(StepTrainer, "training_step", lambda self, *a: seen.append(self.state.global_step) or step(self, *a))
    again = train_cell(spec, cell_of(spec), tmp_path / "broken")
    assert seen == [3, 4, 5, 6, 7] and whole["steps"] == 8 and not (tmp_path / "broken").exists()
    for record in (whole, again):
        del record["seconds"]
    assert whole == again and len(whole["losses"]) == 8


def test_batches_are_the_split_in_an_order_of_the_seed():
    task = {"name": "two", "train": [{"length": 16, "pairs": 2, "examples": 40}, {"length": 24, "pairs": 3, "examples": 33}]}
    spec = spec_of(tasks=[task])
    data = Batches(spec, spec.tasks[0], seed=5)
    assert data.of_epoch == 2 + 2 and data.steps == 8 and len(data) == 128
    wanted = {}
    for length, pairs, examples in ((16, 2, 40), (24, 3, 33)):
        inputs, labels = mqar(split_rng(0, "train", length, pairs), examples, length=length, pairs=pairs, vocabulary=16)
        wanted |= {row.tobytes(): answers for row, answers in zip(inputs.astype(np.int64), labels, strict=True)}
    for epoch in range(2):
        met, kinds = [], []
        for step in range(4):
            rows = data.__getitems__(list(range((4 * epoch + step) * 16, (4 * epoch + step + 1) * 16)))
            kinds.append(rows["input_ids"].shape[1])
            for ids, places, answers in zip(rows["input_ids"], rows["places"], rows["answers"], strict=True):
                labels = wanted[ids.numpy().tobytes()]
                assert np.flatnonzero(labels != NOT_ASKED).tolist() == places.tolist()
                assert labels[places].tolist() == answers.tolist()
                met.append(ids.numpy().tobytes())
        assert sorted(kinds) == [16, 16, 24, 24] and len(set(met)) == 64
    one = [data[i]["input_ids"].tolist() for i in (3, 70)]
    same, other = Batches(spec, spec.tasks[0], seed=5), Batches(spec, spec.tasks[0], seed=6)
    # In any order of asking, and not for another seed.
    assert [same[i]["input_ids"].tolist() for i in (70, 3)] == one[::-1]
    assert [other[i]["input_ids"].tolist() for i in (3, 70)] != one


@pytest.mark.parametrize("mixer", pattern_names())
def test_every_mixer_can_be_trained_and_is_measured_right(mixer):
    """The loss and the accuracy against the whole logits of the model as it is used everywhere."""
    moved = {"windows": [4]} if mixer in ("swa", "nha", "nha-2026", "nha-h") else {}
    spec = spec_of(models=[{"mixer": mixer, "heads": [4], **moved}])
    objective = Recall(build(spec, cell_of(spec)))
    parts = split_on(CPU, spec, "selection", spec.tasks[0].asked[0], 50)
    inputs, labels = mqar(split_rng(0, "selection", 16, 2), 50, length=16, pairs=2, vocabulary=16)
    ids, asked = torch.from_numpy(inputs).long(), torch.from_numpy(labels != NOT_ASKED)
    with torch.no_grad():
        logits = objective.model(ids, use_cache=False).logits[asked]
    answers = torch.from_numpy(labels).long()[asked]
    wanted = (logits.argmax(-1) == answers).float().mean().item()
    assert objective.accuracy(parts, torch.float32) == pytest.approx(wanted)
    loss = objective(**{name: part.long() for name, part in parts.items()})
    picked = torch.log_softmax(logits.double(), -1)[torch.arange(len(answers)), answers]
    assert loss.item() == pytest.approx(-picked.mean().item(), rel=1e-4)
    loss.backward()
    idle = {name for name, p in objective.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    # A layer that attends to everything has no use for its gate.
    assert idle == ({"model.model.layers.1.self_attn.g_proj.weight"} if mixer == "nha-h" else set())
    assert all(layer.mlp is None for layer in objective.model.decoder_layers)


def test_ablations_reach_the_model():
    model = {"mixer": "nha", "windows": [4], "slots": [4], "fusion": ["softmax", "sum"], "slot_overlap": [True]}
    spec = spec_of(
        models=[{**model, "empty_slots": ["sink"]}, {"mixer": "gsa-h"}, {"mixer": "nha-2026", "windows": ["full", 5]}]
    )
    found = [build(spec, cell_of(spec, number)).config for number in range(5)]
    assert [config.fusion for config in found[:2]] == ["softmax", "sum"]
    assert all(config.slot_overlap and config.empty_slots == "sink" and config.windows == [4, 4] for config in found[:2])
    assert found[2].mixers == ["gsa", "attention"] and [config.windows[0] for config in found[3:]] == [None, 5]
    assert [shape.variant for shape in shapes(spec)][:3] == [
        "overlap=true empty_slots=sink", "fusion=sum overlap=true empty_slots=sink", ""
    ]  # fmt: skip


def test_other_windows_are_tested_and_the_own_one_comes_back():
    spec = spec_of(models=[{"mixer": "nha", "windows": [4], "slots": [4], "test_windows": [2, "full"]}])
    cell = cell_of(spec)
    objective = Recall(build(spec, cell))
    rows = measured_rows(spec, cell, objective, torch.float32)
    assert [(row["window"], row["split"]) for row in rows] == [
        (window, split) for window in ("own", 2, "full") for split in ("selection", "test")
    ]
    assert objective.model.config.windows == [4, 4]
    # Keys and values of 64 dimensions, of slots and window, in two layers.
    assert [row["state_elements"] for row in rows[::2]] == [2 * 2 * 64 * held for held in (4 + 4, 4 + 2, 16)]
    objective.model.set_window(2)
    parts = split_on(CPU, spec, "test", spec.tasks[0].asked[0], 60)
    assert rows[3]["accuracy"] == objective.accuracy(parts, torch.float32)


def test_a_training_that_diverges_is_a_result(tmp_path, monkeypatch):
    spec = spec_of()
    forward = Recall.forward
    monkeypatch.setattr(Recall, "forward", lambda self, *a, **b: forward(self, *a, **b) * float("nan"))
    record = train_cell(spec, cell_of(spec), tmp_path / "cell")
    assert record["status"] == "error" and "no finite number" in record["reason"] and record["rows"] == []
    json.dumps(record)


def test_a_full_disk_is_no_result(tmp_path, monkeypatch):
    spec = spec_of(save_every=2)

    def full(*arguments):
        raise MachineError("cannot write: no space left on device")

    monkeypatch.setattr(trainer, "write_atomic", full)
    with pytest.raises(MachineError, match="no space left"):
        train_cell(spec, cell_of(spec), tmp_path / "cell")


def model_of(mixer):
    moved = {"windows": [4]} if mixer in ("swa", "nha", "nha-2026", "nha-h", *CHANGED) else {}
    few = {"slots": [8]} if mixer in ("nha", *CHANGED) else {}
    return {"mixer": mixer, **CHANGED.get(mixer, {}), **moved, **few}


TWO_KINDS = {
    "tasks": [
        {
            "name": "two",
            "train": [{"length": 16, "pairs": 2, "examples": 64}, {"length": 24, "pairs": 4, "examples": 32}],
        }
    ],
    "rates": [3e-3, 1e-2],
    "select_every": 5,
    "warmup": 0.2,
}


@pytest.mark.parametrize(("mixer", "dtype"), [("nha", "float32"), ("nha", "bfloat16"), ("gla", "float32")])
def test_side_by_side_is_as_one_by_one(tmp_path, mixer, dtype):
    """The same steps as of Transformers' Trainer: losses, accuracies on the way and at the end, of every training."""
    spec = spec_of(models=[model_of(mixer)], **TWO_KINDS, dtype=dtype)
    kind, rough = (torch.float32, 1e-3) if dtype == "float32" else (torch.bfloat16, 1e-2)
    cells = [cell_of(spec, rate=rate, seed=seed) for rate, seed in ((3e-3, 1), (1e-2, 2))]
    records = train_together(spec, cells, CPU, kind)
    assert all(record["side_by_side"] == len(cells) and record["steps_per_s"] > 0 for record in records)
    for cell, own in zip(cells, records, strict=True):
        wanted = train_cell(spec, cell, tmp_path / "cell")
        assert [step for step, _ in own["losses"]] == [step for step, _ in wanted["losses"]] == list(range(1, 13))
        assert [loss for _, loss in own["losses"]] == pytest.approx([loss for _, loss in wanted["losses"]], rel=rough)
        assert [step for step, _ in own["history"]] == [5, 10, 12] and own["steps"] == 12
        for mine, theirs in zip(own["rows"], wanted["rows"], strict=True):
            assert mine == {**theirs, "accuracy": pytest.approx(theirs["accuracy"], abs=30 * rough)}
        assert not own["graph"] and own["backend"] == wanted["backend"] == "chunked"


def test_of_those_side_by_side_each_stops_by_itself(monkeypatch):
    spec = spec_of(**TWO_KINDS, stop_at=1.0)
    cells = [cell_of(spec, rate=rate, seed=seed) for rate, seed in ((3e-3, 1), (1e-2, 2), (1e-2, 3))]
    found = {1: [0.5, 1.0], 2: [0.5, 0.6, 0.7], 3: [0.1]}
    asked = []
    monkeypatch.setattr(
        together, "selection_accuracy", lambda spec, cell, *_: asked.append(cell.seed) or found[cell.seed].pop(0)
    )
    built = build

    def breaking(spec, cell):
        model = built(spec, cell)
        if cell.seed == 3:
            with torch.no_grad():
                model.model.norm.weight.fill_(torch.nan)
        return model

    monkeypatch.setattr(together, "build", breaking)
    first, second, third = train_together(spec, cells, CPU, torch.float32)
    assert (first["steps"], first["stopped_early"], second["steps"], second["stopped_early"]) == (10, True, 12, False)
    assert asked == [1, 2, 1, 2, 2] and [len(record["losses"]) for record in (first, second)] == [10, 12]
    assert third["status"] == "error" and third["reason"].startswith("Diverged: the loss is no finite number at step 1")


def test_what_goes_out_of_memory_together_is_trained_alone(monkeypatch):
    spec = spec_of(epochs=1)
    cells = [cell_of(spec, seed=seed) for seed in (1, 2)]
    whole, met = together._together, []

    def crowded(spec, cells, *more):
        met.append([cell.seed for cell in cells])
        if len(cells) > 1 or cells[0].seed == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(spec, cells, *more)

    monkeypatch.setattr(together, "_together", crowded)
    one, two = train_together(spec, cells, CPU, torch.float32)
    assert met == [[1, 2], [1], [2]] and one["status"] == "ok" and two["status"] == "oom" and two["rows"] == []


@pytest.mark.parametrize("mixer", [*pattern_names(), *CHANGED])
def test_a_step_on_a_gpu_reads_nothing_on_the_host(monkeypatch, mixer):
    """What a CUDA graph cannot hold: fake tensors have no values that could be read. They lie on the CPU here, where values are
    looked at that are not on a GPU, and slots and windows run on `chunked`."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for module in (op, sliding_window):
        monkeypatch.setattr(module, "resolve_backend", lambda *_: "triton")
    spec = spec_of(models=[model_of(mixer)])
    cell = cell_of(spec)
    objective = Recall(build(spec, cell))
    with FakeTensorMode(allow_non_fake_inputs=True), together.forms_of([cell]):
        asked = torch.zeros(4, 2, dtype=torch.long)
        loss = objective(torch.zeros(4, 80, dtype=torch.long), asked, asked)
        loss.backward()
        with pytest.raises(DataDependentOutputException):
            loss.item()


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("mixer", "dtype"), [*((name, "bfloat16") for name in [*pattern_names(), *CHANGED]), ("nha", "float32"), ("gla", "float32")]
)
def test_graphs_train_as_python_does(monkeypatch, mixer, dtype):
    """The same losses and accuracies from replays of CUDA graphs as from the same steps called one by one."""
    spec = spec_of(models=[model_of(mixer)], **TWO_KINDS, device="cuda", dtype=dtype)
    cells = [cell_of(spec, rate=rate, seed=seed) for rate, seed in ((3e-3, 1), (1e-2, 2))]
    device = torch.device("cuda", 0)
    kind = getattr(torch, dtype)
    graphs = train_together(spec, cells, device, kind)
    monkeypatch.setattr(together.Side, "_captured", lambda self: (_ for _ in ()).throw(RuntimeError("not captured")))
    eager = train_together(spec, cells, device, kind)
    for one, other in zip(graphs, eager, strict=True):
        assert one["graph"] and not other["graph"] and "not captured" in other["called_from_python"]
        assert [loss for _, loss in one["losses"]] == pytest.approx([loss for _, loss in other["losses"]], rel=1e-2)
        assert [step for step, _ in one["losses"]] == [step for step, _ in other["losses"]]
        assert one["selection"] == pytest.approx(other["selection"], abs=0.05)


def operators():
    """The models of the sweep of minutes whose operator is this project's own on a GPU."""
    _, spec = read_training_spec("mqar-minutes", {})
    return [
        pytest.param(spec, cell, id=cell.shape.label.replace(" ", "-"))
        for cell in first_cells(spec)
        if cell.shape.mixer in ("nha", "nha-2026", "gsa", "swa")
    ]


@pytest.mark.gpu
@pytest.mark.parametrize(("spec", "cell"), operators())
def test_kernels_are_right_at_the_shapes_of_the_sweep(spec, cell):
    """Gradients of all weights in bf16 against the plain form in fp32; of plain bf16 they are within 0.07 on a CPU.

    Where slots are much alike, as before any training, what a query's gradient is made of are small differences from
    <out, d_out>, which knows `out` as it was rounded: of `gsa` with 128 slots, more than the kernels hold at once, the plain
    form with that one rounding is 0.14 off on a CPU. A part that is wrong or missing is off by about 1.
    """
    device = torch.device("cuda", 0)
    bound = 0.25 if cell.shape.mixer == "gsa" and cell.shape.slots > 64 else 0.1
    objective = Recall(build(spec, cell)).to(device)
    with torch.no_grad():
        for name, p in objective.named_parameters():
            # Where all logits are near 0, whom a query meets would hardly matter.
            p.mul_(5 if "proj" in name else 1)
    for length, pairs in ((64, 16), (256, 64)):
        parts = split_on(device, spec, "selection", Asked(length=length, pairs=pairs), 16)
        found = {}
        for form, dtype in (("auto", torch.bfloat16), ("chunked", torch.float32)):
            objective.zero_grad()
            with nullcontext() if form == "auto" else auto_backend(form), torch.autocast("cuda", dtype, dtype != torch.float32):
                objective(**{name: part.long() for name, part in parts.items()}).backward()
            # Nothing enters a slot where the window holds all tokens: then gates have no gradient, or zeros.
            found[form] = {
                name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in objective.named_parameters()
            }
        for name, wanted in found["chunked"].items():
            size = wanted.square().mean().sqrt()
            error = (found["auto"][name] - wanted).square().mean().sqrt()
            assert error <= bound * size, (length, name, float(error / size))
