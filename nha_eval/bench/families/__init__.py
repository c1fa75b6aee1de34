"""The models that `bench model` measures, one file a family, found by its name. To add peers, add a file, with

    NAMES                                 its models, in the order in which they are measured
    window(name)                          "full", "none", or the least window, in tokens, of a model whose window can be set
    refusal(name, device)                 why it cannot be had here, or None; imports nothing that may be missing
    build(name, size, layers=None)        a new model with a language-model head, of `layers` layers instead of its own where
                                          given; called where torch's default dtype, device and seed are set
    set_window(model, tokens)             for those whose window can be set; and, for settings of windows by name,
    set_windows(model, layers)            tokens a layer, None for full and for a mixer without a window
    least_windows(name, size)             a layer's least window in tokens, None where its mixer has none
    twin(name)                            the pattern of `models.presets` whose weights and arithmetic are its own, or None
    backend(model)                        what it runs on as it is now
    state_bytes(model, batch, length)     bytes of its cache after `length` tokens by its own count, or None where it has none
    filled_cache(model, batch, length, draw)   a cache as `length` tokens leave it, of random content, which a token decoded
                                          from it leaves as large as it is (`_held`)
    cache_bytes(cache)                    bytes that a cache holds
    CACHE                                 the name under which `forward` takes and returns a cache
    own_window(name)                      (optional) the window as it comes: tokens as text, or OWN, the tokens a layer that
    own_windows(name)                     gives; without it the defaults of the grid are what is measured
    UNAVAILABLE                           (optional) parts of messages by which a call says that it cannot be had here

All are called as Transformers' causal models are: `model(input_ids=..., labels=..., use_cache=..., logits_to_keep=1)`.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache
from types import ModuleType

import torch
from torch import nn

SIZES = ("tiny", "340m", "1.3b")
CHECKPOINT = "checkpoint"  # the size of a model that has one alone
OWN = "own"  # the window of a model whose layers have unlike ones as it comes


@lru_cache
def families() -> tuple[ModuleType, ...]:
    """Every family's module, the presets first."""
    found = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    return tuple(importlib.import_module(f"{__name__}.{name}") for name in sorted(found, key=lambda n: (n != "presets", n)))


def names() -> tuple[str, ...]:
    """Every model by name."""
    return tuple(name for family in families() for name in family.NAMES)


def find(name: str) -> ModuleType:
    """The family of a model that `names` lists; any other name is a checkpoint's."""
    named = (family for family in families() if name in family.NAMES)
    return next(named, None) or importlib.import_module(f"{__name__}.checkpoints")


def random_model(
    name: str, size: str, device: torch.device, dtype: torch.dtype, seed: int, layers: int | None = None
) -> nn.Module:
    """The model with random weights of `dtype` on the device, the same for the same seed, in eval mode."""
    usual = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            with device:
                model = find(name).build(name, size, layers)
        finally:
            torch.set_default_dtype(usual)
    return model.eval()
