"""Hybrids kept apart from their base: saved, loaded by every way there is, and refused where they do not fit."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from test_convert import FAMILIES
from tiny import close, tokens
from transformers import AutoModelForCausalLM

from models import NHAForCausalLM, convert_pretrained, load_pretrained
from models.adapted import PROJECTIONS, WEIGHTS, Lora, add_lora, is_adapted, load_adapted, save_adapted
from models.errors import ModelUnavailable

LORA = Lora(rank=4, alpha=8.0)
OPTIONS = {"windows": [5, None, 9], "num_slots": 8, "slot_logits": "both"}


@pytest.fixture
def base(tmp_path):
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(FAMILIES["llama"]).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def trained(base, lora=LORA, layers=(0, 2)):
    """A student whose trainable weights have all moved."""
    model = convert_pretrained(base, gate_scale=0.5, **OPTIONS)
    add_lora(model, lora, list(layers))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            gate = any(f"layers.{i}." in name for i in layers) and (".g_proj." in name or ".slot_logits." in name)
            p.requires_grad_(gate or ".lora_" in name)
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator) * 0.3)
    return model


@pytest.mark.parametrize("lora", [LORA, Lora(), Lora(rank=2, alpha=1.0, targets=("q_proj", "o_proj"))])
def test_every_loader_gives_the_student_merged(base, tmp_path, lora):
    student, x = trained(base, lora), tokens(2, 30)
    save_adapted(student, tmp_path / "made", base=str(base), lora=lora, gate_scale=0.5, dtype="float32")
    assert is_adapted(tmp_path / "made") and not is_adapted(base)
    wanted = student(x).logits
    for load in (load_adapted, load_pretrained, NHAForCausalLM.from_pretrained, AutoModelForCausalLM.from_pretrained):
        model = load(tmp_path / "made")
        assert type(model) is NHAForCausalLM and not any(".lora_" in name for name in model.state_dict())
        close(model(x).logits, wanted, 1e-5)
    assert model.config.windows == [5, None, 9]
    # What is merged is a checkpoint like any other.
    model.save_pretrained(tmp_path / "whole")
    assert not is_adapted(tmp_path / "whole")
    close(load_pretrained(tmp_path / "whole")(x).logits, wanted, 1e-5)


def test_only_what_was_trained_is_kept(base, tmp_path):
    save_adapted(trained(base), tmp_path / "made", base=str(base), lora=LORA, gate_scale=0.5)
    kept = load_file(tmp_path / "made" / WEIGHTS)
    ends = {"g_proj.weight", "g_proj.bias", "slot_logits.scale", "slot_logits.bias"}
    ends |= {f"{name}.lora_{part}.default.weight" for name in PROJECTIONS for part in "AB"}
    assert kept.keys() == {f"model.layers.{i}.self_attn.{end}" for i in (0, 2) for end in ends}
    assert all(tensor.dtype == torch.bfloat16 for tensor in kept.values())


def made(base, tmp_path):
    folder = tmp_path / "made"
    save_adapted(trained(base), folder, base=str(base), lora=LORA, gate_scale=0.5)
    return folder


def change(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    for key, value in fields.items():
        place = config["adapter"] if key in config["adapter"] else config
        place[key] = value
    (folder / "config.json").write_text(json.dumps(config))


def truncate(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])


def drop(folder):
    kept = load_file(folder / WEIGHTS)
    del kept["model.layers.0.self_attn.q_proj.lora_B.default.weight"]
    save_file(kept, folder / WEIGHTS)


def rename(folder):
    kept = load_file(folder / WEIGHTS)
    kept["model.layers.0.nothing"] = kept.pop("model.layers.0.self_attn.g_proj.bias")
    save_file(kept, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (truncate, r"adapter\.safetensors cannot be read"),
        (drop, "lacks model.layers.0.self_attn.q_proj.lora_B.default.weight"),
        (rename, "holds model.layers.0.nothing, which the model does not have"),
        (lambda folder: (folder / WEIGHTS).unlink(), r"holds no \*.safetensors"),
        (lambda folder: change(folder, rank=8), r"has shape \[4, 48\]; wanted \[8, 48\]"),
        (lambda folder: change(folder, rank=True), "rank is True; wanted an integer from 0 to 4096"),
        (lambda folder: change(folder, targets=["../q_proj"]), r"targets are .* wanted some of q_proj"),
        (lambda folder: change(folder, layers=[0, 7]), r"layers are \[0, 7\]; wanted indices below 3"),
        (
            lambda folder: change(folder, base_model={"name": "no/such/base", "digest": "0"}),
            "the base 'no/such/base' is neither",
        ),
        (lambda folder: change(folder, base_model="smollm2-135m"), "base_model in config.json is 'smollm2-135m'"),
        (lambda folder: change(folder, adapter=None), "cannot be used: TypeError"),
        (lambda folder: change(folder, num_slots=4), r"g_proj.*has shape"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(base, tmp_path, break_it, said):
    folder = made(base, tmp_path)
    break_it(folder)
    with pytest.raises(ModelUnavailable, match=said) as problem:
        load_adapted(folder)
    assert "\n" not in str(problem.value)


def test_another_base_of_the_same_shape_is_refused(base, tmp_path):
    folder = made(base, tmp_path)
    torch.manual_seed(2)
    AutoModelForCausalLM.from_config(FAMILIES["llama"]).save_pretrained(base)
    with pytest.raises(ModelUnavailable, match=r"was trained on other weights than .*base holds"):
        load_adapted(folder)


@pytest.mark.assets
@torch.no_grad()
def test_the_shipped_hybrids_are_nearer_to_their_base_than_before_training():
    from models.presets import load

    # Other text than it was trained on: of no package, written for this.
    text = (
        "The ferry to the island leaves twice a day, except on Mondays, when the captain visits his sister in the hills. Last "
        "week the engine failed half way, and the passengers sang until a fishing boat took them in tow. Nobody asked for the "
        "fare back. "
    )
    base = load("smollm2-135m")
    x = base.tokenizer(text * 2, return_tensors="pt").input_ids
    wanted = F.log_softmax(base.model(x).logits[0], -1)

    def divergence(name):
        model = load(name).model
        return F.kl_div(F.log_softmax(model(x).logits[0], -1), wanted, reduction="batchmean", log_target=True).item()

    nha, swa, untrained = (divergence(name) for name in ("nha-smollm2-135m", "swa-smollm2-135m", "nha:smollm2-135m"))
    assert nha < 0.2 and swa < 0.4 and nha < untrained / 4
