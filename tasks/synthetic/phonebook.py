"""A phone book: a few people's numbers among filler text, each asked by name.

Long lists are beyond a small model, so the entries are few and written as sentences. A number has four digits, drawn at random.

    ... The phone number of Anna Keller is 4821. The long fence stood behind the cold pond until noon. ...

    The phone number of Anna Keller is  ->  4821
"""

import numpy as np

from tasks.counting import count_tokens
from tasks.filler import pick_distinct, spread, words
from tasks.synthetic import Context, Question

MIN_LENGTH = 256
NEEDS: tuple[str, ...] = ()

FIRST_NAMES = words(
    "Anna Peter Maria Thomas Laura Daniel Julia Robert Emma Martin Clara Simon Helen Victor Alice Oscar Sarah "
    "David Nina Paul Rosa Henry Eva Frank Lucy George Hugo Diana Walter Linda Felix Ruth Arthur Sofia Edward "
    "Grace Albert Carol Leon Amy"
)
LAST_NAMES = words(
    "Keller Morgan Bennett Fischer Wallace Carter Dawson Palmer Reed Foster Hughes Barnes Coleman Porter Sullivan "
    "Chapman Fletcher Harper Norton Parker Russell Spencer Turner Webster Young Cooper Marshall Taylor Wright "
    "Marsh Grant Miles Ross Graham Scott Murray Campbell Douglas Gordon Stewart"
)


def build(rng: np.random.Generator, length: int, questions: int) -> Context:
    """`questions` entries, each asked once; raises ValueError where there are more than names."""
    if questions > len(FIRST_NAMES):
        raise ValueError(f"phonebook: {questions} questions asked, at most {len(FIRST_NAMES)} possible")
    names = zip(pick_distinct(rng, FIRST_NAMES, questions), pick_distinct(rng, LAST_NAMES, questions), strict=True)
    cues = [f"The phone number of {first} {last} is" for first, last in names]
    numbers = [str(int(number)) for number in rng.choice(np.arange(1000, 10000), size=questions, replace=False)]
    tail = max(count_tokens(cue) for cue in cues) + 4
    text = spread(rng, [f"{cue} {number}." for cue, number in zip(cues, numbers, strict=True)], length - tail)
    asked = [
        Question(f"\n\n{cue}", [number], depth, text.after(cue))
        for cue, number, depth in zip(cues, numbers, text.depths, strict=True)
    ]
    return Context(text.text, asked)
