"""Transformers' own Llama, of the very sizes of `transformer++`, with torch's SDPA."""

from __future__ import annotations

import torch
from transformers import Cache, LlamaConfig, LlamaForCausalLM

from models.cache import CACHE_NAME
from models.presets import preset_config
from nha_eval.bench.families._held import random_keys

NAMES = ("hf-llama",)
CACHE = CACHE_NAME
SAME = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "max_position_embeddings", "rms_norm_eps", "pad_token_id", "bos_token_id", "eos_token_id"),
)


def window(name: str) -> str | int:
    return "full"


def twin(name: str) -> str:
    return "transformer++"


def refusal(name: str, device: torch.device) -> str | None:
    return None


def build(name: str, size: str, layers: int | None = None) -> LlamaForCausalLM:
    ours = preset_config(f"transformer++-{size}")
    config = LlamaConfig(**{field: getattr(ours, field) for field in SAME}, attn_implementation="sdpa")
    config.num_hidden_layers = layers or config.num_hidden_layers
    return LlamaForCausalLM(config)


def backend(model: LlamaForCausalLM) -> str:
    return model.config._attn_implementation


def state_bytes(model: LlamaForCausalLM, batch: int, length: int) -> int:
    config = model.config
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return batch * length * token * model.dtype.itemsize


def filled_cache(model: LlamaForCausalLM, batch: int, length: int, draw) -> Cache:
    config = model.config
    heads, head_dim = config.num_key_value_heads, config.head_dim
    return Cache(layers=[random_keys(batch, heads, length, head_dim, draw) for _ in range(config.num_hidden_layers)])


def cache_bytes(cache: Cache) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
