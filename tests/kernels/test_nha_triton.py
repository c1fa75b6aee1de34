"""The Triton form against the definition in fp64: outputs, log-sum-exps, states, gradients; allocations poisoned with NaN.

Without a GPU the kernels run under Triton's interpreter, which must be asked for before triton is first imported: the cases are
worked through in processes of their own. On a GPU the tests marked `gpu` take real sizes.
"""

import importlib.util
from dataclasses import replace

import pytest
import torch
from interpreting import poison
from nha_cases import Case, pairwise_cases, relative_error

from kernels import nha_attention

# Found, not imported: an interpreting process imports this file before it asks for the interpreter.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")

SMALL = pairwise_cases(
    time=[40, 1, 2, 33, 17, 48],
    window=[5, 0, 1, 16, 20, 40, 3, "T", None],
    slots=[5, 1, 16],
    heads=[1, 2],
    empty_slots=["mask", "sink"],
    slot_delay=[None, 0, 3],
)
SHAPES = [
    Case(300, 64, 3, 1, "mask", None, False, False, False, "batch", 1.0, heads=1),
    Case(20, 4, 200, 1, "mask", None, False, False, False, "packed", 1.0, heads=1),
    Case(40, 6, 17, 3, "mask", None, True, True, True, "packed", 30.0, key_dim=96, value_dim=40, heads=1),
    Case(20, 6, 4, 9, "sink", None, False, True, False, "packed", 1.0, key_dim=130, value_dim=24, heads=1),
    Case(36, 100, 40, 1, "mask", 2, False, False, False, "packed", 30.0, key_dim=16, value_dim=200, heads=1),
]
# What the streamed form takes: keys as wide as values, powers of two of slots; gates from mild to those that a chunk's split
# cannot hold.
STREAMED = pairwise_cases(
    time=[70, 128, 33, 1],
    window=[16, 0, 5, 32, 64, 100],
    slots=[16, 32],
    group=[1, 2, 3, 4],
    slot_delay=[None, 0, 3],
    key_dim=[16],
    value_dim=[16],
    heads=[1],
)
CASES = SMALL + SHAPES + STREAMED
CUTS = pairwise_cases(
    time=[33],
    window=[5, 0, 16, "T", None],
    slots=[5],
    group=[2],
    slot_delay=[None, 0, 9],
    layout=["batch"],
    strength=[1.0],
    heads=[1],
) + [
    replace(case, key_dim=16, value_dim=16, slots=16)
    for case in pairwise_cases(
        time=[60],
        window=[5, 0, 16, 40],
        slots=[16],
        group=[1, 2],
        slot_delay=[None, 0, 9],
        layout=["batch"],
        strength=[1.0],
        heads=[1],
    )
]


PACKS = [
    Case(0, 9, 16, 2, "mask", None, False, True, False, "packed", 1.0, key_dim=16, value_dim=16, heads=1),
    Case(0, 16, 16, 1, "sink", None, True, False, True, "packed", 30.0, key_dim=16, value_dim=16, heads=1),
    Case(0, 0, 16, 2, "mask", None, False, False, False, "packed", 1.0, key_dim=16, value_dim=16, heads=1),
    Case(0, 9, 5, 2, "mask", 3, False, True, False, "packed", 1.0, heads=1),
]


def attend(case: Case, backend: str, dtype, device="cpu", base=None) -> dict:
    """Outputs and gradients of one call, of a loss that the final slots take part in."""
    x, settings = case.inputs()
    base = base or dtype
    x = {name: t.to(base).to(device, dtype).requires_grad_() for name, t in x.items()}
    if "rotary" in settings:
        settings["rotary"] = tuple(t.to(torch.float32).to(device, dtype) for t in settings["rotary"])
    if "cu_seqlens" in settings:
        settings["cu_seqlens"] = settings["cu_seqlens"].to(device)
    out, state, (slots, window) = nha_attention(**x, **settings, backend=backend, return_state=True, return_lse=True)
    gen = torch.Generator().manual_seed(1)
    # An empty part's log-sum-exp is -inf, and has no gradient.
    finite = [torch.where(t.isfinite(), t, 0.0) for t in (slots, window)]
    parts = (out, state.slot_k, state.slot_v, *finite)
    weights = [torch.randn(t.shape, generator=gen, dtype=torch.float64).to(base).to(device, t.dtype) for t in parts]
    sum((t * w).sum() for t, w in zip(parts, weights, strict=True)).backward()
    found = {"out": out, "lse_slots": slots, "lse_window": window}
    found |= {f"state.{name}": t for name, t in state.tensors().items()}
    found |= {f"d{name}": torch.zeros_like(t) if t.grad is None else t.grad for name, t in x.items()}
    return {name: t.detach() for name, t in found.items()}


