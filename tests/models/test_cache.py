"""The cache: tokens taken back, rows reordered, and shapes that stay, for every mixer."""

import copy
from contextlib import nullcontext

import pytest
import torch
from tiny import close, settings, tiny, tokens

from models.cache import CACHE_NAME
from models.convolutions import parts_of

SETTINGS = settings()
every_mixer = pytest.mark.parametrize("fields", SETTINGS.values(), ids=SETTINGS.keys())
GREEDY = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
# What allows tokens to be taken back however many came before.
CROPPED = {name: fields for name, fields in SETTINGS.items() if name in ("attention", "nha", "attention-w7")}
LONGEST = 40


def after(model, x, cuts=(), **more):
    """A cache that has seen x in the pieces between `cuts`."""
    cache = model.new_cache(**more)
    for start, end in zip((0, *cuts), (*cuts, x.shape[1]), strict=True):
        model(x[:, start:end], past_key_values=cache)
    return cache


@pytest.mark.parametrize("fixed", [False, True], ids=["growing", "fixed"])
@pytest.mark.parametrize("fields", CROPPED.values(), ids=CROPPED.keys())
@pytest.mark.parametrize(("length", "count"), [(6, 2), (6, 6), (7, 3), (20, 1)])
@torch.no_grad()
def test_after_a_crop_the_rest_is_as_if_nothing_had_come(fields, length, count, fixed):
    model, x, rest = tiny(**fields), tokens(2, length), tokens(2, 9, seed=1)
    more = {"max_length": LONGEST} if fixed else {}
    cache = after(model, x, **more)
    if fixed and fields.get("windows") and length > fields["windows"]:
        why = "has slots, into which" if fields["mixers"] == "nha" else "fixed shapes and has written over"
        with pytest.raises(ValueError, match=why):
            cache.crop(-count)
        return
    cache.crop(-count)
    assert cache.get_seq_length() == length - count
    whole = model(torch.cat([x[:, : length - count], rest], 1)).logits[:, length - count :]
    found = [model(piece, past_key_values=cache).logits for piece in (rest[:, :1], rest[:, 1:5], rest[:, 5:])]
    close(torch.cat(found, 1), whole)


@torch.no_grad()
@pytest.mark.parametrize("fixed", [False, True], ids=["growing", "fixed"])
@torch.no_grad()
def test_a_refused_call_leaves_convolutions_as_they_were(fixed):
    model, x = (
        tiny(mixers="attention", windows=7, mixer_options={"attention": {"conv_size": 4}}, num_hidden_layers=1),
        tokens(1, 20),
    )
    cache = after(model, x[:, :8], max_length=LONGEST if fixed else None)
    model.set_window(5)
    with pytest.raises(ValueError, match="window"):
        model(x[:, 8:12], past_key_values=cache)
    model.set_window(7)
    close(model(x[:, 8:], past_key_values=cache).logits, model(x).logits[:, 8:])


def test_slots_give_back_what_has_not_entered_them():
    model, x = tiny(mixers="nha", windows=7), tokens(2, 7)
    cache = after(model, x)
    cache.crop(-3)
    rest = tokens(2, 12, seed=1)
    close(model(rest, past_key_values=cache).logits, model(torch.cat([x[:, :4], rest], 1)).logits[:, 4:])
    with pytest.raises(ValueError, match="layer 0 has slots, into which tokens have been merged"):
        cache.crop(-1)


@torch.no_grad()
def test_a_window_gives_back_no_more_than_it_holds():
    model, x = tiny(mixers="attention", windows=7), tokens(1, 20)
    cache = after(model, x)
    with pytest.raises(ValueError, match="layer 0 holds the last 7 tokens, and a window of 7 would reach 2 further back"):
        cache.crop(-2)
    cache.crop(-1)
    with pytest.raises(ValueError, match="layer 0 holds the last 6 tokens"):
        cache.crop(-1)


