"""HarnessLM gives what plain lm-eval gives, whatever is shared, padded, truncated or batched."""

import json
import random
from types import SimpleNamespace

import pytest
import torch
from tiny_lm import ask, loaded, make_model, make_tokenizer, plain, words
from transformers import DynamicCache, GenerationConfig

from models.presets import load
from nha_eval.answers import Answers
from nha_eval.generation import StopRule, decode, is_plain_greedy, takes_padding
from nha_eval.lm import HarnessLM
from nha_eval.prefix import Batches, plan, saving_worth

TOKENIZER = make_tokenizer()
MODELS = {"full": make_model(), "sliding": make_model(window=24)}
KINDS = pytest.mark.parametrize("kind", MODELS)


def make(kind: str = "full", batch_size: int = 8, **settings) -> HarnessLM:
    return HarnessLM(loaded(MODELS[kind], TOKENIZER), batch_size=batch_size, **settings)


def choices() -> list[tuple[str, str]]:
    """Contexts shared in part, in full and not at all, with continuations that begin alike or begin one another, shuffled."""
    examples, pairs = words(50, 1), []
    for item in range(5):
        context = f"{examples}\n{words(12 + 3 * item, 10 + item)}:"
        pairs += [(context, " " + words(1 + choice, 20 + item)) for choice in range(4)]
        pairs += [(context, f" {words(3, 30 + choice)}") for choice in range(2)]
    pairs += [(words(5 + 9 * item, 40 + item), " " + words(4, 50 + item)) for item in range(4)]
    pairs += [("", "stone"), ("", " of the river"), ("a", " b"), ("the garden ", "sleeps"), ("<|end|>the", " garden")]
    pairs += [(words(220, 3), " " + words(6, 60)), (words(220, 3), " " + words(9, 61)), (words(400, 4), " green")]
    pairs += pairs[:3]
    random.Random(0).shuffle(pairs)
    return pairs


@KINDS
@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
def test_loglikelihoods_are_those_of_plain_lm_eval(kind, batch_size):
    requests = ask("loglikelihood", *choices())
    lm = make(kind, batch_size)
    expected = plain(loaded(MODELS[kind], TOKENIZER)).loglikelihood(requests, disable_tqdm=True)
    found = lm.loglikelihood(requests)
    assert [f[0] for f in found] == pytest.approx([e[0] for e in expected], abs=1e-5, rel=1e-6)
    assert [f[1] for f in found] == [e[1] for e in expected]
    assert lm.truncated == 3


def test_scores_do_not_depend_on_batch_size_or_order():
    """In double precision, so that only a mistake can show."""
    model = make_model(dtype=torch.float64)
    pairs = choices()
    one = HarnessLM(loaded(model, TOKENIZER), batch_size=1).loglikelihood(ask("loglikelihood", *pairs))
    eight = HarnessLM(loaded(model, TOKENIZER), batch_size=8).loglikelihood(ask("loglikelihood", *reversed(pairs)))
    expected = plain(loaded(model, TOKENIZER)).loglikelihood(ask("loglikelihood", *pairs), disable_tqdm=True)
    assert [s for s, _ in one] == pytest.approx([s for s, _ in reversed(eight)], abs=1e-9)
    assert [s for s, _ in one] == pytest.approx([s for s, _ in expected], abs=1e-9)


def test_prefixes_run_once(monkeypatch):
    """Six questions on one text: the model sees the text once."""
    text = words(80, 1)
    pairs = [(f"{text}\n{words(4, seed)}", " green") for seed in range(6)]
    seen = count_tokens(monkeypatch, MODELS["full"])
    make().loglikelihood(ask("loglikelihood", *pairs))
    shared, all_tokens = len(TOKENIZER.encode(text)), sum(len(TOKENIZER.encode(c + w)) for c, w in pairs)
    assert sum(seen) < all_tokens - 4 * shared
    seen.clear()
    make(min_saving=10**6).loglikelihood(ask("loglikelihood", *pairs))
    assert sum(seen) >= all_tokens - len(pairs)


