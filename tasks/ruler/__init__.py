"""RULER's needles in a haystack (Hsieh et al. 2024, arXiv 2404.06654; github.com/NVIDIA/RULER), those that need no download.

    One of the special magic numbers for quiet-harbor is: 4821907.

A haystack is one sentence repeated (`repeat`), or needles of the same wording with other keys (`needle`), as long as fits:
prompt, and 128 tokens of answer, together at most `length` tokens. The needle lies between two of its sentences, evenly
drawn. The prompt ends in the beginning of the answer. RULER draws its key words from the package wonderwords, these tasks
from lists of their own, so suite and protocol have a name of their own, `ruler-local`.

lm-eval has these tasks too, with wonderwords, and with tokenizers that may run code of their own; those are not used here.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.ruler.niah import KINDS, Needle, build
from tasks.tokenizing import tokenizer_for

if TYPE_CHECKING:
    from datasets import Dataset

ANSWER_ROOM = 128  # tokens


def dataset(
    kind: str,
    lengths: int | Sequence[int] = (4096,),
    contexts: int = 500,
    seed: int = 42,
    tokenizer: str | None = None,
    pretrained: str | None = None,
    **_unused,
) -> "dict[str, Dataset]":
    """lm-eval's `custom_dataset`: {"test": `contexts` documents of each length (tokens, the answer's included)}.

    Raises ValueError for an unknown kind and for a length that cannot hold the prompt.
    """
    from datasets import Dataset

    if kind not in KINDS:
        raise ValueError(f"no kind of needle named {kind!r} (there are: {', '.join(KINDS)})")
    counted_in = tokenizer_for(tokenizer, pretrained)
    wanted = [lengths] if isinstance(lengths, int) else lengths
    return {
        "test": Dataset.from_list([doc for n in wanted for doc in documents(kind, int(n), int(contexts), seed, counted_in)])
    }


def documents(kind: str, length: int, contexts: int, seed: int, tokenizer: Any) -> list[dict]:
    """Documents with the keys prompt, answers, context_id, length, depth, place (of the answer in the prompt, in characters).

    Each depends on kind, length, its number and seed alone, but for how many sentences fit, which the tokenizer decides.
    """

    def fits(number: int, sentences: int) -> bool:
        return len(tokenizer(made(number, sentences).prompt)["input_ids"]) + ANSWER_ROOM <= length

    def made(number: int, sentences: int) -> Needle:
        return build(kind, np.random.default_rng([seed, length, number, KINDS.index(kind)]), sentences)

    most = _most(lambda sentences: fits(0, sentences), length)
    if most == 0:
        raise ValueError(
            f"{kind}: length {length} cannot hold question, sentence and {ANSWER_ROOM} tokens of answer: give a longer one"
        )
    docs = []
    for number in range(contexts):
        count = most
        # Random words and numbers differ in tokens: what fitted the first may be too much for another.
        while count > 1 and not fits(number, count):
            count -= max(1, most // 200)
        needle = made(number, count)
        docs.append(
            {
                "prompt": needle.prompt,
                "answers": [needle.answer],
                "context_id": f"ruler-{kind}-{seed}-{length}-{number}",
                "length": length,
                "depth": needle.depth,
                "place": needle.place,
            }
        )
    return docs


def _most(fits: Callable[[int], bool], length: int) -> int:
    """The largest number of sentences that fits, 0 where none does; a sentence is one token at least."""
    low, high = 0, length
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
