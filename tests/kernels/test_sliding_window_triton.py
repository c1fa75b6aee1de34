"""A sliding window alone on the Triton backend, whose kernels then have no slots: against the definition in fp64, from prompts
to several tokens at once; interpreted without a GPU, in processes of their own, as in `interpreting`.
"""

import importlib.util
from dataclasses import dataclass

import pytest
import torch
from nha_cases import relative_error

from kernels import sliding_window_attention

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")


@dataclass(frozen=True)
class Walk:
    """A sequence in pieces; `keep` tokens are held by the state."""

    pieces: tuple[int, ...]
    window: int
    group: int = 2
    keep: int | None = None
    rotary: bool = True
    packed: bool = False
    dims: tuple[int, int] = (16, 24)
    heads: int = 1

    def __str__(self):
        pieces = ".".join(map(str, self.pieces))
        return f"T{pieces}-w{self.window}-G{self.group}-k{self.keep}-r{self.rotary:d}-p{self.packed:d}-{self.dims}"


def walk(case: Walk, backend: str, dtype: torch.dtype, device="cpu", base=None, grad=True) -> dict:
    """Outputs, the last state, and gradients of a loss on all outputs; inputs rounded to `base` first."""
    gen = torch.Generator().manual_seed(0)
    time, (key_dim, value_dim) = sum(case.pieces), case.dims
    randn = lambda *shape: torch.randn(*shape, generator=gen).to(base or dtype).to(device, dtype)  # noqa: E731
    q = randn(1, time, case.heads * case.group, key_dim)
    k, v = randn(1, time, case.heads, key_dim), randn(1, time, case.heads, value_dim)
    angles = torch.rand(time, key_dim // 2, generator=gen).double().to(device) * 6
    turns = (angles.cos().to(base or dtype).to(dtype), angles.sin().to(base or dtype).to(dtype))
    leaves = [x.requires_grad_(grad) for x in (q, k, v)]
    found, state, start = {}, None, 0
    for i, size in enumerate(case.pieces):
        piece = slice(start, start + size)
        bounds = torch.tensor([0, size // 3, size], dtype=torch.int32, device=device) if case.packed else None
        out, state = sliding_window_attention(
            *(x[:, piece] for x in leaves),
            case.window,
            rotary=tuple(x[piece] for x in turns) if case.rotary else None,
            cu_seqlens=bounds,
            state=state,
            return_state=True,
            keep=case.keep,
            backend=backend,
        )
        found[f"out{i}"], start = out, start + size
    # A decode step brings the ring to its full size before its time.
    state = state.grown(max(case.window, case.keep or 0))
    found |= {f"state.{name}": x for name, x in state.tensors().items() if name in ("k", "v", "seen")}
    if grad:
        sum(x.square().sum() for name, x in found.items() if name.startswith("out")).backward()
        found |= {f"d{name}": x.grad for name, x in zip("qkv", leaves, strict=True)}
    return {name: x.detach() for name, x in found.items()}


def errors(case: Walk, dtype=torch.float32, device="cpu", grad=True) -> dict[str, float]:
    # Decoding takes the kernel of its own only where no gradient is wanted.
    with torch.set_grad_enabled(grad):
        found = walk(case, "triton", dtype, device, grad=grad)
        wanted = walk(case, "recurrent" if device == "cpu" else "chunked", torch.float64, device, base=dtype, grad=grad)
    return {name: relative_error(found[name], wanted[name]) for name in wanted}


def decoding(case: Walk) -> dict[str, float]:
    return errors(case, grad=False)


WHOLE = [
    Walk((40,), 7),
    Walk((40,), 40, rotary=False),
    Walk((33, 20), 5, keep=9),
    Walk((36, 24), 6, packed=True, group=1),
    Walk((20,), 300, group=3),
]
STEPS = [
    Walk((12, 1, 1, 1, 2, 3), 5),
    Walk((6, 1, 1, 8, 1), 80, group=4, rotary=False),
    Walk((9, 2, 1), 4, keep=7, dims=(24, 16), heads=2),
]


@pytest.mark.parametrize("interpreted", [(errors, case) for case in WHOLE], ids=lambda job: str(job[1]))
def test_interpreted_equals_the_definition(interpreted, answers):
    found = answers[interpreted].result()
    wrong = {name: e for name, e in found.items() if not e <= (1e-4 if name.startswith("d") else 1e-5)}
    assert not wrong, wrong


@pytest.mark.parametrize("interpreted", [(decoding, case) for case in STEPS], ids=lambda job: str(job[1]))
def test_interpreted_decoding_equals_the_definition(interpreted, answers):
    wrong = {name: e for name, e in answers[interpreted].result().items() if not e <= 1e-5}
    assert not wrong, wrong


REAL = [
    Walk((1000,), 64, group=4, dims=(128, 128), heads=8),
    Walk((700, 300), 1024, group=1, dims=(64, 64), heads=16),
    Walk((999,), 300, group=2, dims=(128, 128), heads=4, packed=True),
]
BOUNDS = {torch.bfloat16: (4e-3, 1.5e-2), torch.float16: (1e-3, 4e-3), torch.float32: (1e-5, 1e-4)}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", BOUNDS, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("case", REAL, ids=str)
def test_on_a_gpu(case, dtype):
    forward, backward = BOUNDS[dtype]
    found = errors(case, dtype, "cuda")
    wrong = {name: e for name, e in found.items() if not e <= (backward if name.startswith("d") else forward)}
    assert not wrong, wrong


@pytest.mark.gpu
@pytest.mark.parametrize("case", [Walk((100, *[1] * 30, 4, 2), 64, group=4, dims=(128, 128), heads=8)], ids=str)
def test_decoding_on_a_gpu(case):
    wrong = {name: e for name, e in errors(case, torch.bfloat16, "cuda", grad=False).items() if not e <= 5e-3}
    assert not wrong, wrong
