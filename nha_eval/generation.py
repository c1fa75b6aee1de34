"""Greedy decoding of a batch from one shared prefix, each row stopping at its own stop string or end token.

Rows are padded on the left, between the shared prefix and their own tokens, so that all of them end at the same
place; the mask holds zeros there and positions count real tokens only. The loop is plain: a row that has ended is
ignored, and once half of a batch has ended the cache is cut down to the rows still running.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from models.cache import CACHE_NAME

# Settings that change nothing in greedy search of a given length: names of tokens, what belongs to sampling, lengths.
_NEUTRAL = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version"),
    *(
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "max_length",
        "use_cache",
        "_from_model_config",
    ),
}
# Settings at the value that switches them off; so do None, False, 0 and an empty list.
_IDENTITY = {
    **{"repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "length_penalty": 1.0},
    **{"num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1},
}


def is_plain_greedy(config: GenerationConfig) -> bool:
    """Whether `model.generate(do_sample=False)` under `config` does nothing but take the largest logit at each step."""
    return all(name in _NEUTRAL or not value or value == _IDENTITY.get(name) for name, value in config.to_diff_dict().items())


class StopRule:
    """Says when a row has ended: at an end token, or when a stop string stands in the text of the last few tokens.

    The text is decoded with special tokens kept, and reaches back two tokens further than the stop string's own
    encoding, because a model may spell the string in other tokens: the rule of lm-eval's stopping criterion, so that
    both stop at the same token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, until: Sequence[str], eos_token_id: int | list[int] | None) -> None:
        self.tokenizer = tokenizer
        self.ends = {eos_token_id} if isinstance(eos_token_id, int) else set(eos_token_id or ())
        self.stops = [(text, len(tokenizer.encode(text, add_special_tokens=False)) + 2) for text in until]

    def ended(self, tokens: Sequence[int]) -> bool:
        """Whether the generated `tokens`, of which the last is new, end here."""
        if tokens[-1] in self.ends:
            return True
        return any(text in self.tokenizer.decode(tokens[-reach:]) for text, reach in self.stops)


def takes_padding(cache: Any) -> bool:
    """Whether tokens masked out after `cache`'s own are invisible to its layers.

    True without a cache, for Transformers' growing layer, and for this project's layers, whose windows count real
    tokens. Transformers' sliding windows count places, so padding would push real tokens out of them.
    """
    if cache is None:
        return True
    return all(type(layer) is DynamicLayer or not type(layer).__module__.startswith("transformers.") for layer in cache.layers)


@torch.no_grad()
def decode(
    model: torch.nn.Module,
    suffixes: Sequence[Sequence[int]],
    shared: int,
    cache: Any,
    max_new: int,
    ended: Callable[[Sequence[int]], bool],
) -> list[list[int]]:
    """Continue each of `suffixes`, at most `max_new` tokens each, until `ended(new tokens)`.

    `cache` holds the `shared` tokens before the suffixes, as a batch of len(suffixes), or is None where shared is 0;
    it is used up. Returns the new tokens of each row, the one that ended it included.
    """
    new: list[list[int]] = [[] for _ in suffixes]
    for rows, part in _even_parts(suffixes, cache):
        for row, tokens in zip(rows, _loop(model, [suffixes[r] for r in rows], shared, part, max_new, ended), strict=True):
            new[row] = tokens
    return new


def _even_parts(suffixes: Sequence[Sequence[int]], cache: Any) -> Iterator[tuple[list[int], Any]]:
    """The whole batch where padding is harmless, else rows of equal length, each with its part of the cache."""
    rows = list(range(len(suffixes)))
    if takes_padding(cache) or len({len(s) for s in suffixes}) == 1:
        yield rows, cache
        return
    for _, equal in groupby(sorted(rows, key=lambda r: len(suffixes[r])), key=lambda r: len(suffixes[r])):
        part, chosen = copy.deepcopy(cache), list(equal)
        part.reorder_cache(torch.tensor(chosen))
        yield chosen, part


def _loop(model, suffixes, shared, cache, max_new, ended) -> list[list[int]]:
    device = model.device
    width = max(map(len, suffixes))
    pads = [width - len(s) for s in suffixes]
    ids = torch.tensor([[0] * pad + list(s) for pad, s in zip(pads, suffixes, strict=True)], device=device)
    mask = positions = None
    if any(pads):
        mask = torch.tensor([[1] * shared + [0] * pad + [1] * (width - pad) for pad in pads], device=device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]

    new: list[list[int]] = [[] for _ in suffixes]
    done = [False] * len(suffixes)
    live = list(range(len(suffixes)))
    while True:
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            **{CACHE_NAME: cache},
            use_cache=True,
            logits_to_keep=1,
        )
        cache = getattr(out, CACHE_NAME)
        tokens = out.logits[:, -1].float().argmax(-1)
        for row, token in zip(live, tokens.tolist(), strict=True):
            if not done[row]:
                new[row].append(token)
                done[row] = len(new[row]) >= max_new or ended(new[row])
        running = [place for place, row in enumerate(live) if not done[row]]
        if not running:
            return new
        if 2 * len(running) <= len(live):
            index = torch.tensor(running, device=device)
            cache.reorder_cache(index)
            tokens = tokens[index]
            mask = None if mask is None else mask[index]
            live = [live[place] for place in running]
        ids = tokens[:, None]
        if mask is not None:
            positions = mask.sum(-1, keepdim=True)
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=-1)
