"""What the operators with a matrix for a state share: backend, checks, sequences as rows, chunks, and the scan over them.

Legend: B batch, N sequences, T time, H heads, K key dim, V value dim, C chunks, c tokens a chunk (64 at most).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.nha.checks import check_tensor
from kernels.packing import Packing
from kernels.standing import standing

BACKENDS = ("recurrent", "chunked", "fla", "auto")
HAS_FLA = importlib.util.find_spec("fla") is not None
CHUNK = 64
# Up to so many tokens, where no gradient is wanted, fla's kernels that step token by token are the faster ones.
FLA_STEPS = 64


def resolve_backend(backend: str, device: torch.device, dtype: torch.dtype = torch.float32, unfit: str | None = None) -> str:
    """The backend that a call takes. ValueError where the one asked for cannot be had.

    `unfit` says what else keeps fla's kernels from taking the call, as the rest of a sentence that they begin.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; wanted one of {', '.join(map(repr, BACKENDS))}")
    backend = standing(backend)
    if backend not in ("fla", "auto"):
        return backend
    why = unfit
    if device.type != "cuda":
        why = f"wants tensors on a GPU; q is on {device}"
    elif not HAS_FLA:
        why = "wants the package flash-linear-attention, which is not installed: pip install .[gpu]"
    elif dtype == torch.float64:
        why = "takes fp16, bf16 and fp32; q has dtype torch.float64"
    if why is None:
        return "fla"
    if backend == "fla":
        raise ValueError(f"backend 'fla' {why}; 'chunked' takes the call")
    return "chunked"


def exact(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic and of the state for inputs of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_same_heads(q: Tensor, k: Tensor) -> None:
    if q.shape[2] != k.shape[2]:
        raise ValueError(f"k has shape {list(k.shape)}; wanted {list(q.shape)}, with as many heads as q")


def check_decay(g: Tensor, shape: tuple[int, ...], q: Tensor) -> None:
    """g of `shape`, <= 0; the sign is checked on the CPU alone, as `nha_attention` does."""
    check_tensor("g", g, shape, q)
    if g.device.type == "cpu" and not torch.compiler.is_compiling() and bool((g.detach() > 0).any()):
        raise ValueError(f"g has a positive value (largest {g.max().item():.3g}); wanted log decays, all <= 0")


def check_state(state: Tensor | None, q: Tensor, v: Tensor, cu_seqlens: Tensor | None) -> None:
    """[N, H, K, V], H the heads of v, in the dtype of the arithmetic."""
    if state is None:
        return
    sequences = q.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    check_tensor("state", state, (sequences, v.shape[2], q.shape[-1], v.shape[-1]), q)
    if state.dtype != exact(q.dtype):
        raise ValueError(f"state has dtype {state.dtype}; wanted {exact(q.dtype)} where q has {q.dtype}")


def in_rows(form: Callable, tensors: dict[str, Tensor], cu_seqlens: Tensor | None, state: Tensor | None):
    """`form` on sequences as rows: [B, T, H, ...] or packed -> [N, H, T, ...] in exact arithmetic, and its output back.

    A row's right padding is zeros: such a token neither decays the state nor writes to it.
    """
    q, v = tensors["q"], tensors["v"]
    packing = None if cu_seqlens is None else Packing(cu_seqlens)
    rows = {name: (packing.rows(x) if packing else x).to(exact(q.dtype)).transpose(1, 2) for name, x in tensors.items()}
    if state is None:
        state = rows["v"].new_zeros(rows["q"].shape[0], v.shape[2], q.shape[-1], v.shape[-1])
    # Autocast would round the products of fp32 tensors, which are exact here by promise.
    with torch.autocast(q.device.type, enabled=False):
        out, state = form(**rows, state=state)
    out = out.transpose(1, 2)
    return (packing.pack(out) if packing else out).to(q.dtype), state


def in_chunks(*tensors: Tensor) -> list[Tensor]:
    """Each [N, H, T, ...] -> [N, H, C, c, ...], c a power of two up to CHUNK, zeros after the end."""
    time = tensors[0].shape[2]
    size = min(CHUNK, 1 << (time - 1).bit_length())
    pad = -time % size
    return [F.pad(x, (0, 0) * (x.dim() - 3) + (0, pad)).unflatten(2, (-1, size)) for x in tensors]


def to_end(g: Tensor) -> Tensor:
    """[..., c, K]: the sum of what follows each token, summed from the end so that nothing is subtracted."""
    return F.pad(g[..., 1:, :], (0, 0, 0, 1)).flip(-2).cumsum(-2).flip(-2)


def scan(fresh: Tensor, kept: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """State before each chunk [N, H, C, K, V] and after the last, from S <- kept S + fresh; fresh [N, H, C, K, V]."""
    starts = []
    for written, decay in zip(fresh.unbind(2), kept.unbind(2), strict=True):
        starts.append(state)
        state = torch.addcmul(written, decay, state)
    return torch.stack(starts, 2), state


def steps(*tensors: Tensor | None) -> bool:
    """Whether fla should step token by token: few tokens (q [B, T, H, K] comes first), and no gradient wanted."""
    gradient = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    return tensors[0].shape[1] <= FLA_STEPS and not gradient


def long(cu_seqlens: Tensor | None) -> Tensor | None:
    """cu_seqlens as fla's kernels want them."""
    return None if cu_seqlens is None else cu_seqlens.long()
