"""RULER's questions (qa_1: SQuAD, qa_2: HotpotQA): the passages that hold the answer among others of the same data.

SQuAD's others come from the same article first, then from all the rest; where all are in and the length is not reached, they
come again. The first questions of the data are asked, in its order.
"""

from dataclasses import dataclass

import numpy as np

from tasks.ruler.prompts import Prompt, Setting

TEMPLATE = (
    "Answer the question based on the given documents. Only give me the answer and do not output any other words.\n\n"
    "The following are given documents.\n\n{context}\n\nAnswer the question based on the given documents. Only give me the "
    "answer and do not output any other words.\n\nQuestion: {question} Answer:"
)
DOCUMENT = "Document {number}:\n{text}"


@dataclass(frozen=True)
class Question:
    """A question, its accepted answers, and places in the list of passages: those that answer it, those of the same article."""

    text: str
    answers: tuple[str, ...]
    gold: tuple[int, ...]
    near: tuple[int, ...] = ()


@dataclass(frozen=True)
class Passages:
    """All passages of a data set, each once, and its questions in their order."""

    texts: tuple[str, ...]
    questions: tuple[Question, ...]


class Questions:
    """Prompts of one data set; a unit is a passage beside those that hold the answer, and one unit is none of them."""

    answer_room = 32
    fewest = 1

    def __init__(self, name: str, data: Passages) -> None:
        self.name, self.data = name, data

    @property
    def count(self) -> int:
        return len(self.data.questions)

    def build(self, number: int, rng: np.random.Generator, units: int) -> Prompt:
        question = self.data.questions[number]
        others = self._others(rng, question, units - 1)
        chosen = [*question.gold, *others]
        order = rng.permutation(len(chosen))
        context = "\n\n".join(
            DOCUMENT.format(number=i, text=self.data.texts[chosen[int(place)]]) for i, place in enumerate(order, start=1)
        )
        depths = [i / len(chosen) for i, place in enumerate(order) if place < len(question.gold)]
        text = TEMPLATE.format(context=context, question=question.text)
        return Prompt(text, list(question.answers), depths, source=f"{self.name}-{'-'.join(map(str, question.gold))}")

    def _others(self, rng: np.random.Generator, question: Question, count: int) -> list[int]:
        near = [question.near[int(i)] for i in rng.permutation(len(question.near))]
        taken = {*question.gold, *near}
        far = [int(i) for i in rng.permutation(len(self.data.texts)) if int(i) not in taken]
        others = near + far
        return [others[i % len(others)] for i in range(count)] if others else []


def make(kind: str, setting: Setting) -> Questions:
    """qa_1 or qa_2, on the data that `setting.read` gives."""
    return Questions(kind, setting.read())
