"""Text rich in recall: facts are stated, and asked back tens to thousands of tokens later, with other text between them.

A model learns on it to look things up in its context. Nineteen forms (`recall_forms`, `recall_tables`, and passages quoted
again) with several wordings each; names, values and wordings are none of the evaluation's. The text between comes from outside,
as `passage(rng, characters) -> str`, and should be the training split's.

    recall_document(np.random.default_rng(0), 2000, passage)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nha_eval.text import recall_forms, recall_tables
from nha_eval.text.recall_forms import Fact, Sheet
from nha_eval.text.recall_words import choose

Passage = Callable[[np.random.Generator, int], str]

FORMS = {form.__name__: form for form in (*recall_forms.FORMS, *recall_tables.FORMS)}
QUOTATION = "quotation"
LEAST = 300  # characters of a document
NEAREST = 40  # characters between a fact and its question, at least
_MOST_FACTS, _FACT_ROOM = 9, 260  # a fact and its question want so many characters
_GAP, _PASSAGE = 120, 2500  # characters: smaller gaps stay empty, larger ones are several passages


def form_names() -> list[str]:
    """The forms there are."""
    return [*FORMS, QUOTATION]


def recall_document(rng: np.random.Generator, characters: int, passage: Passage, form: str | None = None) -> str:
    """A document of about so many characters, made from rng and passage alone; `form`: of `form_names()`, None: any."""
    characters = max(characters, LEAST)
    names = form_names()
    form = form or names[int(rng.integers(len(names)))]
    if form == QUOTATION:
        return _quotation(rng, characters, passage)
    count = int(rng.integers(1, 1 + min(_MOST_FACTS, max(1, characters // _FACT_ROOM))))
    sheet = FORMS[form](rng, count)
    ask = _asker(rng)
    room = max(1, characters - sum(len(fact.stated) + len(fact.restated) for fact in sheet.facts) - len(sheet.opening))
    events = _together(rng, sheet, room, ask) if sheet.joint is not None else _scattered(rng, sheet, room, ask)
    return _laid_out(rng, events, room, passage)


def _distance(rng: np.random.Generator, room: float) -> float:
    """Log-uniform, so that short and long ones are practised alike."""
    return min(room, float(np.exp(rng.uniform(np.log(NEAREST), np.log(max(room, NEAREST + 1))))))


def _together(rng: np.random.Generator, sheet: Sheet, room: int, ask: Callable[[Fact], str]) -> list[tuple[float, str]]:
    """The whole sheet at one place, its questions after it."""
    begin = rng.uniform(0, 0.4) * room
    facts = sheet.joint.join(fact.stated for fact in sheet.facts)
    asked = [(begin + _distance(rng, room - begin), ask(fact)) for fact in sheet.facts]
    return [(begin, f"{sheet.opening}\n{facts}"), *asked]


def _scattered(rng: np.random.Generator, sheet: Sheet, room: int, ask: Callable[[Fact], str]) -> list[tuple[float, str]]:
    """Each fact at a place of its own, its question after it."""
    stated, asked = [], []
    for fact in sheet.facts:
        distance = _distance(rng, 0.95 * room)
        place = rng.uniform(0, room - distance)
        stated.append((place, fact.stated))
        asked.append((place + distance, ask(fact)))
    stated.sort()
    stated[0] = (stated[0][0], f"{sheet.opening}\n\n{stated[0][1]}")
    if sheet.closing:
        stated[-1] = (stated[-1][0], f"{stated[-1][1]}\n\n{sheet.closing}")
    return [*stated, *asked]


def _asker(rng: np.random.Generator) -> Callable[[Fact], str]:
    """How a document asks: by saying the fact again, or by question and answer in one of several shapes."""
    shape = choose(
        rng,
        "{question} {value}",
        "Q: {question}\nA: {value}",
        "Q. {question}\n\nA. {value}",
        "- {question}\n- {value}",
        "**{question}**\n{value}",
        "{question}\n> {value}",
        "({question}) -- {value}",
        "{question} ({value})",
    )
    said = float(rng.uniform(0.3, 1.0))

    def ask(fact: Fact) -> str:
        if rng.random() < said:
            return fact.restated
        return shape.format(question=fact.question, value=fact.value)

    return ask


def _quotation(rng: np.random.Generator, characters: int, passage: Passage) -> str:
    """A passage, and later the same again, word for word."""
    longest = max(80, min(1500, characters // 3))
    quoted = passage(rng, int(rng.integers(80, longest + 1)))
    mark = choose(rng, f"[{int(rng.integers(2, 99))}]", f"fol. {int(rng.integers(2, 99))}", f"§ {int(rng.integers(2, 99))}")
    again = choose(
        rng,
        f"To quote {mark} once more: {quoted}",
        f"The same again, copied out from {mark}:\n\n{quoted}",
        f"{mark}, repeated in full.\n{quoted}",
        f"> {quoted}\n\n(from {mark})",
        f'Here the author cites {mark}: "{quoted}"',
    )
    room = max(1, characters - 2 * len(quoted))
    distance = _distance(rng, room)
    begin = rng.uniform(0, room - distance)
    return _laid_out(rng, [(begin, f"{mark} {quoted}"), (begin + distance, again)], room, passage)


def _laid_out(rng: np.random.Generator, events: list[tuple[float, str]], room: int, passage: Passage) -> str:
    """The events in the order of their places, other text in the gaps."""
    parts: list[str] = []
    reached = 0.0
    # A statement comes before its question even where their places are the same.
    for place, text in sorted(events, key=lambda event: event[0]):
        reached += _fill(rng, parts, place - reached, passage)
        parts.append(text)
    _fill(rng, parts, room - reached, passage)
    return "\n\n".join(parts)


def _fill(rng: np.random.Generator, parts: list[str], gap: float, passage: Passage) -> float:
    """Add passages of about `gap` characters; how many came."""
    filled = 0
    while gap - filled >= _GAP:
        text = passage(rng, min(_PASSAGE, int(gap - filled)))
        if not text:
            break
        parts.append(text)
        filled += len(text)
    return filled
