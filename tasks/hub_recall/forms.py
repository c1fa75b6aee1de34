"""The six recall tasks' prompts, once and twice, as prefix-linear-attention asks them (its `based_*` tasks).

Each form says which fields its documents have, which one is cut, and how the cut text becomes a prompt. `twice` is the form of
"Just read twice" (Arora et al. 2024, arXiv 2407.05483): the context stands twice, with what will be asked before it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Doc = dict[str, Any]

SUMMARY = "Summary of information above"
_MARKS = re.compile(r"\[(PAR|DOC|TLE)\]")


def strip_asked(text: str, asked: str) -> str:
    """`text` without `asked` at its end, however often it stands there, in whatever case."""
    while asked and text.lower().endswith(asked.lower()):
        text = text[: -len(asked)]
    return text


def _key(doc: Doc) -> str:
    return doc["key"][:1].upper() + doc["key"][1:]


def pair(doc: Doc) -> str:
    """FDA and SWDE: the text, and the key to go on from."""
    return f"{_text(doc)} {_key(doc)}:"


def pair_twice(doc: Doc) -> str:
    return f"Information about {_key(doc)}. {_text(doc)}\n{_text(doc)} {_key(doc)}:"


def _text(doc: Doc) -> str:
    """The text without the key at its end, ending in one full stop; nothing but that stop follows its last word."""
    return strip_asked(doc["text"], f"{doc['key']}:").strip().strip(".").strip() + "."


def before_summary(text: str) -> str:
    """The page itself: SWDE's text ends in a list of other keys with their values, which would give the form away."""
    return text.partition(SUMMARY)[0]


def squad(doc: Doc) -> str:
    return doc["text"].strip()


def squad_twice(doc: Doc) -> str:
    passage = doc["context"].partition("Question:")[0]
    return f"{doc['question']} {passage}\n{doc['text'].strip()}"


def question(doc: Doc) -> str:
    asked = doc["question"].strip()
    context = strip_asked(doc["context"].strip(), asked)
    return f"{context.strip().strip('.')}. {asked}"


def question_twice(doc: Doc) -> str:
    asked = doc["question"].strip()
    context = strip_asked(doc["context"].strip(), asked).strip().strip(".").strip() + "."
    # The data sets hold the question as it was, beside the one turned into a sentence to complete.
    before = (doc.get("orig_question") or asked).strip(":")
    return f"{before} {context}\n{context} {asked}"


def _unmarked(doc: Doc) -> Doc:
    return {**doc, "context": _MARKS.sub("", doc["context"])}


def triviaqa(doc: Doc) -> str:
    return question(_unmarked(doc))


def triviaqa_twice(doc: Doc) -> str:
    return question_twice(_unmarked(doc))


@dataclass(frozen=True)
class Form:
    """One task's form. `sought` are the fields whose first occurrence in the context `around-answer` keeps in the middle."""

    context: str  # the field that is cut
    sought: tuple[str, ...]
    once: Callable[[Doc], str]
    twice: Callable[[Doc], str]
    fields: tuple[str, ...]  # that every document must have
    twice_fields: tuple[str, ...] = ()  # and for the twice form besides
    asked: str = ""  # the field that ends the prompt; none: the context itself does
    shortest: int = 2  # characters; documents with a shorter sought string are left out; 0: it does not matter
    before_cut: Callable[[str], str] | None = None  # what happens to the context first
    source: tuple[str, ...] = ()  # fields that tell the source document, the first that is there; else the context does


_PAIRS = {
    **{"context": "text", "sought": ("key", "value"), "asked": "key"},
    **{"fields": ("key", "value", "text"), "source": ("file_name", "doc_id")},
}
_ASKED = {"context": "context", "sought": ("answers",), "asked": "question", "fields": ("context", "question", "answers")}

FORMS = {
    "fda": Form(once=pair, twice=pair_twice, **_PAIRS),
    "swde": Form(once=pair, twice=pair_twice, before_cut=before_summary, **_PAIRS),
    "squad": Form("text", ("value",), squad, squad_twice, ("text", "value"), twice_fields=("context", "question")),
    "nq": Form(once=question, twice=question_twice, **_ASKED),
    # Their protocol does not look for the answer, and so does not mind how long it is: many of DROP's are digits.
    "triviaqa": Form(once=triviaqa, twice=triviaqa_twice, shortest=0, **_ASKED),
    "drop": Form(once=question, twice=question_twice, shortest=0, **_ASKED),
}


def answers(doc: Doc) -> list[str]:
    """The accepted answers, stripped; blank ones are left out."""
    given = doc["value"] if "value" in doc else doc["answers"]
    return [text for text in (answer.strip() for answer in ([given] if isinstance(given, str) else given)) if text]
