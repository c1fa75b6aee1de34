"""`hybridize`: what its stages make small, that they do, and that a broken run ends as an unbroken one."""

import csv
import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny_hybrid import LENGTH, make_base, place, spec_of  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer

from models import load_pretrained
from nha_eval import cli
from nha_eval.bench.machine import device_name
from nha_eval.errors import MachineError, UserError
from nha_eval.hybridize import head_kl as head_kl_module
from nha_eval.hybridize import stages
from nha_eval.hybridize.heldout import figures, heldout, spans
from nha_eval.hybridize.objectives import Align, DistillLogits, LanguageModel
from nha_eval.hybridize.spec import read_hybrid_spec
from nha_eval.hybridize.stages import hybridize
from nha_eval.hybridize.student import build_student, build_teacher, mark_trainable
from nha_eval.training.trainer import StepTrainer, drawn, last_whole


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def pair(place, **changes):  # noqa: F811
    spec = spec_of(place, **changes)
    student = build_student(spec)
    return spec, student, build_teacher(student, spec, torch.float32)


def ids(rows=2, length=LENGTH, seed=0):
    return torch.randint(0, 256, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_distillation_lowers_held_out_kl_by_more_than_half(place, tmp_path):  # noqa: F811
    stage = {"tokens": 60 * LENGTH * 8, "batch": 8, "learning_rate": 5e-3, "gate_learning_rate": 1e-2, "heldout_every": 30}
    made = hybridize(spec_of(place, align=stage, distill=stage), tmp_path / "run")
    found = rows(tmp_path / "run/heldout.csv")
    assert [(row["stage"], row["step"]) for row in found] == [
        ("conversion", "0"),
        *(("align", step) for step in ("30", "60")),
        *(("distill", step) for step in ("30", "60")),
    ]
    assert float(found[-1]["kl"]) < 0.5 * float(found[0]["kl"])
    assert float(found[2]["kl"]) < float(found[0]["kl"])
    # What was saved is what was measured.
    base = AutoModelForCausalLM.from_pretrained(place / "base")
    model = AutoModelForCausalLM.from_pretrained(made)
    text = hybrid_text(spec_of(place)).heldout(LENGTH, 1024 // LENGTH)
    with torch.no_grad():
        logits = [
            torch.log_softmax(m(torch.stack([text[i]["input_ids"] for i in range(len(text))])).logits[:, :-1].double(), -1)
            for m in (base, model)
        ]
    kl = (logits[0].exp() * (logits[0] - logits[1])).sum(-1).mean()
    assert float(found[-1]["kl"]) == pytest.approx(kl.item(), rel=1e-4)
    assert model.config.use_cache


def hybrid_text(spec):
    from nha_eval.text import open_text

    return open_text(spec.text, AutoTokenizer.from_pretrained(spec.base))


@pytest.mark.parametrize(
    "changes",
    [
        {"train": "lora", "lora": {"rank": 4}, "window_jitter": [4, 8, 16], "slot_logits": "both"},
        pytest.param({"train": "full", "full_layers": [1], "mixer": "attention"}, marks=pytest.mark.slow),
    ],
    ids=["lora", "control"],
)
def test_a_broken_run_ends_as_an_unbroken_one(place, tmp_path, monkeypatch, changes):  # noqa: F811
    """Broken off in either stage, between two checkpoints and while one is written."""
    spec = spec_of(place, **changes)
    hybridize(spec, tmp_path / "whole")
    step = StepTrainer.training_step
    for stop in (5, 8 + 7):
        calls = [0]

        def breaking(self, *arguments, calls=calls, stop=stop):
            calls[0] += 1
            if calls[0] == stop:
                raise KeyboardInterrupt
            return step(self, *arguments)

        monkeypatch.setattr(StepTrainer, "training_step", breaking)
        folder = tmp_path / f"broken-{stop}"
        with pytest.raises(KeyboardInterrupt):
            hybridize(spec, folder)
        monkeypatch.setattr(StepTrainer, "training_step", step)
        half = folder / ("align" if stop < 8 else "distill") / "checkpoint-999"
        half.mkdir(parents=True, exist_ok=True)
        (half / "model.safetensors").write_bytes(b"cut off")
        hybridize(spec, folder)
        for name in ("align", "distill"):
            one, other = (load_file(where / name / "trained.safetensors") for where in (tmp_path / "whole", folder))
            assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
        assert (folder / "heldout.csv").read_text() == (tmp_path / "whole/heldout.csv").read_text()
        losses = [
            [(r["stage"], r["step"], r["loss"]) for r in rows(where / "train.csv")] for where in (tmp_path / "whole", folder)
        ]
        assert losses[0] == losses[1]


def test_a_finished_run_is_done_and_another_spec_is_refused(place, tmp_path, monkeypatch):  # noqa: F811
    spec = spec_of(place, train="gates")
    made = hybridize(spec, tmp_path / "run")
    kept = (made / "adapter.safetensors").read_bytes()
    monkeypatch.setattr(StepTrainer, "training_step", lambda *a: pytest.fail("trained again"))
    assert hybridize(spec, tmp_path / "run") == made and (made / "adapter.safetensors").read_bytes() == kept
    with pytest.raises(UserError, match=r"training of another spec \(differs in: window\)"):
        hybridize(spec_of(place, train="gates", window=16), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "which"),
    [
        ({"window": 0}, "window"),
        ({"windows": [0, 8]}, "windows"),
        ({"window_jitter": [8, 0]}, "window_jitter"),
        ({"heldout": {"windows": [0]}}, r"heldout\.windows"),
    ],
)
def test_a_sliding_window_alone_has_no_window_of_0(place, changes, which):  # noqa: F811
    with pytest.raises(UserError, match=f"spec: {which}: mixer attention reads nothing at a window of 0"):
        spec_of(place, mixer="attention", **changes)


def test_the_result_is_measured_at_other_windows_afterwards_too(place, tmp_path, monkeypatch):  # noqa: F811
    own = {"tokens": 1024, "lengths": [LENGTH, 32]}
    given = {"train": "gates", "window_jitter": [4, 8], "full_layers": [1]}
    hybridize(spec_of(place, **given, heldout={**own, "windows": [4, 8]}), tmp_path / "run")
    about = (tmp_path / "run/environment.json").read_bytes()
    monkeypatch.setattr(StepTrainer, "training_step", lambda *a: pytest.fail("trained again"))
    met, measured = [], stages._measured

    def meeting(run, objective, length):
        met.append((list(run.model.config.windows), length))
        return measured(run, objective, length)

    monkeypatch.setattr(stages, "_measured", meeting)
    made = hybridize(spec_of(place, **given, heldout={**own, "windows": [8, "full", 0, 0]}), tmp_path / "run")
    # What is measured already is not again, and the full layer stays one.
    assert met == [([window, None], length) for window in (None, 0) for length in (LENGTH, 32)]
    found = rows(tmp_path / "run/windows.csv")
    assert [(row["window"], row["length"]) for row in found] == [
        (window, length) for window in ("4", "8", "full", "0") for length in (str(LENGTH), "32")
    ]
    assert {(row["dtype"], row["device"]) for row in found} == {("float32", device_name(torch.device("cpu")))}
    at, last = {row["window"]: row for row in found[::2]}, rows(tmp_path / "run/heldout.csv")[-2]
    assert all(at["8"][name] == last[name] for name in ("length", "tokens", "kl", "kl_stderr", "perplexity"))
    # Gates alone do nothing where every token is kept; without a window they do all.
    assert abs(float(at["full"]["kl"])) < 1e-5 < float(last["kl"]) < float(at["0"]["kl"])
    assert load_pretrained(made).config.windows == [8, None]
    # Who trained it, where and how, is not who asked.
    assert (tmp_path / "run/environment.json").read_bytes() == about


def test_windows_of_a_model_that_has_none_are_not_measured(place, tmp_path, capsys):  # noqa: F811
    heldout = {"tokens": 1024, "lengths": [LENGTH], "windows": [4]}
    hybridize(spec_of(place, window="full", align=False, distill=False, heldout=heldout), tmp_path / "run")
    assert "heldout.windows: not measured, as every layer has a full window" in capsys.readouterr().err
    assert not (tmp_path / "run/windows.csv").exists()


def test_gates_alone_leave_all_else_as_it_was(place, tmp_path):  # noqa: F811
    made = load_pretrained(hybridize(spec_of(place, train="gates", full_layers=[1]), tmp_path / "run"))
    base = AutoModelForCausalLM.from_pretrained(place / "base").state_dict()
    assert all(torch.equal(weight, base[name]) for name, weight in made.state_dict().items() if ".g_proj." not in name)
    start = build_student(spec_of(place, full_layers=[1])).model.state_dict()
    for layer, moved in ((0, True), (1, False)):
        name = f"model.layers.{layer}.self_attn.g_proj.weight"
        assert torch.equal(made.state_dict()[name], start[name]) != moved


def test_merged_it_is_a_checkpoint_by_itself(place, tmp_path):  # noqa: F811
    """And computes what it does apart from its base."""
    spec = spec_of(place, train="lora", lora={"rank": 2}, distill=False, merge=True)
    made = hybridize(spec, tmp_path / "run")
    assert "base_model" not in json.loads((made / "config.json").read_text()) and (made / "tokenizer.json").exists()
    x = ids()
    torch.testing.assert_close(load_pretrained(made)(x).logits, load_pretrained(tmp_path / "run/apart")(x).logits)
    assert "Another base is refused" not in (made / "README.md").read_text()


def test_text_that_the_base_writes_itself_is_trained_on(place, tmp_path):  # noqa: F811
    own = {"documents": 4, "length": 48, "batch": 2, "prefix_tokens": 8}
    hybridize(spec_of(place, train="gates", distill=False, self_text=own), tmp_path / "run")
    written = (tmp_path / "run/self-text.jsonl").read_text().splitlines()
    assert len(written) == 4
    about = json.loads((tmp_path / "run/environment.json").read_text())["text"]
    plain = hybrid_text(spec_of(place)).about
    assert about["splits"]["train"]["documents"] == plain["splits"]["train"]["documents"] + 4
    assert about["splits"]["heldout"] == plain["splits"]["heldout"]


def test_the_card_says_what_was_done(place, tmp_path):  # noqa: F811
    made = hybridize(spec_of(place, train="lora", lora={"rank": 2}, distill=False), tmp_path / "run")
    card = (made / "README.md").read_text()
    last = rows(tmp_path / "run/heldout.csv")[-1]
    assert f"| align, step 8 | {LENGTH} | {float(last['kl']):.4g} ±" in card
    assert "LoRA of rank 2" in card and "- distill" not in card and "not stated" in card
    pictures = [tmp_path / "run/training.svg", tmp_path / "run/training.png", made / "training.png"]
    assert all(picture.stat().st_size > 5000 for picture in pictures) and "nats a token" in pictures[0].read_text()
    config = json.loads((made / "config.json").read_text())
    assert config["base_model"]["name"] == str(place / "base") and config["windows"] == [8, 8]


def test_alignment_is_the_relative_error_of_each_layers_attention(place):  # noqa: F811
    spec, student, teacher = pair(place, full_layers=[1])
    x = ids()
    mark_trainable(student, spec, aligning=True)
    found = Align(student.model, teacher, student.windowed)(x)
    # Layer 0 meets the same in both: its part is that of whole models side by side.
    met = {}
    for name, model in (("student", student.model), ("teacher", teacher)):
        model.decoder_layers[0].self_attn.register_forward_hook(lambda m, i, o, name=name: met.__setitem__(name, o))
        model(x)
    wanted = ((met["student"] - met["teacher"]) ** 2).sum() / (met["teacher"] ** 2).sum()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    found.backward()
    touched = {name.split(".")[2] for name, p in student.model.named_parameters() if p.grad is not None}
    assert touched == {"0"} and all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (2.5, None), (1.0, 5), (0.7, 1), (1.0, 10_000)])
