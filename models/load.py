"""Any checkpoint that this package can run, as it was trained: its own, Llama's family, and what other code wrote.

    from models import load_pretrained
    model = load_pretrained("path/to/gla-1.3B", dtype="bfloat16")

`convert_pretrained` is for what changes a model (attention into NHA); this changes nothing, and says what it cannot keep.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.adapted import adapted_config, is_adapted, load_adapted
from models.configuration import NHAConfig
from models.convert import as_dtype, convert_pretrained, converted_config, fitting, load_weights, read_config
from models.errors import ModelUnavailable
from models.folder import check_folder, read_object
from models.foreign import is_foreign, translated
from models.foreign.reading import Translation
from models.modeling import NHAForCausalLM
from models.quiet import quiet_transformers


def load_pretrained(path: str | Path, *, dtype: str | torch.dtype = "float32") -> NHAForCausalLM:
    """A checkpoint folder as an `NHAForCausalLM`, in eval mode.

    Takes this package's own; Llama, Mistral, SmolLM2, Qwen2 and Qwen3; flash-linear-attention's GSA, GLA, Gated DeltaNet,
    Mamba-2 and Transformer, with attention layers between or not; Transformers' Mamba-2; and NHA's authors' models, from
    scratch and hybridised; and what `models.adapted` keeps apart from its base. Weights in safetensors alone.

    Warns of what a configuration asks for that cannot be honoured. Raises ModelUnavailable (a ValueError) where it is not a
    checkpoint, cannot be read, has settings that make a layer which is not here, or weights that do not fit.
    """
    dtype, path = as_dtype(dtype), check_folder(path)
    fields = read_object(path / "config.json")
    if is_adapted(path):
        return load_adapted(path, dtype=dtype)
    if is_foreign(fields):
        return _translated(path, fields, dtype)
    config = read_config(path)
    if config.model_type != NHAConfig.model_type:
        return convert_pretrained(path, mixer="attention", dtype=dtype)
    model, missing = load_weights(path, config, dtype)
    if missing:
        raise ModelUnavailable(f"{path} lacks the weights {_some(missing)}")
    return model


def pretrained_config(path: str | Path) -> NHAConfig:
    """The configuration of what `load_pretrained` builds, without a look at the weights.

    Raises ModelUnavailable where it is no checkpoint's or cannot be used.
    """
    path = check_folder(path)
    fields = read_object(path / "config.json")
    if is_adapted(path):
        return fitting(path, lambda: adapted_config(fields))
    if is_foreign(fields):
        return fitting(path, lambda: NHAConfig(**translated(fields, path, half=True).fields))
    config = read_config(path)
    if config.model_type == NHAConfig.model_type:
        return config
    return fitting(path, lambda: converted_config(path, mixer="attention"))


def _translated(path: Path, fields: dict, dtype: torch.dtype) -> NHAForCausalLM:
    translation = translated(fields, path, half=dtype in (torch.float16, torch.bfloat16))
    config = fitting(path, lambda: NHAConfig(**translation.fields))
    for note in translation.notes:
        warnings.warn(f"{path}: cannot be honoured: {note}", stacklevel=3)
    weights = _weights(path, translation)
    try:
        with quiet_transformers():
            model, info = NHAForCausalLM.from_pretrained(
                None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
            )
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ModelUnavailable(f"{path} has settings that do not fit: {' '.join(str(error).split())}") from error
    unlike = [f"{name} {list(given)} (wanted {list(wanted)})" for name, given, wanted in info["mismatched_keys"]]
    for what, names in (
        ("lacks the weights", info["missing_keys"]),
        ("has weights that no layer here takes:", info["unexpected_keys"]),
        ("has weights of other shapes:", unlike),
    ):
        if names:
            raise ModelUnavailable(f"{path} {what} {_some(sorted(names))}")
    return model.eval()


def _weights(path: Path, translation: Translation) -> dict[str, Tensor]:
    """Every weight of a folder's safetensors under its name here."""
    found = {}
    for file in sorted(path.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as shard:
                found |= {translation.rename(name): shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ModelUnavailable(f"{file} cannot be read: {error}") from error
    found.pop(None, None)
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
