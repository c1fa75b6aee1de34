"""The operators of the baselines (GLA, gated delta rule, SSD): chunked against the definition in fp64, both against other code.

That is flash-linear-attention's naive forms and Transformers' Mamba-2 mixer. Error metric: RMS(difference) / RMS(reference).
"""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from few_configurations import few_configurations  # noqa: F401 (a fixture)
from nha_cases import assert_close

import kernels.linear
from kernels import gated_delta_attention, gla_attention, ssd_attention

OPS = {"gla": gla_attention, "gated_delta": gated_delta_attention, "ssd": ssd_attention}
BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-5}
TIMES = [1, 2, 63, 64, 65, 300]
HEADS, KEY_DIM, VALUE_DIM = 4, 16, 24

pytestmark = pytest.mark.usefixtures("one_thread")


def make(op: str, time: int, strength: float = 1.0, batch: int = 2, dims=(KEY_DIM, VALUE_DIM), seed: int = 0) -> dict:
    """Inputs in fp64. Decays run from 0 to -strength a step, most of them slow; "ends" has 0 and -30 alone."""
    gen = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=gen, dtype=torch.float64)  # noqa: E731
    randn = lambda *shape: torch.randn(*shape, generator=gen, dtype=torch.float64)  # noqa: E731
    shared = 2 if op == "ssd" else HEADS
    x = {name: randn(batch, time, shared, dims[0]) for name in "qk"} | {"v": randn(batch, time, HEADS, dims[1])}
    shape = (batch, time, HEADS, dims[0]) if op == "gla" else (batch, time, HEADS)
    x["g"] = -30.0 * (rand(*shape) < 0.1) if strength == "ends" else -(rand(*shape) ** 4) * strength
    if op == "gated_delta":
        x["beta"] = rand(batch, time, HEADS)
    if op == "ssd":
        x |= {"dt": rand(batch, time, HEADS), "D": randn(HEADS)}
    return x


def settings(op: str) -> dict:
    return {"l2_norm": True} if op == "gated_delta" else {}


def run(op: str, x: dict, backend: str, dtype=torch.float64, **more) -> dict:
    x = {name: t.to(dtype) for name, t in x.items()}
    if more.get("state") is not None:
        more["state"] = more["state"].to(torch.float64 if dtype == torch.float64 else torch.float32)
    out, state = OPS[op](**x, **(settings(op) | more), return_state=True, backend=backend)
    return {"out": out, "state": state}


def piece(x: dict, start: int, end: int) -> dict:
    return {name: t if name == "D" else t[:, start:end] for name, t in x.items()}


