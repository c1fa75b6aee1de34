"""Tiny checkpoints as other code writes them, and what that code computes, in plain torch.

Names and shapes are those that the classes of flash-linear-attention 0.6.0 have (and JusenD/NHA's, which follow them); the
recurrences are its naive forms (fla-core), or for NHA the definition, a step a token.
"""

import json

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

HIDDEN, WIDTH, LAYERS, VOCABULARY = 32, 48, 2, 97
COMMON = {"hidden_size": HIDDEN, "intermediate_size": WIDTH, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY}
HEADS, KV, SLOTS, DIM = 4, 2, 6, 8
# Weights of one mixer: name, shape.
SLOT_SHAPES = {
    "q_proj.weight": (HIDDEN, HIDDEN), "k_proj.weight": (KV * DIM, HIDDEN), "v_proj.weight": (KV * DIM, HIDDEN),
    "f_proj.weight": (KV * SLOTS, HIDDEN), "g_norm.weight": (HIDDEN,), "o_proj.weight": (HIDDEN, HIDDEN),
}  # fmt: skip
CONVOLVED_SHAPES = SLOT_SHAPES | {
    "q_conv1d.weight": (HIDDEN, 1, 3), "k_conv1d.weight": (KV * DIM, 1, 3), "v_conv1d.weight": (KV * DIM, 1, 3),
}  # fmt: skip
ATTENTION_SHAPES = {
    "q_proj.weight": (HIDDEN, HIDDEN), "k_proj.weight": (KV * DIM, HIDDEN), "v_proj.weight": (KV * DIM, HIDDEN),
    "o_proj.weight": (HIDDEN, HIDDEN),
}  # fmt: skip
GLA_SHAPES = {
    "q_proj.weight": (16, HIDDEN), "k_proj.weight": (16, HIDDEN), "v_proj.weight": (32, HIDDEN), "g_proj.weight": (32, HIDDEN),
    "gk_proj.0.weight": (16, HIDDEN), "gk_proj.1.weight": (16, 16), "gk_proj.1.bias": (16,),
    "g_norm_swish_gate.weight": (16,), "o_proj.weight": (HIDDEN, 32),
}  # fmt: skip
CONVOLVED_GLA_SHAPES = GLA_SHAPES | {
    "q_conv1d.weight": (16, 1, 3), "k_conv1d.weight": (16, 1, 3), "v_conv1d.weight": (32, 1, 3),
}  # fmt: skip
DELTA_SHAPES = {
    "q_proj.weight": (16, HIDDEN), "k_proj.weight": (16, HIDDEN), "v_proj.weight": (32, HIDDEN), "g_proj.weight": (32, HIDDEN),
    "a_proj.weight": (2, HIDDEN), "b_proj.weight": (2, HIDDEN), "A_log": (2,), "dt_bias": (2,),
    "q_conv1d.weight": (16, 1, 4), "k_conv1d.weight": (16, 1, 4), "v_conv1d.weight": (32, 1, 4),
    "o_norm.weight": (16,), "o_proj.weight": (HIDDEN, 32),
}  # fmt: skip


def checkpoint(path, config: dict, shapes: dict | list[dict]) -> dict[str, torch.Tensor]:
    """Writes random weights with a mixer of `shapes` in each layer (or one a layer) to `path`; returns them."""
    generator = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.randn(*shape, generator=generator) / shape[-1] ** 0.5  # noqa: E731
    shapes = shapes if isinstance(shapes, list) else [shapes] * LAYERS
    weights = {"model.embeddings.weight": rand(VOCABULARY, HIDDEN) * 4, "lm_head.weight": rand(VOCABULARY, HIDDEN)}
    weights["model.norm.weight"] = 1 + rand(HIDDEN)
    for i, mixer in enumerate(shapes):
        layer = f"model.layers.{i}."
        for name, shape in mixer.items():
            weights[f"{layer}attn.{name}"] = 1 + rand(*shape) if "norm" in name else rand(*shape) * 2
        for name in ("attn_norm", "mlp_norm"):
            weights[f"{layer}{name}.weight"] = 1 + rand(HIDDEN)
        for name, shape in (("gate", (WIDTH, HIDDEN)), ("up", (WIDTH, HIDDEN)), ("down", (HIDDEN, WIDTH))):
            weights[f"{layer}mlp.{name}_proj.weight"] = rand(*shape)
    path.mkdir(exist_ok=True)
    save_file(weights, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(COMMON | config))
    return weights


def norm(x, weight):
    return F.rms_norm(x, (x.shape[-1],), weight, 1e-6)


def logits(weights: dict, x: torch.Tensor, mixers: list) -> torch.Tensor:
    """What the decoder gives for tokens x [B, T], a function (hidden, weight getter) -> hidden for each layer's mixer."""
    h = weights["model.embeddings.weight"][x]
    for i, mixer in enumerate(mixers):
        get = lambda name, i=i: weights[f"model.layers.{i}.{name}"]  # noqa: E731
        h = h + mixer(norm(h, get("attn_norm.weight")), lambda name, get=get: get(f"attn.{name}"))
        y = norm(h, get("mlp_norm.weight"))
        gated = F.silu(y @ get("mlp.gate_proj.weight").T) * (y @ get("mlp.up_proj.weight").T)
        h = h + gated @ get("mlp.down_proj.weight").T
    return norm(h, weights["model.norm.weight"]) @ weights["lm_head.weight"].T


