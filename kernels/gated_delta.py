"""The gated delta rule, the operator of Gated DeltaNet (arXiv 2412.06464): a state that decays and corrects what it holds.

    S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T          o_t = scale * S_t^T q_t               (its section 3.1)
        = a_t S_{t-1} + k_t u_t^T,   u_t = b_t (v_t - a_t S_{t-1}^T k_t),   a_t = exp(g_t), b_t = beta_t

Legend: B batch, N sequences, T time, H heads, K key dim, V value dim, C chunks, c tokens a chunk (64 at most).

`chunked` solves a chunk for all its u at once. With d(i, j) = exp(g_{j+1} + ... + g_i), d(i) = exp(g_1 + ... + g_i) and S_0 the
state before the chunk, putting S_{i-1} = d(i-1) S_0 + sum_j d(i-1, j) k_j u_j^T into u_i gives

    (I + L) U = diag(b) V - diag(b d) K S_0,   L[i, j] = b_i d(i, j) k_i . k_j for j < i

a triangular system whose two right sides do not wait for S_0 (the UT transform of the paper's section 3.3). Every d comes
from sums of its own terms, all <= 0.

    from kernels import gated_delta_attention
    out, state = gated_delta_attention(q, k, v, g, beta, l2_norm=True, return_state=True)
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from kernels.linear import check_decay, check_same_heads, check_state, in_chunks, in_rows, long, resolve_backend, steps, to_end
from kernels.nha.checks import check_cu_seqlens, check_qkv, check_tensor
from kernels.nha.op import autocast
from kernels.ssd import between


def gated_delta_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    l2_norm: bool = False,
    scale: float | None = None,
    cu_seqlens: Tensor | None = None,
    state: Tensor | None = None,
    return_state: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """The gated delta rule.

    Args:
        q, k: queries and keys [B, T, H, K]. The state stays bounded where |k| <= 1.
        v: values [B, T, H, V].
        g: log decays [B, T, H], <= 0.
        beta: how much of what the state holds under a key is replaced, [B, T, H], 0 to 1.
        l2_norm: divide each head's q and k by sqrt(|x|^2 + 1e-6) first, as Gated DeltaNet does.
        scale: of the queries; None: K ** -0.5.
        cu_seqlens, state, return_state, backend: as in `gla_attention`. "fla" takes K up to 256.

    Returns:
        (out [B, T, H, V] in q's dtype, state [N, H, K, V] or None).

    Raises:
        ValueError: as `gla_attention`; a beta outside [0, 1] (checked on the CPU alone). RuntimeError from fla in the backward
        pass on Hopper GPUs with a Triton from 3.4.0 to before 3.7.1, whose kernels would give wrong gradients there
        (fla-org/flash-linear-attention#640); its message says what to install.
    """
    q, k, v = autocast(q, k, v)
    check_qkv(q, k, v)
    check_same_heads(q, k)
    check_decay(g, tuple(q.shape[:3]), q)
    check_tensor("beta", beta, tuple(q.shape[:3]), q)
    if beta.device.type == "cpu" and not torch.compiler.is_compiling():
        lowest, highest = (x.item() for x in beta.detach().aminmax())
        if lowest < 0 or highest > 1:
            raise ValueError(f"beta has values from {lowest:.3g} to {highest:.3g}; wanted all from 0 to 1")
    check_cu_seqlens(cu_seqlens, q)
    check_state(state, q, v, cu_seqlens)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    unfit = f"takes K up to 256; q has K = {q.shape[-1]}" if q.shape[-1] > 256 else None
    chosen = resolve_backend(backend, q.device, q.dtype, unfit)
    if chosen == "fla":
        out, after = _fla(q, k, v, g, beta, l2_norm, scale, cu_seqlens, state, return_state)
    else:
        form = partial(recurrent if chosen == "recurrent" else chunked, l2_norm=l2_norm, scale=scale)
        out, after = in_rows(form, {"q": q, "k": k, "v": v, "g": g, "beta": beta}, cu_seqlens, state)
    return out, after if return_state else None


def recurrent(q, k, v, g, beta, *, l2_norm: bool, scale: float, state: Tensor) -> tuple[Tensor, Tensor]:
    """The definition. q, k [N, H, T, K], v [N, H, T, V], g, beta [N, H, T] -> (out [N, H, T, V], state [N, H, K, V])."""
    if l2_norm:
        q, k = _unit(q), _unit(k)
    outs = []
    for t in range(q.shape[2]):
        b, key = beta[:, :, t, None, None], k[:, :, t, :, None]
        state = g[:, :, t, None, None].exp() * (state - b * key * (key.transpose(-1, -2) @ state))
        state = state + b * key * v[:, :, t, None, :]
        outs.append(scale * (q[:, :, t, None] @ state)[:, :, 0])
    return torch.stack(outs, 2), state


def chunked(q, k, v, g, beta, *, l2_norm: bool, scale: float, state: Tensor) -> tuple[Tensor, Tensor]:
    """As `recurrent`, a triangular system and matrix products a chunk; memory linear in T."""
    if l2_norm:
        q, k = _unit(q), _unit(k)
    time, key_dim = q.shape[2], q.shape[-1]
    q, k, v, g, beta = in_chunks(scale * q, k, v, g, beta)
    decay, begun, left = between(g), g.cumsum(-1).exp()[..., None], to_end(g[..., None]).exp()
    keys = beta[..., None] * k
    lower = (keys @ k.transpose(-1, -2)) * decay.tril(-1)
    sides = torch.cat([beta[..., None] * v, begun * keys], -1)
    # unitriangular: the diagonal of ones is understood, so L is given as it is.
    solved = torch.linalg.solve_triangular(lower, sides, upper=False, unitriangular=True)
    own, held = solved.split([v.shape[-1], key_dim], -1)
    into, kept = (left * k).transpose(-1, -2), begun[..., -1:, :]
    starts, updates = [], []
    for n in range(q.shape[2]):
        starts.append(state)
        updates.append(own[:, :, n] - held[:, :, n] @ state)
        state = kept[:, :, n] * state + into[:, :, n] @ updates[-1]
    near = ((q @ k.transpose(-1, -2)) * decay) @ torch.stack(updates, 2)
    out = near + (begun * q) @ torch.stack(starts, 2)
    return out.flatten(2, 3)[:, :, :time], state


def _unit(x: Tensor) -> Tensor:
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()


def _fla(q, k, v, g, beta, l2_norm, scale, cu_seqlens, state, return_state):
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule, fused_recurrent_gated_delta_rule

    run = fused_recurrent_gated_delta_rule if steps(q, k, v, g, beta, state) else chunk_gated_delta_rule
    return run(
        q,
        k,
        v,
        g=g.float(),
        beta=beta.float(),
        scale=scale,
        initial_state=state,
        output_final_state=return_state,
        use_qk_l2norm_in_kernel=l2_norm,
        cu_seqlens=long(cu_seqlens),
    )