def some_state(count: int) -> torch.Tensor:
    return torch.randn(count, HEADS, KEY_DIM, VALUE_DIM, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("strength", [0.1, 1.0, 30.0, "ends"])
@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("op", OPS)
def test_chunked_equals_the_definition(op, time, strength):
    x = make(op, time, strength)
    for state in (None, some_state(2)):
        wanted = run(op, x, "recurrent", state=state)
        for dtype, bound in BOUNDS.items():
            assert_close(run(op, x, "chunked", dtype, state=state), wanted, bound)


@pytest.mark.parametrize("dims", [(1, 1), (64, 7), (17, 128)], ids=str)
@pytest.mark.parametrize("op", OPS)
def test_any_dimensions(op, dims):
    x = make(op, 70, dims=dims)
    assert_close(run(op, x, "chunked", scale=0.3), run(op, x, "recurrent", scale=0.3), 1e-9)


@pytest.mark.parametrize("strength", [1.0, 30.0, "ends"])
@pytest.mark.parametrize("time", [1, 2, 65, 150])
@pytest.mark.parametrize("op", OPS)
def test_gradients_equal_the_definition(op, time, strength):
    """Of every input and of the state, through the output and the state after it."""
    given = make(op, time, strength) | {"state": some_state(2)}

    def gradients(backend, dtype):
        x = {name: t.to(dtype, copy=True).requires_grad_() for name, t in given.items()}
        found = OPS[op](**x, **settings(op), return_state=True, backend=backend)
        gen = torch.Generator().manual_seed(1)
        sum((t * torch.randn(t.shape, generator=gen, dtype=torch.float64).to(dtype)).sum() for t in found).backward()
        return {f"d{name}": t.grad for name, t in x.items()}

    wanted = gradients("recurrent", torch.float64)
    for dtype, bound in BOUNDS.items():
        assert_close(gradients("chunked", dtype), wanted, bound)


@pytest.mark.parametrize("op", OPS)
def test_a_decay_of_minus_infinity_forgets_everything(op):
    x = make(op, 100)
    x["g"][:, 40] = -torch.inf
    x = {name: t.requires_grad_() for name, t in x.items()}
    found = run(op, x, "chunked")
    after = run(op, piece(x, 40, 100), "recurrent")
    assert_close({"out": found["out"][:, 40:], "state": found["state"]}, after, 1e-9)
    found["out"].sum().backward()
    assert all(t.grad.isfinite().all() for t in x.values())


@pytest.mark.parametrize("op", OPS)
def test_weak_decays_over_a_long_time_and_keys_alike(op):
    """What is hardest to hold in fp32: sums over thousands of tokens, and a delta rule rewriting one key again and again."""
    x = make(op, 2000, 1e-3, batch=1)
    x["k"] = x["k"][:, :1] + 0.05 * x["k"]
    assert_close(run(op, x, "chunked", torch.float32), run(op, x, "recurrent"), 1e-5)


@pytest.mark.parametrize("backend", ["recurrent", "chunked"])
@pytest.mark.parametrize("op", OPS)
def test_split_anywhere(op, backend):
    x = make(op, 135)
    whole = run(op, x, backend)
    for cut in (1, 5, 63, 64, 65, 128, 134):
        first = run(op, piece(x, 0, cut), backend)
        kept = first["state"].clone()
        second = run(op, piece(x, cut, 135), backend, state=first["state"])
        assert torch.equal(kept, first["state"])
        assert second["state"].shape == kept.shape
        assert_close({"out": torch.cat([first["out"], second["out"]], 1), "state": second["state"]}, whole, 1e-9)
    state, outs = None, []
    for t in range(135):
        found = run(op, piece(x, t, t + 1), backend, state=state)
        state, outs = found["state"], [*outs, found["out"]]
    assert_close({"out": torch.cat(outs, 1), "state": state}, whole, 1e-9)


@pytest.mark.parametrize("backend", ["recurrent", "chunked"])
@pytest.mark.parametrize("op", OPS)
def test_packed_sequences_are_those_alone(op, backend):
    """With an empty sequence and one of a single token among them, each going on from a state of its own."""
    bounds = [0, 70, 70, 71, 200]
    x, states = make(op, 200, batch=1), some_state(4)
    packed = run(op, x, backend, state=states, cu_seqlens=torch.tensor(bounds, dtype=torch.int32))
    for n, (start, end) in enumerate(pairwise(bounds)):
        if start == end:
            assert torch.equal(packed["state"][n], states[n])
            continue
        alone = run(op, piece(x, start, end), "recurrent", state=states[n : n + 1])
        assert_close({"out": packed["out"][:, start:end], "state": packed["state"][n : n + 1]}, alone, 1e-9)


@pytest.mark.parametrize("op", OPS)
def test_later_tokens_and_other_sequences_change_nothing(op):
    x = make(op, 100)
    changed = {name: t.clone() for name, t in x.items()}
    for name in changed.keys() - {"D"}:
        changed[name][0, 70:] *= 0.5
    before, after = run(op, x, "chunked")["out"], run(op, changed, "chunked")["out"]
    assert torch.equal(before[0, :70], after[0, :70])
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[0, 70:], after[0, 70:])


