"""Checkpoints, by any name that `eval --model` takes: their own layers and sizes with random weights, as what a call costs does
not depend on them. None is measured unless it is named.
"""

from __future__ import annotations

import hashlib
import json
from copy import deepcopy
from functools import lru_cache

from models import NHAConfig, NHAForCausalLM
from models.mixers import mixer_class
from models.presets import config_of
from nha_eval.bench.families import OWN
from nha_eval.bench.families.presets import (  # of any model of this project
    CACHE,
    UNAVAILABLE,
    backend,
    built,
    cache_bytes,
    filled_cache,
    least_of,
    refusal,
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
    "digest",
    "filled_cache",
    "least_windows",
    "own_window",
    "own_windows",
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


def _sliding(config: NHAConfig) -> dict[int, int]:
    """Tokens of the layers that have a window as the checkpoint comes."""
    kinds = [mixer_class(mixer) for mixer in config.mixers]
    pairs = enumerate(zip(kinds, config.windows, strict=True))
    return {i: own for i, (kind, own) in pairs if kind.has_window and own is not None}


def window(name: str) -> str | int:
    """Of the layers that have one as the checkpoint comes; without such, `full` where all layers attend to everything."""
    config = _config(name)
    kinds = [mixer_class(mixer) for mixer in config.mixers]
    if sliding := _sliding(config):
        return max(kinds[i].smallest_window for i in sliding)
    return "full" if all(kind.has_window for kind in kinds) else "none"


def own_window(name: str) -> str:
    tokens = set(_sliding(_config(name)).values())
    return str(tokens.pop()) if len(tokens) == 1 else OWN


def own_windows(name: str) -> tuple[int | None, ...]:
    config = _config(name)
    sliding = _sliding(config)
    return tuple(sliding.get(i) for i in range(config.num_hidden_layers))


def digest(name: str) -> str:
    """Twelve hex digits of the configuration, by which another checkpoint of the same name is known."""
    fields = {
        key: value for key, value in _config(name).to_dict().items() if key not in ("transformers_version", "_name_or_path")
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:12]


def twin(name: str) -> None:
    return None


def build(name: str, size: str, layers: int | None = None) -> NHAForCausalLM:
    return built(deepcopy(_config(name)), layers)


def least_windows(name: str, size: str) -> tuple[int | None, ...]:
    return least_of(_config(name))
