"""Checkpoints, by any name that `eval --model` takes: their own layers and sizes with random weights, as what a call costs does
not depend on them. None is measured unless it is named.
"""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache

import torch

from models import NHAConfig, NHAForCausalLM
from models.errors import ModelUnavailable
from models.mixers import mixer_class
from models.presets import config_of
from nha_eval.bench.families.presets import (  # of any model of this project
    CACHE,
    UNAVAILABLE,
    backend,
    cache_bytes,
    filled_cache,
    set_window,
    set_windows,
    state_bytes,
)

__all__ = [
    "CACHE",
    "NAMES",
    "UNAVAILABLE",
    "backend",
    "build",
    "cache_bytes",
    "filled_cache",
    "least_windows",
    "refusal",
    "set_window",
    "set_windows",
    "state_bytes",
    "twin",
    "window",
]
NAMES = ()


@lru_cache
def _config(name: str) -> NHAConfig:
    return config_of(name)


def window(name: str) -> str | int:
    """Of the layers that have one as the checkpoint comes: `full` where there is no such layer."""
    config = _config(name)
    kinds = [mixer_class(mixer) for mixer in config.mixers]
    least = [
        kind.smallest_window for kind, own in zip(kinds, config.windows, strict=True) if kind.has_window and own is not None
    ]
    if least:
        return max(least)
    return "full" if any(kind.has_window for kind in kinds) else "none"


def twin(name: str) -> None:
    return None


def refusal(name: str, device: torch.device) -> str | None:
    try:
        _config(name)
    except ModelUnavailable as problem:
        return str(problem)
    return None


def build(name: str, size: str, layers: int | None = None) -> NHAForCausalLM:
    config = deepcopy(_config(name))
    if layers is not None:
        config.num_hidden_layers = layers
        config.mixers, config.windows = config.mixers[:layers], config.windows[:layers]
    model = NHAForCausalLM(config)
    model.own_windows = tuple(config.windows)
    return model


def least_windows(name: str, size: str) -> tuple[int | None, ...]:
    mixers = [mixer_class(mixer) for mixer in _config(name).mixers]
    return tuple(mixer.smallest_window if mixer.has_window else None for mixer in mixers)