def split(x, heads):
    return x.unflatten(-1, (heads, -1))


def convolved(y, filters):
    """y [B, T, D] through causal filters [D, 1, W] and SiLU."""
    padded = F.pad(y.transpose(1, 2), (filters.shape[-1] - 1, 0))
    return F.silu(F.conv1d(padded, filters, groups=y.shape[-1]).transpose(1, 2))


def slot_projections(x, w, convolutions=False):
    """q, k, v and the log decays of GSA and NHA, at tau = 8."""
    q, k, v, f = (x @ w(f"{name}_proj.weight").T for name in "qkvf")
    if convolutions:
        q, k, v = (convolved(y, w(f"{name}_conv1d.weight")) for y, name in ((q, "q"), (k, "k"), (v, "v")))
    return split(q, HEADS), split(k, KV), split(F.silu(v), KV), F.logsigmoid(split(f, KV)) / 8


def slot_output(o, w):
    return norm(F.silu(o.flatten(-2)), w("g_norm.weight")) @ w("o_proj.weight").T


def gsa(x, w, convolutions=False):
    from fla.ops.gsa.naive import naive_recurrent_gsa

    q, k, v, g = slot_projections(x, w, convolutions)
    k, v, g = (t.repeat_interleave(HEADS // KV, 2) for t in (F.silu(k), v, g))
    return slot_output(naive_recurrent_gsa(F.silu(q), k, v, 1 - g.exp(), g, scale=1.0)[0], w)


def gla(x, w, convolutions=False):
    from fla.ops.gla.naive import naive_recurrent_gla

    q, k, v, gate = (x @ w(f"{name}_proj.weight").T for name in "qkvg")
    if convolutions:
        q, k, v = (convolved(y, w(f"{name}_conv1d.weight")) for y, name in ((q, "q"), (k, "k"), (v, "v")))
    q, k, v, gate = (split(y, 2) for y in (q, k, v, gate))
    decay = x @ w("gk_proj.0.weight").T @ w("gk_proj.1.weight").T + w("gk_proj.1.bias")
    o = naive_recurrent_gla(q, k, v, F.logsigmoid(split(decay, 2)) / 16)[0]
    return (norm(o, w("g_norm_swish_gate.weight")) * F.silu(gate)).flatten(-2) @ w("o_proj.weight").T


def gated_deltanet(x, w):
    from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule

    found = [split(convolved(x @ w(f"{name}_proj.weight").T, w(f"{name}_conv1d.weight")), 2) for name in "qkv"]
    q, k = (t / (t.square().sum(-1, keepdim=True) + 1e-6).sqrt() for t in found[:2])
    g = -w("A_log").exp() * F.softplus(x @ w("a_proj.weight").T + w("dt_bias"))
    o = naive_recurrent_gated_delta_rule(q, k, found[2], (x @ w("b_proj.weight").T).sigmoid(), g)[0]
    gate = split(x @ w("g_proj.weight").T, 2)
    return (norm(o, w("o_norm.weight")) * F.silu(gate)).flatten(-2) @ w("o_proj.weight").T


def turned(x):
    """Rotary embedding, base 10000, of x [B, T, H, K]."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1])[:, None] * 10000.0 ** -(torch.arange(half) / half)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attention(window):
    def run(x, w):
        q, k, v = (split(x @ w(f"{name}_proj.weight").T, heads) for name, heads in (("q", HEADS), ("k", KV), ("v", KV)))
        gap = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        q, k, v = (t.transpose(1, 2) for t in (turned(q), turned(k), v))
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=(gap >= 0) & (gap < window), enable_gqa=True)
        return o.transpose(1, 2).flatten(-2) @ w("o_proj.weight").T

    return run


def nha(window, delay, feature_map=lambda x: x, scale=DIM**-0.5, slots=True, convolutions=False):
    """The layer by definition: all `SLOTS` slots score from the start on, 0 before a token has entered them.

    slots: whether tokens enter them at all. The first release's wide layers have keys of zeros in their place.
    """

    def run(x, w):
        q, k, v, g = slot_projections(x, w, convolutions)
        k, v, g = (t.repeat_interleave(HEADS // KV, 2) for t in (k, v, g))
        near_q, near_k, far_q, far_k = turned(q), turned(k), feature_map(q), feature_map(k)
        memory_k, memory_v = (x.new_zeros(len(x), HEADS, SLOTS, DIM) for _ in range(2))
        outs = []
        for t in range(x.shape[1]):
            if slots and t >= delay:
                a = g[:, t - delay].exp()[..., None]
                memory_k = a * memory_k + (1 - a) * far_k[:, t - delay, :, None]
                memory_v = a * memory_v + (1 - a) * v[:, t - delay, :, None]
            seen = slice(max(t - window + 1, 0), t + 1)
            far = torch.einsum("bhk,bhmk->bhm", far_q[:, t], memory_k)
            near = torch.einsum("bhk,bthk->bht", near_q[:, t], near_k[:, seen])
            p_far, p_near = (scale * torch.cat([far, near], -1)).softmax(-1).split([SLOTS, near.shape[-1]], -1)
            outs.append(torch.einsum("bhm,bhmv->bhv", p_far, memory_v) + torch.einsum("bht,bthv->bhv", p_near, v[:, seen]))
        return slot_output(torch.stack(outs, 1), w)

    return run