@torch.no_grad()
def test_a_crop_that_a_layer_refuses_changes_no_other():
    model, x = tiny(mixers=["attention", "attention", "gated_deltanet"], windows=[None, 7, None]), tokens(1, 5)
    cache = after(model, x)
    before = {name: t.clone() for name, t in cache.tensors().items()}
    with pytest.raises(ValueError, match="layer 2 keeps one state, into which every token has been merged"):
        cache.crop(-2)
    assert all(torch.equal(t, before[name]) for name, t in cache.tensors().items())
    assert not cache.is_croppable
    cache.crop(0)
    with pytest.raises(ValueError, match="wanted a negative number"):
        cache.crop(2)
    with pytest.raises(ValueError, match="the cache holds 5"):
        cache.crop(-6)
    for given in (-1.5, "all", None):
        with pytest.raises(ValueError, match=f"crop was given {given!r}; wanted a negative number"):
            cache.crop(given)


@pytest.mark.parametrize("fixed", [False, True], ids=["growing", "fixed"])
@torch.no_grad()
def test_a_layer_of_slots_alone_says_why_it_gives_nothing_back(fixed):
    model, x = tiny(mixers="gsa"), tokens(1, 5)
    cache = after(model, x, **({"max_length": LONGEST} if fixed else {}))
    with pytest.raises(ValueError, match="layer 0 has slots, into which tokens have been merged"):
        cache.crop(-1)


@torch.no_grad()
def test_pads_are_not_taken_back_for_tokens():
    model, mask = tiny(mixers="attention", windows=7), torch.ones(2, 6, dtype=torch.long)
    mask[1, 4] = 0
    cache = model.new_cache()
    model(tokens(2, 6), attention_mask=mask, past_key_values=cache)
    cache.crop(-1)
    with pytest.raises(ValueError, match="last 0 tokens alone that none of them is padding"):
        cache.crop(-1)


@pytest.mark.parametrize("window", [None, 7], ids=["full", "window"])
@pytest.mark.parametrize("by", ["assistant", "lookup"])
def test_speculative_decoding_is_greedy_decoding(window, by):
    model, x = tiny(mixers="attention", windows=window), tokens(1, 12)
    # The same weights, so right now and then, under a window of its own, so wrong at other times.
    assistant = tiny(mixers="attention", windows=3)
    more = {"assistant_model": assistant} if by == "assistant" else {"prompt_lookup_num_tokens": 3}
    x = torch.cat([x, x], 1)
    settings = GREEDY | {"max_new_tokens": 24, "suppress_tokens": [model.config.pad_token_id]}
    assert torch.equal(model.generate(x, **more, **settings), model.generate(x, **settings))


def test_speculative_decoding_with_slots_is_refused():
    model = tiny(mixers="nha", windows=3)
    with pytest.raises(ValueError, match=r"crop|taken back"):
        model.generate(tokens(1, 24), prompt_lookup_num_tokens=3, **(GREEDY | {"max_new_tokens": 40}))


@every_mixer
@pytest.mark.parametrize("fixed", [False, True], ids=["growing", "fixed"])
@torch.no_grad()
def test_rows_are_reordered_repeated_and_selected(fields, fixed):
    model, x, rest = tiny(**fields), tokens(3, 11), tokens(4, 6, seed=1)
    more = {"max_length": LONGEST} if fixed else {}

    def goes_on(cache, rows, rest):
        rest = rest[: len(rows)]
        whole = model(torch.cat([x[rows], rest], 1)).logits[:, 11:]
        found = [model(piece, past_key_values=cache).logits for piece in (rest[:, :1], rest[:, 1:])]
        close(torch.cat(found, 1), whole)

    cache = after(model, x, (9, 10), **more)
    kept, other = copy.deepcopy(cache), copy.deepcopy(cache)
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    goes_on(cache, [2, 0, 0], rest)
    kept.batch_select_indices(torch.tensor([2, 1]))
    kept.batch_repeat_interleave(2)
    goes_on(kept, [2, 2, 1, 1], rest)
    goes_on(other, [0, 1, 2], rest)


