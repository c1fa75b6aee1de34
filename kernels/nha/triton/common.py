"""What the Triton passes share: rotary tiles, the decays inside a chunk, and the three products through them.

Legend: C tokens of a chunk, GB query heads that one program takes together, R = C * GB rows (row r is token r // GB, head
r % GB), M slots, MB slots of a block, K, V head dimensions, KP, VP these padded.

Within a chunk, what token j wrote into slot m weighs u_j[m] exp(g_{j+1} + ... + g_i)[m] at token i, u = 1 - exp(g). With
s_j = g_{j+1} + ... up to the chunk's end this splits into F_i = exp(-s_i) and W_j = u_j exp(s_j), so that sums over j or m are
matrix products. W is also what the state at the chunk's end takes from token j, and exp(total) S what it keeps of the state at
the chunk's start, so that all parts share one reference. s is a sum of terms of one sign, never a difference of two long sums,
and a product with a matrix of 0 and 1, exact in bf16 pieces.

Where a chunk decays by more than LIMIT the split would overflow. `walk` flags such chunks; the fast kernels leave them, or what
they make of them, to the EXACT ones, which take those alone, their pairs one column at a time
with exponents that are <= 0: right for any gate, and slower. Two kernels, because one that could do both would keep the
registers of both.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def log2e():
    """log2 of e. Not a global, which Triton would compare with its value of before at every launch."""
    return 1.4426950408889634


@triton.jit
def met(most, total, z, keep):
    """(largest, sum of exp2(z - largest)) a lane, and what the sum before is to be multiplied by."""
    larger = tl.where(keep, tl.maximum(most, z), most)
    shrink = tl.exp2(most - larger)
    return larger, total * shrink + tl.where(keep, tl.exp2(z - larger), 0.0), shrink


@triton.jit
def columns(D: tl.constexpr, DP: tl.constexpr):
    """Column numbers of a tile DP wide for D columns, and which exist. Both halves are padded alike, for the rotary turn."""
    i = tl.arange(0, DP)
    if D == DP:
        col = i
        ok = i < D
    else:
        half: tl.constexpr = (D + 1) // 2
        col = (i // (DP // 2)) * half + i % (DP // 2)
        ok = (i % (DP // 2) < half) & (col < D)
    return col, ok


@triton.jit
def segment_at(table, segment):
    """Row `segment` of a plan's table of segments: (sequence, its chunks' first token, the sequence's first row and length,
    first chunk, chunks, the segment's number)."""
    at = table + segment * 7
    chunk, number = tl.load(at + 4).to(tl.int64), tl.load(at + 6).to(tl.int64)
    return tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3), chunk, tl.load(at + 5), number


@triton.jit
def turned(x, rows, mask, cos, sin, angles, K: tl.constexpr, KP: tl.constexpr, TURN: tl.constexpr):
    """Tile [rows, KP] of x, turned by the angles at rows `angles` if TURN; `rows` are element offsets."""
    col, ok = columns(K, KP)
    return turned_columns(x, rows, mask, col, ok, cos, sin, angles, K, TURN)


@triton.jit
def turned_columns(x, rows, mask, col, ok, cos, sin, angles, K: tl.constexpr, TURN: tl.constexpr):
    """`turned` with columns in an order of the caller's: their numbers `col`, and which exist."""
    keep = mask[:, None] & ok[None, :]
    tile = tl.load(x + rows[:, None] + col[None, :], mask=keep, other=0.0)
    if TURN:
        half: tl.constexpr = K // 2
        first = col < half
        other = tl.load(x + rows[:, None] + tl.where(first, col + half, col - half)[None, :], mask=keep, other=0.0)
        at = angles[:, None] * half + tl.where(first, col, col - half)[None, :]
        c = tl.load(cos + at, mask=keep, other=0.0).to(tl.float32)
        s = tl.load(sin + at, mask=keep, other=0.0).to(tl.float32)
        s = tl.where(first[None, :], -s, s)
        tile = (tile.to(tl.float32) * c + other.to(tl.float32) * s).to(tile.dtype)
    return tile


