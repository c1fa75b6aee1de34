"""The arithmetic and the traffic that an operator needs, whatever an implementation really does.

One multiply-add is 2 FLOPs; exponentials and other work of order K + V a token are left out. Bytes are those of inputs and
outputs, each moved once. Legend: B sequences of T tokens, HQ query heads, H key-value heads, K, V head dimensions, M slots,
w window, N sequences of lengths T_n.

    softmax attention   2 (K + V) a pair of query and reached key: sum over t of min(t + 1, w), half of T^2 where it is full
    slots               2 (K + V) M a query that meets them (t >= w), and 2 (K + V) M a token that enters them (once a KV head)
    GLA                 4 K V a token and head: into the state, and out of it
    gated delta rule    6 K V a token and head: also what the state holds for the key, to be taken back

Forward and backward together: 2 (4 K + 3 V) a pair, 3.5 times the forward where K = V (the logits are made again, as
FlashAttention counts); 3 times the rest; inputs, outputs and their gradients are 3 times the forward's bytes.
Decode: one token; the state's own bytes, read, and written where the step changes them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nha_eval.bench.grid import Case

STATE_ITEMSIZE = 4  # slots and linear states are fp32


@dataclass(frozen=True)
class Cost:
    """What one call needs: floating-point operations, and bytes moved."""

    flops: float
    bytes: float

    def roofline_ms(self, tflops: float, gbps: float) -> float:
        """The least time in ms on a machine whose matrix products reach `tflops` TFLOP/s and whose copies `gbps` GB/s."""
        return 1e3 * max(self.flops / (tflops * 1e12), self.bytes / (gbps * 1e9))


def pairs(length: int, window: int | None) -> int:
    """Pairs of a query and a key it reaches, causal, over the last `window` tokens (None: all)."""
    reach = length if window is None else min(window, length)
    return reach * (reach + 1) // 2 + (length - reach) * reach


def _pass(case: Case, met: float, rest: float, moved: float) -> Cost:
    """A forward, or both passes: `met` pairs of a query and what it meets in a softmax, `rest` other FLOPs and `moved`
    bytes of the forward.
    """
    s = case.shape
    if case.backward:
        return Cost(2 * (4 * s.key_dim + 3 * s.value_dim) * met + 3 * rest, 3 * moved)
    return Cost(2 * (s.key_dim + s.value_dim) * met + rest, moved)


def nha(case: Case, itemsize: int) -> Cost:
    """Window and slots; window 0 is gated slot attention."""
    s, w = case.shape, case.window or 0
    width = s.key_dim + s.value_dim
    token = itemsize * (s.query_heads * width + s.kv_heads * (width + s.slots))
    if case.phase == "decode":
        flops = 2 * width * (s.query_heads * (w + s.slots) + s.kv_heads * s.slots)
        slots = 2 * STATE_ITEMSIZE * s.kv_heads * s.slots * width
        # Of the ring the window's keys and values and the entering token's gate are read, and one place is written.
        ring = itemsize * s.kv_heads * (w * width + s.slots + width + s.slots) if w else 0
        return Cost(case.batch * flops, case.batch * (token + slots + ring))
    beyond = sum(max(length - w, 0) for length in case.sequences)
    near = sum(pairs(length, w) for length in case.sequences)
    met = s.query_heads * (near + s.slots * beyond)
    return _pass(case, met, 2 * width * s.kv_heads * s.slots * beyond, sum(case.sequences) * token)


def gsa(case: Case, itemsize: int) -> Cost:
    """Gated slot attention."""
    return nha(replace(case, window=0), itemsize)


def softmax(case: Case, itemsize: int) -> Cost:
    """Causal softmax attention, over a window or everything."""
    s = case.shape
    width = s.key_dim + s.value_dim
    if case.phase == "decode":
        cache = itemsize * s.kv_heads * width * case.length
        return Cost(
            case.batch * 2 * width * s.query_heads * case.length, case.batch * (itemsize * s.query_heads * width + cache)
        )
    near = sum(pairs(length, case.window) for length in case.sequences)
    moved = sum(case.sequences) * itemsize * width * (s.query_heads + s.kv_heads)
    return _pass(case, s.query_heads * near, 0, moved)


def gla(case: Case, itemsize: int) -> Cost:
    """Gated linear attention, a head for each query head."""
    s, tokens = case.shape, sum(case.sequences)
    moved = tokens * itemsize * s.query_heads * (3 * s.key_dim + 2 * s.value_dim)
    return _pass(case, 0, 4 * s.key_dim * s.value_dim * s.query_heads * tokens, moved)


def gated_delta_rule(case: Case, itemsize: int) -> Cost:
    """Gated DeltaNet's recurrence, a head for each query head."""
    s, tokens = case.shape, sum(case.sequences)
    moved = tokens * itemsize * s.query_heads * (2 * s.key_dim + 2 * s.value_dim + 2)
    return _pass(case, 0, 6 * s.key_dim * s.value_dim * s.query_heads * tokens, moved)
