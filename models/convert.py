"""Pretrained Llama-family checkpoints turned into this package's decoder: weights load by name, gates are made.

A gate's projection starts from k_proj: slot m of a head takes that head's row floor(m K / M) (for M = K, row m), times
`gate_scale`, with a bias of `gate_bias_init`, so that slots differ in what makes them forget and all start slow; with
`gate_horizons` they start unlike in how slow, and with a `gate_scale` of 0 by their biases alone. At full windows the gates
play no part and the model is its base exactly.

    model = convert_pretrained("path/to/checkpoint", mixer="nha", windows=64)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig

from models.configuration import NHAConfig, check_sizes
from models.errors import ModelUnavailable
from models.folder import check_folder, read_object
from models.modeling import NHAForCausalLM
from models.quiet import quiet_transformers

# What differs from Llama in the checkpoints of a family that keeps Llama's names.
FAMILIES = {
    "llama": {},
    "mistral": {},
    "qwen2": {"attention_bias": True, "attention_output_bias": False},
    "qwen3": {"qk_norm": True},
}
OWN_FIELDS = ("model_type", "architectures", "layer_types", "transformers_version", "auto_map", "quantization_config")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A torch dtype from its name. ValueError for another name."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; wanted one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def convert_pretrained(
    path: str | Path,
    *,
    mixer: str | list[str] = "nha",
    windows: int | list[int | None] | None = None,
    num_slots: int | None = None,
    gate_scale: float = 0.25,
    dtype: str | torch.dtype = "float32",
    **options,
) -> NHAForCausalLM:
    """A pretrained checkpoint as an `NHAForCausalLM`, in memory, in eval mode.

    Args:
        path: folder of a Llama, Mistral, SmolLM2, Qwen2 or Qwen3 checkpoint, in safetensors.
        mixer: a name of `models.mixers` for all layers, or one a layer.
        windows: tokens, one for all or one a layer; None: full, which is the base model exactly.
        num_slots: slots a key-value head; None: as many as the head has dimensions.
        gate_scale: of the rows of k_proj that the gates start from; 0: the gates start the same for every token.
        dtype: of the weights.
        options: further fields of `NHAConfig`.

    Raises:
        ModelUnavailable: not a checkpoint, one that cannot be read, another family, or weights that do not fit.
    """
    path = check_folder(path)
    config = converted_config(path, mixer=mixer, windows=windows, num_slots=num_slots, **options)
    return build_converted(path, config, as_dtype(dtype), gate_scale)


def converted_config(
    path: Path,
    *,
    mixer: str | list[str] = "nha",
    windows: int | list[int | None] | None = None,
    num_slots: int | None = None,
    **options,
) -> NHAConfig:
    """What `convert_pretrained` builds of a folder that `check_folder` took, without its weights; raises as it does."""
    base = read_config(path)
    if base.model_type not in FAMILIES:
        wanted = ", ".join(FAMILIES)
        raise ModelUnavailable(f"{path} holds a model of type {base.model_type!r}; wanted one of {wanted}, or nha")
    fields = {name: value for name, value in base.to_dict().items() if name not in OWN_FIELDS}
    if getattr(base, "use_sliding_window", False) or (base.model_type == "mistral" and base.sliding_window):
        # Windows as trained stay, unless the caller sets others.
        windows = base.sliding_window if windows is None else windows
    head_dim = getattr(base, "head_dim", None) or base.hidden_size // base.num_attention_heads
    fields |= {"head_dim": head_dim, "mixers": mixer, "windows": windows, "num_slots": num_slots or min(head_dim, 256)}
    return NHAConfig(**(fields | FAMILIES[base.model_type] | options))


def fitting(path: Path, make: Callable[[], NHAConfig]) -> NHAConfig:
    """What `make` gives; ModelUnavailable where it finds that a checkpoint's settings do not fit one another."""
    try:
        return make()
    except ModelUnavailable:
        raise
    except (TypeError, ValueError, StrictDataclassError, ArithmeticError) as error:
        raise ModelUnavailable(f"{path} has settings that do not fit: {_one_line(error)}") from error


def build_converted(path: Path, config: NHAConfig, dtype: torch.dtype, gate_scale: float) -> NHAForCausalLM:
    """The model of `config` on a base's weights, its gates started; ModelUnavailable for weights that do not fit."""
    model, missing = load_weights(path, config, dtype)
    wrong = [name for name in missing if ".g_proj." not in name and ".slot_logits." not in name]
    if wrong:
        raise ModelUnavailable(f"{path} lacks the weights {', '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''}")
    for layer in model.decoder_layers:
        if hasattr(layer.self_attn, "g_proj"):
            _start_gate_from_keys(layer.self_attn, gate_scale)
    return model


@torch.no_grad()
def _start_gate_from_keys(mixer: nn.Module, gate_scale: float) -> None:
    slots, heads, dim = mixer.slots, mixer.heads, mixer.head_dim
    row = torch.arange(slots) * dim // slots
    keys = mixer.k_proj.weight.unflatten(0, (heads, dim))
    mixer.g_proj.weight.copy_(gate_scale * keys[:, row].flatten(0, 1))
    mixer.start_gate()


def read_config(path: str | Path):
    """The configuration of a folder that `check_folder` took. ModelUnavailable, in one line, where it cannot be used."""
    file = Path(path) / "config.json"
    try:
        check_sizes(read_object(file))
        if read_object(file).get("model_type") == NHAConfig.model_type:
            return NHAConfig.from_pretrained(path)
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except ModelUnavailable:
        raise
    except (ValueError, OSError, TypeError, AttributeError, KeyError, ArithmeticError, StrictDataclassError) as error:
        raise ModelUnavailable(f"{file} cannot be read: {_one_line(error)}") from error


def load_weights(path: str | Path, config: NHAConfig, dtype: torch.dtype) -> tuple[NHAForCausalLM, list[str]]:
    """The model of `config` with a folder's safetensors, and the names of the weights that the folder does not hold.

    Raises ModelUnavailable where a file is corrupt or a shape does not fit.
    """
    try:
        with quiet_transformers():
            model, info = NHAForCausalLM.from_pretrained(
                path, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, local_files_only=True
            )
    except Exception as error:
        # Whatever a broken file makes the readers raise (safetensors, json, torch): the user's word is the same.
        raise ModelUnavailable(f"the weights in {path} cannot be read: {_one_line(error)}") from error
    return model.eval(), sorted(info["missing_keys"])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
