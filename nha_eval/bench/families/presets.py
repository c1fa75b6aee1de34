"""This project's own models: every pattern of `models.presets`, at its sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from models import NHAConfig, NHAForCausalLM
from models.cache import CACHE_NAME, NHACache, StateLayer
from models.convolutions import parts_of
from models.mixers import mixer_class
from models.presets import HYBRIDS, PATTERNS, pattern_parts, preset_config
from nha_eval.bench.families._held import hold, random_keys

NAMES = (*PATTERNS, *HYBRIDS)
CACHE = CACHE_NAME
# Gated DeltaNet's backward of flash-linear-attention is wrong on Hopper with Triton 3.4 to 3.7.0, and raises there.
UNAVAILABLE = ("install tilelang",)
# Beyond its window a state needs so many tokens to have all its parts: taps of convolutions, some slots written.
BEYOND = 64


def window(name: str) -> str | int:
    mixer, tokens, _ = pattern_parts(name)
    if tokens is not None:
        return mixer_class(mixer).smallest_window
    return "full" if mixer_class(mixer).has_window else "none"


def twin(name: str) -> str:
    return name


def refusal(name: str, device: torch.device) -> str | None:
    return None


def build(name: str, size: str, layers: int | None = None) -> NHAForCausalLM:
    return built(preset_config(f"{name}-{size}"), layers)


def built(config: NHAConfig, layers: int | None) -> NHAForCausalLM:
    """The configuration's model, cut to so many layers where given."""
    if layers is not None:
        config.num_hidden_layers = layers
        config.mixers, config.windows = config.mixers[:layers], config.windows[:layers]
    model = NHAForCausalLM(config)
    model.own_windows = tuple(config.windows)
    return model


def set_window(model: NHAForCausalLM, tokens: int) -> None:
    """Of the layers that are no full attention as the preset comes."""
    set_windows(model, [None if own is None else tokens for own in model.own_windows])


def set_windows(model: NHAForCausalLM, layers: Sequence[int | None]) -> None:
    for i, tokens in enumerate(layers):
        if model.decoder_layers[i].self_attn.has_window:
            model.set_window(tokens, [i])


def least_windows(name: str, size: str) -> tuple[int | None, ...]:
    return least_of(preset_config(f"{name}-{size}"))


def least_of(config: NHAConfig) -> tuple[int | None, ...]:
    """A layer's least window in tokens, None where its mixer has none."""
    mixers = [mixer_class(mixer) for mixer in config.mixers]
    return tuple(mixer.smallest_window if mixer.has_window else None for mixer in mixers)


def backend(model: NHAForCausalLM) -> str:
    return model.backend()


def state_bytes(model: NHAForCausalLM, batch: int, length: int) -> int:
    return model.state_bytes(batch, length)


def filled_cache(model: NHAForCausalLM, batch: int, length: int, draw) -> NHACache:
    """States from a prefill of one row as short as fills them, repeated for each row; keys and values drawn at random."""
    config, cache = model.config, model.new_cache()
    if any(isinstance(layer, StateLayer) for layer in cache.layers):
        tokens = min(length, max(window or 0 for window in config.windows) + BEYOND)
        model(input_ids=draw.tokens(config.vocab_size, 1, tokens), logits_to_keep=1, **{CACHE: cache})
    rows = torch.zeros(batch, dtype=torch.long, device=draw.device)
    for i, layer in enumerate(cache.layers):
        for part in parts_of(layer):
            if isinstance(part, StateLayer):
                StateLayer.batch_select_indices(part, rows)
                if hasattr(part.state, "seen"):
                    part.state = replace(part.state, seen=torch.full_like(part.state.seen, length))
                # One less than it has seen, as the keys of full attention count the decoded token.
                hold(part, length - 1)
            else:
                keys = random_keys(batch, config.num_key_value_heads, length, config.head_dim, draw)
                if part is layer:
                    cache.layers[i] = keys
                else:
                    layer.inner = keys
    return cache


def cache_bytes(cache: NHACache) -> int:
    return cache.state_bytes()