def errors(case: Case, dtype=torch.float32, device="cpu") -> dict[str, float]:
    found = attend(case, "triton", dtype, device)
    wanted = attend(case, "recurrent" if device == "cpu" else "chunked", torch.float64, device, base=dtype)
    return {name: relative_error(found[name], wanted[name]) for name in wanted}


def registered(case: Case) -> list[dict]:
    """What torch's own checks of the operators that a call and its backward make say."""
    asked = []

    class Listener(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            if "nha" in str(op):
                asked.append((op, [x.detach() if isinstance(x, torch.Tensor) else x for x in args]))
            return op(*args, **(kwargs or {}))

    x, settings = case.inputs(torch.float32)
    x = {name: t.requires_grad_() for name, t in x.items()}
    with Listener():
        nha_attention(**x, **settings, backend="triton", return_lse=case.slot_bias)[0].sum().backward()
    verdicts = []
    for op, args in asked:
        if op is torch.ops.nha.forward.default:
            args = [x.requires_grad_() if i < 7 and isinstance(x, torch.Tensor) else x for i, x in enumerate(args)]
        verdicts.append(torch.library.opcheck(op, args))
    return verdicts


def compiled(case: Case) -> dict[str, float]:
    """Of a compiled call and its gradients against an eager one."""
    found = []
    for wrap in (lambda f: f, lambda f: torch.compile(f, fullgraph=True, backend="aot_eager")):
        x, settings = case.inputs(torch.float32)
        x = {name: t.requires_grad_() for name, t in x.items()}
        call = wrap(lambda x, settings: nha_attention(**x, **settings, backend="triton", return_state=True))
        out, state = call(x, settings)
        (out.square().sum() + state.slot_k.square().sum()).backward()
        found.append({"out": out.detach(), "slot_k": state.slot_k.detach()} | {f"d{name}": t.grad for name, t in x.items()})
    return {name: relative_error(found[1][name], t) for name, t in found[0].items()}


def cast(case: Case) -> tuple:
    """The dtype of a call's output inside autocast, and what the checks say of dtypes that do not fit outside it."""
    x, settings = case.inputs(torch.float32)
    x["v"] = x["v"].to(torch.float16)
    with torch.autocast("cpu", torch.bfloat16):
        out = nha_attention(**x, **settings, backend="triton")[0]
    try:
        nha_attention(**x, **settings, backend="triton")
    except ValueError as problem:
        return out.dtype, str(problem)
    return out.dtype, None


def cut_errors(case: Case) -> dict[str, float]:
    """Of outputs and gradients when a sequence is cut in three and gone on with, against the whole."""

    def run(backend, dtype, cuts):
        x, settings = case.inputs()
        x = {name: t.to(dtype).requires_grad_() for name, t in x.items()}
        rotary = settings.pop("rotary", None)
        state, outs = None, []
        for start, end in zip([0, *cuts], [*cuts, case.time], strict=True):
            piece = {name: t if name == "slot_bias" else t[:, start:end] for name, t in x.items()}
            turns = None if rotary is None else tuple(t[start:end].to(dtype) for t in rotary)
            out, state = nha_attention(**piece, **settings, rotary=turns, state=state, return_state=True, backend=backend)
            outs.append(out)
        out = torch.cat(outs, 1)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        (out * weight.to(dtype)).sum().backward()
        found = {"out": out.detach()} | {f"d{name}": torch.zeros_like(t) if t.grad is None else t.grad for name, t in x.items()}
        if case.width == 0:
            found.pop("dslot_bias", None)
        return found

    wanted, found = run("recurrent", torch.float64, []), run("triton", torch.float32, [10, 21])
    return {name: relative_error(found[name], wanted[name]) for name in wanted}


def pack_errors(case: Case) -> dict[str, float]:
    """Of outputs, final state and gradients of packed sequences, one of them empty, gone on with in a second pack."""
    packs = (50, [0, 10, 10, 50]), (70, [0, 30, 33, 70])

    def run(backend, dtype):
        state, found, loss, leaves = None, {}, 0, {}
        for i, (time, ends) in enumerate(packs):
            x, settings = replace(case, time=time, layout="packed").inputs(seed=i)
            x = {name: t.to(dtype).requires_grad_() for name, t in x.items()}
            settings["cu_seqlens"] = torch.tensor(ends, dtype=torch.int32)
            if "rotary" in settings:
                settings["rotary"] = tuple(t.to(dtype) for t in settings["rotary"])
            out, state = nha_attention(**x, **settings, state=state, return_state=True, backend=backend)
            found[f"out{i}"], loss = out, loss + out.square().sum()
            leaves |= {f"d{name}{i}": t for name, t in x.items()}
        (loss + state.slot_v.square().sum()).backward()
        found |= {f"state.{name}": t for name, t in state.tensors().items()}
        found |= {name: torch.zeros_like(t) if t.grad is None else t.grad for name, t in leaves.items()}
        return {name: t.detach() for name, t in found.items()}

    wanted, found = run("recurrent", torch.float64), run("triton", torch.float32)
    return {name: relative_error(found[name], wanted[name]) for name in wanted}


def check(found: dict[str, float], forward: float, backward: float):
    wrong = {name: e for name, e in found.items() if not e <= (backward if name.startswith("d") else forward)}
    assert not wrong, f"over {forward} forward, {backward} gradients: {wrong}"


def jobs(check, cases: list[Case]) -> list:
    """Parameters; the interpreter takes 10 s and more for the longer ones, which are slow tests."""
    marks = {case: [pytest.mark.slow] if case.time >= 60 else [] for case in cases}
    return [pytest.param((check, case), marks=marks[case], id=str(case)) for case in cases]


@pytest.mark.parametrize("interpreted", jobs(errors, CASES))
def test_interpreted_equals_the_definition(interpreted, answers):
    check(answers[interpreted].result(), 1e-5, 1e-4)


@pytest.mark.parametrize("interpreted", jobs(pack_errors, PACKS))
def test_interpreted_goes_on_from_packed_sequences(interpreted, answers):
    check(answers[interpreted].result(), 1e-5, 1e-4)


@pytest.mark.parametrize("interpreted", jobs(cut_errors, CUTS))
def test_interpreted_goes_on_from_a_state(interpreted, answers):
    check(answers[interpreted].result(), 1e-5, 1e-4)


PLAIN = Case(20, 5, 16, 2, "mask", None, True, True, False, "batch", 1.0, key_dim=16, value_dim=16, heads=1)
PACKED = Case(20, 5, 5, 2, "mask", None, False, False, True, "packed", 1.0, heads=1)


@pytest.mark.parametrize("interpreted", [(registered, PLAIN), (registered, PACKED)], ids=["streamed", "packed"])
def test_registration(interpreted, answers):
    verdicts = answers[interpreted].result()
    assert len(verdicts) == 2
    for verdict in verdicts:
        assert set(verdict.values()) == {"SUCCESS"}, verdict


@pytest.mark.parametrize("interpreted", [(compiled, PLAIN)], ids=["fullgraph"])
def test_compiled(interpreted, answers):
    assert max(answers[interpreted].result().values()) == 0


@pytest.mark.parametrize("interpreted", [(cast, PLAIN)], ids=["bf16"])
def test_autocast(interpreted, answers):
    dtype, problem = answers[interpreted].result()
    assert dtype == torch.bfloat16 and "dtype" in problem


def test_refuses_what_it_cannot_take():
    x, settings = Case(5, 2, 3, 1, "mask", None, False, False, False, "batch", 1.0).inputs()
    with pytest.raises(ValueError, match="backend 'triton'"):
        nha_attention(**x, **settings, backend="triton")


BOUNDS = {torch.bfloat16: (4e-3, 1.5e-2), torch.float16: (1e-3, 4e-3), torch.float32: (1e-5, 1e-4)}
REAL = pairwise_cases(
    time=[1000, 1, 63, 300],
    window=[64, 0, 7, 200],
    slots=[64, 16, 17, 200],
    group=[4, 1, 2, 3, 8],
    key_dim=[128, 64, 96, 256],
    value_dim=[128, 64, 48, 256],
)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", BOUNDS, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("case", REAL, ids=lambda c: f"{c}-K{c.key_dim}-V{c.value_dim}")
def test_on_a_gpu(case, dtype, monkeypatch):
    poison(monkeypatch.setattr)
    check(errors(case, dtype, "cuda"), *BOUNDS[dtype])
    again = [attend(case, "triton", dtype, "cuda") for _ in range(2)]
    assert all(torch.equal(again[0][name], again[1][name]) for name in again[0])