@every_mixer
def test_a_static_cache_generates_the_same_tokens(fields):
    model = tiny(**fields)
    x, mask = tokens(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[0, :5] = 0
    for more in ({}, {"num_beams": 2}):
        wanted = model.generate(x, attention_mask=mask, **more, **GREEDY)
        assert torch.equal(model.generate(x, attention_mask=mask, cache_implementation="static", **more, **GREEDY), wanted)


@every_mixer
@torch.no_grad()
def test_no_tensor_of_fixed_shapes_moves(fields):
    model, x, mask = tiny(**fields), tokens(2, LONGEST), torch.ones(2, 9, dtype=torch.long)
    mask[0, :4] = 0
    growing, cache = model.new_cache(), model.new_cache(max_length=LONGEST)
    for each in (growing, cache):
        model(x[:, :9], attention_mask=mask, past_key_values=each)
    places = {name: (t.data_ptr(), t.shape, t.stride()) for name, t in cache.tensors().items()}
    for i in range(9, 26):
        whole = torch.nn.functional.pad(mask, (0, i - 8), value=1)
        wanted = model(x[:, i : i + 1], attention_mask=whole, past_key_values=growing).logits
        # Without a mask: the pads there were are known to the cache.
        close(model(x[:, i : i + 1], past_key_values=cache).logits, wanted)
        assert {name: (t.data_ptr(), t.shape, t.stride()) for name, t in cache.tensors().items()} == places
    close(model(x[:, 26:30], past_key_values=cache).logits[1], model(x[1:, :30]).logits[0, 26:])
    assert cache.get_seq_length() == 30
    cache.reset()
    assert cache.get_seq_length() == 0
    close(model(x[:, :12], past_key_values=cache).logits, model(x[:, :12]).logits)
    assert {name: (t.data_ptr(), t.shape, t.stride()) for name, t in cache.tensors().items()} == places
    assert cache.state_bytes() == model.state_bytes(2, LONGEST)


@torch.no_grad()
def test_fixed_shapes_refuse_what_does_not_fit():
    model, x = tiny(mixers=["nha", "attention", "gla"], windows=[5, None, None]), tokens(2, 12)
    cache = after(model, x, max_length=12)
    with pytest.raises(ValueError, match="room for 12 tokens a row, holds 12, and 1 were given"):
        model(x[:, :1], past_key_values=cache)
    cache.crop(0)
    cache.reset()
    with pytest.raises(ValueError, match="holds 2 rows and 1 were given"):
        model(x[:1], past_key_values=cache)
    with torch.enable_grad(), pytest.raises(ValueError, match="no gradient survives"):
        model(x, past_key_values=cache)
    for wrong in (0, True, 2.5):
        with pytest.raises(ValueError, match="max_length is"):
            model.new_cache(max_length=wrong)
    with pytest.raises(ValueError, match="'offloaded'; wanted None"):
        model.generate(x, cache_implementation="offloaded", **GREEDY)
    with pytest.raises(ValueError, match="both a cache and cache_implementation"):
        model.generate(x, cache_implementation="static", **{CACHE_NAME: cache}, **GREEDY)


@every_mixer
@torch.no_grad()
def test_a_step_of_fixed_shapes_asks_the_host_nothing(fields, monkeypatch):
    model, x = tiny(**fields), tokens(2, 10)
    cache = after(model, x[:, :9], max_length=LONGEST)
    # A tensor without data raises where it is read back, as a CUDA graph's capture does.
    for part in (part for layer in cache.layers for part in parts_of(layer)):
        if hasattr(part, "state"):
            part.state = part.state.to("meta")
        else:
            part.keys, part.values = part.keys.to("meta"), part.values.to("meta")
    for name in ("filled", "seen", "mask"):
        setattr(cache.rows, name, getattr(cache.rows, name).to("meta"))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device=None: False)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    logits = model.to("meta")(x[:, 9:].to("meta"), past_key_values=cache).logits
    assert logits.shape == (2, 1, 97)
    with pytest.raises(RuntimeError, match="meta"):
        cache.get_seq_length()


@every_mixer
@pytest.mark.gpu
@torch.no_grad()
def test_a_decode_step_is_captured_in_a_cuda_graph(fields):
    model, x = tiny(**(fields | {"num_slots": 16})).cuda(), tokens(2, LONGEST).cuda()
    cache = after(model, x[:, :9], max_length=LONGEST)
    eager, token = copy.deepcopy(cache), x[:, 9:10].clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    held = {name: t.clone() for name, t in cache.tensors().items()}
    with torch.cuda.stream(stream):
        for _ in range(2):
            model(token, past_key_values=cache)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = model(token, past_key_values=cache).logits
    for name, t in cache.tensors().items():
        t.copy_(held[name])
    for i in range(9, 25):
        token.copy_(x[:, i : i + 1])
        graph.replay()
        close(logits, model(x[:, i : i + 1], past_key_values=eager).logits, 1e-4)
    assert cache.get_seq_length() == 25
