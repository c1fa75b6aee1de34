"""Pretrained checkpoints of every family: at full windows the converted model is the base, as Transformers computes it."""

import json

import pytest
import torch
from tiny import FIELDS, close, tokens
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from models import convert_pretrained
from models.errors import ModelUnavailable

SHAPE = {k: v for k, v in FIELDS.items() if k != "num_slots"}
LONG = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG |= {"original_max_position_embeddings": 64, "rope_theta": 10000.0}
FAMILIES = {
    "llama": LlamaConfig(**SHAPE),
    "llama-3-rope-tied": LlamaConfig(**SHAPE, rope_parameters=LONG, tie_word_embeddings=True),
    # As SmolLM2-135M: three query heads a key head, tied, an angle base of 100,000.
    "smollm2": LlamaConfig(
        **SHAPE | {"hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 8},
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
    ),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "mistral-windowed": MistralConfig(**SHAPE, sliding_window=9),
    "qwen2": Qwen2Config(**{k: v for k, v in SHAPE.items() if k != "head_dim"} | {"hidden_size": 64}),
    "qwen3": Qwen3Config(**SHAPE),
}


@pytest.fixture(params=FAMILIES.items(), ids=FAMILIES.keys())
def checkpoint(request, tmp_path):
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_config(request.param[1]).eval()
    with torch.no_grad():
        # Biases and norms start as zeros and ones, which would hide that they are not loaded.
        for name, weight in base.named_parameters():
            if "bias" in name or "norm" in name:
                weight.add_(torch.randn_like(weight) * 0.2)
    base.save_pretrained(tmp_path)
    return base, tmp_path


@torch.no_grad()
def test_full_windows_give_the_base(checkpoint):
    base, path = checkpoint
    x, mask = tokens(2, 40), torch.ones(2, 40, dtype=torch.long)
    mask[0, :7] = 0
    windowed = getattr(base.config, "sliding_window", None) is not None and base.config.model_type == "mistral"
    for mixer in ["attention"] if windowed else ["attention", "nha"]:
        model = convert_pretrained(path, mixer=mixer)
        close(model(x).logits, base(x).logits)
        padded, wanted = model(x, attention_mask=mask).logits, base(x, attention_mask=mask).logits
        close(padded[mask.bool()], wanted[mask.bool()])
        settings = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
        assert torch.equal(model.generate(x, **settings), base.generate(x, **settings))


def test_gates_start_from_the_rows_of_k_proj(tmp_path):
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(FAMILIES["llama"]).save_pretrained(tmp_path)
    for slots, rows in ((16, range(16)), (4, [0, 4, 8, 12]), (32, [m // 2 for m in range(32)])):
        model = convert_pretrained(tmp_path, num_slots=slots, windows=8, gate_scale=0.5)
        mixer = model.decoder_layers[1].self_attn
        for head in range(2):
            wanted = 0.5 * mixer.k_proj.weight[head * 16 : head * 16 + 16][list(rows)]
            assert torch.equal(mixer.g_proj.weight[head * slots : (head + 1) * slots], wanted)
        assert (mixer.g_proj.bias == model.config.gate_bias_init).all()
        decay = mixer.log_decay(torch.zeros(1, 1, 48)).exp()
        assert ((decay > 0.999) & (decay < 1)).all()


def test_what_cannot_be_read_says_why_in_one_line(tmp_path):
    def refusal(folder):
        with pytest.raises(ModelUnavailable) as caught:
            convert_pretrained(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "has no config.json" in refusal(tmp_path / "nowhere")
    AutoModelForCausalLM.from_config(FAMILIES["llama"]).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in refusal(tmp_path)
    weights.write_bytes(b"")
    assert "cannot be read" in refusal(tmp_path)
    weights.rename(tmp_path / "pytorch_model.bin")
    assert "pickles are not read" in refusal(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(whole)
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    assert "cannot be read" in refusal(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    assert "lacks the weights" in refusal(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    assert "'gpt2'; wanted one of llama" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "cannot be read" in refusal(tmp_path)


@pytest.mark.assets
@torch.no_grad()
def test_smollm2_at_full_windows_is_smollm2():
    from models.assets import smollm2_folder
    from models.presets import load

    loaded = load("nha:smollm2-135m")
    loaded.model.set_window(None)
    base = AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype=torch.float32).eval()
    x = loaded.tokenizer("The capital of France is Paris. The capital of Italy is", return_tensors="pt").input_ids
    assert (loaded.model(x).logits - base(x).logits).abs().max() < 1e-4
    settings = {"max_new_tokens": 10, "do_sample": False}
    assert torch.equal(loaded.model.generate(x, **settings), base.generate(x, **settings))