@triton.jit
def turned_back(x, mask, cos, sin, angles, K: tl.constexpr, KP: tl.constexpr, ROWS: tl.constexpr):
    """The gradient of `turned`: fp32 tile x [ROWS, KP] by the transposed turn."""
    half: tl.constexpr = K // 2
    i = tl.arange(0, KP // 2)
    keep = mask[:, None] & (i < half)[None, :]
    at = angles[:, None] * half + i[None, :]
    c = tl.load(cos + at, mask=keep, other=0.0).to(tl.float32)
    s = tl.load(sin + at, mask=keep, other=0.0).to(tl.float32)
    x1, x2 = tl.split(tl.permute(tl.reshape(x, [ROWS, 2, KP // 2]), (0, 2, 1)))
    back = tl.join(x1 * c + x2 * s, x2 * c - x1 * s)
    return tl.reshape(tl.permute(back, (0, 2, 1)), [ROWS, KP])


@triton.jit
def written(g, PIECES: tl.constexpr):
    """1 - exp(g) for g <= 0, without the cancellation near 0; to 1e-4 where it is rounded to half precision afterwards."""
    if PIECES == 0:
        series = 1.0 + g * (0.5 + g * (1 / 6 + g * (1 / 24 + g * (1 / 120 + g * (1 / 720 + g * (1 / 5040))))))
        u = tl.where(g > -0.35, -g * series, 1.0 - tl.exp2(g * log2e()))
    else:
        u = tl.where(g > -0.002, -g * (1.0 + 0.5 * g), 1.0 - tl.exp2(g * log2e()))
    return u


@triton.jit
def gates(g, at, keep):
    """Log decays [C, MB] in fp32, 0 where there is no token."""
    # exp of either is 0, but -inf would turn a product with 0 into NaN.
    return tl.maximum(tl.load(g + at, mask=keep, other=0.0).to(tl.float32), -1e30)


@triton.jit
def exact_sum(signs, x, PIECES: tl.constexpr):
    """signs [C, C] of 0, 1, -1 times x [C, MB] to about fp32's precision: x in bf16 PIECES, or (0) in fp32 throughout."""
    if PIECES == 0:
        y = tl.dot(signs, x, input_precision="ieee")
    else:
        signs = signs.to(tl.bfloat16)
        piece = x.to(tl.bfloat16)
        y = tl.dot(signs, piece)
        for _ in tl.static_range(PIECES - 1):
            x = x - piece.to(tl.float32)
            piece = x.to(tl.bfloat16)
            y = tl.dot(signs, piece, y)
    return y


@triton.jit
def suffix_decays(here, C: tl.constexpr, PIECES: tl.constexpr):
    """exp of the log decays after each token of the chunk, to its end: [C, MB]."""
    i = tl.arange(0, C)
    return tl.exp2(exact_sum((i[None, :] > i[:, None]).to(tl.float32), here, PIECES) * log2e())


@triton.jit
def split_decays(here, C: tl.constexpr, EXACT: tl.constexpr, PIECES: tl.constexpr):
    """(F, E), each [C, MB], of the chunk's log decays: F_i E_j is the decay from token j to i, and F_i alone that from where
    the chunk's stored state stands to i.

    A stored state stands at the chunk's end, decayed as if nothing had been written since its start; if EXACT at its start,
    and E is not to be used.
    """
    i = tl.arange(0, C)
    to, on = i[:, None], i[None, :]
    if EXACT:
        F = tl.exp2(exact_sum((on <= to).to(tl.float32), here, PIECES) * log2e())
        E = tl.zeros_like(F)
    else:
        left = exact_sum((on > to).to(tl.float32), here, PIECES) * log2e()
        F, E = tl.exp2(-left), tl.exp2(left)
    return F, E


@triton.jit
def is_flagged(flags, chunk, h, H: tl.constexpr, M: tl.constexpr, MB: tl.constexpr):
    """Whether the split would overflow in the chunk, in any block of slots."""
    count: tl.constexpr = (M + MB - 1) // MB
    block = tl.arange(0, 16)
    return tl.max(tl.load(flags + (chunk * H + h) * count + block, mask=block < count, other=0), 0) != 0


@triton.jit
def rows_of(x, C: tl.constexpr, GB: tl.constexpr, MB: tl.constexpr):
    """[C, MB] -> [C * GB, MB], every token's row for each of its heads."""
    if GB == 1:
        y = x
    else:
        y = tl.reshape(tl.broadcast_to(x[:, None, :], [C, GB, MB]), [C * GB, MB])
    return y


@triton.jit
def by_token(x, factor, C: tl.constexpr, GB: tl.constexpr, MB: tl.constexpr):
    """x [C * GB, MB] times factor [C, MB], the same for all heads of a token."""
    if GB == 1:
        y = x * factor
    else:
        y = tl.reshape(tl.reshape(x, [C, GB, MB]) * factor[:, None, :], [C * GB, MB])
    return y


@triton.jit
def sum_heads(x, C: tl.constexpr, GB: tl.constexpr, MB: tl.constexpr):
    """[C * GB, MB] -> [C, MB], summed over the heads of a token."""
    if GB == 1:
        y = x
    else:
        y = tl.sum(tl.reshape(x, [C, GB, MB]), 1)
    return y


@triton.jit
def sum_tokens(x, C: tl.constexpr, GB: tl.constexpr):
    """[C * GB] -> [GB]."""
    return tl.sum(tl.reshape(x, [C, GB]), 0)


@triton.jit
def _step_back(reach, here, i, j):
    """From exponents reach_i = g_{j+2} + ... + g_i to those of one column earlier."""
    step = tl.sum(tl.where((i == j + 1)[:, None], here, 0.0), 0) * log2e()
    return tl.where((i > j)[:, None], reach + step[None, :], reach)


@triton.jit
def mix(
    far, a, F, W, u, here,
    C: tl.constexpr, GB: tl.constexpr, MB: tl.constexpr, WD: tl.constexpr, PREC: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """[R, MB]: far [R, MB], which stands where the state does, decayed to the row's token, plus the sum over tokens j of
    a[row, j] (0 where j is later than the row's token) times what j's write weighs there."""
    if EXACT:
        i = tl.arange(0, C)
        y = by_token(far, F, C, GB, MB)
        reach = tl.zeros([C, MB], tl.float32)
        for back in range(C):
            j = C - 1 - back
            reach = _step_back(reach, here, i, j)
            weight = tl.exp2(reach) * tl.sum(tl.where((i == j)[:, None], u, 0.0), 0)[None, :]
            y += tl.sum(tl.where((i == j)[None, :], a, 0.0), 1)[:, None] * rows_of(weight, C, GB, MB)
    else:
        y = by_token(tl.dot(a.to(WD), W, far, input_precision=PREC), F, C, GB, MB)
    return y


@triton.jit
def unmix(
    x, decayed, keep, W, u, here,
    C: tl.constexpr, GB: tl.constexpr, MB: tl.constexpr, PREC: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """[R, C]: the transpose of `mix` on tokens: where `keep`, the sum over slots of x [R, MB] times j's weight at the row's
    token; decayed: x by F."""
    if EXACT:
        i = tl.arange(0, C)
        y = tl.zeros([C * GB, C], tl.float32)
        reach = tl.zeros([C, MB], tl.float32)
        for back in range(C):
            j = C - 1 - back
            reach = _step_back(reach, here, i, j)
            weight = tl.exp2(reach) * tl.sum(tl.where((i == j)[:, None], u, 0.0), 0)[None, :]
            y = tl.where((i == j)[None, :], tl.sum(by_token(x, weight, C, GB, MB), 1)[:, None], y)
    else:
        y = tl.dot(decayed, tl.trans(W), input_precision=PREC)
    return tl.where(keep, y, 0.0)


@triton.jit
def gather(
    z, a, x, decayed, here,
    C: tl.constexpr, GB: tl.constexpr, MB: tl.constexpr, WD: tl.constexpr, PREC: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """z [C, MB] plus at token j the sum over rows of a[row, j] x[row], decayed from j to the row's token (by F alone, unless
    EXACT: E is still missing); decayed: x by F."""
    if EXACT:
        i = tl.arange(0, C)
        reach = tl.zeros([C, MB], tl.float32)
        for back in range(C):
            j = C - 1 - back
            reach = _step_back(reach, here, i, j)
            column = tl.sum(tl.where((i == j)[None, :], a, 0.0), 1)[:, None] * x
            z += tl.where((i == j)[:, None], tl.sum(by_token(column, tl.exp2(reach), C, GB, MB), 0)[None, :], 0.0)
    else:
        z = tl.dot(tl.trans(a.to(WD)), decayed, z, input_precision=PREC)
    return z
