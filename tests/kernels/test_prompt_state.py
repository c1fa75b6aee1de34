"""The state after prompts without gradients, which one kernel makes, against the definition's in fp64 and against the torch
operations that make it where gradients are wanted; interpreted without a GPU as in `interpreting`."""

import importlib.util
from dataclasses import dataclass

import pytest
import torch
from nha_cases import over, relative_error

from kernels import nha_attention, sliding_window_attention

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")


@dataclass(frozen=True)
class Prompt:
    """angles: none, of all rows alike, or of each; mapped: whether slots store other keys."""

    time: int
    window: int | None
    slots: int
    key_dim: int = 16
    value_dim: int = 16
    delay: int | None = None
    angles: str = "row"
    mapped: bool = False


PROMPTS = [
    Prompt(40, 16, 5),
    Prompt(33, 7, 40, key_dim=24, value_dim=80, angles="alike"),
    Prompt(21, 20, 17, angles="none", mapped=True),
    Prompt(9, 30, 3, key_dim=96, mapped=True, angles="alike"),
    Prompt(40, 0, 33, angles="none", value_dim=20),
    Prompt(19, 4, 16, delay=18),
    Prompt(17, None, 4),
    Prompt(50, 18, 0, key_dim=40),
    Prompt(1, 5, 2),
]


def states(prompt: Prompt, dtype: torch.dtype, device: str) -> list:
    """Of the kernel, of the operations it stands for, and of the definition."""
    gen = torch.Generator().manual_seed(0)
    rand = lambda heads, width: torch.randn(2, prompt.time, heads, width, generator=gen, dtype=torch.float64)  # noqa: E731
    x = {"q": rand(4, prompt.key_dim), "k": rand(2, prompt.key_dim), "v": rand(2, prompt.value_dim)}
    settings = {"return_state": True}
    if prompt.slots:
        x["g"] = -rand(2, prompt.slots).abs()
        settings["slot_delay"] = prompt.delay
    if prompt.mapped:
        x |= {"slot_q": rand(4, prompt.key_dim), "slot_k": rand(2, prompt.key_dim)}
    angles = torch.rand(2, prompt.time, prompt.key_dim // 2, generator=gen, dtype=torch.float64) * 6
    angles = angles[0] if prompt.angles == "alike" else angles
    x = {name: t.to(dtype) for name, t in x.items()}
    rotary = None if prompt.angles == "none" else tuple(t.to(dtype) for t in (angles.cos(), angles.sin()))
    attend = nha_attention if prompt.slots else sliding_window_attention
    found = []
    for backend, kind, gradient in (("triton", dtype, False), ("triton", dtype, True), ("recurrent", torch.float64, False)):
        place = {"device": device if backend == "triton" else "cpu", "dtype": kind}
        turns = None if rotary is None else tuple(t.to(**place) for t in rotary)
        given = [t.to(**place).detach().requires_grad_(gradient) for t in x.values()]
        with torch.set_grad_enabled(gradient):
            call = dict(zip(x, given, strict=True))
            found.append(attend(**call, window=prompt.window, rotary=turns, backend=backend, **settings)[1])
    return found


def differences(prompt: Prompt, dtype: torch.dtype = torch.float32, device: str = "cpu") -> dict[str, float]:
    one, torchs, wanted = states(prompt, dtype, device)
    assert one.tensors().keys() == torchs.tensors().keys() == wanted.tensors().keys()
    for name, t in one.tensors().items():
        other = torchs.tensors()[name]
        assert (t.shape, t.dtype, t.device) == (other.shape, other.dtype, other.device) and t.is_contiguous(), name
    assert torch.equal(one.seen, torchs.seen)
    return {name: relative_error(t.detach().cpu(), wanted.tensors()[name]) for name, t in one.tensors().items()}


def checked() -> tuple:
    """What torch's own checks say of the operator."""

    k, v, g = (torch.randn(2, 9, 2, width) for width in (8, 4, 3))
    turns = tuple(torch.rand(9, 4) for _ in range(2))
    op = torch.ops.nha.prompt_state.default
    given = (k, v, g, torch.randn(2, 9, 2, 8), *turns, torch.randn(2, 2, 12, 3), 5), (k, v, g, None, None, None, None, 9)
    return [torch.library.opcheck(op, one) for one in given]


@pytest.mark.parametrize("interpreted", [(differences, prompt) for prompt in PROMPTS], ids=lambda x: str(x[1]))
def test_the_state_is_the_definitions(interpreted, answers):
    found = answers[interpreted].result()
    assert not over(found, 1e-5)


@pytest.mark.parametrize("interpreted", [(checked,)], ids=["checked"])
def test_torchs_own_checks(interpreted, answers):
    for verdict in answers[interpreted].result():
        assert set(verdict.values()) == {"SUCCESS"}, verdict


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 1e-2)], ids=str)
@pytest.mark.parametrize("prompt", PROMPTS, ids=str)
def test_the_state_is_the_definitions_on_a_gpu(prompt, dtype, bound):
    found = differences(prompt, dtype, "cuda")
    assert not over(found, bound)