def test_a_gpu_continues_many_contexts_in_one_batch():
    """There a call costs thousands of tokens: six questions on a text share it when they are scored, but not where forty tokens
    are to be generated for each, which would be forty calls a text in the place of forty for all."""
    rows = [[text] * 1000 + [question] for text in range(8) for question in range(6)]
    limits = [1000] * len(rows)
    assert len(plan(rows, limits, min_saving=saving_worth("cuda")).children) == 8
    assert len(plan(rows, limits, min_saving=saving_worth("cuda", 40)).rows) == len(rows)
    assert len(plan(rows, limits, min_saving=saving_worth("cpu", 40)).children) == 8


def prompts() -> list[tuple[str, dict]]:
    """Questions on two texts, single prompts, one too long, one twice; two kinds of settings."""
    until = {"until": ["\n", "seven"], "max_gen_toks": 12}
    many = {"until": ["ver", ". ", "ee"], "max_gen_toks": 20}
    asked = [(f"{words(60, text)}\n{words(2 + 3 * q, 10 * text + q)}?", until) for text in (1, 2) for q in range(4)]
    asked += [(f"{words(60, 1)}\n{words(3 + q, 70 + q)}", many) for q in range(3)]
    asked += [(words(3 + 7 * q, 80 + q), many) for q in range(4)] + [(words(300, 5), many), asked[0]]
    random.Random(1).shuffle(asked)
    return asked


@KINDS
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_generated_texts_are_those_of_plain_lm_eval(kind, batch_size):
    requests = ask("generate_until", *prompts())
    expected = plain(loaded(MODELS[kind], TOKENIZER)).generate_until(requests, disable_tqdm=True)
    lm = make(kind, batch_size)
    assert lm.generate_until(requests) == expected
    assert lm.truncated == 1
    assert len({len(text) for text in expected}) > 3


@pytest.mark.parametrize(("preset", "window"), [("nha-tiny", 32), ("nha-tiny", 7), ("swa-tiny", 16), ("nha-tiny", None)])
def test_this_projects_models_score_as_by_plain_lm_eval(preset, window):
    """Caches of constant size and sliding ones: copied, expanded, padded in the middle."""
    model = load(preset)
    model.model.set_window(window)
    like = SimpleNamespace(model=model.model, tokenizer=model.tokenizer, max_length=1000)
    reference = plain(like, max_length=1000)
    requests = ask("loglikelihood", *choices()[::2])
    expected = reference.loglikelihood(requests, disable_tqdm=True)
    for batch_size in (1, 8):
        found = HarnessLM(like, batch_size).loglikelihood(requests)
        assert [s for s, _ in found] == pytest.approx([s for s, _ in expected], abs=1e-5, rel=1e-6)
        assert [g for _, g in found] == [g for _, g in expected]
    asked = ask("generate_until", *prompts()[::2])
    expected = reference.generate_until(asked, disable_tqdm=True)
    assert HarnessLM(like, 1).generate_until(asked) == HarnessLM(like, 8).generate_until(asked) == expected


@pytest.mark.parametrize(("preset", "window"), [("nha-tiny", 32), ("nha-tiny", 5), ("swa-tiny", 9), ("swa-tiny", None)])
def test_decoding_from_a_shared_cache_gives_generates_tokens(preset, window):
    """Rows of unlike lengths on one prefix, token by token against `generate` on each alone."""
    model = load(preset).model
    model.set_window(window)
    ids = torch.randint(0, 256, (48,), generator=torch.Generator().manual_seed(3)).tolist()
    prefix, suffixes = ids[:40], [ids[40:41], ids[40:48], ids[44:47]]
    cache = model(input_ids=torch.tensor([prefix]), use_cache=True).past_key_values
    cache.batch_repeat_interleave(3)
    new = decode(model, suffixes, 40, cache, 12, lambda tokens: False)
    for suffix, tokens in zip(suffixes, new, strict=True):
        whole = torch.tensor([prefix + suffix])
        free = model.generate(whole, max_new_tokens=12, min_new_tokens=12, do_sample=False, eos_token_id=None)
        assert tokens == free[0, whole.shape[1] :].tolist()


