"""`bench op`: its counts of arithmetic and traffic against independent ones, and what its grid holds."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench_cases import ODD, case, draw

from nha_eval import cli
from nha_eval.bench import counts, implementations
from nha_eval.bench.grid import PHASES, packed_lengths, plan
from nha_eval.errors import UserError

ROOT = Path(cli.__file__).parent.parent
CPU = torch.device("cpu")


# ---- what is needed


@pytest.mark.parametrize("window", [1, 4, 13, 20, None])
def test_pairs_are_those_of_the_mask(window):
    t = torch.arange(13)
    age = t[:, None] - t
    assert counts.pairs(13, window) == int(((age >= 0) & (age < (window or 13))).sum())


@pytest.mark.parametrize("phase", PHASES[:4])
@pytest.mark.parametrize("window", [0, 4, 40])
def test_nha_flops_are_those_of_its_definition(phase, window):
    """Every token walked: the keys in its window, the slots once something is in them, and what enters them."""
    point = case(phase=phase, window=window, length=20)
    products = {"K": 4, "V": 3, "state": 3} if point.backward else {"K": 1, "V": 1, "state": 1}
    wanted = 0
    for length in point.sequences:
        for t in range(length):
            met = sum(1 for j in range(length) if 0 <= t - j < window) + (ODD.slots if t >= window else 0)
            wanted += ODD.query_heads * met * 2 * (products["K"] * ODD.key_dim + products["V"] * ODD.value_dim)
            entering = ODD.slots * (t >= window)
            wanted += products["state"] * ODD.kv_heads * entering * 2 * (ODD.key_dim + ODD.value_dim)
    assert counts.nha(point, 4).flops == wanted
    if window == 0:
        assert counts.gsa(replace(point, window=None), 4) == counts.nha(point, 4)


def test_softmax_flops_are_torchs_but_for_the_mask():
    from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

    shape = replace(ODD, kv_heads=ODD.query_heads)
    sizes = [(2, 6, 16, 8), (2, 6, 16, 8), (2, 6, 16, 4)]
    forward = sdpa_flop_count(*sizes)
    both = forward + sdpa_backward_flop_count((2, 6, 16, 4), *sizes)
    # Torch counts all pairs, where the causal ones are needed.
    share = counts.pairs(16, None) / 16**2
    for phase, wanted in (("forward", forward), ("forward+backward", both)):
        assert counts.softmax(case("sdpa-flash", phase, shape, 16, None), 4).flops == share * wanted


@pytest.mark.parametrize("name", ["nha", "sdpa-flash", "fla-gla", "fla-gated-deltanet"])
def test_bytes_are_those_of_inputs_and_output(name):
    if name.startswith("fla"):
        pytest.importorskip("fla", reason="flash-linear-attention is not installed")
    module = implementations.find(name)
    point = case(name, window=4 if module.WINDOWS == "sliding" else None)
    made = module.forward(point, draw())
    tensors = [*made.inputs.values(), made.define(**made.inputs)]
    assert module.COUNT(point, 4).bytes == sum(x.numel() * x.element_size() for x in tensors)
    assert module.COUNT(replace(point, phase="forward+backward"), 4).bytes == 3 * module.COUNT(point, 4).bytes


def test_decode_bytes_are_those_of_state_and_token():
    point = case(phase="decode", batch=2)
    step = implementations.find("nha").decode(point, draw())
    state = step.new_state()
    slots = 2 * (state.slot_k.nbytes + state.slot_v.nbytes)
    entry = sum(x[:, :, :1].nbytes for x in (state.k, state.v, state.g))
    ring = state.k.nbytes + state.v.nbytes + state.g[:, :, :1].nbytes + entry
    token = sum(x.nbytes for x in step.inputs.values()) + step.define().nbytes
    assert counts.nha(point, 4).bytes == slots + ring + token
    assert step.state_bytes == state.nbytes()

    point = case("sdpa-flash", "decode", window=None, length=24)
    step = implementations.find("sdpa-flash").decode(point, draw())
    assert counts.softmax(point, 4).bytes == step.state_bytes + step.inputs["q"].nbytes + step.define().nbytes


def test_roofline_takes_the_slower_of_the_two():
    cost = counts.Cost(flops=2e12, bytes=1e9)
    assert cost.roofline_ms(tflops=1, gbps=1e6) == pytest.approx(2000)
    assert cost.roofline_ms(tflops=1e6, gbps=1) == pytest.approx(1000)


# ---- what is measured


def test_the_default_grid_holds_what_was_asked_for():
    cases = plan(device_type="cuda")
    points = {(c.implementation, c.phase, c.shape.name, c.batch, c.length, c.window) for c in cases}
    for shape, batch in (("A", 1), ("B", 4)):
        for length in (2048, 4096, 8192, 32768, 131072):
            assert ("nha", "forward", shape, batch, length, 64) in points
            assert (("nha", "forward+backward", shape, batch, length, 64) in points) == (length <= 32768)
            for peer in ("sdpa-cudnn", "sdpa-flash", "fla-gsa", "fla-gla", "fla-gated-deltanet"):
                assert (peer, "forward", shape, batch, length, None) in points
        assert {(name, "forward", shape, batch, 32768, 1024) for name in ("nha", "flex", "flash-attn")} <= points
        assert ("nha", "forward packed", shape, batch, 32768, 64) in points
        for sequences in (1, 64):
            assert ("sdpa-cudnn", "decode", shape, sequences, 32768, None) in points
            assert ("fla-gsa", "decode", shape, sequences, 32768, None) in points
    assert all(c.graphs == ((True,) if c.phase == "decode" else c.graphs) for c in cases)
    assert {c.length for c in cases if c.graphs == (False, True)} == {2048, 4096, 8192, 32768}
    assert len(cases) == len(set(cases))


def test_narrowing():
    cases = plan(
        device_type="cpu", shapes=["tiny"], lengths=[64, 128], windows=[0, 9], only=["nha"], phases=["forward", "decode"]
    )
    assert Counter((c.phase, c.length) for c in cases) == {("forward", 64): 2, ("forward", 128): 2, ("decode", 128): 4}
    assert {c.shape.name for c in plan(device_type="cuda", quick=True)} == {"A"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shapes": ["C"]}, "no such shape: 'C'"),
        ({"only": ["fla-gl"]}, "did you mean 'fla-gla'"),
        ({"phases": ["forwards"]}, "did you mean 'forward'"),
        ({"only": ["flex"], "phases": ["decode"]}, "flex cannot do decode"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(given, message):
    with pytest.raises(UserError, match=re.escape(message)):
        plan(device_type="cuda", **given)


@pytest.mark.parametrize("tokens", [16, 17, 1000, 32768])
def test_packed_lengths_share_out_the_tokens(tokens):
    lengths = packed_lengths(tokens)
    assert sum(lengths) == tokens and min(lengths) >= 1 and len(lengths) == 16
    assert lengths == packed_lengths(tokens)


@pytest.mark.parametrize("name", implementations.names())
def test_every_implementation_keeps_the_contract(name):
    module = implementations.find(name)
    assert module.WINDOWS in ("sliding", "full", "none") and set(module.PHASES) <= set(PHASES)
    assert getattr(module, "COMPILES", None) in (None, "once", "lengths", "tunes")
    window = 4 if module.WINDOWS == "sliding" else None
    for phase in module.PHASES:
        point = case(name, phase, window=window)
        assert module.COUNT(point, 2).flops > 0 and module.COUNT(point, 2).bytes > 0
        refusal = module.refusal(CPU, torch.float32, point)
        assert refusal is None or "\n" not in refusal


@pytest.mark.parametrize("length", [128, 384, 1000])
@pytest.mark.parametrize("window", [1, 64, 129, 300, 5000])
def test_flex_is_given_the_blocks_that_torch_finds(length, window):
    from torch.nn.attention.flex_attention import create_block_mask

    from nha_eval.bench.implementations.flex import block_mask

    def blocks(mask):
        pairs = ((mask.kv_num_blocks, mask.kv_indices), (mask.full_kv_num_blocks, mask.full_kv_indices))
        return [[set(row[:n].tolist()) for n, row in zip(number[0, 0], index[0, 0], strict=True)] for number, index in pairs]

    def inside(batch, head, q, k):
        return (q >= k) & (q - k < window)

    wanted = create_block_mask(inside, None, None, length, length, device="cpu")
    assert blocks(block_mask(length, window, CPU)) == blocks(wanted)
