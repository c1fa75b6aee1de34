"""Gated linear attention (GLA, arXiv 2312.06635): a matrix for a state, with a decay for each of its rows.

    S_t = Diag(exp(g_t)) S_{t-1} + k_t v_t^T          o_t = scale * S_t^T q_t                          (its section 4.1)

Legend: B batch, N sequences, T time, H heads, K key dim, V value dim, C chunks, c tokens a chunk (64 at most).

`chunked` is exact for any decay. The weight of token j at token i of a chunk is exp(g_{j+1} + ... + g_i) in each row; a
chunk is halved again and again, and the halving that parts j from i splits that sum at its middle: into the query goes
what follows the middle, into the key what precedes it. Both are sums of terms <= 0, so nothing overflows or cancels, and
no [c, c, K] tensor is made.

    from kernels import gla_attention
    out, state = gla_attention(q, k, v, g, return_state=True)
    out, state = gla_attention(q1, k1, v1, g1, state=state, return_state=True)   # goes on
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.linear import (
    check_decay,
    check_same_heads,
    check_state,
    in_chunks,
    in_rows,
    long,
    resolve_backend,
    scan,
    steps,
    to_end,
)
from kernels.nha.checks import check_cu_seqlens, check_qkv
from kernels.nha.op import autocast


def gla_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    *,
    scale: float | None = None,
    cu_seqlens: Tensor | None = None,
    state: Tensor | None = None,
    return_state: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Gated linear attention.

    Args:
        q, k: queries and keys [B, T, H, K]; fp16, bf16, fp32 or fp64. Arithmetic is in fp32, or fp64 where they are.
            Inside torch.autocast q, k and v are cast to its dtype first.
        v: values [B, T, H, V], q's dtype.
        g: log decays [B, T, H, K], <= 0, any floating dtype.
        scale: of the queries; None: K ** -0.5.
        cu_seqlens: [N + 1] int32, bounds of packed sequences; then B == 1.
        state: [N, H, K, V] fp32 (fp64 where q is) that an earlier call returned (N = B without cu_seqlens); it is not
            written to. None: zeros.
        return_state: whether to return the state after the last token.
        backend: "recurrent" (the definition), "chunked" (plain torch), "fla" (flash-linear-attention's kernels; CUDA), or
            "auto" ("fla" on a GPU that has it, else "chunked").

    Returns:
        (out [B, T, H, V] in q's dtype, state [N, H, K, V] or None).

    Raises:
        ValueError: a wrong shape, dtype or device, a positive g (checked on the CPU alone), a backend that cannot be had.
    """
    q, k, v = autocast(q, k, v)
    check_qkv(q, k, v)
    check_same_heads(q, k)
    check_decay(g, tuple(q.shape), q)
    check_cu_seqlens(cu_seqlens, q)
    check_state(state, q, v, cu_seqlens)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    chosen = resolve_backend(backend, q.device, q.dtype)
    if chosen == "fla":
        out, after = _fla(q, k, v, g, scale, cu_seqlens, state, return_state)
    else:
        form = partial(recurrent if chosen == "recurrent" else chunked, scale=scale)
        out, after = in_rows(form, {"q": q, "k": k, "v": v, "g": g}, cu_seqlens, state)
    return out, after if return_state else None


def recurrent(q: Tensor, k: Tensor, v: Tensor, g: Tensor, *, scale: float, state: Tensor) -> tuple[Tensor, Tensor]:
    """The definition. q, k, g [N, H, T, K], v [N, H, T, V], state [N, H, K, V] -> (out [N, H, T, V], state)."""
    outs = []
    for t in range(q.shape[2]):
        state = g[:, :, t, :, None].exp() * state + k[:, :, t, :, None] * v[:, :, t, None, :]
        outs.append(scale * (q[:, :, t, None] @ state)[:, :, 0])
    return torch.stack(outs, 2), state


def chunked(q: Tensor, k: Tensor, v: Tensor, g: Tensor, *, scale: float, state: Tensor) -> tuple[Tensor, Tensor]:
    """As `recurrent`, in matrix products over chunks; memory linear in T."""
    time = q.shape[2]
    q, k, v, g = in_chunks(scale * q, k, v, g)
    begun, left = g.cumsum(-2).exp(), to_end(g).exp()
    near = _scores(q, k, g) @ v
    starts, state = scan((k * left).transpose(-1, -2) @ v, begun[..., -1, :, None], state)
    return (near + (q * begun) @ starts).flatten(2, 3)[:, :, :time], state


def _scores(q: Tensor, k: Tensor, g: Tensor) -> Tensor:
    """[..., c, c]: sum over K of q_i k_j exp(g_{j+1} + ... + g_i) for j <= i, else 0; q, k, g [..., c, K], c a power of two."""
    scores = (q * k).sum(-1)[..., None, None]
    half = 1
    while half < q.shape[-2]:
        late_q, early_k = q.unflatten(-2, (-1, 2, half))[..., 1, :, :], k.unflatten(-2, (-1, 2, half))[..., 0, :, :]
        early_g, late_g = g.unflatten(-2, (-1, 2, half)).unbind(-3)
        across = (late_q * late_g.cumsum(-2).exp()) @ (early_k * to_end(early_g).exp()).transpose(-1, -2)
        early, late = scores.unflatten(-3, (-1, 2)).unbind(-3)
        scores = torch.cat([F.pad(early, (0, half)), torch.cat([across, late], -1)], -2)
        half *= 2
    return scores.squeeze(-3)


def _fla(q, k, v, g, scale, cu_seqlens, state, return_state):
    from fla.ops.gla import chunk_gla, fused_recurrent_gla

    more = {"scale": scale, "initial_state": state, "output_final_state": return_state, "cu_seqlens": long(cu_seqlens)}
    if steps(q, k, v, g, state):
        return fused_recurrent_gla(q, k, v, gk=g.float(), **more)
    return chunk_gla(q, k, v, g.float(), **more)
