"""Models by name: a pattern of mixers times a size (`nha-tiny`, random weights), a pretrained base, or a hybrid made of it.

    from models.presets import load
    loaded = load("nha-smollm2-135m"); loaded.model.set_window(64, layers=[0, 1])

A name may also be a checkpoint's folder or its name on the Hugging Face hub. With `nha:` or `swa:` before it a plain
checkpoint, or the base, is taken as a hybrid or with sliding windows, untrained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from models.adapted import base_folder, base_of, is_adapted
from models.assets import SMOLLM2, smollm2_folder
from models.configuration import NHAConfig
from models.convert import as_dtype, convert_pretrained, converted_config, fitting
from models.errors import ModelUnavailable
from models.folder import check_folder
from models.hub import hub_folder
from models.load import load_pretrained, pretrained_config
from models.modeling import NHAForCausalLM
from models.patterns import (
    BASE,
    FULL_EVERY,
    HYBRIDS,
    PATTERNS,
    SIZES,
    SLOT_LAYER,
    TRAINED,
    preset_names,
    shipped_folder,
)
from models.tokenizer import BOS, EOS, PAD, byte_tokenizer

SPECIAL_TOKENS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
PREFIXES = {"nha": ("nha", 64), "swa": ("attention", 64)}


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be evaluated. `weights_hash` changes with any weight or setting but the windows."""

    name: str
    model: NHAForCausalLM
    tokenizer: PreTrainedTokenizerBase
    max_length: int  # tokens
    source: str
    weights_hash: str
    random_weights: bool = False  # made from a seed and never trained

    @property
    def has_window(self) -> bool:
        """Whether any layer has a window that can be set."""
        return any(layer.self_attn.has_window for layer in self.model.decoder_layers)


def preset_config(name: str) -> NHAConfig:
    """The configuration of a from-scratch preset, a pattern and a size joined by '-'. ValueError for another name."""
    pattern, _, size = name.rpartition("-")
    if pattern not in [*PATTERNS, *HYBRIDS] or size not in SIZES:
        raise ValueError(f"no preset to train from scratch is called {name!r}; {_nearest(name)}")
    return pattern_config(pattern, SIZES[size] | SPECIAL_TOKENS)


def pattern_names() -> list[str]:
    """The patterns of mixers that there are."""
    return [*PATTERNS, *HYBRIDS]


def pattern_parts(pattern: str) -> tuple[str, int | None, dict]:
    """(mixer, window, settings) of a pattern; of a hybrid, those of the layers between its full ones."""
    return PATTERNS[HYBRIDS.get(pattern, pattern)]


