"""What every mixer must do, over every file in models/mixers: a new mixer is tested because its file exists."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny import close, settings, tiny, tokens
from transformers import AutoModelForCausalLM, DynamicCache

from models.cache import CACHE_NAME
from models.mixers import nha

SETTINGS = settings()
every_mixer = pytest.mark.parametrize("fields", SETTINGS.values(), ids=SETTINGS.keys())


@pytest.fixture
def overwritten(monkeypatch):
    """Spoils every state that a mixer lets be written over, as the CPU's operator never does; how often, in a list."""
    attend, spoilt = nha.nha_attention, []

    def spoil(*args, state, overwrite_state, **options):
        out, after = attend(*args, state=state, **options)
        if state is not None and overwrite_state:
            after = replace(after, **{name: t.clone() for name, t in after.tensors().items()})
            for t in state.tensors().values():
                t.fill_(torch.nan if t.is_floating_point() else -1)
            spoilt.append(state)
        return out, after

    monkeypatch.setattr(nha, "nha_attention", spoil)
    return spoilt


@every_mixer
@torch.no_grad()
def test_a_later_token_changes_no_earlier_output(fields):
    model, x = tiny(**fields), tokens(2, 40)
    y = x.clone()
    y[:, 25:] = tokens(2, 15, seed=1)
    a, b = model(x).logits, model(y).logits
    assert a.shape == (2, 40, 97)
    assert a.dtype == torch.float32
    close(b[:, :25], a[:, :25], 1e-6)
    assert not torch.allclose(a[:, 25:], b[:, 25:])


