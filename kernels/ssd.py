"""State-space duality (SSD), the operator of Mamba-2 (arXiv 2405.21060): one decay a head, keys shared by groups of heads.

    S_t = exp(g_t) S_{t-1} + dt_t k_t v_t^T          o_t = scale * S_t^T q_t + D v_t                  (its section 2)

In Mamba-2's terms q is C, k is B, v is x, g = dt * A, and scale is 1; its state is this one transposed.

Legend: B batch, N sequences, T time, G groups, R heads a group, H = G R heads, K state dim, V head dim, C chunks, c tokens a
chunk (64 at most).

    from kernels import ssd_attention
    out, state = ssd_attention(q, k, v, g, dt, D=D, return_state=True)
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from kernels.linear import check_decay, check_state, exact, in_chunks, in_rows, long, resolve_backend, scan, steps, to_end
from kernels.nha.checks import check_cu_seqlens, check_qkv, check_tensor
from kernels.nha.op import autocast


def ssd_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    dt: Tensor,
    *,
    D: Tensor | None = None,
    scale: float | None = None,
    cu_seqlens: Tensor | None = None,
    state: Tensor | None = None,
    return_state: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Mamba-2's recurrence, after its convolution and projections.

    Args:
        q, k: C and B, [B, T, G, K]; head h uses group h // (H / G).
        v: x, [B, T, H, V], H a multiple of G.
        g: log decays [B, T, H], <= 0: dt * A with A = -exp(A_log).
        dt: step sizes [B, T, H], after softplus; they weigh what is written.
        D: [H], the skip connection; None: none.
        scale: of the queries; None: 1, as in Mamba-2.
        cu_seqlens, state, return_state, backend: as in `gla_attention`; the state is [N, H, K, V].

    Returns:
        (out [B, T, H, V] in q's dtype, state [N, H, K, V] or None).

    Raises:
        ValueError: as `gla_attention`. RuntimeError from fla in the backward pass on Hopper GPUs with a Triton from 3.4.0 to
        before 3.7.1, whose kernels would give wrong gradients there (fla-org/flash-linear-attention#640), unless tilelang is
        installed; its message says so. With it the backward pass is in fp32 there.
    """
    q, k, v = autocast(q, k, v)
    check_qkv(q, k, k)
    groups = q.shape[2]
    if k.shape[2] != groups:
        raise ValueError(f"k has shape {list(k.shape)}; wanted {list(q.shape)}, with as many groups as q")
    check_tensor("v", v, (*q.shape[:2], "H", "V"), q, q.dtype)
    heads = v.shape[2]
    if 0 in v.shape or heads % groups:
        raise ValueError(f"v has shape {list(v.shape)}; wanted [B, T, H, V], H a multiple of q's {groups} groups")
    check_decay(g, tuple(v.shape[:3]), q)
    check_tensor("dt", dt, tuple(v.shape[:3]), q)
    if D is not None:
        check_tensor("D", D, (heads,), q)
    check_cu_seqlens(cu_seqlens, q)
    check_state(state, q, v, cu_seqlens)
    scale = 1.0 if scale is None else float(scale)
    chosen = resolve_backend(backend, q.device, q.dtype)
    # The skip and the step sizes are the same for all backends; both are taken in exact arithmetic.
    written = dt[..., None].to(exact(q.dtype)) * v
    if chosen == "fla":
        out, after = _fla(q, k, written.to(v.dtype), g, scale, cu_seqlens, state, return_state)
    else:
        form = partial(recurrent if chosen == "recurrent" else chunked, scale=scale)
        out, after = in_rows(form, {"q": q, "k": k, "v": written, "g": g}, cu_seqlens, state)
    if D is not None:
        out = (out + D[:, None].to(exact(q.dtype)) * v).to(q.dtype)
    return out, after if return_state else None


def recurrent(q: Tensor, k: Tensor, v: Tensor, g: Tensor, *, scale: float, state: Tensor) -> tuple[Tensor, Tensor]:
    """The definition, with dt in v. q, k [N, G, T, K], v [N, H, T, V], g [N, H, T] -> (out [N, H, T, V], state)."""
    q, k = (x.repeat_interleave(v.shape[1] // x.shape[1], 1) for x in (q, k))
    outs = []
    for t in range(q.shape[2]):
        state = g[:, :, t, None, None].exp() * state + k[:, :, t, :, None] * v[:, :, t, None, :]
        outs.append(scale * (q[:, :, t, None] @ state)[:, :, 0])
    return torch.stack(outs, 2), state


def chunked(q: Tensor, k: Tensor, v: Tensor, g: Tensor, *, scale: float, state: Tensor) -> tuple[Tensor, Tensor]:
    """As `recurrent`, in matrix products over chunks (the paper's section 6); a group's heads share each product."""
    (groups, time), each = q.shape[1:3], v.shape[1] // q.shape[1]
    q, k, v, g = in_chunks(scale * q, k, v, g)
    begun, left = g.cumsum(-1).exp()[..., None], to_end(g[..., None]).exp()
    # A group's heads lie side by side in the last dimension, so that one product with its q or k serves them all.
    side_by_side = lambda x: x.unflatten(1, (groups, each)).movedim(2, -2).flatten(-2)  # noqa: E731
    apart = lambda x: x.unflatten(-1, (each, -1)).movedim(-2, 2).flatten(1, 2)  # noqa: E731
    scores = (q @ k.transpose(-1, -2))[:, :, None] * between(g).unflatten(1, (groups, each))
    fresh = apart(k.transpose(-1, -2) @ side_by_side(left * v))
    starts, state = scan(fresh, begun[..., -1:, :], state)
    out = scores.flatten(1, 2) @ v + begun * apart(q @ side_by_side(starts))
    return out.flatten(2, 3)[:, :, :time], state


def between(g: Tensor) -> Tensor:
    """[..., c, c]: exp(g_{j+1} + ... + g_i) for j <= i, else 0; g [..., c].

    Each sum is taken on its own (the paper's listing 1, `segsum`): a difference of two long sums would lose what a weak
    decay after a strong one says.
    """
    causal = torch.ones(g.shape[-1], g.shape[-1], dtype=torch.bool, device=g.device).tril()
    # `where`, not a product: a decay of -inf forgets everything, and must not meet a 0.
    sums = torch.where(causal.tril(-1), g[..., None], g.new_zeros(())).cumsum(-2)
    return sums.exp() * causal


def _fla(q, k, v, g, scale, cu_seqlens, state, return_state):
    from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla

    kind, learns = q.dtype, torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, g, state))
    if learns and _miscompiled():
        # tilelang, without which fla refuses the backward pass there, takes this operator's in fp32 alone.
        q, k, v = q.float(), k.float(), v.float()
    q, k = (x.repeat_interleave(v.shape[2] // x.shape[2], 2) for x in (q, k))
    more = {"scale": scale, "initial_state": state, "output_final_state": return_state, "cu_seqlens": long(cu_seqlens)}
    run = fused_recurrent_simple_gla if steps(q, k, v, g, state) else chunk_simple_gla
    out, after = run(q, k, v, g.float(), **more)
    return out.to(kind), after


def _miscompiled() -> bool:
    """Whether Triton makes wrong gradients of fla's gated kernels here (fla-org/flash-linear-attention#640)."""
    from fla.utils import IS_NVIDIA_HOPPER, TRITON_ABOVE_3_4_0, TRITON_ABOVE_3_7_1

    return IS_NVIDIA_HOPPER and TRITON_ABOVE_3_4_0 and not TRITON_ABOVE_3_7_1