def test_distillation_is_the_kl_of_its_definition(place, temperature, top_k):  # noqa: F811
    _, student, teacher = pair(place)
    x = ids()
    objective = DistillLogits(student.model, teacher, temperature, top_k)
    found = objective(x)
    with torch.no_grad():
        p, q = (torch.softmax(m(x).logits.double() / temperature, -1) for m in (teacher, student.model))
    if top_k is not None and top_k < p.shape[-1]:
        places = p.topk(top_k, -1).indices
        p, q = (torch.cat([d.gather(-1, places), 1 - d.gather(-1, places).sum(-1, keepdim=True)], -1) for d in (p, q))
    wanted = (p * (p.log() - q.log())).sum(-1).mean() * temperature**2
    assert found.item() == pytest.approx(wanted.item(), rel=2e-4)
    found.backward()
    assert all(p.grad is not None for name, p in student.model.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_heads_kl_has_the_gradient_that_autograd_finds(temperature, monkeypatch):
    monkeypatch.setattr(head_kl_module, "CHUNK", 4)
    gen = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(10, 6, generator=gen, dtype=torch.float64).requires_grad_() for _ in range(2))
    heads = [torch.nn.Linear(6, 17, bias=False).double().requires_grad_(False) for _ in range(2)]
    found = head_kl_module.head_kl(student, teacher, *heads, temperature)
    (gradient,) = torch.autograd.grad(3 * found, student)
    q, p = (torch.softmax(head(x) / temperature, -1) for head, x in zip(heads, (student, teacher), strict=True))
    wanted = (p * (p / q).log()).sum()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    (by_autograd,) = torch.autograd.grad(3 * wanted, student)
    assert torch.allclose(gradient, by_autograd, rtol=1e-5, atol=1e-7)


