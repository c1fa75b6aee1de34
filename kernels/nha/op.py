"""`nha_attention`: the front door of the operator. Checks the arguments, chooses a backend once, and calls it.

from kernels import nha_attention
out, state = nha_attention(q, k, v, g, window=64, return_state=True)
out, state = nha_attention(q1, k1, v1, g1, window=64, state=state, return_state=True)   # goes on
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.nha.checks import check_count, check_cu_seqlens, check_nha, check_qkv, check_rotary, check_state
from kernels.nha.chunked import chunked
from kernels.nha.reference import recurrent
from kernels.nha.state import NHAState
from kernels.rotary import turn
from kernels.standing import HAS_TRITON, standing

BACKENDS = ("recurrent", "chunked", "triton", "auto")


def resolve_backend(backend: str, device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """The backend that a call takes: the one asked for, or the best for the device. ValueError where it cannot be had."""
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; wanted one of {', '.join(map(repr, BACKENDS))}")
    backend = standing(backend)
    if backend == "triton":
        why = _no_triton(device, dtype)
        if why is not None:
            raise ValueError(f"backend 'triton' {why}")
    if backend == "auto":
        return "triton" if device.type == "cuda" and _no_triton(device, dtype) is None else "chunked"
    return backend


def _no_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the Triton kernels cannot take these inputs, or None. Triton is imported only here, where a call may want it."""
    if not HAS_TRITON:
        return "wants the package triton, which is not installed; use 'chunked', or install the extra: pip install .[gpu]"
    from kernels.nha.triton.op import refusal

    return refusal(device, dtype)


def nha_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    window: int | None,
    *,
    rotary: tuple[Tensor, Tensor] | None = None,
    slot_q: Tensor | None = None,
    slot_k: Tensor | None = None,
    slot_bias: Tensor | None = None,
    slot_delay: int | None = None,
    scale: float | None = None,
    empty_slots: str = "mask",
    cu_seqlens: Tensor | None = None,
    state: NHAState | None = None,
    return_state: bool = False,
    return_lse: bool = False,
    overwrite_state: bool = False,
    backend: str = "auto",
):
    """Native Hybrid Attention: one softmax over gated slots and the last `window` tokens (arXiv 2510.07019).

    Args:
        q: queries [B, T, HQ, K]; fp16, bf16, fp32 or fp64. Arithmetic is in fp32, or fp64 where the inputs are. Inside
            torch.autocast all but g and slot_bias are cast to its dtype first.
        k: keys [B, T, H, K], HQ a multiple of H: the query heads of one group share k, v and slots.
        v: values [B, T, H, V].
        g: log decays [B, T, H, M], <= 0, any floating dtype, M from 1 to 256.
        window: tokens attended to as they are, the current one included; 0 is gated slot attention; None is causal softmax
            attention over everything, without slots.
        rotary: (cos, sin), each [T, K/2] (or [B, T, K/2] where sequences stand at unlike positions), rotate-half; turns q
            and k for the window only. Going on from a state it covers the new tokens alone.
        slot_q: what the slots meet instead of q, same shape as q.
        slot_k: what the slots store instead of k, same shape as k.
        slot_bias: [HQ], added to the slots' logits.
        slot_delay: steps after which a token enters the slots; None: `window`; 0: at once, so that slots and window overlap.
        scale: of both parts' logits; None: K ** -0.5.
        empty_slots: "mask": slots take no part until a token has entered them; "sink": they score 0 with value 0.
        cu_seqlens: [N + 1] int32, bounds of packed sequences; then B == 1.
        state: where an earlier call with the same window and slot_delay ended; [N, ...] with cu_seqlens.
        return_state: whether to return the state.
        return_lse: whether to return (lse_slots, lse_window), each [B, T, HQ], fp32 (fp64 where the inputs are), -inf where
            that part is empty.
        overwrite_state: the given state's tensors may be written over, and the returned state may share them, so that a decode
            step copies nothing. Where it does not help it is ignored; the returned state is right whatever.
        backend: "recurrent" (the definition), "chunked" (plain torch), "triton", or "auto".

    Returns:
        (out [B, T, HQ, V] in q's dtype, NHAState or None), and the pair of log-sum-exps third where asked for.

    Raises:
        ValueError: a wrong shape, dtype or device, a positive g (checked on the CPU alone), settings unlike the state's.
    """
    q, k, v, slot_q, slot_k = autocast(q, k, v, slot_q, slot_k)
    check_qkv(q, k, v)
    check_nha(q, k, v, g, slot_q, slot_k, slot_bias, empty_slots)
    check_count("window", window, "causal softmax attention over everything")
    check_count("slot_delay", slot_delay, "the window")
    check_rotary(rotary, q)
    check_cu_seqlens(cu_seqlens, q)
    delay = (window or 0) if slot_delay is None else slot_delay
    check_state(state, q, v, g.shape[-1], k.shape[2], window, delay, cu_seqlens, rotary)
    chosen = resolve_backend(backend, q.device, q.dtype)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)

    settings = {
        "window": window,
        "delay": delay,
        "rotary": rotary,
        "slot_q": slot_q,
        "slot_k": slot_k,
        "slot_bias": slot_bias,
        "scale": scale,
        "empty_slots": empty_slots,
        "cu_seqlens": cu_seqlens,
        "state": state,
    }
    wanted = {"return_state": return_state, "return_lse": return_lse, "overwrite_state": overwrite_state}
    out, after, lse = run(chosen, q, k, v, g, settings, **wanted)
    return (out, after, lse) if return_lse else (out, after)


