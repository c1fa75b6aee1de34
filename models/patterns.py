"""What presets there are: patterns of mixers, sizes, and the names of all. Data alone, which `list` reads without the package
around it: importing that registers with Transformers, which takes seconds.
"""

from pathlib import Path

# From-scratch layers as their papers set them: (mixer, window, settings).
PATTERNS = {
    "transformer++": ("attention", None, {}),
    "swa": ("attention", 64, {}),
    "gsa": ("gsa", None, {"feature_map": "silu", "attention_scale": 1.0}),
    "gla": ("gla", None, {}),
    "gated-deltanet": ("gated_deltanet", None, {}),
    "mamba2": ("mamba2", None, {}),
    "nha": ("nha", 32, {}),
    # The layer as rewritten in 2026: a token enters the slots at once, and the window is one token wider.
    "nha-2026": ("nha", 33, {"feature_map": "silu", "attention_scale": 1.0, "slot_overlap": True}),
}
# Hybrids: the layers of another pattern, with full attention in one of eight (layers 7, 15, 23 of 24). An NHA layer needs no
# other mixer for that: its window is None there.
HYBRIDS = {"gsa-h": "gsa", "gdn-h": "gated-deltanet", "nha-h": "nha"}
FULL_EVERY = 8
SLOT_LAYER = {
    "value_activation": "silu",
    "output_activation": "silu",
    "output_norm": True,
    "gate_bias": False,
    "gate_logit_normalizer": 8.0,
    "num_slots": 64,
}
TINY_CONTEXT, CONTEXT = 16384, 131072
VOCABULARY_OF_PAPERS = 32000
# The mixers' own options are such that all have about four times the square of the hidden size in weights; what the gates of
# slots take beyond it, the feed-forward of their layers gives back (slots_intermediate_size).
SIZES = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_slots": 16,
        "vocab_size": 259,  # models.tokenizer's bytes
        "max_position_embeddings": TINY_CONTEXT,
        "mixer_options": {
            "gated_deltanet": {"num_heads": 4, "head_dim": 8},
            "mamba2": {"head_dim": 32, "state_size": 16},
        },
    },
    "340m": {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "slots_intermediate_size": 2560,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_slots": 64,
        "vocab_size": VOCABULARY_OF_PAPERS,
        "max_position_embeddings": CONTEXT,
        "mixer_options": {"gated_deltanet": {"num_heads": 4, "head_dim": 128}, "mamba2": {"expand": 1.3125}},
    },
    "1.3b": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "slots_intermediate_size": 5120,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_slots": 64,
        "vocab_size": VOCABULARY_OF_PAPERS,
        "max_position_embeddings": CONTEXT,
        "mixer_options": {"gated_deltanet": {"num_heads": 4, "head_dim": 256}, "mamba2": {"expand": 1.3125}},
    },
}
BASE, BASE_LAYERS = "smollm2-135m", 30
# Trained from it by `hybridize` and shipped, as folders of what training changed: slots and window, and the window alone.
CHECKPOINTS = Path(__file__).parent / "checkpoints"
TRAINED = ("nha-smollm2-135m", "swa-smollm2-135m")
# Small models trained from scratch that are kept in a checkout, by the names of their folders.
KEPT = Path(__file__).parents[1] / "results" / "checkpoints"


def kept_names() -> list[str]:
    """The checkpoints in `results/checkpoints`; none where this is no checkout."""
    return sorted(path.parent.name for path in KEPT.glob("*/config.json"))


def preset_names() -> list[str]:
    """Every preset's name, sorted."""
    return sorted(
        [BASE, *TRAINED, *kept_names(), *(f"{pattern}-{size}" for pattern in [*PATTERNS, *HYBRIDS] for size in SIZES)]
    )


def shipped_folder(name: str) -> Path | None:
    """The folder of a trained checkpoint that comes with this project; None for any other name."""
    if name in TRAINED:
        return CHECKPOINTS / name
    return KEPT / name if name in kept_names() else None
