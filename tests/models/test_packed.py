"""Packed sequences: by positions alone, by bounds, and as Transformers' collator and Trainer make them, for every mixer."""

import pytest
import torch
from tiny import ONCE, close, settings, tiny, tokens
from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

from models.cache import CACHE_NAME

SETTINGS = settings()
every_mixer = pytest.mark.parametrize("fields", SETTINGS.values(), ids=SETTINGS.keys())
LENGTHS = (9, 1, 20, 2)


def sequences() -> list[torch.Tensor]:
    return [tokens(1, n, seed=n)[0] for n in LENGTHS]


def packed() -> dict[str, torch.Tensor]:
    """What the collator makes of the sequences, with the bounds under both names."""
    rows = [{"input_ids": row.tolist(), "labels": row.tolist()} for row in sequences()]
    batch = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_tensors="pt")(rows)
    assert batch["position_ids"].tolist() == [[i for n in LENGTHS for i in range(n)]]
    return batch


@every_mixer
@torch.no_grad()
def test_a_pack_gives_what_its_sequences_give_alone(fields):
    model, batch = tiny(**fields), packed()
    wanted = torch.cat([model(row[None]).logits for row in sequences()], 1)
    bounds = batch["cu_seq_lens_q"]
    for said in ({"position_ids": batch["position_ids"]}, {"cu_seqlens": bounds}, {"cu_seq_lens_q": bounds[None]}):
        found = model(batch["input_ids"], **said)
        assert getattr(found, CACHE_NAME) is None
        close(found.logits, wanted)


@every_mixer
def test_gradients_of_a_pack_are_those_of_its_sequences(fields):
    # In fp64, since sums in another order cost the gates more than the bound in fp32; the gates themselves stay in fp32.
    model, batch = tiny(**fields).double(), packed()
    names = [name for name, _ in model.named_parameters()]
    weight = torch.randn(1, sum(LENGTHS), 97, generator=torch.Generator().manual_seed(0))

    def gradients(logits):
        return torch.autograd.grad((logits * weight).sum(), list(model.parameters()), allow_unused=True)

    wanted = gradients(torch.cat([model(row[None]).logits for row in sequences()], 1))
    found = gradients(model(batch["input_ids"], position_ids=batch["position_ids"]).logits)
    for name, one, other in zip(names, found, wanted, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            close(one, other)


@every_mixer
@torch.no_grad()
def test_rows_may_each_hold_a_pack(fields):
    model, x = tiny(**fields), tokens(2, 32)
    positions = torch.tensor([[*range(9), *range(1), *range(20), *range(2)], [*range(32)]])
    wanted = torch.cat([model(part).logits for part in x[:1].split(LENGTHS, 1)], 1)
    logits = model(x, position_ids=positions).logits
    close(logits[:1], wanted)
    close(logits[1:], model(x[1:]).logits)


@torch.no_grad()
def test_positions_that_start_once_pack_nothing():
    model, x = tiny(mixers=["nha", "attention", "gla"], windows=[5, None, None]), tokens(2, 12)
    wanted = model(x).logits
    outputs = model(x, position_ids=torch.arange(12)[None])
    assert torch.equal(outputs.logits, wanted)
    assert getattr(outputs, CACHE_NAME) is not None
    # Going on from a cache, a first position of 0 may be a row that held pads alone.
    cache, mask = model.new_cache(), torch.ones(2, 12, dtype=torch.long)
    mask[0, :6] = 0
    whole = model(x, attention_mask=mask).logits
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    for start, end in ((0, 4), (4, 12)):
        piece = {"attention_mask": mask[:, :end], "position_ids": positions[:, start:end], "past_key_values": cache}
        logits = model(x[:, start:end], **piece).logits
    close(logits[0, 2:], whole[0, 6:])
    close(logits[1], whole[1, 4:])


def test_bounds_that_do_not_fit_are_refused():
    model, x = tiny(mixers="nha", windows=4), tokens(1, 8)
    for wrong in ([0, 7], [1, 8], [0, 5, 5, 8], [0, 6, 4, 8], [8]):
        with pytest.raises(ValueError, match="wanted ascending bounds from 0 to 8"):
            model(x, cu_seqlens=torch.tensor(wrong))
    bounds, mask = torch.tensor([0, 3, 8]), torch.ones(1, 8)
    mask[0, 0] = 0
    with pytest.raises(ValueError, match="with a cache; wanted neither"):
        model(x, cu_seqlens=bounds, past_key_values=model.new_cache())
    with pytest.raises(ValueError, match="with pads; wanted neither"):
        model(x, cu_seqlens=bounds, attention_mask=mask)


@pytest.mark.parametrize("fields", ONCE.values(), ids=ONCE.keys())
def test_trainer_trains_on_packs(fields, tmp_path):
    rows = [{"input_ids": row.tolist()} for row in sequences() * 4]

    def train(collator, batch, steps, rate):
        arguments = TrainingArguments(
            tmp_path, max_steps=steps, per_device_train_batch_size=batch, learning_rate=rate, report_to=[], logging_steps=1,
            save_strategy="no", use_cpu=True, seed=0, disable_tqdm=True, lr_scheduler_type="constant",
        )  # fmt: skip
        model = tiny(**(fields | {"initializer_range": 0.02}))
        trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collator)
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    # What else the collator can say changes nothing.
    more = {"return_flash_attn_kwargs": True, "return_seq_idx": True} if fields["mixers"] == "attention" else {}
    losses = train(DataCollatorWithFlattening(**more), 4, 3, 3e-3)
    assert losses[-1] < losses[0]
    # A step over a pack is a step over the same sequences, padded and masked, one by one.
    apart = train(_padded, 4, 1, 3e-3)
    assert abs(apart[0] - losses[0]) < 1e-4


def _padded(rows: list[dict]) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    x = torch.zeros(len(rows), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(x), torch.full_like(x, -100)
    for b, row in enumerate(rows):
        n = len(row["input_ids"])
        x[b, :n] = labels[b, :n] = torch.tensor(row["input_ids"])
        mask[b, :n] = 1
    return {"input_ids": x, "attention_mask": mask, "labels": labels}