@pytest.mark.parametrize("op", OPS)
def test_memory_for_the_backward_pass_is_linear_in_time(op):
    def saved(time):
        total = 0

        def count(t):
            nonlocal total
            total += t.nelement()
            return t

        x = {name: t.float().requires_grad_() for name, t in make(op, time).items()}
        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            OPS[op](**x, **settings(op), backend="chunked")
        return total

    assert saved(1024) < 2.05 * saved(512)


@pytest.mark.parametrize("op", OPS)
def test_half_precision_and_autocast_compute_in_fp32(op):
    x = make(op, 70)
    low = {name: t.bfloat16() if name in "qkv" else t.float() for name, t in x.items()}
    out, state = OPS[op](**low, **settings(op), return_state=True)
    assert (out.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    wanted = run(op, {name: t.double() for name, t in low.items()}, "recurrent")
    assert_close({"state": state}, {"state": wanted["state"]}, 1e-5)
    assert_close({"out": out}, {"out": wanted["out"]}, 4e-3)
    with torch.autocast("cpu", torch.bfloat16):
        again = OPS[op](**{name: t.float() for name, t in x.items()}, **settings(op), return_state=True)
    assert torch.equal(again[0], out)
    assert torch.equal(again[1], state)


@pytest.mark.parametrize("backend", ["recurrent", "chunked"])
def test_gla_equals_fla_naive(backend):
    naive = pytest.importorskip("fla.ops.gla.naive")
    x, state = make("gla", 90), some_state(2)
    wanted = naive.naive_recurrent_gla(x["q"], x["k"], x["v"], x["g"], initial_state=state, output_final_state=True)
    assert_close(run("gla", x, backend, state=state), dict(zip(("out", "state"), wanted, strict=True)), 1e-5)


@pytest.mark.parametrize("form", ["naive_recurrent_gated_delta_rule", "naive_chunk_gated_delta_rule"])
@pytest.mark.parametrize("backend", ["recurrent", "chunked"])
def test_gated_delta_equals_fla_naive(backend, form):
    naive = pytest.importorskip("fla.ops.gated_delta_rule.naive")
    x, state = make("gated_delta", 90), some_state(2)
    unit = x | {name: F.normalize(x[name], dim=-1) for name in "qk"}
    wanted = getattr(naive, form)(**unit, initial_state=state, output_final_state=True)
    wanted = dict(zip(("out", "state"), wanted, strict=True))
    assert_close(run("gated_delta", unit, backend, state=state, l2_norm=False), wanted, 1e-5)
    assert_close(run("gated_delta", x, backend, state=state, l2_norm=True), wanted, 1e-5)


@pytest.mark.parametrize("backend", ["recurrent", "chunked"])
def test_ssd_equals_fla_naive(backend):
    naive = pytest.importorskip("fla.ops.simple_gla.naive")
    x, state = make("ssd", 90), some_state(2)
    q, k = (x[name].repeat_interleave(2, 2) for name in "qk")
    wanted = naive.naive_recurrent_simple_gla(q, k, x["dt"][..., None] * x["v"], x["g"], 1.0, state.float(), True)
    wanted = {"out": wanted[0] + x["D"][:, None] * x["v"], "state": wanted[1]}
    assert_close(run("ssd", x, backend, state=state), wanted, 1e-5)


def test_ssd_equals_transformers_mamba2():
    """What its mixer's norm is given, from the same projections and convolution."""
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "expand": 2, "num_heads": 8, "head_dim": 8, "state_size": 16, "n_groups": 2, "chunk_size": 16}
    mixer = Mamba2Mixer(Mamba2Config(**shape, num_hidden_layers=1), layer_idx=0)
    with torch.no_grad():
        mixer.A_log.copy_(torch.rand(8))
        mixer.dt_bias.copy_(torch.randn(8))
        mixer.D.copy_(torch.randn(8))
        seen = []
        mixer.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        hidden = torch.randn(2, 50, 32)
        mixer(hidden)
        _, inner, dt = mixer.in_proj(hidden).split([64, 128, 8], -1)
        inner = F.silu(mixer.conv1d(inner.transpose(1, 2))[..., :50]).transpose(1, 2)
        v, k, q = (t.unflatten(-1, (heads, -1)) for t, heads in zip(inner.split([64, 32, 32], -1), (8, 2, 2), strict=True))
        dt = F.softplus(dt + mixer.dt_bias)
        for backend in ("recurrent", "chunked"):
            out, _ = ssd_attention(q, k, v, dt * -mixer.A_log.exp(), dt, D=mixer.D, backend=backend)
            assert_close({"out": out.flatten(2)}, {"out": seen[0]}, 1e-5)