def test_fine_tuning_is_the_cross_entropy_of_the_next_token(place):  # noqa: F811
    _, student, teacher = pair(place)
    x = ids()
    labels = x.masked_fill(torch.arange(LENGTH) % 5 == 0, -100)
    objective = LanguageModel(student.model, teacher)
    with torch.no_grad():
        logits = student.model(x).logits[:, :-1].double().transpose(1, 2)
    for given, wanted in ((None, x), (labels, labels)):
        found = objective(x, labels=given)
        assert found.item() == pytest.approx(F.cross_entropy(logits, wanted[:, 1:]).item(), rel=1e-5)
    found.backward()
    assert all(p.grad is not None for p in student.model.parameters() if p.requires_grad)
    assert all(name.startswith("student.") for name, _ in objective.named_parameters())


def test_a_student_at_full_windows_has_nothing_to_learn(place):  # noqa: F811
    _, student, teacher = pair(place, window="full", align=False)
    assert DistillLogits(student.model, teacher)(ids()).item() == pytest.approx(0.0, abs=1e-6)


def test_held_out_figures(place):  # noqa: F811
    _, student, teacher = pair(place)
    x = ids(3)
    found = figures(student.model, teacher, x)
    assert found.shape == (3, 3, LENGTH - 1)
    with torch.no_grad():
        theirs, mine = (torch.log_softmax(m(x).logits[:, :-1].double(), -1) for m in (teacher, student.model))
    torch.testing.assert_close(found[0].double(), (theirs.exp() * (theirs - mine)).sum(-1), rtol=1e-4, atol=1e-5)
    for row, logp in ((1, mine), (2, theirs)):
        wanted = F.nll_loss(logp.transpose(1, 2), x[:, 1:], reduction="none")
        torch.testing.assert_close(found[row].double(), wanted, rtol=1e-4, atol=1e-5)
    measured = heldout(lambda one: figures(student.model, teacher, one), [{"input_ids": row} for row in x], torch.device("cpu"))
    assert measured.kl == pytest.approx(found[0].mean().item(), rel=1e-5)
    assert measured.kl_stderr == pytest.approx((found[0].mean(1).std() / 3**0.5).item(), rel=1e-4)
    assert measured.perplexity == pytest.approx(found[1].mean().exp().item(), rel=1e-5)
    assert measured.positions == [
        (0, 62, pytest.approx(measured.kl), pytest.approx(measured.nll), pytest.approx(measured.teacher_nll))
    ]


