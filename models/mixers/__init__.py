"""Token mixers, one file each: the file's name is the mixer's name, and adding a file adds a mixer.

A file defines `Mixer`, a module built as `Mixer(config, layer_idx)` and called as `mixer(hidden_states, batch, cache)`:

    hidden_states [B, T, hidden], under autocast in its dtype; batch: `models.batch.Batch` (positions, rotary angles, padding,
    packed sequences); cache: what its own `new_cache(rows)` made, or None; returns [B, T, hidden].
    new_cache(rows): an empty cache layer (`models.cache_layers`), of fixed shapes where `rows` is not None.
    has_window: whether `config.windows` applies to it; a mixer with one has the attribute `window`.
    state_bytes(batch_size, length, itemsize): bytes of its cache after `length` tokens.
    state_elements(length): numbers that hold what was read, by which mixers are compared: keys and values, slots, matrices,
        convolution inputs; no gates, angles or counts, and whatever their dtype.
    backend(): the operator's backend or library that it runs on as it is now; records carry it.
"""

from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pkgutil import iter_modules


@cache
def mixer_names() -> tuple[str, ...]:
    """Names of the mixers there are, sorted."""
    return tuple(sorted(module.name for module in iter_modules(__path__)))


def mixer_class(name: str) -> type:
    """The `Mixer` of the file of that name. ValueError, with the nearest names, where there is none."""
    if name not in mixer_names():
        near = get_close_matches(str(name), mixer_names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no mixer is called {name!r}; there are {', '.join(mixer_names())}{hint}")
    return import_module(f"{__name__}.{name}").Mixer
