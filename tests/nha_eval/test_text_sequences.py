"""Training sequences: what an item is, that it depends on the seed and its number alone, and what packed documents see."""

import numpy as np
import pytest
import torch

from models import NHAConfig, NHAForCausalLM
from nha_eval.errors import UserError
from nha_eval.text.sequences import NOT_COUNTED, Documents, FixedBlocks, Sequences, document_bounds

SEPARATOR = 0


def row(*lengths, seed=0):
    """Documents of these lengths, their separators counted, as one row of tokens from 1 to 99."""
    rng = np.random.default_rng(seed)
    return np.concatenate([[*rng.integers(1, 100, length - 1), SEPARATOR] for length in lengths]).astype(np.uint16)


def ids(sequences, numbers):
    return [sequences[i]["input_ids"].tolist() for i in numbers]


def test_an_epoch_is_every_block_once_and_the_next_has_another_order():
    tokens = np.arange(103, dtype=np.uint16)
    blocks = [list(range(i, i + 10)) for i in range(0, 100, 10)]
    found = ids(Sequences(tokens, 10, seed=3, items=30), range(30))
    for epoch in range(3):
        assert sorted(found[10 * epoch : 10 * epoch + 10]) == blocks
    assert found[:10] != found[10:20] != found[20:]
    assert found[:10] != blocks
    assert len(Sequences(tokens, 10)) == 10
    assert ids(Sequences(tokens, 10, seed=4), range(10)) != found[:10]


def test_an_item_depends_on_the_seed_and_its_number_alone():
    tokens = row(40, 7, 90, 13, seed=1)
    whole = ids(Sequences(tokens, 8, seed=5, items=50), range(50))
    resumed = Sequences(tokens, 8, seed=5, items=50)
    assert ids(resumed, range(49, 30, -1)) == whole[49:30:-1]
    assert ids(Sequences(tokens, 8, seed=5, items=1000), [33, 2, 49]) == [whole[33], whole[2], whole[49]]
    item = resumed[0]["input_ids"]
    assert (item.dtype, item.shape) == (torch.int64, (8,))
    assert resumed[-1]["input_ids"].tolist() == whole[-1]
    with pytest.raises(IndexError):
        resumed[50]
    # Ends, as an iterator does.
    assert len(list(Sequences(tokens, 8))) == 150 // 8


def test_text_shorter_than_a_sequence_is_refused():
    with pytest.raises(UserError, match="shorter than one sequence of 200 tokens"):
        Sequences(row(40, 90), 200)


@pytest.mark.parametrize("share", [0.25, 1 / 3, 1.0])
def test_the_share_of_made_sequences_is_kept_and_spread(share):
    class Made:
        def __getitem__(self, i):
            return {"input_ids": np.full(10, 1000 + i)}

    tokens = np.arange(100, dtype=np.uint16)
    found = [item[0] for item in ids(Sequences(tokens, 10, items=60, recall=Made(), recall_share=share), range(60))]
    made = [value for value in found if value >= 1000]
    assert made == [1000 + i for i in range(len(made))] and abs(len(made) - 60 * share) < 1
    for begin in range(0, 60, 12):
        assert abs(sum(value >= 1000 for value in found[begin : begin + 12]) - 12 * share) <= 1
    plain = [value for value in found if value < 1000]
    assert sorted(plain[:10]) == sorted(set(plain[:10]))
    # One epoch goes through the text once.
    if share < 1:
        epoch = Sequences(tokens, 10, recall=Made(), recall_share=share)
        assert sorted(item[0] for item in ids(epoch, range(len(epoch))) if item[0] < 1000)[:9] == list(range(0, 90, 10))


def test_documents_are_packed_whole_where_they_fit():
    lengths = [30, 5, 12, 9, 64, 3, 20, 17, 40, 8, 2, 33]
    tokens, length = row(*lengths), 32
    packing = Documents(tokens, length, SEPARATOR)
    documents = np.split(tokens, document_bounds(tokens, SEPARATOR)[1:-1])
    assert [len(document) for document in documents] == lengths
    wanted = sorted(
        list(map(int, part))
        for document in documents
        for part in np.split(document, range(length, len(document), length))
        if len(part) > 1
    )
    found = []
    for i in range(len(packing)):
        item = packing[i]
        assert all(values.shape == (length,) for values in item.values())
        starts = np.flatnonzero(item["position_ids"] == 0)
        ends = [*starts[1:], length]
        for start, end in zip(starts, ends, strict=True):
            assert item["position_ids"][start:end].tolist() == list(range(end - start))
            part, labels = item["input_ids"][start:end], item["labels"][start:end]
            if (labels == NOT_COUNTED).all() and (end - start > 1 or end == length) and set(part) == {SEPARATOR}:
                assert end == length
                continue
            assert labels[0] == NOT_COUNTED and labels[1:].tolist() == part[1:].tolist()
            found.append(part.tolist())
    assert sorted(found) == wanted
    # No two sequences could be one: 243 tokens are eight sequences of 32.
    assert len(packing) == -(-sum(lengths) // length)


def test_nothing_is_seen_across_packed_documents(one_thread):
    torch.manual_seed(0)
    config = NHAConfig(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        mixers=["nha", "attention"], windows=[4, None], num_slots=4,
    )  # fmt: skip
    model = NHAForCausalLM(config).eval()
    item = Sequences(Documents(row(11, 7, 9, 4), 32, SEPARATOR), 32)[0]
    batch = {name: values[None] for name, values in item.items()}
    with torch.no_grad():
        together = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits[0]
        starts = (item["position_ids"] == 0).nonzero().flatten().tolist()
        for start, end in zip(starts, [*starts[1:], 32], strict=True):
            alone = model(input_ids=batch["input_ids"][:, start:end]).logits[0]
            torch.testing.assert_close(together[start:end], alone, rtol=1e-4, atol=1e-5)
        assert torch.isfinite(model(**batch).loss)


def test_evaluation_sequences_are_the_first_blocks():
    tokens = np.arange(57, dtype=np.uint16)
    fixed = FixedBlocks(tokens, 10, 3, "held-out")
    assert [item["input_ids"].tolist() for item in fixed] == [list(range(i, i + 10)) for i in (0, 10, 20)]
    assert len(FixedBlocks(tokens, 10, None, "held-out")) == 5
    with pytest.raises(UserError, match="held-out text has 5 sequences of 10 tokens, 6 were asked for"):
        FixedBlocks(tokens, 10, 6, "held-out")