@every_mixer
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 257])
@torch.no_grad()
def test_full_pass_equals_split_and_token_by_token(fields, length):
    model, x = tiny(**fields), tokens(2, length)
    whole = model(x).logits
    cache, steps = model.new_cache(), []
    for start, end in [(0, length // 3), (length // 3, length // 3 + 1), (length // 3 + 1, length)]:
        if start < end:
            steps.append(model(x[:, start:end], past_key_values=cache).logits)
    close(torch.cat(steps, 1), whole)
    cache = model.new_cache()
    close(torch.cat([model(x[:, i : i + 1], past_key_values=cache).logits for i in range(length)], 1), whole)
    assert cache.state_bytes() == model.state_bytes(2, length)


@every_mixer
@torch.no_grad()
def test_pads_anywhere_change_nothing(fields):
    model, lengths = tiny(**fields), [11, 30, 1, 23]
    rows = [tokens(1, n, seed=n)[0] for n in lengths]
    alone = [model(row[None]).logits[0] for row in rows]
    places = {
        "left": lambda n: range(30 - n, 30),
        "right": lambda n: range(n),
        "middle": lambda n: [*range(1), *range(31 - n, 30)],
    }
    for place in places.values():
        x, mask = torch.zeros(4, 30, dtype=torch.long), torch.zeros(4, 30, dtype=torch.long)
        for b, row in enumerate(rows):
            where = list(place(len(row)))
            x[b, where], mask[b, where] = row, 1
        logits = model(x, attention_mask=mask).logits
        cache = model.new_cache()
        cut = torch.cat(
            [model(x[:, s:e], attention_mask=mask[:, :e], past_key_values=cache).logits for s, e in ((0, 12), (12, 30))], 1
        )
        for b in range(4):
            close(logits[b][mask[b].bool()], alone[b])
            close(cut[b][mask[b].bool()], alone[b])


@every_mixer
@pytest.mark.filterwarnings("error:.*past_key_values:FutureWarning")
def test_generate_with_and_without_cache_and_in_a_padded_batch(fields, overwritten):
    model = tiny(**fields)
    rows = [tokens(1, n, seed=n)[0] for n in (5, 20, 12)]
    alone = []
    for row in rows:
        out = model.generate(row[None], max_new_tokens=8, do_sample=False, eos_token_id=None)
        again = model.generate(row[None], max_new_tokens=8, do_sample=False, eos_token_id=None, use_cache=False)
        assert torch.equal(out, again)
        alone.append(out[0, len(row) :])
    x, mask = torch.zeros(3, 20, dtype=torch.long), torch.zeros(3, 20, dtype=torch.long)
    for b, row in enumerate(rows):
        x[b, -len(row) :], mask[b, -len(row) :] = row, 1
    batch = model.generate(x, attention_mask=mask, max_new_tokens=8, do_sample=False, eos_token_id=None)
    assert torch.equal(batch[:, 20:], torch.stack(alone))


@every_mixer
def test_beams_reorder_the_cache(fields, overwritten):
    model, x = tiny(**fields), tokens(2, 9)
    settings = {"max_new_tokens": 6, "num_beams": 3, "do_sample": False, "eos_token_id": None}
    assert torch.equal(model.generate(x, **settings), model.generate(x, use_cache=False, **settings))


@every_mixer
@torch.no_grad()
def test_a_prefix_is_shared_by_repeating_its_cache(fields, overwritten):
    model, prefix, rest = tiny(**fields), tokens(1, 30), tokens(3, 6, seed=1)
    whole = model(torch.cat([prefix.expand(3, -1), rest], 1)).logits[:, 30:]
    cache = model.new_cache()
    model(prefix, past_key_values=cache)
    kept = copy.deepcopy(cache)
    cache.batch_repeat_interleave(3)
    close(model(rest, past_key_values=cache).logits, whole)
    kept.batch_repeat_interleave(3)
    kept.batch_select_indices(torch.tensor([2, 0]))
    close(model(rest[[2, 0]], past_key_values=kept).logits, whole[[2, 0]])


def test_a_state_is_written_over_only_where_no_gradient_is_wanted(overwritten):
    model, x = tiny(mixers="nha", windows=7), tokens(1, 12)
    cache = model.new_cache()
    for start, spoils in ((0, 0), (4, 0), (8, 3)):
        with torch.set_grad_enabled(start < 8):
            model(x[:, start : start + 4], past_key_values=cache)
        assert len(overwritten) == spoils


@pytest.mark.gpu
@torch.no_grad()
def test_on_a_gpu_a_step_moves_the_state_on_in_place_and_a_copy_is_left_alone():
    model, x = tiny(mixers=["nha", "gsa", "nha"], windows=[7, None, 0], num_slots=16).cuda(), tokens(2, 40).cuda()
    whole, cache = model(x).logits, model.new_cache()
    model(x[:, :20], past_key_values=cache)
    kept = copy.deepcopy(cache)
    for each in (cache, kept):
        # The operator may bring a state into its own layout first.
        model(x[:, 20:21], past_key_values=each)
        held = [t.data_ptr() for layer in each.layers for t in layer.state.tensors().values()]
        close(torch.cat([model(x[:, i : i + 1], past_key_values=each).logits for i in range(21, 40)], 1), whole[:, 21:])
        assert [t.data_ptr() for layer in each.layers for t in layer.state.tensors().values()] == held


@torch.no_grad()
def test_the_cache_goes_by_either_of_its_names():
    model, x = tiny(mixers="nha", windows=7), tokens(1, 12)
    whole = model(x).logits
    for name in ("past_key_values", "cache"):
        cache = model.new_cache()
        outputs = model(x[:, :8], **{name: cache})
        assert outputs[CACHE_NAME] is cache
        close(model(x[:, 8:], **{name: cache}).logits, whole[:, 8:])
    with pytest.raises(ValueError, match="two names"):
        model(x, past_key_values=cache, cache=cache)
    with pytest.raises(ValueError, match="DynamicCache; wanted"):
        model(x, cache=DynamicCache())


@torch.no_grad()
def test_generate_goes_on_from_a_given_cache():
    model, x = tiny(mixers=["nha", "attention", "gsa"], windows=[5, None, None]), tokens(1, 12)
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    cache = model.new_cache()
    model(x[:, :8], past_key_values=cache)
    assert torch.equal(model.generate(x, **{CACHE_NAME: cache}, **settings), model.generate(x, **settings))


@every_mixer
@torch.no_grad()
def test_saved_and_loaded_gives_the_same_bits(fields, tmp_path):
    model, x = tiny(**fields), tokens(1, 20)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert torch.equal(again(x).logits, model(x).logits)
    assert again.config.windows == model.config.windows
    assert not list(tmp_path.glob("*.bin"))


@every_mixer
def test_gradients_are_finite_and_ten_steps_lower_the_loss(fields):
    model, x = tiny(**(fields | {"initializer_range": 0.02})).train(), tokens(4, 50)
    model = copy.deepcopy(model)
    first = model(x, labels=x).loss
    first.backward()
    used = {name: p.grad for name, p in model.named_parameters()}
    # At full windows an NHA layer's gates take no part.
    full = [i for i, layer in enumerate(model.decoder_layers) if layer.self_attn.has_window and layer.self_attn.window is None]
    idle = {name for name in used if ".g_proj." in name and int(name.split(".")[2]) in full}
    assert {name for name, grad in used.items() if grad is None} == idle
    assert all(torch.isfinite(grad).all() for grad in used.values() if grad is not None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(10):
        optimizer.zero_grad()
        loss = model(x, labels=x).loss
        loss.backward()
        optimizer.step()
    assert loss < first


@every_mixer
def test_gradient_checkpointing_gives_the_same_gradients(fields):
    x, grads = tokens(2, 30), []
    for checkpointing in (False, True):
        model = tiny(**fields).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(x, labels=x).loss.backward()
        grads.append(model.model.embed_tokens.weight.grad)
    close(grads[1], grads[0], 1e-6)


def test_gradient_checkpointing_takes_no_cache_but_generates_with_one(overwritten):
    model, x = tiny(mixers="nha", windows=7).train(), tokens(1, 12)
    model.gradient_checkpointing_enable()
    assert getattr(model(x, use_cache=True), CACHE_NAME) is None
    with pytest.raises(ValueError, match="checkpointing"):
        model(x, past_key_values=model.new_cache())
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    found = model.generate(x, use_cache=True, **settings)
    assert overwritten
    assert torch.equal(found, model.eval().generate(x, use_cache=False, **settings))