def test_spans_cover_every_position_once():
    for length in (1, 63, 64, 65, 200, 2047):
        covered = [i for first, last in spans(length) for i in range(first, last + 1)]
        assert covered == list(range(length))


def test_a_teacher_is_the_base_and_shares_what_the_student_keeps(place):  # noqa: F811
    _, student, teacher = pair(place, train="lora")
    base = AutoModelForCausalLM.from_pretrained(place / "base")
    x = ids()
    torch.testing.assert_close(teacher(x).logits, base(x).logits, rtol=1e-4, atol=1e-5)
    theirs = {p.data_ptr() for p in teacher.parameters()}
    kept = [p for name, p in student.model.named_parameters() if ".lora_" not in name and ".g_proj." not in name]
    assert {p.data_ptr() for p in kept} == theirs and not any(p.requires_grad for p in teacher.parameters())
    with torch.no_grad():
        for p in student.model.parameters():
            if p.requires_grad:
                p.add_(0.5)
    torch.testing.assert_close(teacher(x).logits, base(x).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("train", ["lora", "full"])
def test_what_is_not_trained_is_rounded_for_bf16_alone(place, tmp_path, monkeypatch, train):  # noqa: F811
    seen = {}

    def looking(run, *arguments):
        seen.update({name: (p.dtype, p.requires_grad) for name, p in run.model.named_parameters()})
        shared = {p.data_ptr() for p in run.teacher.parameters()}
        assert all(p.data_ptr() in shared for p in run.model.parameters() if not p.requires_grad)
        return take(run, *arguments)

    take = stages._stage
    monkeypatch.setattr(stages, "_stage", looking)
    stage = {"tokens": 30 * LENGTH * 8, "batch": 8, "learning_rate": 3e-3, "gate_learning_rate": 1e-2, "heldout_every": 30}
    spec = spec_of(place, train=train, align=False, distill=stage, dtype="bfloat16")
    made = hybridize(spec, tmp_path / "run")
    assert {dtype for dtype, trained in seen.values() if trained} == {torch.float32}
    assert {dtype for dtype, trained in seen.values() if not trained} == {torch.bfloat16}
    found = rows(tmp_path / "run/heldout.csv")
    assert float(found[-1]["kl"]) < 0.7 * float(found[0]["kl"])
    # The hybrid has the base's own weights there, to the bit.
    base, model = AutoModelForCausalLM.from_pretrained(place / "base"), load_pretrained(made)
    assert torch.equal(model.model.embed_tokens.weight, base.model.embed_tokens.weight)
    assert torch.equal(model.model.layers[1].mlp.up_proj.weight, base.model.layers[1].mlp.up_proj.weight)
    assert not torch.equal(model.model.layers[1].self_attn.q_proj.weight, base.model.layers[1].self_attn.q_proj.weight)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(place, tmp_path, monkeypatch):  # noqa: F811
    forward = DistillLogits.loss

    def breaking(self, *arguments):
        loss = forward(self, *arguments)
        self.calls = getattr(self, "calls", 0) + 1
        return loss * float("nan") if self.calls > 5 else loss

    monkeypatch.setattr(DistillLogits, "loss", breaking)
    with pytest.raises(
        MachineError, match=r"loss is no finite number at step [67].* last good state is kept in .*checkpoint-3"
    ):
        hybridize(spec_of(place, align=False), tmp_path / "run")
    assert last_whole(tmp_path / "run/distill").name == "checkpoint-3"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"window": "wide"}, "window 'wide': wanted is an integer >= 0"),
        ({"full_layers": [2]}, "full_layers names layer 2: wanted are indices from 0 to 1"),
        ({"windows": [8]}, "windows has 1 entries: wanted is one for each of the 2 layers"),
        ({"windows": [8, 8], "full_layers": [1]}, "yaml: windows and full_layers are both given"),
        ({"windows": "mine", "settings": {"mime": [8, 8]}}, "'mine'.*did you mean 'mime'"),
        ({"windows": "mine", "settings": {"mine": [8, 8, 8]}}, "mine.*3"),
        ({"num_slots": 300}, "num_slots"),
        ({"train": "all"}, "`train` is 'all'"),
        ({"self_text": {"document": 4}}, "unknown key `document` in `self_text`; did you mean 'documents'"),
        ({"self_text": {"documents": 4}, "text": {"source": "x", "self_text": "y", "length": 64}}, "are both given"),
        ({"alig": {"tokens": 5}}, "unknown key `alig`; did you mean 'align'"),
        ({"align": {"token": 5}}, "unknown key `token` in `align`; did you mean 'tokens'"),
        ({"align": {}}, "`align` lacks `tokens`"),
        ({"align": {"tokens": 10}}, "align: 10 tokens are less than one step of 512"),
        ({"distill": {"tokens": 4096, "micro_batch": 3}}, "a batch of 8 sequences is no multiple of 3"),
        ({"base": "no-such-base"}, "the base 'no-such-base' is neither"),
        ({"mixer": "attention"}, "mixer attention has no slots: leave num_slots out"),
        ({"window": "full"}, "align: nothing to train, as every layer has a full window"),
        ({"heldout": {"tokens": 10**9}}, "the held-out text has"),
        ({"device": "cuda:99"}, "device 'cuda:99'"),
        ({"gate": {"horizons": [64, 8]}}, "this hybrid cannot be made of .* gate_horizons"),
    ],
)
def test_wrong_specs_are_one_line(place, tmp_path, capsys, changes, said):  # noqa: F811
    import yaml

    content = {**spec_of(place).model_dump(mode="json", exclude_unset=True), **changes}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(content))
    assert cli.run(["hybridize", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "run")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    import re

    assert lines[-1].startswith("error: ") and re.search(said, lines[-1]), lines


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("gate", "--set 'gate': wanted is KEY=VALUE"),
        ("gate.=1", "wanted is KEY=VALUE"),
        ("window=[", "its value is no YAML"),
        ("gate.activatio=softmax", "unknown key `activatio` in `gate`; did you mean 'activation'"),
        ("window=-3", "window -3"),
    ],
)
def test_changes_that_cannot_be_laid_over_a_spec(change, said):
    with pytest.raises(UserError, match=said):
        read_hybrid_spec("nha-smollm2-135m", {}, [change])


