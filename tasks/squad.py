"""SQuAD passages and their questions, out of BIG-bench's disfl_qa, made readable again.

disfl_qa holds passages of SQuAD with words split from punctuation, and one disfluent question for each of several answers a
passage ("What no how many ..."); the fluent questions are not in it. Here passages and questions are joined up again, passages
are grouped with their questions, and questions are kept whose answer is short, certain and stands in the passage word for word
exactly once, six words or more into its sentence. Passages with many signs outside ASCII are left out: their length in tokens
differs too much between vocabularies.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from tasks.assets import bigbench_examples
from tasks.counting import count_tokens

LONGEST_ANSWER = 3  # words
FEWEST_OPENING_WORDS = 6
FEWEST_QUESTIONS = 2  # of a passage
LONGEST_PASSAGE = 220  # tokens; a context of 512 holds two at least
LONGEST_CUE = 48  # tokens of question and opening

_SENTENCE_END = re.compile(r"[.?!] ")
_JOINS = (
    (re.compile(r"\s+([.,;:!?%)\]])"), r"\1"),
    (re.compile(r"([(\[$£€#])\s+"), r"\1"),
    (re.compile(r" ' (s|re|t|ve|ll|d|m)\b"), r"'\1"),
    (re.compile(r"\s*([-–/])\s*"), r"\1"),
    (re.compile(r'" ([^"]*?) ?"'), r'"\1"'),
)


@dataclass(frozen=True)
class Asked:
    """A question, its answer, the words of the passage's sentence before the answer, and the answer's place (characters)."""

    question: str
    answer: str
    opening: str
    place: int


@dataclass(frozen=True)
class Passage:
    """A passage with what is asked on it; `tokens` by `tasks.counting`."""

    text: str
    tokens: int
    questions: tuple["Asked", ...]


def join_up(text: str) -> str:
    """Undo the splitting of words from punctuation.

    >>> join_up("Earth ' s air ( see Oxygen ) is 21 % oxygen .")
    "Earth's air (see Oxygen) is 21% oxygen."
    """
    for pattern, replacement in _JOINS:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())


@lru_cache(maxsize=1)
def passages() -> tuple[Passage, ...]:
    """All passages with enough usable questions, in the data's order; raises AssetUnavailable where they cannot be had."""
    asked: dict[str, dict[str, Asked]] = {}
    for example in bigbench_examples("disfl_qa"):
        question, _, passage = example["input"].partition("context:")
        text, question, answer = join_up(passage), join_up(question), example["target"].strip()
        found = asked.setdefault(text, {})
        if answer not in found and (usable := _usable(text, question, answer)):
            found[answer] = usable
    made = (Passage(text, count_tokens(text), tuple(found.values())) for text, found in asked.items() if _plain(text))
    return tuple(
        passage for passage in made if len(passage.questions) >= FEWEST_QUESTIONS and passage.tokens <= LONGEST_PASSAGE
    )


def _plain(text: str) -> bool:
    return sum(not character.isascii() for character in text) <= len(text) // 200


def _usable(text: str, question: str, answer: str) -> Asked | None:
    if answer == "unknown" or len(answer) < 2 or len(answer.split()) > LONGEST_ANSWER or text.count(answer) != 1:
        return None
    place = text.index(answer)
    start = max([0, *(end.end() for end in _SENTENCE_END.finditer(text, 0, place))])
    opening = text[start:place].rstrip()
    # An answer that begins inside a word or after a bracket would have to be continued without a space.
    whole = text[place - 1 : place] == " "
    if not whole or len(opening.split()) < FEWEST_OPENING_WORDS or count_tokens(question + opening) > LONGEST_CUE:
        return None
    return Asked(question, answer, opening, place)
