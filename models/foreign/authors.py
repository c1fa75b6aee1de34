"""NHA checkpoints as the layer's authors' code writes them: trained from scratch (`nha`), in its two versions.

Names of options and weights are those of JusenD/NHA (nha_fla/layers/nha.py, nha_fla/models/nha). The version of 2026 has the
option `gsa_kv_shift`; the first release has `block_size` beside `transformer_idx`. What their parallel form computes is
what the layer here computes; their decoding step is another function, and is not followed.
"""

from __future__ import annotations

from models.foreign import fla
from models.foreign.fla import DECODER_NAMES, SLOT_NAMES, attention_layers, decoder, rotary, slot_layer
from models.foreign.reading import Reader, Translation

KINDS = ("nha",)
WITHOUT_EFFECT = (
    *fla.WITHOUT_EFFECT, "norm_first", "conv_bias", "feature_map", "rope_scaling", "num_attention_heads", "block_size",
    "transformer_idx", "gsa_aux_loss_enable", "gsa_aux_loss_coeff", "gsa_aux_loss_target_ratio",
)  # fmt: skip
# What the first release gives the layers that it calls full, in tokens.
FULL_WINDOW = 2048
# The widest window at which the first release's layers have slots.
WIDEST_WITH_SLOTS = 64


def translate(read: Reader) -> Translation:
    """A configuration of either version."""
    window = read.get("window_size", 32)
    fields = decoder(read) | slot_layer(read, "nha") | rotary(read.get("rope_theta", 10000.0))
    fields["max_position_embeddings"] = read.get("max_position_embeddings", 4096)
    if read.get("gsa_kv_shift") is None:
        fields = attention_layers(read, fields, "nha", window, fixed_heads=True) | {"empty_slots": "sink"}
        full_layers(read, fields)
    else:
        fields = attention_layers(read, fields, "nha", window + 1, fixed_heads=True) | rewritten(read, window)
    if read.get("rand_window"):
        read.notes.append("rand_window: the window is as configured, in training too")
    return Translation(fields, DECODER_NAMES + SLOT_NAMES, tuple(read.notes))


def rewritten(read: Reader, window: int) -> dict:
    """The version of 2026: a window of one more than it says, slots by feature map, and logits not scaled."""
    read.only("feature_map", "swish", "silu")
    # Tokens enter the slots so many steps late: at once, or as they leave the window.
    read.only("gsa_kv_shift", 0, window + 1)
    fields = {
        "feature_map": "silu",
        "attention_scale": 1.0,
        "empty_slots": "sink",
        "slot_overlap": read.get("gsa_kv_shift") == 0,
    }
    if read.get("gsa_aux_loss_enable"):
        weight = read.get("gsa_aux_loss_coeff")
        if weight is None:
            read.notes.append(
                "gsa_aux_loss_enable without gsa_aux_loss_coeff: training has no auxiliary loss until aux_loss is set"
            )
        else:
            fields |= {"aux_loss": weight, "aux_loss_target": read.get("gsa_aux_loss_target_ratio", 1.0)}
    return fields


def full_layers(read: Reader, fields: dict) -> None:
    """The first release's windows: layers with `layer_idx % block_size == transformer_idx` have 2,048 tokens.

    Any window over 64 has its slots there only as keys of zeros before the first token; so have the slots here (which score 0
    while empty) until a token leaves the window, and then they hold it.
    """
    size, index = read.get("block_size"), read.get("transformer_idx")
    windows, nha = fields["windows"], [mixer == "nha" for mixer in fields["mixers"]]
    for i in range(len(windows)):
        if nha[i] and size is not None and index is not None and i % size == index:
            windows[i] = FULL_WINDOW
    wide = {window for i, window in enumerate(windows) if nha[i] and window > WIDEST_WITH_SLOTS}
    if wide:
        tokens = min(wide)
        read.notes.append(
            f"windows over {WIDEST_WITH_SLOTS} without slots: layers with such windows keep their slots here, and so give "
            f"something else after {tokens - fields['num_slots']} tokens"
        )
