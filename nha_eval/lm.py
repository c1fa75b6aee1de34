"""HarnessLM: lm-eval's Hugging Face model, faster where requests begin alike, with the same scores.

Everything that decides a score is lm-eval's own: tokenisation of context and continuation, the prefix token of an
empty context, truncation from the left, stop strings, post-processing. What differs is how the logits are had: shared
prefixes run once (`prefix.py`), a continuation that begins another one is read from the same row, logits are taken at
continuation positions only, and a generated row stops at its own stop string (what plain lm-eval does at batch size
1). Running out of memory halves the batch, which grows back. What was answered before is not asked again (`answers.py`).

    from models.presets import load
    lm = HarnessLM(load("smollm2-135m"), batch_size=8)
    lm_eval.simple_evaluate(model=lm, tasks=["arc_easy"], limit=20)

Requests for sampling, beams or other generation settings, and `loglikelihood_rolling`, go lm-eval's own way.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from models.cache import CACHE_NAME
from nha_eval.answers import Answers, key_of
from nha_eval.generation import StopRule, decode, is_plain_greedy
from nha_eval.prefix import MIN_PREFIX, Batches, plan, saving_worth, walk

_log = logging.getLogger(__name__)
# Tokens of a batch of its own choice: about what keeps the device busy.
AUTO_TOKENS = {"cpu": 4096, "cuda": 65536}
ROLLING_ROWS = 8  # texts between two words of progress, where the batch is "auto"


class _Request(NamedTuple):
    index: int
    tokens: tuple[int, ...]
    continuation: list[int]

    @property
    def first(self) -> int:
        """The position in `tokens` whose logits predict the first token of the continuation."""
        return len(self.tokens) - len(self.continuation)


class HarnessLM(HFLM):
    """An lm-eval model around a loaded one (`.model`, `.tokenizer`, `.max_length`), single-process, on its device.

    `batch_size` bounds the rows of a call of the model; "auto": as many as come to `AUTO_TOKENS` tokens. `max_length` (tokens)
    defaults to the model's. `answers` holds what is known already and is told what is found, at a batch's end.
    `on_progress(done, total)`, in requests, is called while a list of requests is worked through. `truncated` counts
    the requests whose context was cut, `kept` maps the prompts of those to be continued to what was read of them.
    `min_saving` is the number of tokens that a shared prefix must save (default: by device and by how much is generated).
    """

    def __init__(
        self,
        loaded: Any,
        batch_size: int | str = 8,
        max_length: int | None = None,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        min_prefix: int = MIN_PREFIX,
        min_saving: int | None = None,
    ) -> None:
        self.sizes_itself = batch_size == "auto"
        batch_size = ROLLING_ROWS if self.sizes_itself else int(batch_size)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        with _quiet("lm_eval.models.huggingface"):
            super().__init__(
                pretrained=loaded.model,
                tokenizer=loaded.tokenizer,
                backend="causal",
                batch_size=batch_size,
                max_length=max_length or loaded.max_length,
            )
        self.on_progress = on_progress
        self.answers = Answers()
        self.truncated = 0
        self.kept: dict[str, str] = {}
        self.min_prefix = min_prefix
        self.min_saving = min_saving
        self._done = self._total = 0

    def loglikelihood(self, requests: list, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(sum of log-probabilities, whether greedy decoding gives it) of each request's continuation."""
        with self._progress(len(requests)):
            return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = True) -> list[float]:
        """Log-probability of each whole text, in lm-eval's windows of max_length tokens."""
        totals: list[float] = []
        for start in range(0, len(requests), self.batch_size):
            totals += super().loglikelihood_rolling(requests[start : start + self.batch_size], disable_tqdm=True)
            self._report(len(totals), len(requests))
        return totals

    def generate_until(self, requests: list, disable_tqdm: bool = True) -> list[str]:
        """The greedy continuation of each request's context, cut at its first stop string."""
        texts: list[str] = [""] * len(requests)
        alike: dict[str, list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            alike[json.dumps(request.args[1], sort_keys=True, default=str)].append(i)
        with self._progress(len(requests)):
            for indices in alike.values():
                part = [requests[i] for i in indices]
                settings = normalize_gen_kwargs(part[0].args[1], self.max_gen_toks)
                if self._own_decoding(settings):
                    found = self._generate(part, settings)
                else:
                    found = self._generate_by_lm_eval(part)
                for i, text in zip(indices, found, strict=True):
                    texts[i] = text
        return texts

    def _generate_by_lm_eval(self, requests: list) -> list[str]:
        """What lm-eval's own generation gives, of those not answered before."""
        # One that is sampled several times is asked as often, and answered otherwise each time.
        times: Counter[str] = Counter()
        keys = []
        for request in requests:
            key = key_of("generate_until", *request.args)
            keys.append(f"{key}-{times[key]}")
            times[key] += 1
        # Its batches are its own, and so not dealt out.
        left = {} if self.answers.part[0] else dict(zip(keys, requests, strict=True))
        left = {key: request for key, request in left.items() if key not in self.answers.known}
        if left:
            texts = super().generate_until(list(left.values()), disable_tqdm=True)
            self.answers.note(dict(zip(left, texts, strict=True)))
        self._advance(len(requests))
        return [self.answers.known.get(key, "") for key in keys]

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: list, disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Requests are (strings or None, context tokens, continuation tokens)."""
        rows, asked = self._rows(requests)
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        keys = [key_of("loglikelihood", context, continuation) for _, context, continuation in requests]
        done = {r for r in range(len(rows)) if all(keys[request.index] in self.answers.known for request in asked[r])}
        for index in (request.index for r in done for request in asked[r]):
            total, greedy = self.answers.known[keys[index]]
            results[index] = float(total), bool(greedy)
        self._advance(sum(len(asked[r]) for r in done))

        def run_rows(chosen: list[int], shared: int, cache: Any) -> None:
            suffixes = [rows[r][shared:] for r in chosen]
            width = max(map(len, suffixes))
            start = min(request.first for r in chosen for request in asked[r]) - shared
            # Padding comes after all that counts, so a causal model needs no mask for it.
            ids = torch.tensor([[*s, *[0] * (width - len(s))] for s in suffixes], device=self.device)
            logits = self.model(
                input_ids=ids, **{CACHE_NAME: cache}, use_cache=cache is not None, logits_to_keep=width - start
            ).logits
            found = {}
            for r, row_logits in zip(chosen, logits, strict=True):
                for request in asked[r]:
                    begin = request.first - shared - start
                    found[request.index] = self._score(row_logits[begin:], request.continuation)
            for index, result in found.items():
                results[index] = result
                if requests[index][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[index][0], result)
            self.answers.note({keys[index]: list(result) for index, result in found.items()})
            self._advance(len(found))

        limits = [min(request.first for request in asked[r]) for r in range(len(rows))]
        self._walk(rows, limits, run_rows, done, override_bs)
        return results

    def _rows(self, requests: list) -> tuple[list[tuple[int, ...]], list[list[_Request]]]:
        """The distinct token sequences to run, and the requests that each of them answers.

        A sequence that begins another one needs no row of its own: its logits are the first ones of the longer row.
        """
        by_tokens: dict[tuple[int, ...], list[_Request]] = defaultdict(list)
        for i, (_, context, continuation) in enumerate(requests):
            if not context or not 0 < len(continuation) <= self.max_length:
                raise ValueError(
                    f"request {i} has {len(context)} context and {len(continuation)} continuation tokens; wanted: at "
                    f"least 1 of each, and no more than the model's {self.max_length} in the continuation"
                )
            whole = (*context, *continuation)
            self._note_truncation(len(whole) - 1, self.max_length)
            tokens = whole[-(self.max_length + 1) :][:-1]
            by_tokens[tokens].append(_Request(i, tokens, continuation))
        rows: list[tuple[int, ...]] = []
        asked: list[list[_Request]] = []
        for tokens in sorted(by_tokens, reverse=True):
            if not rows or rows[-1][: len(tokens)] != tokens:
                rows.append(tokens)
                asked.append([])
            asked[-1] += by_tokens[tokens]
        return rows, asked

    def _score(self, logits: torch.Tensor, continuation: list[int]) -> tuple[float, bool]:
        logprobs = F.log_softmax(logits[: len(continuation)], dim=-1, dtype=self.softmax_dtype)
        target = torch.tensor(continuation, device=logprobs.device)
        total = logprobs.gather(-1, target[:, None]).sum()
        return float(total), bool((logprobs.argmax(-1) == target).all())

    def _own_decoding(self, settings: dict) -> bool:
        known = {"until", "max_gen_toks", "do_sample", "temperature"}
        return (
            set(settings) <= known
            and not settings["do_sample"]
            and settings["max_gen_toks"] > 0
            and is_plain_greedy(self.model.generation_config)
        )

    @torch.no_grad()
    def _generate(self, requests: list, settings: dict) -> list[str]:
        room = self.max_length - settings["max_gen_toks"]
        if room < 1:
            raise ValueError(
                f"max_gen_toks is {settings['max_gen_toks']}, but the model holds {self.max_length} tokens, prompt "
                "included; ask for fewer"
            )
        by_tokens: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            ids, _ = self.tok_batch_encode([request.args[0]], truncation=self.truncation)
            tokens = tuple(int(t) for t in ids[0])
            self._note_truncation(len(tokens), room)
            if len(tokens) > room:
                self.kept[request.args[0]] = self.tok_decode(list(tokens[-room:]))
            by_tokens[tokens[-room:] or (self.prefix_token_id,)].append(i)
        contexts = sorted(by_tokens)
        until = handle_stop_sequences(settings["until"], eos=self.tok_decode(self.eot_token_id, skip_special_tokens=False))
        rule = StopRule(self.tokenizer, until, self.model.generation_config.eos_token_id)
        texts = [""] * len(requests)
        keys = [key_of("generate_until", context, settings) for context in contexts]
        done = {c for c, key in enumerate(keys) if key in self.answers.known}
        for c in done:
            for i in by_tokens[contexts[c]]:
                texts[i] = self.answers.known[keys[c]]
        self._advance(sum(len(by_tokens[contexts[c]]) for c in done))

        def run_rows(chosen: list[int], shared: int, cache: Any) -> None:
            suffixes, found = [contexts[c][shared:] for c in chosen], {}
            for c, tokens in zip(
                chosen, decode(self.model, suffixes, shared, cache, settings["max_gen_toks"], rule.ended), strict=True
            ):
                text = postprocess_generated_text(self.tok_decode(tokens), stop=until, think_end_token=None)
                for i in by_tokens[contexts[c]]:
                    texts[i] = text
                    self.cache_hook.add_partial("generate_until", requests[i].args, text)
                found[keys[c]] = text
            self.answers.note(found)
            self._advance(sum(len(by_tokens[contexts[c]]) for c in chosen))

        self._walk(contexts, [len(c) - 1 for c in contexts], run_rows, done, generated=settings["max_gen_toks"])
        return texts

    def _walk(
        self,
        sequences: list,
        limits: list[int],
        run_rows: Callable,
        done: set[int],
        size: int | None = None,
        generated: int = 0,
    ) -> None:
        least = saving_worth(self.device.type, generated) if self.min_saving is None else self.min_saving
        tree = plan(sequences, limits, min_prefix=self.min_prefix, min_saving=least)
        if self.sizes_itself:
            budget = AUTO_TOKENS.get(self.device.type, AUTO_TOKENS["cuda"])
            batches = Batches(budget, lambda row: len(sequences[row]), done)
        else:
            batches = Batches(size or self.batch_size, done=done)
        walk(self.model, tree, sequences, batches, run_rows, self.answers.part, self.answers.turns)

    def _note_truncation(self, length: int, room: int) -> None:
        if length <= room:
            return
        if not self.truncated:
            _log.warning("A prompt of %d tokens is cut to its last %d; later ones are counted, not reported", length, room)
        self.truncated += 1

    @contextmanager
    def _progress(self, total: int):
        self._done, self._total = 0, total
        try:
            yield
        finally:
            self._total = 0

    def _advance(self, requests: int) -> None:
        if self._total:
            self._done += requests
            self._report(self._done, self._total)

    def _report(self, done: int, total: int) -> None:
        if self.on_progress is not None:
            self.on_progress(done, total)


@contextmanager
def _quiet(name: str):
    """Keeps back warnings that say only what this class does on purpose."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