def test_delta_rule_replaces_what_a_key_held():
    """With beta 1 and no decay, reading a key just written gives its last value, whatever stood there."""
    gen = torch.Generator().manual_seed(0)
    keys = F.normalize(torch.randn(1, 40, 1, 8, generator=gen, dtype=torch.float64), dim=-1)
    values = torch.randn(1, 40, 1, 5, generator=gen, dtype=torch.float64)
    zeros = torch.zeros(1, 40, 1, dtype=torch.float64)
    out, _ = gated_delta_attention(keys, keys, values, zeros, zeros + 1, scale=1.0)
    assert_close({"out": out}, {"out": values}, 1e-9)


PACK = torch.tensor([0, 5], dtype=torch.int32)
WRONG = [
    ("gla", "q", lambda x: {"q": x["q"][0]}, r"q has shape \[6, 4, 16\]; wanted \[B, T, HQ, K\]"),
    ("gla", "k heads", lambda x: {n: x[n][:, :, :2] for n in "kv"}, r"k has shape \[2, 6, 2, 16\]; wanted \[2, 6, 4, 16\]"),
    ("gla", "g per head", lambda x: {"g": x["g"][..., 0]}, r"g has shape \[2, 6, 4\]; wanted \[2, 6, 4, 16\]"),
    ("gla", "g positive", lambda x: {"g": x["g"] + 9}, "g has a positive value"),
    ("gla", "v time", lambda x: {"v": x["v"][:, :5]}, r"v has shape \[2, 5, 4, 24\]; wanted \[2, 6, 4, V\]"),
    ("gla", "state", lambda x: {"state": torch.zeros(2, 4, 24, 16)}, r"state has shape .*; wanted \[2, 4, 16, 24\]"),
    (
        "gla",
        "state dtype",
        lambda x: {"state": torch.zeros(2, 4, 16, 24).half()},
        "state has dtype torch.float16; wanted torch.float32",
    ),
    ("gla", "state type", lambda x: {"state": 3}, r"state is a int; wanted a tensor of shape \[2, 4, 16, 24\]"),
    ("gla", "cu_seqlens", lambda x: {"cu_seqlens": PACK}, "q has B = 2; wanted packed sequences with B = 1"),
    (
        "gla",
        "backend",
        lambda x: {"backend": "triton"},
        "backend is 'triton'; wanted one of 'recurrent', 'chunked', 'fla', 'auto'",
    ),
    ("gla", "fla on a CPU", lambda x: {"backend": "fla"}, "backend 'fla' wants tensors on a GPU; q is on cpu"),
    ("gated_delta", "g", lambda x: {"g": x["q"] * 0}, r"g has shape \[2, 6, 4, 16\]; wanted \[2, 6, 4\]"),
    ("gated_delta", "beta", lambda x: {"beta": x["beta"][:, :3]}, r"beta has shape \[2, 3, 4\]; wanted \[2, 6, 4\]"),
    ("gated_delta", "beta large", lambda x: {"beta": x["beta"] + 1}, "beta has values from .*; wanted all from 0 to 1"),
    ("ssd", "groups", lambda x: {"v": x["v"][:, :, :3]}, "v has shape .*; wanted .* H a multiple of q's 2 groups"),
    ("ssd", "k groups", lambda x: {"k": x["k"][:, :, :1]}, r"k has shape \[2, 6, 1, 16\]; wanted \[2, 6, 2, 16\]"),
    ("ssd", "dt", lambda x: {"dt": x["dt"][..., :2]}, r"dt has shape \[2, 6, 2\]; wanted \[2, 6, 4\]"),
    ("ssd", "D", lambda x: {"D": x["D"][:2]}, r"D has shape \[2\]; wanted \[4\]"),
]


