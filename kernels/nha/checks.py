"""Checks of `nha_attention`'s arguments: each error names the argument, what was given and what is wanted."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.nha.state import NHAState

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EMPTY_SLOTS = ("mask", "sink")


def check_tensor(name: str, x: object, shape: tuple[int | str, ...], like: Tensor, dtype: torch.dtype | None = None) -> None:
    # Ten of these stand before every decode step, so what a message would say is made where there is one.
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} is a {type(x).__name__}; wanted a tensor of shape {_shape(shape)}")
    if x.dim() != len(shape) or any(s != d for s, d in zip(shape, x.shape, strict=True) if not isinstance(s, str)):
        raise ValueError(f"{name} has shape {list(x.shape)}; wanted {_shape(shape)}")
    if x.device != like.device:
        raise ValueError(f"{name} is on {x.device}; wanted {like.device}, where q is")
    if dtype is not None and x.dtype != dtype:
        raise ValueError(f"{name} has dtype {x.dtype}; wanted {dtype}, that of q")
    if dtype is None and x.dtype not in FLOATS:
        raise ValueError(f"{name} has dtype {x.dtype}; wanted a floating dtype")


def _shape(shape: tuple[int | str, ...]) -> str:
    return "[" + ", ".join(str(s) for s in shape) + "]"


def check_count(name: str, value: object, none_is: str) -> None:
    """A non-negative int, or None with the meaning `none_is`."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} is {value!r}; wanted an int >= 0, or None ({none_is})")


def check_qkv(q: Tensor, k: Tensor, v: Tensor) -> None:
    """q [B, T, HQ, K], k [B, T, H, K], v [B, T, H, V], one dtype and device, HQ a multiple of H."""
    if not isinstance(q, Tensor) or q.dim() != 4:
        given = list(q.shape) if isinstance(q, Tensor) else type(q).__name__
        raise ValueError(f"q has shape {given}; wanted [B, T, HQ, K]")
    if q.dtype not in FLOATS:
        raise ValueError(f"q has dtype {q.dtype}; wanted one of {', '.join(str(d) for d in FLOATS)}")
    batch, time, query_heads, key_dim = q.shape
    if 0 in q.shape:
        raise ValueError(f"q has shape {list(q.shape)}; wanted [B, T, HQ, K] with every dimension at least 1")
    check_tensor("k", k, (batch, time, "H", key_dim), q, q.dtype)
    heads = k.shape[2]
    if heads == 0 or query_heads % heads:
        raise ValueError(f"q has {query_heads} heads and k has {heads}; wanted q's heads to be a multiple of k's")
    check_tensor("v", v, (batch, time, heads, "V"), q, q.dtype)