def run(chosen: str, q, k, v, g, settings: dict, *, return_state: bool, return_lse: bool, overwrite_state: bool):
    """(out, NHAState or None, log-sum-exps or None) by the backend `chosen`, of arguments that were checked; M may be 0."""
    if chosen == "recurrent":
        out, after, lse = recurrent(q, k, v, g, **settings)
        after = after if return_state else None
    elif not (return_state or return_lse) and _is_softmax(settings, q.shape[1]):
        out, after, lse = causal_softmax(q, k, v, settings["rotary"], settings["scale"]), None, None
    elif chosen == "triton" and _is_decode(q, k, v, g, settings):
        from kernels.nha.triton.decode import decode_nha

        out, after, lse = decode_nha(q, k, v, g, **settings, overwrite_state=overwrite_state, with_lse=return_lse)
        after = after if return_state else None
    else:
        if chosen == "triton":
            from kernels.nha.triton.op import triton_nha as operator
        else:
            operator = partial(chunked, overwrite_state=overwrite_state)
        out, make_state, lse = operator(q, k, v, g, **settings, with_lse=return_lse)
        after = make_state() if return_state else None
    return out, after, lse


def autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors in the dtype of the autocast region that the call stands in, as torch's own attention takes them."""
    device = tensors[0].device.type if isinstance(tensors[0], Tensor) else "cpu"
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(x.to(dtype) if isinstance(x, Tensor) and _is_cast(x) else x for x in tensors)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """That of the autocast region that the call stands in; None outside of one, and for what autocast leaves alone."""
    device = x.device.type
    # A tensor without values lies on a device that knows no autocast.
    inside = _is_cast(x) and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if inside else None


def _is_cast(x: Tensor) -> bool:
    return x.is_floating_point() and x.dtype != torch.float64


def _is_softmax(settings: dict, time: int) -> bool:
    """Whether the call is plain causal softmax attention: every token in the window, and none in the slots."""
    if settings["cu_seqlens"] is not None or settings["state"] is not None:
        return False
    window = settings["window"]
    return window is None or (window >= time and settings["delay"] >= time and settings["empty_slots"] == "mask")


def _is_decode(q: Tensor, k: Tensor, v: Tensor, g: Tensor, settings: dict) -> bool:
    """Whether the decode kernel takes the call: a few tokens from a state, and no gradient wanted."""
    from kernels.nha.triton.decode import takes

    if not takes(q.shape[1], settings):
        return False
    state = settings["state"]
    inputs = (q, k, v, g, settings["slot_q"], settings["slot_k"], settings["slot_bias"], *state.tensors().values())
    return not torch.is_grad_enabled() or not any(x is not None and x.requires_grad for x in inputs)


def causal_softmax(q: Tensor, k: Tensor, v: Tensor, rotary, scale: float) -> Tensor:
    """Causal softmax attention by torch's own kernel; shapes as in `nha_attention`."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if rotary is not None:
        cos, sin = (x.to(torch.promote_types(q.dtype, torch.float32)) for x in rotary)
        cos, sin = (x if x.dim() == 2 else x[:, None] for x in (cos, sin))
        q, k = turn(q, cos, sin).to(q.dtype), turn(k, cos, sin).to(k.dtype)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return out.transpose(1, 2)
