"""What the softmax attentions share: their inputs, their definition, and torch's scaled_dot_product_attention."""

from __future__ import annotations

from contextlib import ExitStack

from nha_eval.bench.implementations import Call, Step


def inputs(shape, batch: int, time: int, draw) -> dict:
    """q [B, T, HQ, K], k [B, T, H, K], v [B, T, H, V]."""
    return {
        "q": draw.normal(batch, time, shape.query_heads, shape.key_dim),
        "k": draw.normal(batch, time, shape.kv_heads, shape.key_dim),
        "v": draw.normal(batch, time, shape.kv_heads, shape.value_dim),
    }


def define(q, k, v, window=None):
    """Softmax attention written out: the last queries of a causal mask, over the last `window` keys (None: all)."""
    import torch

    ahead = k.shape[1] - q.shape[1]
    age = torch.arange(q.shape[1], device=q.device)[:, None] + ahead - torch.arange(k.shape[1], device=q.device)
    hidden = age < 0 if window is None else (age < 0) | (age >= window)
    grouped = q.unflatten(2, (k.shape[2], -1))
    logits = torch.einsum("bthgk,bshk->bhgts", grouped, k) * q.shape[-1] ** -0.5
    weights = logits.masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.einsum("bhgts,bshv->bthgv", weights, v).flatten(2, 3)


def _run(q, k, v, causal):
    from torch.nn.functional import scaled_dot_product_attention

    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]).transpose(1, 2)


def _only(backend: str):
    """A context in which torch's attention takes this backend or raises."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    stack = ExitStack()
    stack.enter_context(sdpa_kernel(getattr(SDPBackend, backend)))
    return stack


def sdpa(case, draw, backend: str) -> Call:
    """Causal, on one of torch's backends, with grouped queries."""
    return Call(
        inputs(case.shape, case.batch, case.length, draw),
        lambda q, k, v: _run(q, k, v, True),
        define,
        backend.split("_")[0].lower(),
        context=lambda: _only(backend),
    )


def sdpa_step(case, draw, backend: str) -> Step:
    """One query over a cache of `case.length` tokens, its own key and value among them."""
    q = draw.normal(case.batch, 1, case.shape.query_heads, case.shape.key_dim)
    cache = [
        draw.normal(case.batch, case.shape.kv_heads, case.length, dim).transpose(1, 2)
        for dim in (case.shape.key_dim, case.shape.value_dim)
    ]
    return Step(
        {"q": q},
        lambda: [x.transpose(1, 2).clone().transpose(1, 2) for x in cache],
        lambda state, q: _run(q, *state, False),
        lambda: define(q.float(), *(x.float() for x in cache)),
        sum(x.numel() * x.element_size() for x in cache),
        backend.split("_")[0].lower(),
        f"a cache of {case.length:,} tokens, not written to",
        context=lambda: _only(backend),
    )