def check_rotary(rotary: object, q: Tensor) -> None:
    """(cos, sin), each [T, K/2], or [B, T, K/2] where the sequences of a batch stand at unlike positions."""
    if rotary is None:
        return
    batch, time, _, key_dim = q.shape
    if key_dim % 2:
        raise ValueError(f"rotary is given and q has K = {key_dim}; wanted an even K")
    if not isinstance(rotary, tuple | list) or len(rotary) != 2:
        raise ValueError(f"rotary is a {type(rotary).__name__}; wanted a pair (cos, sin), each [T, K/2]")
    for name, x in zip(("rotary cos", "rotary sin"), rotary, strict=True):
        per_sequence = isinstance(x, Tensor) and x.dim() == 3
        check_tensor(name, x, (batch, time, key_dim // 2) if per_sequence else (time, key_dim // 2), q)
    if rotary[0].shape != rotary[1].shape:
        raise ValueError(f"rotary cos has shape {list(rotary[0].shape)} and sin {list(rotary[1].shape)}; wanted one shape")


def check_cu_seqlens(cu_seqlens: Tensor | None, q: Tensor) -> None:
    """[N + 1] int32 (or int64) from 0 to T without a step back; B == 1. Values are checked on the CPU only."""
    if cu_seqlens is None:
        return
    if not isinstance(cu_seqlens, Tensor) or cu_seqlens.dim() != 1 or len(cu_seqlens) < 2:
        given = list(cu_seqlens.shape) if isinstance(cu_seqlens, Tensor) else type(cu_seqlens).__name__
        raise ValueError(f"cu_seqlens has shape {given}; wanted [N + 1] with N >= 1")
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"cu_seqlens has dtype {cu_seqlens.dtype}; wanted torch.int32")
    if q.shape[0] != 1:
        raise ValueError(f"cu_seqlens is given and q has B = {q.shape[0]}; wanted packed sequences with B = 1")
    if cu_seqlens.device.type == "cpu":
        steps = cu_seqlens.diff()
        if cu_seqlens[0] != 0 or cu_seqlens[-1] != q.shape[1] or (steps < 0).any():
            wanted = f"0 first, T = {q.shape[1]} last, none smaller than before"
            raise ValueError(f"cu_seqlens is {cu_seqlens.tolist()}; wanted {wanted}")


def check_state(
    state: NHAState | None,
    q: Tensor,
    v: Tensor,
    slots: int,
    heads: int,
    window: int | None,
    delay: int,
    cu_seqlens: Tensor | None,
    rotary: object,
) -> None:
    """The state fits the call: sequences, heads, dimensions, window, delay and rotary."""
    if state is None:
        return
    if not isinstance(state, NHAState):
        raise ValueError(f"state is a {type(state).__name__}; wanted the NHAState that an earlier call returned")
    sequences = q.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    check_tensor("state.slot_k", state.slot_k, (sequences, heads, slots, q.shape[-1]), q)
    check_tensor("state.slot_v", state.slot_v, (sequences, heads, slots, v.shape[-1]), q)
    ring = state.ring_size
    for name, dim in (("k", q.shape[-1]), ("v", v.shape[-1]), ("g", slots), ("raw_k", q.shape[-1])):
        if getattr(state, name) is not None:
            check_tensor(f"state.{name}", getattr(state, name), (sequences, heads, ring, dim), q)
    for name in ("cos", "sin"):
        if getattr(state, name) is not None:
            check_tensor(f"state.{name}", getattr(state, name), (sequences, ring, q.shape[-1] // 2), q)
    if state.seen.dtype != torch.int64 or state.seen.shape != (sequences,) or state.seen.device != q.device:
        given = f"{state.seen.dtype} {list(state.seen.shape)} on {state.seen.device}"
        raise ValueError(f"state.seen is {given}; wanted torch.int64 [{sequences}] on {q.device}")
    if (state.window, state.delay) != (window, delay):
        raise ValueError(
            f"state was made with window {state.window} and slot_delay {state.delay}; window {window} and slot_delay {delay} "
            "were given; wanted the same (prefill again to change them)"
        )
    if (state.cos is None) != (rotary is None) and state.ring_size:
        had, has = ("without", "with") if state.cos is None else ("with", "without")
        raise ValueError(f"state was made {had} rotary and the call is {has} it; wanted the same")


def check_nha(q, k, v, g, slot_q, slot_k, slot_bias, empty_slots) -> None:
    """What `nha_attention` takes beyond q, k and v."""
    batch, time, query_heads, key_dim = q.shape
    heads = k.shape[2]
    check_tensor("g", g, (batch, time, heads, "M"), q)
    if not 1 <= g.shape[-1] <= 256:
        raise ValueError(f"g has shape {list(g.shape)}; wanted [{batch}, {time}, {heads}, M] with M from 1 to 256")
    if slot_q is not None:
        check_tensor("slot_q", slot_q, (batch, time, query_heads, key_dim), q, q.dtype)
    if slot_k is not None:
        check_tensor("slot_k", slot_k, (batch, time, heads, key_dim), q, q.dtype)
    if slot_bias is not None:
        check_tensor("slot_bias", slot_bias, (query_heads,), q)
    if empty_slots not in EMPTY_SLOTS:
        raise ValueError(f"empty_slots is {empty_slots!r}; wanted one of {', '.join(map(repr, EMPTY_SLOTS))}")
    # A reduction with a read-back would make a GPU wait at every layer, so the sign is checked on the CPU alone; and it would
    # break a compiled graph in two.
    if g.device.type == "cpu" and not torch.compiler.is_compiling() and bool((g.detach() > 0).any()):
        raise ValueError(f"g has a positive value (largest {g.max().item():.3g}); wanted log decays, all <= 0")
