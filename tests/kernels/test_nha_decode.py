"""The decode kernel against the definition in fp64: a few tokens at a time from states of sequences of unlike length.

Outputs, log-sum-exps and every tensor of the state, through `nha_attention` as a model would call it. Without a GPU the kernel
runs under Triton's interpreter, in processes of their own, as in `interpreting`.
"""

import importlib.util
from dataclasses import dataclass, replace

import pytest
import torch
from allpairspy import AllPairs
from interpreting import poison
from nha_cases import relative_error

from kernels import nha_attention

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")


@dataclass(frozen=True)
class Walk:
    """Prompts of `before` tokens, one a sequence, and then `pieces` of tokens for all."""

    window: int = 4
    pieces: tuple[int, ...] = (1, 2)
    before: tuple[int, ...] = (3, 6)
    slots: int = 5
    group: int = 2
    slot_delay: int | None = None
    empty_slots: str = "mask"
    slot_bias: bool = False
    rotary: str | None = "shared"
    feature_map: bool = False
    strength: float = 1.0
    dims: tuple[int, int] = (16, 24)
    heads: int = 2
    overwrite: bool = True
    sharp: float = 1.0

    def __str__(self):
        parts = [f"w{self.window}", f"T{'.'.join(map(str, self.pieces))}", f"n{'.'.join(map(str, self.before))}"]
        parts += [f"M{self.slots}", f"G{self.group}", f"H{self.heads}", f"d{self.slot_delay}", self.empty_slots]
        parts += [name for name in ("slot_bias", "feature_map", "overwrite") if getattr(self, name)]
        parts += [f"r{self.rotary}", f"g{self.strength}", f"K{self.dims[0]}", f"V{self.dims[1]}"]
        return "-".join([*parts, f"x{self.sharp:g}"])

    def inputs(self) -> tuple[dict, tuple | None, dict]:
        """(tensors [N, all tokens, ...] in fp32's values, angles [N, all tokens, K/2] or None, settings), as fp64."""
        gen = torch.Generator().manual_seed(0)
        count, time, (key_dim, value_dim) = len(self.before), max(self.before) + sum(self.pieces), self.dims
        randn = lambda *shape: torch.randn(*shape, generator=gen).double()  # noqa: E731
        rand = lambda *shape: torch.rand(*shape, generator=gen).double()  # noqa: E731
        queries = self.heads * self.group
        x = {"q": self.sharp * randn(count, time, queries, key_dim), "k": randn(count, time, self.heads, key_dim)}
        x |= {"v": randn(count, time, self.heads, value_dim)}
        gate = rand(count, time, self.heads, self.slots) ** 4
        x["g"] = torch.where(gate > 0.6, -torch.inf, -gate) if self.strength == torch.inf else -gate * self.strength
        x = {name: t.float().double() for name, t in x.items()}
        if self.feature_map:
            x |= {"slot_q": randn(*x["q"].shape), "slot_k": randn(*x["k"].shape)}
        settings = {"window": self.window, "slot_delay": self.slot_delay, "empty_slots": self.empty_slots}
        if self.slot_bias:
            settings["slot_bias"] = randn(queries)
        angles = None
        if self.rotary:
            turns = 6 * rand(count if self.rotary == "each" else 1, time, key_dim // 2).expand(count, -1, -1)
            angles = (turns.cos().float().double(), turns.sin().float().double())
        return x, angles, settings


def copied(state):
    return replace(state, **{name: t.clone() for name, t in state.tensors().items()})


def walk(case: Walk, backend: str, dtype, device="cpu", prompt="recurrent", parts=True) -> tuple[dict, list]:
    """Outputs of the pieces in turn and the state in the end; and (state before, its copy, state after) of each piece."""
    to = lambda t: t.to(device, dtype)  # noqa: E731
    x, angles, settings = case.inputs()
    if "slot_bias" in settings:
        settings["slot_bias"] = to(settings["slot_bias"])
    packed = {name: to(torch.cat([t[n, :end] for n, end in enumerate(case.before)])[None]) for name, t in x.items()}
    ends = torch.tensor([0, *case.before], dtype=torch.int32).cumsum(0).to(device, torch.int32)
    if angles is not None:
        packed["rotary"] = tuple(to(torch.cat([t[n, :end] for n, end in enumerate(case.before)])) for t in angles)
    _, state = nha_attention(**packed, **settings, cu_seqlens=ends, return_state=True, backend=prompt)
    found, states, at = {}, [], max(case.before)
    for i, size in enumerate(case.pieces):
        piece = {name: to(t[:, at : at + size]) for name, t in x.items()}
        if angles is not None:
            turns = tuple(to(t[:, at : at + size]) for t in angles)
            piece["rotary"] = turns if case.rotary == "each" else tuple(t[0] for t in turns)
        before = (state, copied(state))
        out, state, *lse = nha_attention(
            **piece,
            **settings,
            state=state,
            return_state=True,
            return_lse=parts,
            overwrite_state=case.overwrite,
            backend=backend,
        )
        found[f"out{i}"] = out
        if parts:
            found[f"lse_slots{i}"], found[f"lse_window{i}"] = lse[0]
        states.append((*before, state))
        at += size
    # The definition's ring grows with its tokens; the kernel's has its full size from the first step on.
    if max(case.window, state.delay) <= 4096:
        state = state.grown(max(case.window, state.delay))
    return found | {f"state.{name}": t for name, t in state.tensors().items()}, states


@torch.no_grad()
def errors(case: Walk) -> dict[str, float]:
    wanted, _ = walk(case, "recurrent", torch.float64)
    found, states = walk(case, "triton", torch.float32)
    assert found.keys() == wanted.keys()
    for before, copy, after in states:
        shared = [after.tensors()[name].data_ptr() == t.data_ptr() for name, t in before.tensors().items() if t.numel()]
        if case.overwrite and before.ring_size == after.ring_size:
            assert all(shared)
        elif not case.overwrite:
            assert not any(shared)
            assert all(torch.equal(t, copy.tensors()[name]) for name, t in before.tensors().items())
    return {name: relative_error(found[name], wanted[name]) for name in wanted}


AXES = {
    "window": [4, 0, 1, 9, 40],
    "pieces": [(1, 1, 1, 1, 1), (2, 3, 1), (8, 1), (3, 8)],
    "before": [(3, 6), (1, 1), (2, 9)],
    "slots": [5, 1, 17],
    "group": [2, 1, 3],
    "slot_delay": [None, 0, 3, 6],
    "empty_slots": ["mask", "sink"],
    "slot_bias": [False, True],
    "rotary": ["shared", None, "each"],
    "feature_map": [False, True],
    "strength": [1.0, 0.1, 30.0, torch.inf],
    "dims": [(16, 24), (24, 16), (16, 16)],
    "heads": [2, 1],
    "overwrite": [True, False],
}
CASES = [Walk(**dict(zip(AXES, row, strict=True))) for row in AllPairs(list(AXES.values()))]
CASES += [
    Walk(slots=256, pieces=(1, 2), heads=1),
    Walk(slots=70, pieces=(5,), before=(3, 90), window=80, heads=1, group=4),
    Walk(pieces=(1, 1), before=(700,), window=600, heads=1, group=1),
    Walk(group=9, pieces=(1, 2), heads=1, slots=40),
    Walk(group=71, pieces=(1,), heads=1, slots=3),
    Walk(dims=(256, 64), pieces=(1, 2), heads=1, slots=9),
    Walk(dims=(96, 200), pieces=(2, 1), heads=1, slots=9, feature_map=True),
    Walk(pieces=(1, 1, 2), before=(4, 9), sharp=25.0, slots=16),
]


@pytest.mark.parametrize("interpreted", [(errors, case) for case in CASES], ids=lambda job: str(job[1]))
def test_interpreted_equals_the_definition(interpreted, answers):
    wrong = {name: e for name, e in answers[interpreted].result().items() if not e <= 1e-5}
    assert not wrong, f"over 1e-5: {wrong}"


def call(state, piece, window=4, **settings):
    return nha_attention(**piece, window=window, state=state, return_state=True, backend="triton", **settings)


def start(case: Walk):
    """(state after the prompts, a list of single tokens) in fp32."""
    x, angles, _ = case.inputs()
    time, least = x["q"].shape[1], max(case.before)
    tokens = []
    for t in range(time):
        tokens.append({name: value[:, t : t + 1].float() for name, value in x.items()})
        tokens[-1]["rotary"] = tuple(value[:, t : t + 1].float() for value in angles)
    state = None
    for token in tokens[:least]:
        state = nha_attention(**token, window=4, state=state, return_state=True, backend="chunked")[1]
    return state, tokens[least:]


def registered(case: Walk) -> dict:
    """What torch's own checks of the registered operator say, with and without the optional tensors."""
    from kernels.nha.triton import decode

    asked = []
    inner = decode.torch.ops.nha.decode.default

    class Listener(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            if op is inner:
                asked.append([x.clone() if isinstance(x, torch.Tensor) else x for x in args])
            return op(*args, **(kwargs or {}))

    with torch.no_grad():
        for some in (case, replace(case, feature_map=True, slot_bias=True)):
            with Listener():
                walk(some, "triton", torch.float32, parts=some.slot_bias)
    return [torch.library.opcheck(inner, args) for args in (asked[0], asked[-1])]


def compiled(case: Walk) -> dict[str, float]:
    """Of a compiled decode step against an eager one, over several tokens."""
    state, tokens = start(case)
    step = torch.compile(lambda s, piece: call(s, piece, overwrite_state=True), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        mine, yours = copied(state), copied(state)
        for token in tokens:
            (out, mine), (wanted, yours) = step(mine, token), call(yours, token)
            assert torch.equal(out, wanted)
    return {name: relative_error(mine.tensors()[name], t) for name, t in yours.tensors().items()}


def with_gradient(case: Walk) -> bool:
    """Whether a gradient comes back through a step that could have been the decode kernel's."""
    state, tokens = start(case)
    tokens[0]["q"].requires_grad_()
    out, _ = call(state, tokens[0], overwrite_state=True)
    out.sum().backward()
    return bool(tokens[0]["q"].grad.abs().sum() > 0)


@torch.no_grad()
def ring_of_a_wide_window(case: Walk) -> int:
    """Ring size after a prompt and a few tokens at a window far wider than they are long."""
    _, states = walk(case, "triton", torch.float32)
    return states[-1][-1].ring_size


PLAIN = Walk(rotary="each", pieces=(1, 1, 1), before=(6, 6))


@pytest.mark.parametrize("interpreted", [(registered, PLAIN)], ids=["opcheck"])
def test_registration(interpreted, answers):
    for verdicts in answers[interpreted].result():
        assert set(verdicts.values()) == {"SUCCESS"}, verdicts


@pytest.mark.parametrize("interpreted", [(compiled, PLAIN)], ids=["fullgraph"])
def test_compiled_step(interpreted, answers):
    assert max(answers[interpreted].result().values()) == 0


@pytest.mark.parametrize("interpreted", [(with_gradient, PLAIN)], ids=["q"])
def test_gradients_take_the_general_path(interpreted, answers):
    assert answers[interpreted].result()


@pytest.mark.parametrize("interpreted", [(ring_of_a_wide_window, replace(PLAIN, window=10**9))], ids=["1e9"])
def test_a_wide_window_takes_no_more_than_its_tokens(interpreted, answers):
    assert answers[interpreted].result() == max(PLAIN.before) + sum(PLAIN.pieces)


REAL = [
    Walk(window=64, slots=64, group=4, heads=8, dims=(128, 128), before=(200,), pieces=(1,) * 80),
    Walk(window=64, slots=64, group=4, heads=8, dims=(128, 128), before=(30, 200) * 32, pieces=(1,) * 40, rotary="each"),
    Walk(window=64, slots=64, group=1, heads=16, dims=(64, 64), before=(30, 7, 100, 64), pieces=(1, 2, 8, 3, 5, 8, 1) * 3),
    Walk(window=64, slots=64, group=4, heads=8, dims=(128, 128), before=(30, 90) * 32, pieces=(8, 2, 3), feature_map=True),
    Walk(window=200, slots=256, group=8, heads=2, dims=(128, 128), before=(150, 3), pieces=(1, 1, 4) * 20, rotary=None),
    Walk(window=0, slots=17, group=3, heads=80, dims=(96, 40), before=(5, 70, 8), pieces=(1, 8) * 5, slot_delay=9),
    Walk(window=16, slots=40, group=16, heads=4, dims=(256, 256), before=(5, 70), pieces=(1, 2) * 5, slot_bias=True),
    Walk(window=16, slots=33, group=2, heads=70, dims=(130, 16), before=(9, 20), pieces=(1, 3) * 8, slot_delay=0),
    Walk(window=1024, slots=64, group=4, heads=8, dims=(128, 128), before=(1500, 1000), pieces=(1,) * 30),
]
BOUNDS = {torch.bfloat16: 5e-3, torch.float16: 1e-3, torch.float32: 1e-5}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", BOUNDS, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("case", REAL, ids=str)
@torch.no_grad()
def test_on_a_gpu(case, dtype, monkeypatch):
    """Against `chunked` in fp64, from a prompt of the Triton backend's own."""
    poison(monkeypatch.setattr)
    rounded = replace(case)
    x, angles, settings = case.inputs()
    values = ({name: t.to(dtype).double() for name, t in x.items()}, angles, settings)
    if angles is not None:
        values = (values[0], tuple(t.to(dtype).double() for t in angles), settings)
    monkeypatch.setattr(Walk, "inputs", lambda self: (values[0], values[1], dict(values[2])))
    found, _ = walk(rounded, "triton", dtype, "cuda", prompt="triton")
    wanted, _ = walk(rounded, "chunked", torch.float64, "cuda", prompt="chunked")
    wrong = {name: e for name in wanted if not (e := relative_error(found[name], wanted[name])) <= BOUNDS[dtype]}
    assert not wrong, f"over {BOUNDS[dtype]}: {wrong}"


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 64])
@torch.no_grad()
def test_token_by_token_equals_prefill_on_a_gpu(batch):
    case = Walk(window=64, slots=64, group=4, heads=8, dims=(128, 128), before=(0,) * batch, pieces=(200,))
    x, angles, _ = case.inputs()
    x = {name: t.to("cuda", torch.bfloat16) for name, t in x.items()}
    turns = tuple(t[0].cuda() for t in angles)
    wanted, whole = nha_attention(**x, rotary=turns, window=64, return_state=True)
    state, outs = None, []
    for t in range(200):
        token = {name: value[:, t : t + 1] for name, value in x.items()}
        rotary = tuple(value[t : t + 1] for value in turns)
        out, state = nha_attention(
            **token, rotary=rotary, window=64, state=state, return_state=True, overwrite_state=True, backend="triton"
        )
        outs.append(out)
    assert relative_error(torch.cat(outs, 1), wanted) < 5e-3
    assert all(relative_error(t, whole.tensors()[name]) < 5e-3 for name, t in state.tensors().items())


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("time", [1, 4])
@torch.no_grad()
def test_graph_replay_equals_eager_on_a_gpu(batch, time):
    case = Walk(
        window=64, slots=64, group=4, heads=8, dims=(128, 128), before=(70,) * batch, pieces=(time,) * 20, rotary="each"
    )
    x, angles, _ = case.inputs()
    x = {name: t.to("cuda", torch.bfloat16) for name, t in x.items()}
    turns = tuple(t.cuda() for t in angles)

    def piece(start, end):
        return {name: t[:, start:end].clone() for name, t in x.items()}, tuple(t[:, start:end].clone() for t in turns)

    prompt, rotary = piece(0, 70)
    _, state = nha_attention(**prompt, rotary=rotary, window=64, return_state=True)
    fixed, fixed_turns = piece(70, 70 + time)
    held = copied(state)
    settings = {"window": 64, "return_state": True, "overwrite_state": True}
    # Compiled and warm before it is captured, on a copy, for a call moves the state on.
    nha_attention(**fixed, rotary=fixed_turns, state=copied(state), **settings)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, after = nha_attention(**fixed, rotary=fixed_turns, state=held, **settings)
    for start in range(70, 70 + 20 * time, time):
        tokens, rotary = piece(start, start + time)
        for name, t in tokens.items():
            fixed[name].copy_(t)
        for target, t in zip(fixed_turns, rotary, strict=True):
            target.copy_(t)
        graph.replay()
        wanted, state = nha_attention(**tokens, rotary=rotary, state=state, window=64, return_state=True)
        assert torch.equal(out, wanted)
    assert all(torch.equal(t, state.tensors()[name]) for name, t in after.tensors().items())
