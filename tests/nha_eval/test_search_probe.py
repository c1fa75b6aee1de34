"""The recall probe: its spans are the answers, its figures those of a plain pass, its seeds nobody else's."""

import numpy as np
import pytest
import torch
from search_models import LAYERS, loud_model
from tiny_lm import make_tokenizer

from nha_eval.search.evaluator import Evaluator, Memory
from nha_eval.search.probe import probe_seed, probe_texts
from nha_eval.spec import Spec
from nha_eval.stats import clustered_stderr
from tasks.synthetic import generator, generator_names

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def texts(tokenizer):
    return probe_texts(tokenizer, contexts=4, length=256, seed=probe_seed(0, "heldout"), questions=3)


def test_each_answer_stands_in_the_context_and_again_after_its_question(texts, tokenizer):
    assert len(texts) == 4 and len({text.context for text in texts}) == 4
    # All generators that need no data, in turns.
    generators = {name for name in generator_names() if not generator(name).NEEDS}
    assert {text.context.split("-")[0] for text in texts} == generators and len(generators) == 4
    for text in texts:
        assert len(text.answers) == 3
        for first, end in text.answers:
            answer = tokenizer.decode(text.ids[first:end]).strip()
            before = tokenizer.decode(text.ids[:first])
            assert answer and before.count(answer) >= 1
            cue = before.rsplit("\n\n", 1)[1]
            assert f"{cue} {answer}" in before.split("\n\n", 1)[0]


def test_the_answers_are_scored_as_in_a_plain_pass(texts, tokenizer, tmp_path):
    model = loud_model(tmp_path)
    evaluator = Evaluator(model, "test", torch.ones(2, 4, dtype=torch.long), texts, Memory())
    for windows in ((None,) * LAYERS, (None, 8, 0, None)):
        found = evaluator.answers(windows)
        for i, window in enumerate(windows):
            model.set_window(window, layers=[i])
        loss, right = [], []
        for text in texts:
            with torch.no_grad():
                logits = model(text.ids[None]).logits[0].double()
            for first, end in text.answers:
                wanted = text.ids[first:end]
                loss.append(torch.nn.functional.cross_entropy(logits[first - 1 : end - 1], wanted).item())
                right.append(bool((logits[first - 1 : end - 1].argmax(-1) == wanted).all()))
        assert found.loss == pytest.approx(np.array(loss), abs=1e-4)
        assert found.right.tolist() == right
        row = evaluator.row(windows)
        assert row["answer_loss"] == pytest.approx(np.mean(loss), abs=1e-4)
        assert row["answer_loss_stderr"] == pytest.approx(clustered_stderr(loss, np.repeat(range(4), 3)), abs=1e-4)
        assert row["recall"] == np.mean(right)


def test_its_seeds_are_no_evaluations(tokenizer):
    with pytest.raises(ValueError, match="seed"):
        Spec.model_validate({"seed": min(probe_seed(0, split) for split in ("heldout", "unseen"))})
    seeds = [probe_seed(seed, split) for seed in (0, 1, 2**32 - 1) for split in ("heldout", "unseen")]
    assert len(set(seeds)) == len(seeds)
    searched, confirmed, evaluated = (
        {text.context: tuple(text.ids.tolist()) for text in probe_texts(tokenizer, 3, 256, seed, questions=2)}
        for seed in (probe_seed(0, "heldout"), probe_seed(0, "unseen"), 0)
    )
    assert not set(searched.values()) & set(confirmed.values())
    assert not set(searched.values()) & set(evaluated.values())


def test_a_text_begins_as_the_tokenizer_begins_one(tokenizer):
    class Begins:
        bos_token_id = 7

        def __call__(self, text, add_special_tokens=True):
            plain = tokenizer(text)
            plain["input_ids"] = ([7] if add_special_tokens else []) + plain["input_ids"]
            return plain

    plain, begun = (probe_texts(which, 1, 256, 5, questions=2)[0] for which in (tokenizer, Begins()))
    assert begun.ids.tolist() == [7, *plain.ids.tolist()]
    assert begun.answers == [(first + 1, end + 1) for first, end in plain.answers]