@pytest.mark.parametrize(("op", "name", "change", "message"), WRONG, ids=[f"{op} {name}" for op, name, *_ in WRONG])
def test_wrong_arguments_are_named(op, name, change, message):
    x = {name: t.float() for name, t in make(op, 6).items()}
    with pytest.raises(ValueError, match=message):
        OPS[op](**(x | change(x)))


def test_backend_says_why_fla_cannot_be_had(monkeypatch):
    resolve, gpu = kernels.linear.resolve_backend, torch.device("cuda")
    monkeypatch.setattr(kernels.linear, "HAS_FLA", True)
    assert resolve("auto", gpu) == resolve("fla", gpu) == "fla"
    assert resolve("auto", torch.device("cpu")) == resolve("auto", gpu, torch.float64) == "chunked"
    with pytest.raises(ValueError, match=r"takes fp16, bf16 and fp32; q has dtype torch\.float64"):
        resolve("fla", gpu, torch.float64)
    with pytest.raises(ValueError, match="takes K up to 256; q has K = 300; 'chunked' takes the call"):
        resolve("fla", gpu, torch.float32, "takes K up to 256; q has K = 300")
    monkeypatch.setattr(kernels.linear, "HAS_FLA", False)
    assert resolve("auto", gpu) == "chunked"
    with pytest.raises(ValueError, match=r"flash-linear-attention, which is not installed: pip install .\[gpu\]"):
        resolve("fla", gpu)


# Else most of the minutes here are Triton's autotuner trying hundreds of configurations, each as right as the next.
@pytest.mark.usefixtures("few_configurations")
@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 2e-2), (torch.float32, 5e-3)], ids=str)
@pytest.mark.parametrize("layout", ["batch", "packed"])
@pytest.mark.parametrize("time", [7, 300, 1000])
@pytest.mark.parametrize("op", OPS)
def test_fla_equals_the_definition_on_a_gpu(op, time, layout, dtype, bound):
    pytest.importorskip("fla")
    x = make(op, time, batch=2 if layout == "batch" else 1, dims=(64, 128))
    low = {name: (t.to(dtype) if name in "qkv" else t.float()).cuda() for name, t in x.items()}
    more = {} if layout == "batch" else {"cu_seqlens": torch.tensor([0, time // 3, time], dtype=torch.int32, device="cuda")}
    found = OPS[op](**low, **settings(op), **more, return_state=True, backend="fla")
    exact = {name: t.double().requires_grad_() for name, t in low.items()}
    wanted = OPS[op](**exact, **settings(op), **more, return_state=True, backend="chunked")
    named = lambda pair: dict(zip(("out", "state"), pair, strict=True))  # noqa: E731
    assert_close(named(found), named(wanted), bound)
    learned = {name: t.clone().requires_grad_() for name, t in low.items()}
    out, _ = OPS[op](**learned, **settings(op), **more, backend="fla")
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).cuda()
    try:
        (out * weight).sum().backward()
    except RuntimeError as error:
        if "640" not in str(error):
            raise
        pytest.skip(f"fla refuses the backward pass here: {error}")
    (wanted[0] * weight).sum().backward()
    assert_close({n: t.grad for n, t in learned.items()}, {n: t.grad for n, t in exact.items()}, 2 * bound)
