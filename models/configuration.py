"""The configuration of every model here: a Llama's fields, and for each layer its mixer and its window.

NHAConfig(num_hidden_layers=4, mixers=["nha", "nha", "attention", "nha"], windows=[64, 64, None, 16])
"""

from __future__ import annotations

import math

from transformers import LlamaConfig

from models.mixers import mixer_class

EMPTY_SLOTS = ("mask", "sink")
GATE_ACTIVATIONS = ("sigmoid", "softmax")
SLOT_LOGITS = (None, "bias", "scale", "both")
ACTIVATIONS = (None, "silu")
FUSIONS = ("softmax", "sum")
# Fields that count something, and the least that each can be.
SIZES = {
    "num_hidden_layers": 1,
    "vocab_size": 1,
    "hidden_size": 1,
    "intermediate_size": 0,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 1,
    "num_slots": 1,
    "max_position_embeddings": 1,
}
MOST_LAYERS = 10_000


class NHAConfig(LlamaConfig):
    """LlamaConfig's fields, and those below. Raises ValueError for a setting out of its range. An intermediate_size of 0 leaves
    the feed-forward out, as Mamba-2 is published.

    The defaults are the settings of a converted pretrained model: no activation, norm or feature map, and rotary for the
    window only; the from-scratch layers of the papers set their own (`models.presets`).
    """

    model_type = "nha"

    # One name of models.mixers a layer; a single name stands for all layers.
    mixers: list[str] | str | None = "nha"
    # One a layer: tokens (int >= 0), or None for all of them and for mixers without a window. A single value for all.
    windows: list[int | None] | int | None = None
    # Slots a key-value head, 1 to 256.
    num_slots: int = 64
    # tau in log a = logsigmoid(f) / tau: larger is slower.
    gate_logit_normalizer: float = 8.0
    # Whether the gate's projection has a bias.
    gate_bias: bool = True
    # Where the gate's bias starts; 5 makes a slot forget over about a thousand tokens at tau = 8.
    gate_bias_init: float = 5.0
    # Instead: tokens that the fastest and the slowest slot remember at first (decay 1/e), spread between geometrically.
    gate_horizons: list[float] | None = None
    # "sigmoid": each slot for itself, log a = logsigmoid(f) / tau; "softmax": slots compete for the token,
    # log a = log(1 - softmax(f)) / tau.
    gate_activation: str = "sigmoid"
    # What is learnt, a number each query head, of the logits that slots get: None, "bias", "scale" or "both".
    slot_logits: str | None = None
    # Where that bias starts: -4 and a converted model begins nearly as its window alone.
    slot_bias_init: float = 0.0
    # None or "silu", on q and k as the slots meet and store them.
    feature_map: str | None = None
    # Of layers with slots: None or "silu", on v.
    value_activation: str | None = None
    # Of layers with slots: None or "silu", on the attention's output, before its norm.
    output_activation: str | None = None
    # Of layers with slots: whether an RMSNorm over the whole hidden vector stands before o_proj.
    output_norm: bool = False
    # Of layers with slots: what logits are multiplied by; None: head_dim ** -0.5.
    attention_scale: float | None = None
    # Whether a token enters the slots at once, so that slots and window overlap, and not when it leaves the window.
    slot_overlap: bool = False
    # "mask" or "sink", as in kernels.nha_attention.
    empty_slots: str = "mask"
    # What makes one of the slots and the window: "softmax", one over both, as published; or "sum", for comparison: a softmax
    # over each, weighed by a share that each head learns (from one half). With "sum" there is no cache.
    fusion: str = "softmax"
    # Weight in the training loss of the slots' share of each query's attention (0: none), and the share that is wanted, in
    # (0, 1]: the cross-entropy of sigmoid(lse_slots - lse_window), the window's side held fixed (2026 rewrite of the layer).
    aux_loss: float = 0.0
    aux_loss_target: float = 1.0
    # A mixer's own options, by its name; `Options` in its file says what they are. None: all as published.
    mixer_options: dict[str, dict] | None = None
    # RMSNorm on each head's q and k (Qwen3).
    qk_norm: bool = False
    # Its epsilon; None: rms_norm_eps.
    qk_norm_eps: float | None = None
    # Bias of o_proj; None: as attention_bias (Qwen2 has biases on q, k and v alone).
    attention_output_bias: bool | None = None

    def __post_init__(self, **kwargs):
        if "window_size" in kwargs:
            raise ValueError("window_size is a setting of the layer's authors' code; load it by models.load_pretrained")
        check_sizes(vars(self))
        layers = self.num_hidden_layers
        if isinstance(self.mixers, str):
            self.mixers = [self.mixers] * layers
        if not isinstance(self.mixers, list | tuple):
            raise ValueError(f"mixers is {self.mixers!r}; wanted a mixer's name, or a list of one name a layer")
        if not isinstance(self.windows, list | tuple):
            self.windows = [self.windows] * layers
        self.windows = list(self.windows)
        if not isinstance(self.mixer_options, dict | None):
            raise ValueError(f"mixer_options is {self.mixer_options!r}; wanted options by the mixer's name")
        self.mixer_options = dict(self.mixer_options or {})
        if self.attention_output_bias is None:
            self.attention_output_bias = self.attention_bias
        super().__post_init__(**kwargs)
        self._check()

    def validate_architecture(self):
        """Heads need not divide the hidden size (Qwen3's do not), so Llama's check does not apply."""

    def _check(self) -> None:
        layers = self.num_hidden_layers
        for name in ("mixers", "windows"):
            value = getattr(self, name)
            if len(value) != layers:
                raise ValueError(f"{name} has {len(value)} entries; wanted one for each of the {layers} layers")
        for i, (mixer, window) in enumerate(zip(self.mixers, self.windows, strict=True)):
            check_window(mixer, window, i)
        if not 1 <= self.num_slots <= 256:
            raise ValueError(f"num_slots is {self.num_slots}; wanted 1 to 256")
        if self.gate_logit_normalizer <= 0:
            raise ValueError(f"gate_logit_normalizer is {self.gate_logit_normalizer}; wanted a positive number")
        for name, known in (
            ("empty_slots", EMPTY_SLOTS),
            ("gate_activation", GATE_ACTIVATIONS),
            ("slot_logits", SLOT_LOGITS),
            ("fusion", FUSIONS),
            *((name, ACTIVATIONS) for name in ("feature_map", "value_activation", "output_activation")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; wanted one of {known}")
        self._check_horizons()
        if not 0 <= self.aux_loss < math.inf:
            raise ValueError(f"aux_loss is {self.aux_loss}; wanted a weight >= 0")
        if not 0 < self.aux_loss_target <= 1:
            raise ValueError(f"aux_loss_target is {self.aux_loss_target}; wanted a share in (0, 1]")
        if self.fusion == "sum" and self.aux_loss:
            raise ValueError("aux_loss is of one softmax over slots and window; wanted 0 where fusion is 'sum'")
        if self.fusion == "sum" and "nha" not in self.mixers:
            raise ValueError(
                f"fusion 'sum' is of slots and a window, and no layer of {self.mixers[0]!r} has both; wanted 'softmax'"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            heads = f"{self.num_attention_heads} query and {self.num_key_value_heads} key-value heads"
            raise ValueError(f"{heads}; wanted the first to be a multiple of the second")

    def _check_horizons(self) -> None:
        if self.gate_horizons is None:
            return
        given = self.gate_horizons
        numbers = isinstance(given, list | tuple) and all(isinstance(x, int | float) and 0 < x < math.inf for x in given)
        if not numbers or len(given) != 2 or given[0] > given[1]:
            raise ValueError(f"gate_horizons is {given!r}; wanted two positive numbers of tokens, the smaller first, or None")
        if not self.gate_bias or self.gate_activation != "sigmoid":
            raise ValueError("gate_horizons are biases of gates by themselves; wanted gate_bias and gate_activation 'sigmoid'")
        self.gate_horizons = [float(x) for x in given]


def check_sizes(fields: dict[str, object], sizes: dict[str, int] = SIZES) -> None:
    """ValueError, naming the field, for one of `fields` that is in `sizes` and no integer, or less than it says there. None
    passes. To be asked before anything is made of the sizes.
    """
    for name, least in sizes.items():
        value = fields.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ValueError(f"{name} is {value!r}; wanted an integer >= {least}")
    if (fields.get("num_hidden_layers") or 0) > MOST_LAYERS:
        raise ValueError(f"num_hidden_layers is {fields['num_hidden_layers']}; wanted at most {MOST_LAYERS}")


def check_window(mixer: str, window: object, layer: int) -> None:
    """ValueError unless `window` is one that layer `layer`'s mixer can have."""
    if window is None:
        return
    if not mixer_class(mixer).has_window:
        raise ValueError(f"layer {layer} has the mixer {mixer!r}, which has no window; wanted None, given {window!r}")
    lowest = mixer_class(mixer).smallest_window
    if isinstance(window, bool) or not isinstance(window, int) or window < lowest:
        raise ValueError(f"the window of layer {layer} ({mixer}) is {window!r}; wanted an int >= {lowest}, or None for full")
