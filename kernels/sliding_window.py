"""Sliding-window attention alone: causal softmax over the last w tokens. The control that shows what NHA's slots bring.

It is NHA's walk without slots, so the two differ in nothing else, and its state is an `NHAState` with M = 0.

    from kernels import sliding_window_attention
    out, state = sliding_window_attention(q, k, v, window=64, return_state=True)
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from kernels.nha.checks import check_count, check_cu_seqlens, check_qkv, check_rotary, check_state
from kernels.nha.op import autocast, resolve_backend, run
from kernels.nha.state import NHAState


def sliding_window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    *,
    rotary: tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
    cu_seqlens: Tensor | None = None,
    state: NHAState | None = None,
    return_state: bool = False,
    keep: int | None = None,
    overwrite_state: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, NHAState | None]:
    """Causal attention over the last `window` >= 1 tokens, the current one included.

    q [B, T, HQ, K], k [B, T, H, K], v [B, T, H, V] and the other arguments as in `nha_attention`. keep: tokens that the state
    holds, `window` (None) or more so that the last ones can be taken back (`NHAState.before`); it may differ between calls.
    `backend` is one of `nha_attention`'s, whose kernels it shares.
    Returns (out [B, T, HQ, V], NHAState or None). Raises ValueError as `nha_attention` does, for a window of 0 or None, and for
    a smaller `keep`.
    """
    q, k, v = autocast(q, k, v)
    check_qkv(q, k, v)
    check_count("window", window, "not possible here")
    if not window:
        raise ValueError(f"window is {window!r}; wanted an int >= 1")
    keep = window if keep is None else keep
    if keep < window:
        raise ValueError(f"keep is {keep}; wanted the window, {window}, or more")
    # Without slots the delay says how much the ring holds, and nothing else.
    state = replace(state, delay=keep) if isinstance(state, NHAState) else state
    check_rotary(rotary, q)
    check_cu_seqlens(cu_seqlens, q)
    check_state(state, q, v, 0, k.shape[2], window, keep, cu_seqlens, rotary)
    no_gates = q.new_empty(*k.shape[:3], 0)
    settings = {
        "window": window,
        "delay": keep,
        "rotary": rotary,
        "slot_q": None,
        "slot_k": None,
        "slot_bias": None,
        "scale": q.shape[-1] ** -0.5 if scale is None else float(scale),
        "empty_slots": "mask",
        "cu_seqlens": cu_seqlens,
        "state": state,
    }
    chosen = resolve_backend(backend, q.device, q.dtype)
    wanted = {"return_state": return_state, "return_lse": False, "overwrite_state": overwrite_state}
    out, after, _ = run(chosen, q, k, v, no_gates, settings, **wanted)
    return out, after
