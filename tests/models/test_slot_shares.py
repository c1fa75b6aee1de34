"""The slots' share of attention against its definition in fp64, by layer, head and position; observing changes nothing."""

import math

import pytest
import torch
from tiny import FIELDS, tiny, tokens

from models.telemetry import BUCKETS, SlotShares, observed_shares

WINDOW, LENGTH = 5, 41


def softmax_shares(model, ids):
    """[layers, T, HQ] of the definition: slots moved on token by token, one softmax written out; for one row without pads."""
    turned, found = {}, []

    def keep(layer):
        def hook(module, arguments, keywords):
            turned[layer] = (*arguments, *keywords.values())[:2]

        return hook

    hooks = [
        layer.self_attn.register_forward_pre_hook(keep(i), with_kwargs=True) for i, layer in enumerate(model.decoder_layers)
    ]
    model(ids)
    for hook in hooks:
        hook.remove()
    for i, layer in enumerate(model.decoder_layers):
        mixer, (hidden, batch) = layer.self_attn, turned[i]
        q, k, _ = (x[0] for x in mixer.heads_of(hidden)[:3])
        decay = mixer.log_decay(hidden)[0].exp()
        cos, sin = (torch.cat([x[0], x[0]], -1)[:, None] for x in (batch.cos, batch.sin))

        def rotated(x, cos=cos, sin=sin):
            a, b = x.chunk(2, -1)
            return x * cos + torch.cat([-b, a], -1) * sin

        turned_q, turned_k = rotated(q), rotated(k)
        group = q.shape[1] // k.shape[1]
        slots = torch.zeros(k.shape[1], mixer.slots, k.shape[2], dtype=q.dtype)
        shares = torch.full(q.shape[:2], math.nan, dtype=q.dtype)
        for t in range(len(q)):
            left = t - mixer.window
            if left >= 0:
                a = decay[left][..., None]
                slots = a * slots + (1 - a) * k[left][:, None]
            for head in range(q.shape[1]):
                own = (slots[head // group] @ q[t, head] * mixer.scale).exp().sum()
                begin = max(0, t - mixer.window + 1)
                near = (turned_k[begin : t + 1, head // group] @ turned_q[t, head] * mixer.scale).exp().sum()
                if left >= 0:
                    shares[t, head] = own / (own + near)
        found.append(shares)
    return torch.stack(found)


@pytest.fixture(scope="module")
def model():
    return tiny(mixers="nha", windows=WINDOW).double()


@torch.no_grad()
def test_shares_are_the_definitions(model):
    ids = tokens(1, LENGTH)
    wanted = softmax_shares(model, ids)[:, WINDOW:]
    with observed_shares(model) as shares:
        model(ids)
    rows = shares.table()
    assert [row["layer"] for row in rows] == [0, 1, 2] and {row["n"] for row in rows} == {LENGTH - WINDOW}
    for row, own in zip(rows, wanted, strict=True):
        assert row["heads"] == pytest.approx(own.mean(0).tolist(), rel=1e-6)
        assert own.mean(0).std() > 1e-3  # else every head would do for every other
        # Position 6 (from 1) is the first with a token in the slots; the buckets hold 4 to 7, 8 to 15, 16 to 31, 32 to 63.
        bounds = [(6, 7), (8, 15), (16, 31), (32, LENGTH)]
        means = [own[first - 1 - WINDOW : last - WINDOW].mean().item() for first, last in bounds]
        assert [row_[2] for row_ in row["positions"]] == pytest.approx(means, rel=1e-6)
        assert [tuple(row_[:2]) for row_ in row["positions"]] == [(4, 7), (8, 15), (16, 31), (32, 63)]
        assert [row_[3] for row_ in row["positions"]] == [last - first + 1 for first, last in bounds]


CALLS = {
    "short": (tokens(2, 4), {}),  # all in the window, where the operator is plain softmax attention
    "long": (tokens(2, LENGTH), {}),
    "pads": (tokens(2, LENGTH), {"attention_mask": (torch.arange(LENGTH) >= torch.tensor([[0], [9]])).long()}),
    "packed": (tokens(1, LENGTH), {"cu_seqlens": torch.tensor([0, 13, LENGTH])}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("call", CALLS)
@torch.no_grad()
def test_logits_are_bitwise_the_same(call, dtype):
    model = tiny(mixers=["nha", "attention", "gsa"], windows=[WINDOW, None, None]).to(dtype)
    ids, more = CALLS[call]
    for use_cache in (True, False) if call != "packed" else (False,):
        plain = model(ids, use_cache=use_cache, **more)
        with observed_shares(model) as shares:
            observed = model(ids, use_cache=use_cache, **more)
        assert torch.equal(plain.logits, observed.logits)
        assert [row["layer"] for row in shares.table()] == ([] if call == "short" else [0])
        if use_cache and not more:
            after = [model(ids[:, :1], cache=out.past_key_values).logits for out in (plain, observed)]
            assert torch.equal(*after)


@torch.no_grad()
def test_pads_packing_and_caches_count_alike(model):
    """The same two sequences as rows with pads, packed, and in two calls on a cache."""
    ids = tokens(2, LENGTH)
    tables = []
    with observed_shares(model) as shares:
        for row, start in zip(ids, (0, 9), strict=True):
            model(row[None, start:])
    tables.append(shares.table())
    mask = CALLS["pads"][1]["attention_mask"]
    with observed_shares(model) as shares:
        model(ids, attention_mask=mask)
    tables.append(shares.table())
    with observed_shares(model) as shares:
        model(torch.cat([ids[0], ids[1, 9:]])[None], cu_seqlens=torch.tensor([0, LENGTH, 2 * LENGTH - 9]))
    tables.append(shares.table())
    with observed_shares(model) as shares:
        cache = model.new_cache()
        model(ids[:, :20], attention_mask=mask[:, :20], cache=cache)
        model(ids[:, 20:], attention_mask=mask, cache=cache)
    tables.append(shares.table())
    for found in tables[1:]:
        for row, wanted in zip(found, tables[0], strict=True):
            assert row["n"] == wanted["n"] == 2 * (LENGTH - WINDOW) - 9
            assert row["heads"] == pytest.approx(wanted["heads"], rel=1e-9)
            for bucket, other in zip(row["positions"], wanted["positions"], strict=True):
                assert bucket == pytest.approx(other, rel=1e-9)


@torch.no_grad()
def test_only_layers_with_slots_and_a_window_have_a_share():
    mixers = ["nha", "nha", "nha", "attention", "gsa"]
    model = tiny(mixers=mixers, windows=[0, None, LENGTH, 7, None], num_hidden_layers=5)
    with observed_shares(model) as shares:
        model(tokens(1, LENGTH))
    (row,) = shares.table()
    # Slots alone take everything, from the first token on; a window of all tokens leaves no query with slots.
    assert row["layer"] == 0 and row["n"] == LENGTH and row["heads"] == [1.0] * FIELDS["num_attention_heads"]


def test_nothing_is_left_behind(model):
    def left():
        return [layer for layer in model.decoder_layers if "observer" in vars(layer.self_attn)]

    with observed_shares(model), pytest.raises(ValueError, match="observed already"), observed_shares(model):
        pass
    assert not left()
    with pytest.raises(KeyError), observed_shares(model):
        assert len(left()) == 3
        raise KeyError("something")
    assert not left()


def test_what_is_kept_does_not_grow():
    shares = SlotShares()
    for length in (10, 10_000):
        lse = torch.zeros(1, length, 3), torch.zeros(1, length, 3)
        shares.add(0, lse, None, None)
    sizes = [tensor.numel() for kept in vars(shares).values() for tensor in kept.values()]
    assert sizes == [3, 2 * BUCKETS]
    (row,) = shares.table()
    assert row["heads"] == [0.5] * 3 and row["n"] == 10_010 and row["positions"][-1] == [8192, 16383, 0.5, 10_000 - 8191]


def test_the_longest_positions_have_a_bucket():
    shares = SlotShares()
    shares.add(0, (torch.zeros(1, 2, 1), torch.zeros(1, 2, 1)), None, torch.tensor([2**31 - 3]))
    assert shares.table()[0]["positions"] == [[2**30, 2**31 - 1, 0.5, 2]]