def pattern_config(pattern: str, sizes: dict, **changes) -> NHAConfig:
    """A pattern at sizes of one's own: fields of NHAConfig, `slots_intermediate_size` among them where layers with slots have a
    feed-forward of another width. `changes` override what the pattern sets; `window` is of its layers that have one.

    Raises ValueError for a pattern that there is none of, a window for mixers without one, and what NHAConfig refuses.
    """
    if pattern not in pattern_names():
        near = get_close_matches(str(pattern), pattern_names(), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"patterns: {', '.join(pattern_names())}"
        raise ValueError(f"no pattern is called {pattern!r}; {hint}")
    mixer, window, settings = pattern_parts(pattern)
    window = changes.pop("window", window)
    fields = dict(sizes)
    narrower = fields.pop("slots_intermediate_size", fields["intermediate_size"])
    if mixer in ("nha", "gsa"):
        own = {"num_slots": fields["num_slots"]} if "num_slots" in fields else {}
        fields |= SLOT_LAYER | settings | {"intermediate_size": narrower} | own
    layers = fields["num_hidden_layers"]
    # A model too short for an eighth has its last layer full.
    full = (range(FULL_EVERY - 1, layers, FULL_EVERY) or [layers - 1]) if pattern in HYBRIDS else ()
    mixers = ["attention" if i in full and mixer != "nha" else mixer for i in range(layers)]
    windows = [None if i in full else window for i in range(layers)]
    options = fields.pop("mixer_options", {})
    fields["mixer_options"] = {name: chosen for name, chosen in options.items() if name in mixers}
    return NHAConfig(mixers=mixers, windows=windows, **(fields | changes))


def load(name: str, *, device: str = "cpu", dtype: str | torch.dtype = "float32") -> LoadedModel:
    """A model and its tokenizer by preset name, checkpoint folder or hub id; in eval mode.

    Raises ModelUnavailable (a ValueError, one line) where it cannot be had, ValueError for an unknown dtype.
    """
    dtype = as_dtype(dtype)
    if _is_random(name):
        return _random(name, device, dtype)
    found = _find(name)

    def build(path: Path) -> NHAForCausalLM:
        if found.form is None:
            return load_pretrained(path, dtype=dtype)
        mixer, window = found.form
        return convert_pretrained(path, mixer=mixer, windows=window, dtype=dtype)

    return _from_folder(name, found.folder, build, device, found.source)


def config_of(name: str) -> NHAConfig:
    """The configuration of what `load` gives, of which the weights are not read; a hub id's are fetched.

    Raises ModelUnavailable (a ValueError, one line) where it cannot be had.
    """
    if _is_random(name):
        return preset_config(name)
    found = _find(name)
    if found.form is None:
        return pretrained_config(found.folder)
    path, (mixer, window) = check_folder(found.folder), found.form
    return fitting(path, lambda: converted_config(path, mixer=mixer, windows=window))


@dataclass(frozen=True)
class _Found:
    """Where a model's weights are, the (mixer, window) of all layers where it is converted, and what it says of itself."""

    folder: Path
    form: tuple[str, int | None] | None = None
    source: str | None = None


def _is_random(name: str) -> bool:
    """Whether it is a preset of random weights."""
    return isinstance(name, str) and name in preset_names() and name != BASE and shipped_folder(name) is None


def _find(name: str) -> _Found:
    if not isinstance(name, str):
        raise ModelUnavailable(f"the model's name is {name!r}; wanted a preset, a checkpoint's folder or a hub id, as text")
    if name == BASE:
        folder = smollm2_folder()
        return _Found(folder, ("attention", None), f"asset {folder.name}")
    if (kept := shipped_folder(name)) is not None:
        return _Found(kept, None, f"shipped, on asset {SMOLLM2.name}" if name in TRAINED else "shipped")
    prefix, colon, rest = name.partition(":")
    if not (colon and prefix in PREFIXES):
        return _Found(_folder(name))
    if rest in preset_names() and rest != BASE:
        raise ModelUnavailable(f"{name}: {rest} is a preset; wanted {BASE}, a checkpoint's folder or a hub id behind {prefix}:")
    folder = smollm2_folder() if rest == BASE else _folder(rest)
    return _Found(folder, PREFIXES[prefix], f"asset {folder.name}" if rest == BASE else None)


def _folder(name: str) -> Path:
    """A checkpoint's folder, here or fetched from the hub."""
    try:
        path = Path(name).expanduser()
        if name and path.is_dir():
            return path
        if name and path.exists():
            raise ModelUnavailable(f"{name} is a file; wanted a checkpoint's folder")
    except RuntimeError as error:
        raise ModelUnavailable(f"{name}: nobody of that name has a home folder here; give the checkpoint's folder") from error
    except OSError as error:
        raise ModelUnavailable(f"no model is called {name[:80]!r} ({error.strerror}); {_nearest(name)}") from error
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return hub_folder(name)
    raise ModelUnavailable(f"no model is called {name!r}, and no such folder exists; {_nearest(name)}")


def _nearest(name: str) -> str:
    near = get_close_matches(name, preset_names(), n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else f"presets: {', '.join(preset_names()[:8])}, ... (`list`)"


def _from_folder(
    name: str, path: Path, build: Callable[[Path], NHAForCausalLM], device: str, source: str | None = None
) -> LoadedModel:
    check_folder(path)
    source = source or str(path)
    model = build(path).to(device)
    # A checkpoint kept apart from its base need not repeat its tokenizer.
    if is_adapted(path) and not (path / "tokenizer.json").exists():
        path = base_folder(base_of(path))
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        # The readers of a tokenizer's files raise whatever they meet; a model without one cannot be evaluated.
        reason = " ".join(str(error).split())[:200]
        raise ModelUnavailable(
            f"{path} holds no tokenizer that can be read ({reason}); save the model's own into it"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    longest = model.config.max_position_embeddings
    return LoadedModel(name, model, tokenizer, longest, source, _weights_hash(model))


def _random(name: str, device: str, dtype: torch.dtype) -> LoadedModel:
    """A preset with random weights, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = NHAForCausalLM(preset_config(name))
    model = model.to(device=device, dtype=dtype).eval()
    longest = model.config.max_position_embeddings
    return LoadedModel(name, model, byte_tokenizer(longest), longest, "random weights, seed 0", _weights_hash(model), True)


def _weights_hash(model: NHAForCausalLM) -> str:
    """16 hex digits over every weight and every setting but the windows."""
    digest = hashlib.blake2b(digest_size=8)
    settings = {k: v for k, v in model.config.to_dict().items() if k not in ("windows", "transformers_version", "dtype")}
    digest.update(repr(sorted(settings.items(), key=lambda item: item[0])).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