def test_changes_are_laid_over_a_spec():
    changes = ["gate.activation=softmax", "distill=false", "align.tokens=1_000_000", "window=16", "lora.rank=4"]
    _, plain = read_hybrid_spec("nha-smollm2-135m", {})
    _, changed = read_hybrid_spec("nha-smollm2-135m", {"window": "32"}, changes)
    assert (changed.gate.activation, changed.distill, changed.align.tokens, changed.window) == ("softmax", None, 1_000_000, 32)
    assert changed.lora.rank == 4 and changed.lora.alpha == plain.lora.alpha
    assert changed.align.gate_learning_rate == plain.align.gate_learning_rate and plain.gate.activation == "sigmoid"


def test_windows_by_name(place):  # noqa: F811
    spec = spec_of(place, windows="one-full", settings={"one-full": {"window": 16, "full": [1]}, "other": [8, 8]})
    assert build_student(spec).model.config.windows == [16, None]
    assert list(spec.deciding()["settings"]) == ["one-full"]


@pytest.mark.slow
def test_a_base_of_another_kind_and_of_other_weights(place, tmp_path, capsys):  # noqa: F811
    made = hybridize(spec_of(place, train="gates", distill=False), tmp_path / "run")
    config = json.loads((made / "config.json").read_text())
    other = make_base(tmp_path / "other", seed=1)
    config["base_model"]["name"] = str(other)
    (made / "config.json").write_text(json.dumps(config))
    assert cli.run(["eval", "--model", str(made), "--task", "recall_needle", "--out", str(tmp_path / "eval")]) != 0
    assert "was trained on other weights" in capsys.readouterr().err


def test_windows_drawn_full_first_are_no_divergence(place, tmp_path):  # noqa: F811
    """At full windows a student that nothing has trained is its teacher."""
    choices = ["full", 4]
    with pytest.raises(UserError, match="window_jitter: full, where gates take no part"):
        spec_of(place, train="gates", window_jitter=choices)
    spec = spec_of(place, train="lora", window_jitter=choices)
    assert drawn(choices, spec.seed, 0) == "full"
    hybridize(spec, tmp_path / "run")
    losses = [float(row["loss"]) for row in rows(tmp_path / "run/train.csv") if row["stage"] == "align"]
    assert losses[0] < 1e-9 < 0.01 < max(losses)
