"""Extraction from real passages: SQuAD paragraphs one after another, a question, and an answer begun in the passage's words.

The answer's sentence is given up to the answer, which the passages hold word for word. Without that opening a model of 135M
parameters answers 6% of the questions at 512 tokens (13% at best, with examples before), with it 92%. How the disfluent
questions read is told in `tasks.squad`.

    ... The Normans were descended from Norse raiders and pirates from Denmark, Iceland and Norway. ...

    Question: Who did no what raiders did the Normans descend from?
    Answer: The Normans were descended from  ->  Norse
"""

import numpy as np

from tasks.squad import LONGEST_CUE, Asked, Passage, passages
from tasks.synthetic import Context, Question

MIN_LENGTH = 256
NEEDS = ("bigbench-1.0.0-tasks",)

_TAIL = LONGEST_CUE // 2 + 12
_GAP = 80


def build(rng: np.random.Generator, length: int, questions: int) -> Context:
    """Passages up to `length`, and up to `questions` questions spread evenly over them."""
    chosen = fill(rng, passages(), length - _TAIL)
    text = "\n\n".join(passage.text for passage in chosen)
    asked = []
    for number, question in turns(rng, chosen, questions):
        place = text.index(chosen[number].text) + question.place
        cue = f"\n\nQuestion: {question.question}\nAnswer: {question.opening}"
        asked.append(Question(cue, [question.answer], place / len(text), place))
    return Context(text, sorted(asked, key=lambda question: question.depth))


def fill(rng: np.random.Generator, pool: tuple[Passage, ...], budget: int) -> list[Passage]:
    """Different passages in random order, together at most `budget` tokens and close to it."""
    order = [int(i) for i in rng.permutation(len(pool))]
    longest = max(passage.tokens for passage in pool)
    chosen: list[Passage] = []
    left = budget
    while order and left > longest + _GAP:
        chosen.append(pool[order.pop()])
        left -= chosen[-1].tokens
    # A last but one that leaves room for another, then the one that fits best: two close the gap better than one.
    for room in (left - _GAP, None):
        fitting = [i for i in order if pool[i].tokens <= (left if room is None else room)]
        if fitting:
            last = fitting[0] if room is not None else max(fitting, key=lambda i: pool[i].tokens)
            order.remove(last)
            chosen.append(pool[last])
            left -= pool[last].tokens
    return [chosen[int(i)] for i in rng.permutation(len(chosen))]


def turns(rng: np.random.Generator, chosen: list[Passage], questions: int) -> list[tuple[int, Asked]]:
    """(number of the passage, question): evenly spaced passages first, then the others, until enough or none are left."""
    unasked = [[passage.questions[int(j)] for j in rng.permutation(len(passage.questions))] for passage in chosen]
    spaced = [int(place) for place in np.linspace(0, len(chosen), num=min(questions, len(chosen)), endpoint=False)]
    order = spaced + [number for number in range(len(chosen)) if number not in spaced]
    picked: list[tuple[int, Asked]] = []
    while len(picked) < questions and any(unasked):
        for number in order:
            if unasked[number] and len(picked) < questions:
                picked.append((number, unasked[number].pop()))
    return picked
