"""What arithmetic and memory trainings take by count, and the rate at which it was measured to go.

Arithmetic is 2 FLOPs a weight and token forward, and twice that backward. Attention beyond its projections is counted at half
the sequence's length where it is full and at `window + slots` where it is not; a matrix for a state at its two products a step,
three where it is corrected (Gated DeltaNet). This is what the definitions need: kernels that work in chunks do more.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import torch

from models.configuration import NHAConfig
from models.convert import OWN_FIELDS
from models.mixers import mixer_class
from models.modeling import NHAForCausalLM
from nha_eval.environment import ROOT

GPUS = 8
# FLOP/s of dense products in bf16, as NVIDIA states them.
PEAKS = {"H200": 989e12, "H100 80GB HBM3": 989e12, "H100 PCIe": 756e12, "A100": 312e12}
# Products a step of each element of a state that is a matrix: written and read, and corrected before that.
STATE_PRODUCTS = {"gated_deltanet": 3}


def weights_of(config: NHAConfig) -> dict[str, int]:
    """The elements of each weight of a model of this configuration, by name; nothing is allocated."""
    with torch.device("meta"):
        return {name: p.numel() for name, p in NHAForCausalLM(config).named_parameters()}


def forward_flops(config: NHAConfig, counts: dict[str, int], length: int, of: str = "") -> float:
    """FLOPs a token of one forward pass: of the weights whose names hold `of`, and of the mixers. `counts`: weights by name."""
    matrices = sum(n for name, n in counts.items() if of in name and name.endswith(".weight") and "norm" not in name)
    if not of:
        # The embedding is a look-up; tied or not, the head's product is one of its size.
        embedding = counts["model.embed_tokens.weight"]
        matrices += (embedding if config.tie_word_embeddings else 0) - embedding
    return 2.0 * matrices + sum(mixer_flops(config, layer, length) for layer in range(config.num_hidden_layers))


def mixer_flops(config: NHAConfig, layer: int, length: int) -> float:
    """FLOPs a token of layer `layer`'s mixer beyond its projections, the mean over a sequence of `length` tokens."""
    mixer, window = config.mixers[layer], config.windows[layer]
    slots = config.num_slots if mixer in ("nha", "gsa") else 0
    if mixer == "gsa":
        window = 0
    elif not mixer_class(mixer).has_window:
        return 2.0 * STATE_PRODUCTS.get(mixer, 2) * math.prod(_state_shape(config, layer))
    if window is None or window >= length:
        met = length / 2
    else:
        # Each token is met by queries as part of slots, and enters them once a key-value head.
        met = window + slots * (1 + config.num_key_value_heads / config.num_attention_heads)
    return 4.0 * met * config.num_attention_heads * config.head_dim


def _state_shape(config: NHAConfig, layer: int) -> tuple[int, ...]:
    with torch.device("meta"):
        return mixer_class(config.mixers[layer])(config, layer).state_shape


def full_windows(config: NHAConfig) -> NHAConfig:
    """The same model with every window full."""
    fields = {key: value for key, value in config.to_dict().items() if key not in OWN_FIELDS}
    return NHAConfig(**{**fields, "windows": None})


def kept_bytes(config: NHAConfig, tokens: int, *, feed_forward: bool = True) -> int:
    """Bytes in bf16 that the decoder layers keep for the backward pass of so many tokens."""
    heads = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    gates = config.num_key_value_heads * config.num_slots
    mixer = 2 * config.hidden_size + 2 * heads + gates
    inner = 2 * config.hidden_size + 3 * config.intermediate_size if feed_forward else 0
    return config.num_hidden_layers * tokens * 2 * (mixer + inner)


def peak_flops(device: str, dtype: torch.dtype) -> float | None:
    """FLOP/s that a GPU of this name reaches at best in bf16; None for others and other dtypes."""
    return next((peak for name, peak in PEAKS.items() if name in device and dtype == torch.bfloat16), None)


def measured_rate(
    pattern: str = "nha", size: str | None = None, folder: Path = ROOT / "results" / "reference"
) -> tuple[float | None, str | None]:
    """(FLOP/s a GPU, where from): the best that training steps of the pattern's models reached in `bench model`, of this size
    where one was measured."""
    found = []
    for path in sorted(folder.glob("bench-model-*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows = [r for r in csv.DictReader(file) if r["phase"] == "train" and r["status"] == "ok" and r["model"] == pattern]
        for row in rows:
            rate = _rate_of(row)
            if rate is not None:
                what = f"{row['model']} {row['size']}, {row['batch']} x {row['length']} tokens, {row['device']}"
                found.append((row["size"] == size, rate, f"{path.name}: {what}"))
    return max(found, key=lambda one: one[:2])[1:] if found else (None, None)


def _rate_of(row: dict[str, str]) -> float | None:
    try:
        window = row["window"] if row["window"] in ("full", "none") else int(row["window"])
        return step_flops(row["model"], row["size"], window, int(row["length"])) * float(row["tokens_per_s"])
    except ValueError:
        return None


def step_flops(pattern: str, size: str, window: int | str, length: int) -> float:
    """FLOPs a token of a training step of all weights of a preset: forward, and twice that backward; checkpointing's second
    forward is no progress. window: tokens, of the preset's layers that have one, `full`, or `none`. ValueError for no preset.
    """
    from models.presets import preset_config

    config = preset_config(f"{pattern}-{size}")
    fields = {key: value for key, value in config.to_dict().items() if key not in OWN_FIELDS}
    if window != "none":
        fields["windows"] = [None if own is None or window == "full" else window for own in config.windows]
    config = NHAConfig(**fields)
    return 3 * forward_flops(config, weights_of(config), length)
