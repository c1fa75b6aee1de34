"""Checkpoints that other code wrote, read as this package's decoder: one file a code, with `KINDS` and `translate` in each.

found = translated(fields, "path/to/gla"); found.fields, found.rename("model.embeddings.weight")
"""

from __future__ import annotations

from dataclasses import replace

from huggingface_hub.errors import StrictDataclassError

from models.configuration import SIZES, check_sizes
from models.errors import ModelUnavailable
from models.foreign import authors, fla, llama_hybrids
from models.foreign.reading import Reader, Translation

# What other code calls what it counts, and the least of each; no slots are as many as a head's dimensions.
THEIR_SIZES = {
    **SIZES,
    **dict.fromkeys(("num_heads", "num_kv_heads", "num_v_heads", "state_size", "n_groups", "conv_size", "conv_kernel"), 1),
    **dict.fromkeys(("num_slots", "window_size"), 0),
}
# The file that reads a model_type.
FAMILIES = {kind: module for module in (fla, authors, llama_hybrids) for kind in module.KINDS}


def is_foreign(fields: dict) -> bool:
    """Whether a config.json is another code's. `nha` is the authors' name too; theirs has no `mixers`."""
    kind = fields.get("model_type")
    return isinstance(kind, str) and kind in FAMILIES and "mixers" not in fields


def translated(fields: dict, path: object, half: bool = False) -> Translation:
    """What a foreign config.json says, as `NHAConfig`'s fields and this package's names of weights.

    half: whether the weights will be in fp16 or bf16. ModelUnavailable where it asks for a layer that is not here, or cannot be
    read.
    """
    read, family = Reader(fields, half), FAMILIES[fields["model_type"]]
    try:
        check_sizes(fields, THEIR_SIZES)
        found = family.translate(read)
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError, StrictDataclassError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelUnavailable(f"{path} cannot be read as a model of type {fields['model_type']!r}: {reason}") from error
    if read.unlike:
        raise ModelUnavailable(f"{path} has layers that are not this package's: {'; '.join(read.unlike)}")
    unknown = read.unknown(family.WITHOUT_EFFECT)
    return replace(found, notes=(*found.notes, f"settings not known here: {', '.join(unknown)}")) if unknown else found
