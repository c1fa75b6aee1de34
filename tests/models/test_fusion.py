"""Slots and window as a weighted sum of two softmaxes, against the sum written out; and how states are counted."""

import pytest
import torch
from tiny import close, settings, tiny, tokens

from models import NHAConfig
from models.convolutions import parts_of


def written_out(layer, x, batch, window, delay, share):
    """[B, T, HQ, K], a token at a time: gated means in the slots, then a softmax over each part."""
    q, k, v = layer.heads_of(x)
    decay = layer.log_decay(x).exp()
    turned = [_turned(part, batch) for part in (q, k)]
    group, scale = q.shape[2] // k.shape[2], layer.scale
    out = torch.zeros_like(q)
    for b in range(x.shape[0]):
        for head in range(q.shape[2]):
            own = head // group
            slot_k = torch.zeros(decay.shape[-1], q.shape[-1], dtype=x.dtype)
            slot_v = torch.zeros_like(slot_k)
            for t in range(x.shape[1]):
                if t - delay >= 0:
                    a = decay[b, t - delay, own][:, None]
                    slot_k = a * slot_k + (1 - a) * k[b, t - delay, own]
                    slot_v = a * slot_v + (1 - a) * v[b, t - delay, own]
                first = max(0, t - window + 1)
                near = (
                    torch.softmax(scale * turned[1][b, first : t + 1, own] @ turned[0][b, t, head], 0)
                    @ v[b, first : t + 1, own]
                )
                far = torch.softmax(scale * slot_k @ q[b, t, head], 0) @ slot_v
                weight = share[head] if t - delay >= 0 else 0.0
                out[b, t, head] = weight * far + (1 - weight) * near
    return out


def _turned(x, batch):
    cos, sin = batch.cos[:, :, None], batch.sin[:, :, None]
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


@pytest.mark.parametrize(("overlap", "delay"), [(False, 5), (True, 0)])
def test_a_sum_is_what_it_says(overlap, delay):
    model = tiny(windows=5, fusion="sum", slot_overlap=overlap, num_hidden_layers=1).double()
    layer = model.decoder_layers[0].self_attn
    assert torch.equal(layer.slots_share, torch.zeros(4, dtype=torch.float64))
    with torch.no_grad():
        layer.slots_share.copy_(torch.linspace(-2, 2, 4))
    met = {}
    layer.register_forward_hook(lambda module, inputs, output: met.update(x=inputs[0], batch=inputs[1], out=output))
    model(tokens(2, 17), use_cache=False)
    with torch.no_grad():
        wanted = layer.out_of(written_out(layer, met["x"], met["batch"], 5, delay, layer.slots_share.sigmoid()))
    close(met["out"], wanted, 1e-10)
    model(tokens(2, 17), labels=tokens(2, 17), use_cache=False).loss.backward()
    assert layer.slots_share.grad.abs().min() > 0


def test_a_sum_keeps_packed_sequences_apart():
    model = tiny(windows=5, fusion="sum").double()
    x = tokens(2, 12)
    packed = model(x.reshape(1, 24), position_ids=torch.arange(12).repeat(2)[None], use_cache=False).logits
    close(packed.view(2, 12, -1), model(x, use_cache=False).logits, 1e-10)


def test_a_sum_has_no_cache_and_no_share_to_train_by():
    with pytest.raises(ValueError, match="keeps no cache; wanted use_cache=False"):
        tiny(windows=5, fusion="sum")(tokens(1, 9), use_cache=True)
    with pytest.raises(ValueError, match="fusion is 'add'; wanted one of"):
        NHAConfig(num_hidden_layers=1, fusion="add")
    with pytest.raises(ValueError, match="aux_loss is of one softmax"):
        NHAConfig(num_hidden_layers=1, fusion="sum", aux_loss=0.1)
    with pytest.raises(ValueError, match="no layer of 'gsa' has both"):
        NHAConfig(num_hidden_layers=1, mixers="gsa", fusion="sum")


@pytest.mark.parametrize("name", settings())
@pytest.mark.parametrize("length", [3, 20])
def test_state_elements_are_what_a_cache_holds(name, length):
    """Counted in a live cache: its tensors that hold what was read, known by their names."""
    model = tiny(**settings()[name])
    cache = model.new_cache()
    with torch.no_grad():
        model(tokens(1, length), cache=cache)
    found = 0
    layers = zip(model.decoder_layers, cache.layers, strict=True)
    for mixer, held in ((layer.self_attn, part) for layer, whole in layers for part in parts_of(whole)):
        if getattr(held, "state", None) is None:
            found += held.keys.numel() + held.values.numel()
            continue
        tensors = held.state.tensors()
        reach = min(length, getattr(mixer, "window", None) or 0)
        for part, tensor in tensors.items():
            if part in ("slot_k", "slot_v", "memory", "tail", "inputs"):
                found += tensor.numel()
            elif part in ("k", "v"):
                # [1, H, R, K]; the ring may have room for more than the tokens that there were.
                found += tensor[:, :, :reach].numel()
    assert model.state_elements(length) == found