@KINDS
def test_stop_strings_end_a_row_where_plain_lm_eval_ends_it(kind):
    """Stop strings taken from the model's own text, so that they are met: within a token, across tokens, one after another."""
    reference = plain(loaded(MODELS[kind], TOKENIZER))
    contexts = [f"{words(60, 1)}\n{words(3 + q, q)}" for q in range(4)]
    free = reference.generate_until(
        ask("generate_until", *[(c, {"until": [], "max_gen_toks": 24}) for c in contexts]), disable_tqdm=True
    )
    asked = []
    for context, text in zip(contexts, free, strict=True):
        for start, size in ((2, 1), (5, 3), (9, 8), (14, 2)):
            assert text[start : start + size]
            asked.append((context, {"until": [text[start : start + size], text[-2:]], "max_gen_toks": 24}))
    expected = reference.generate_until(ask("generate_until", *asked), disable_tqdm=True)
    assert make(kind).generate_until(ask("generate_until", *asked)) == expected
    assert any(len(cut) < len(free[i // 4]) for i, cut in enumerate(expected))


def test_rows_stop_for_themselves(monkeypatch):
    """A row that has met its stop string costs nothing more once half of its batch has."""
    context, settings = words(60, 1), {"until": ["never to be met"], "max_gen_toks": 16}
    pairs = [(f"{context}\n{words(3, q)}", settings) for q in range(4)]
    whole = make().generate_until(ask("generate_until", *pairs))
    stop = {"until": [whole[0][:3], whole[1][:3], whole[2][:3]], "max_gen_toks": 16}
    seen = count_tokens(monkeypatch, MODELS["full"])
    make().generate_until(ask("generate_until", *pairs))
    free = sum(seen)
    seen.clear()
    cut = make().generate_until(ask("generate_until", *[(c, stop) for c, _ in pairs]))
    assert all(len(part) < 4 for part in cut[:3])
    assert sum(seen) < free - 20


def test_end_token_ends_a_row():
    """The end token of the generation config, another one than the tokenizer's, ends a row as in `generate`."""
    model = make_model()
    context = words(40, 2)
    settings = {"until": [], "max_gen_toks": 12}
    model.generation_config.eos_token_id = None
    ids = TOKENIZER(context, return_tensors="pt").input_ids
    free = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
    model.generation_config.eos_token_id = [0, free[3]]
    like = loaded(model, TOKENIZER)
    found = HarnessLM(like).generate_until(ask("generate_until", (context, settings), (context + " of", settings)))
    assert found[0] == TOKENIZER.decode(free[: free.index(free[3]) + 1], skip_special_tokens=True)
    assert found == plain(like).generate_until(
        ask("generate_until", (context, settings), (context + " of", settings)), disable_tqdm=True
    )


def test_other_settings_go_lm_evals_own_way():
    context = words(30, 7)
    for settings in ({"until": ["\n"], "max_gen_toks": 8, "num_beams": 2}, {"until": [], "max_gen_toks": 8, "top_k": 3}):
        requests = ask("generate_until", (context, settings), (context + " a", settings))
        expected = plain(loaded(MODELS["full"], TOKENIZER)).generate_until(requests, disable_tqdm=True)
        assert make().generate_until(requests) == expected
    assert is_plain_greedy(GenerationConfig(eos_token_id=3, temperature=0.2, output_attentions=False, num_beams=1))
    assert not is_plain_greedy(GenerationConfig(repetition_penalty=1.3))
    assert not is_plain_greedy(GenerationConfig(min_new_tokens=4))


def test_rolling_is_lm_evals_own():
    requests = ask("loglikelihood_rolling", *[(words(n, n),) for n in (3, 40, 300, 9)])
    expected = plain(loaded(MODELS["full"], TOKENIZER)).loglikelihood_rolling(requests, disable_tqdm=True)
    assert make(batch_size=3).loglikelihood_rolling(requests) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory"), torch.cuda.OutOfMemoryError("none left")], ids=repr
)
def test_out_of_memory_halves_the_batch(monkeypatch, error):
    pairs, asked = choices(), prompts()
    expected = make().loglikelihood(ask("loglikelihood", *pairs)), make().generate_until(ask("generate_until", *asked))
    rows = limit_rows(monkeypatch, MODELS["full"], 2, error)
    found = make().loglikelihood(ask("loglikelihood", *pairs)), make().generate_until(ask("generate_until", *asked))
    assert [s for s, _ in found[0]] == pytest.approx([s for s, _ in expected[0]], abs=1e-5, rel=1e-6)
    assert found[1] == expected[1]
    assert max(rows) > 2 and rows.count(2) > 2


def test_out_of_memory_at_one_row_is_passed_on(monkeypatch):
    limit_rows(monkeypatch, MODELS["full"], 0, MemoryError("nothing left"))
    with pytest.raises(MemoryError, match="nothing left"):
        make().loglikelihood(ask("loglikelihood", *choices()))


def test_other_errors_are_not_retried(monkeypatch):
    rows = limit_rows(monkeypatch, MODELS["full"], 0, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        make().generate_until(ask("generate_until", *prompts()))
    assert len(rows) == 1


def asked_of(lm: HarnessLM):
    """All kinds of requests, those that go lm-eval's own way among them."""
    sampled = [(context, {**settings, "do_sample": True, "temperature": 0.7}) for context, settings in prompts()[:3]]
    torch.manual_seed(0)
    return (
        lm.loglikelihood(ask("loglikelihood", *choices())),
        lm.generate_until(ask("generate_until", *prompts())),
        lm.loglikelihood_rolling(ask("loglikelihood_rolling", *[(words(n, n),) for n in (3, 40, 300, 9)])),
        lm.generate_until(ask("generate_until", *sampled)),
    )


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7, 1.0])
def test_answers_known_already_change_nothing_and_are_not_asked_again(monkeypatch, kept):
    """Batch by batch as they came, through JSON, until an interruption: to the last bit what an unbroken run gives."""
    told: list[dict] = []
    lm = make(batch_size=3)
    lm.answers = Answers(tell=told.append)
    whole = asked_of(lm)
    keys = [key for found in told for key in found]
    assert len(keys) == len(set(keys)) and len(told) > 12
    known = {key: value for found in told[: int(kept * len(told))] for key, value in found.items()}
    rows, again = count_tokens(monkeypatch, MODELS["full"]), []
    resumed = make(batch_size=3)
    resumed.answers = Answers(json.loads(json.dumps(known)), again.append)
    assert asked_of(resumed) == whole
    assert again == told[int(kept * len(told)) :]
    assert bool(rows) == (kept < 1)


def test_a_request_that_is_sampled_several_times_keeps_its_several_answers():
    context, settings = prompts()[0]
    asked = ask("generate_until", *[(context, {**settings, "until": [], "do_sample": True, "temperature": 2.0})] * 4)
    lm, told = make(), []
    lm.answers = Answers(tell=told.append)
    torch.manual_seed(0)
    texts = lm.generate_until(asked)
    assert len(set(texts)) > 1
    resumed = make()
    resumed.answers = Answers({key: text for found in told for key, text in found.items()})
    assert resumed.generate_until(asked) == texts


@pytest.mark.parametrize("count", [2, 3, 7])
def test_parts_are_answered_once_and_come_together_to_the_last_bit(count):
    told: list[dict] = []
    lm = make(batch_size=2)
    lm.answers = Answers(tell=told.append)
    whole = asked_of(lm)
    known, sizes = {}, []
    for number in range(count):
        part: list[dict] = []
        lm.answers = Answers(tell=part.append, part=(number, count))
        asked_of(lm)
        found = {key: value for batch in part for key, value in batch.items()}
        assert not found.keys() & known.keys()
        assert all(batch in told for batch in part)
        known |= found
        sizes.append(len(found))
    assert known.keys() == {key for found in told for key in found}
    assert max(sizes) < 0.75 * len(known)
    lm.answers = Answers(known, lambda found: pytest.fail("asked again"))
    assert asked_of(lm) == whole


def test_batches_grow_back():
    """Where memory holds 3 rows the tries grow rarer; where it holds all again, the size asked for comes back."""
    tried, room = [], [3]

    def work(rows):
        tried.append(len(rows))
        if len(rows) > room[0]:
            raise MemoryError

    batches = Batches(8)
    batches.run(range(28), work)
    assert tried == [8, 4, *[2] * 4, 4, *[2] * 8, 4, 2, 2]
    room[0] = 100
    tried.clear()
    batches.run(range(200), work)
    assert tried == [*[2] * 14, *[4] * 16, *[8] * 13, 4]


def test_a_batch_of_its_own_choice_is_bounded_in_tokens(monkeypatch):
    monkeypatch.setattr("nha_eval.lm.AUTO_TOKENS", {"cpu": 300, "cuda": 300})
    pairs, asked = choices(), prompts()
    expected = make().loglikelihood(ask("loglikelihood", *pairs)), make().generate_until(ask("generate_until", *asked))
    shapes = []
    forward = MODELS["full"].forward
    monkeypatch.setattr(
        MODELS["full"], "forward", lambda **inputs: shapes.append(inputs["input_ids"].shape) or forward(**inputs)
    )
    lm = make(batch_size="auto")
    assert lm.generate_until(ask("generate_until", *asked)) == expected[1]
    found = lm.loglikelihood(ask("loglikelihood", *pairs))
    assert [s for s, _ in found] == pytest.approx([s for s, _ in expected[0]], abs=1e-5, rel=1e-6)
    assert all(rows == 1 or rows * width <= 300 for rows, width in shapes) and max(rows for rows, _ in shapes) > 3


def test_progress_counts_requests():
    calls: list[tuple[int, int]] = []
    lm = make(batch_size=4, on_progress=lambda done, total: calls.append((done, total)))
    for kind, requests in (("loglikelihood", choices()), ("generate_until", prompts())):
        calls.clear()
        getattr(lm, kind)(ask(kind, *requests))
        done = [d for d, _ in calls]
        assert done == sorted(done) and calls[-1] == (len(requests), len(requests)) and len(calls) > 3
    calls.clear()
    lm.loglikelihood_rolling(ask("loglikelihood_rolling", *[(words(5, n),) for n in range(6)]))
    assert calls == [(4, 6), (6, 6)]


def test_wrong_requests_are_named():
    with pytest.raises(ValueError, match="batch_size is 0"):
        make(batch_size=0)
    with pytest.raises(ValueError, match="0 continuation tokens"):
        make().loglikelihood(ask("loglikelihood", ("the", "")))
    with pytest.raises(ValueError, match="max_gen_toks is 300, but the model holds 256"):
        make().generate_until(ask("generate_until", ("the", {"until": [], "max_gen_toks": 300})))


def test_padding_is_kept_from_windows_that_count_places():
    ids = torch.ones(1, 4, dtype=torch.long)
    caches = {kind: model(ids, use_cache=True).past_key_values for kind, model in MODELS.items()}
    assert takes_padding(None) and takes_padding(caches["full"]) and not takes_padding(caches["sliding"])
    assert takes_padding(DynamicCache())


def test_stop_rule_reads_the_last_tokens_only():
    """As far back as the stop string's own encoding and two tokens more, so that a spelling in other tokens is found."""
    rule = StopRule(TOKENIZER, ["seven"], 0)
    ids = TOKENIZER.encode("seven", add_special_tokens=False)
    letter = TOKENIZER.convert_tokens_to_ids("s")
    other = TOKENIZER.convert_tokens_to_ids(list("seven"))
    assert len(ids) == 3 and rule.ended(ids) and rule.ended([letter, *ids, letter, letter])
    assert not rule.ended([*ids, letter, letter, letter])
    assert len(other) == 5 and rule.ended(other) and not rule.ended(other[:4])
    assert rule.ended([letter, 0])


def count_tokens(monkeypatch, model) -> list[int]:
    """The number of tokens of each call of `model`, as it goes on."""
    seen: list[int] = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **kw: (seen.append(kw["input_ids"].numel()), forward(**kw))[1])
    return seen


def limit_rows(monkeypatch, model, limit: int, error: BaseException) -> list[int]:
    """Make `model` raise `error` for more than `limit` rows; the rows of each call are listed."""
    rows: list[int] = []
    forward = model.forward

    def limited(**kw):
        rows.append(len(kw["input_ids"]))
        if rows[-1] > limit:
            raise error
        return forward(**kw)

    monkeypatch.setattr(model, "forward", limited)
    return rows
