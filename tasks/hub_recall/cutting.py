"""Cutting a context to a number of tokens, by a policy with a name.

- `around-answer`: a window with the sought place in its middle, as far as the text goes
- `head`, `left`: the first or the last tokens are kept (`left` is named after the side that goes, as in tokenizers)
- `skip`: a text that is too long is left out of the task
- `error`: a text that is too long ends the task

The window is that of prefix-linear-attention (github.com/HazyResearch/prefix-linear-attention, `truncate_context`), to the
token, as the scores published under its protocol depend on it: half of the tokens come before the place even where the text
ends soon after it, so a text short enough to stay whole may lose its beginning; the tokenizer's own special tokens count; a
place that was not found is the text's end; and what is kept is decoded from tokens, cut or not.
"""

from dataclasses import dataclass
from typing import Any

POLICIES = ("around-answer", "left", "head", "skip", "error")


@dataclass(frozen=True)
class Cut:
    """What is left of a text, and whether any of its tokens went."""

    text: str
    truncated: bool


def cut(text: str, policy: str, budget: int, tokenizer: Any, place: int = 0, token_place: int | None = None) -> Cut | None:
    """`text` in at most `budget` tokens of `tokenizer` (a Transformers tokenizer); None where the policy leaves it out.

    `place` (characters, -1: not found) is what `around-answer` keeps in the middle; `token_place` (tokens) stands for it where
    it was not found and the text is longer than `budget`. Raises ValueError for an unknown policy, and under `error` for a
    text that is too long.
    """
    if policy not in POLICIES:
        raise ValueError(f"truncation {policy!r}: wanted is one of {', '.join(POLICIES)}")
    tokens = tokenizer(text)["input_ids"]
    if len(tokens) > budget and policy == "skip":
        return None
    if len(tokens) > budget and policy == "error":
        raise ValueError(
            f"a context of {len(tokens)} tokens does not fit in {budget}: give a longer length, or another truncation "
            f"({', '.join(POLICIES[:-1])})"
        )
    start = 0
    if policy == "left":
        start = max(0, len(tokens) - budget)
    elif policy == "around-answer":
        # A place of -1 takes all but the last character, as the original's slice does.
        middle = len(tokenizer(text[:place])["input_ids"])
        if place < 0 and token_place is not None and middle > budget:
            middle = token_place
        start = max(0, middle - budget // 2)
    kept = tokens[start : start + budget]
    return Cut(tokenizer.decode(kept, skip_special_tokens=True), len(kept) < len(tokens))
