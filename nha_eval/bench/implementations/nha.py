"""Native Hybrid Attention: `kernels.nha_attention`, checked against another of its backends in fp32."""

from __future__ import annotations

from itertools import accumulate

from nha_eval.bench import counts
from nha_eval.bench.implementations import Call, Step

WINDOWS = "sliding"
PHASES = ("forward", "forward+backward", "forward packed", "forward+backward packed", "decode")
COUNT = counts.nha
COMPILES = "once"


def refusal(device, dtype, case) -> str | None:
    return None


def _backends(draw) -> tuple[str, str]:
    """The backend that a call takes, and the one that defines what is right."""
    from kernels.nha.op import resolve_backend

    chosen = resolve_backend("auto", draw.device, draw.dtype)
    return chosen, "recurrent" if chosen == "chunked" else "chunked"


def _inputs(shape, batch: int, time: int, draw) -> dict:
    return {
        "q": draw.normal(batch, time, shape.query_heads, shape.key_dim),
        "k": draw.normal(batch, time, shape.kv_heads, shape.key_dim),
        "v": draw.normal(batch, time, shape.kv_heads, shape.value_dim),
        "g": draw.log_decay(batch, time, shape.kv_heads, shape.slots, over=8),
    }


def forward(case, draw) -> Call:
    import torch

    from kernels import nha_attention

    backend, other = _backends(draw)
    batch, time = (1, sum(case.sequences)) if case.packed else (case.batch, case.length)
    bounds, note = None, f"g in {draw.dtype_name}"
    if case.packed:
        bounds = torch.tensor([0, *accumulate(case.sequences)], dtype=torch.int32, device=draw.device)
        shortest, longest = min(case.sequences), max(case.sequences)
        note += f"; {len(case.sequences)} sequences of {shortest:,} to {longest:,} tokens by cu_seqlens"

    def run(q, k, v, g, backend="auto"):
        return nha_attention(q, k, v, g, case.window, cu_seqlens=bounds, backend=backend)[0]

    def define(q, k, v, g):
        return run(q, k, v, g, backend=other)

    return Call(_inputs(case.shape, batch, time, draw), run, define, backend, note)


def decode(case, draw) -> Step:
    import torch

    from kernels import nha_attention

    backend, other = _backends(draw)
    filled = case.window + 2 * case.shape.slots
    everything = _inputs(case.shape, case.batch, filled + 1, draw)
    before = {name: x[:, :filled] for name, x in everything.items()}
    _, state = nha_attention(**before, window=case.window, return_state=True)
    own = torch.arange(case.batch, device=draw.device)

    def run(state, q, k, v, g):
        return nha_attention(q, k, v, g, case.window, state=state, return_state=True, overwrite_state=True)[0]

    def define():
        exact = {name: x.float() for name, x in everything.items()}
        return nha_attention(**exact, window=case.window, backend=other)[0][:, -1:]

    return Step(
        {name: x[:, filled:].contiguous() for name, x in everything.items()},
        lambda: state.index_select(own),
        run,
        define,
        state.nbytes(),
        backend,
        f"g in {draw.dtype_name}; state in place, from a prefill of {filled} tokens: it is as large at any context",
    )
