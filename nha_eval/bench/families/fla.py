"""flash-linear-attention's own models (package flash-linear-attention; its kernels alone, fla-core, are not enough).

GSA, GLA and Gated DeltaNet have the sizes of the presets of their names; Mamba-2 comes as it was published, without a
feed-forward and with twice the layers.
"""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from models.presets import preset_config

NAMES = ("fla-gsa", "fla-gla", "fla-gated-deltanet", "fla-mamba2")
CACHE = "past_key_values"
UNAVAILABLE = ("install tilelang",)
TOKENS = 128  # after which a state has all its parts
CLASSES = {"fla-gsa": "GSA", "fla-gla": "GLA", "fla-gated-deltanet": "GatedDeltaNet", "fla-mamba2": "Mamba2"}


def window(name: str) -> str | int:
    return "none"


def twin(name: str) -> str | None:
    return None if name == "fla-mamba2" else name.removeprefix("fla-")


def refusal(name: str, device: torch.device) -> str | None:
    if device.type != "cuda":
        return "flash-linear-attention's models want a CUDA device"
    if find_spec("fla") is None or find_spec("fla.models") is None:
        return (
            "not installed: the models of flash-linear-attention (`pip install flash-linear-attention`; fla-core is not enough)"
        )
    return None


def build(name: str, size: str, layers: int | None = None) -> nn.Module:
    import fla.models

    ours = preset_config(f"{name.removeprefix('fla-')}-{size}")
    settings: dict[str, Any] = {
        **{field: getattr(ours, field) for field in ("vocab_size", "hidden_size", "pad_token_id", "bos_token_id")},
        "eos_token_id": ours.eos_token_id,
        "num_hidden_layers": layers or ours.num_hidden_layers,
        "norm_eps": ours.rms_norm_eps,
    }
    if name == "fla-mamba2":
        settings["num_hidden_layers"] = layers or 2 * ours.num_hidden_layers
    else:
        settings["intermediate_size"] = ours.intermediate_size
    if name == "fla-gsa":
        settings |= {"num_heads": ours.num_attention_heads, "num_slots": ours.num_slots}
    elif name == "fla-gated-deltanet":
        settings |= ours.mixer_options["gated_deltanet"]
    kind = CLASSES[name]
    return getattr(fla.models, f"{kind}ForCausalLM")(getattr(fla.models, f"{kind}Config")(**settings))


def backend(model: nn.Module) -> str:
    return "fla"


def state_bytes(model: nn.Module, batch: int, length: int) -> None:
    return None


def filled_cache(model: nn.Module, batch: int, length: int, draw) -> Any:
    """States, of constant size, from a short prefill of one row, repeated for each row; no step replaces them."""
    ids = draw.tokens(model.config.vocab_size, 1, min(length, TOKENS))
    cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    cache.batch_repeat_interleave(batch)
    for layer in cache.layers:
        layer.update = lambda *, held=layer.state, **_: held
    return cache


def cache_bytes(cache: Any) -> int:
    return sum(_bytes(layer.state) for layer in cache.layers)


def _bytes(held: Any) -> int:
    """Of every tensor within tuples, dicts and dataclasses."""
    if isinstance(held, Tensor):
        return held.nbytes
    if isinstance(held, dict):
        held = held.values()
    elif dataclasses.is_dataclass(held):
        held = [getattr(held, field.name) for field in dataclasses.fields(held)]
    return sum(map(_bytes, held)) if not isinstance(held, int | float | bool | str | type(None)) else 0
