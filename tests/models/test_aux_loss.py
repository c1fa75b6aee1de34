"""The auxiliary loss on the slots' share of attention: its value by hand, its place in the training loss, its slope."""

import math

import pytest
import torch
import torch.nn.functional as F

from models import NHAConfig, NHAForCausalLM
from models.mixers.nha import share_loss


def small(**more) -> NHAForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = NHAConfig(**sizes, num_key_value_heads=2, num_slots=8, windows=4, aux_loss=0.5, **more)
    return NHAForCausalLM(config).train()


IDS = torch.randint(0, 50, (2, 40), generator=torch.Generator().manual_seed(1))


def test_value_by_hand():
    slots = torch.tensor([0.0, 2.0, -math.inf, 1.0]).view(1, 4, 1).requires_grad_()
    window = torch.tensor([1.0, 0.0, 3.0, -math.inf]).view(1, 4, 1).requires_grad_()
    loss = share_loss(slots, window, 1.0)
    assert loss.item() == pytest.approx((math.log1p(math.e) + math.log1p(math.exp(-2))) / 2, rel=1e-6)
    loss.backward()
    assert window.grad is None
    wanted = [-1 / (1 + math.exp(-1)), -1 / (1 + math.exp(2)), 0, 0]
    assert slots.grad.flatten().tolist() == pytest.approx([x / 2 for x in wanted], rel=1e-6)
    # At the share that is wanted nothing pulls.
    slots = torch.tensor([0.5]).view(1, 1, 1).requires_grad_()
    share_loss(slots, torch.zeros(1, 1, 1), torch.sigmoid(torch.tensor(0.5)).item()).backward()
    assert abs(slots.grad.item()) < 1e-6


def test_its_place_in_the_loss():
    model = small()
    out = model(IDS, labels=IDS)
    plain = F.cross_entropy(out.logits[:, :-1].flatten(0, 1).float(), IDS[:, 1:].flatten())
    assert out.aux_loss > 0
    assert out.loss.item() == pytest.approx((plain + 0.5 * out.aux_loss).item(), rel=1e-5)
    model.eval()
    out = model(IDS, labels=IDS)
    assert out.aux_loss is None and out.loss.item() == pytest.approx(plain.item(), rel=1e-5)


def test_pads_have_no_part_in_it():
    model = small()
    wanted = model(IDS).aux_loss
    padded = torch.cat([torch.zeros(2, 7, dtype=torch.long), IDS], 1)
    mask = torch.cat([torch.zeros(2, 7), torch.ones(2, 40)], 1)
    assert model(padded, attention_mask=mask).aux_loss.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_gradient_of_the_gates_is_the_slope():
    """The last layer's gates move its slots alone, so that holding the window's side fixed changes nothing."""
    model = small().double()
    model(IDS).aux_loss.backward()
    gate = model.model.layers[-1].self_attn.g_proj.weight
    slope, step = gate.grad.norm().item(), gate.grad / gate.grad.norm()
    values = []
    for size in (0.05, -0.1):
        with torch.no_grad():
            gate += size * step
        values.append(model(IDS).aux_loss.item())
    assert slope > 0 and (values[0] - values[1]) / 0.1 == pytest.approx(slope, rel=1e-2)


def test_gradient_checkpointing():
    grads = []
    for settings in (None, {"use_reentrant": False}):
        model = small()
        if settings:
            model.gradient_checkpointing_enable(settings)
        model(IDS, labels=IDS).loss.backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    assert all(torch.allclose(grads[0][name], grads[1][name], atol=1e-6) for name in grads[0])
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    with pytest.raises(ValueError, match="use_reentrant"):
        model(IDS, labels=IDS)


@pytest.mark.parametrize(
    ("setting", "value"), [("aux_loss", -1), ("aux_loss", math.nan), ("aux_loss_target", 0.0), ("aux_loss_target", 2)]
)
def test_settings_out_of_range(setting, value):
    with pytest.raises(ValueError, match=setting):
        NHAConfig(**{setting: value})
