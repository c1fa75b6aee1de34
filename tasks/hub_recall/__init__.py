"""The recall-intensive suite (FDA, SWDE, SQuAD, NQ, TriviaQA, DROP) under the protocol `pla`, as lm-eval's `custom_dataset`.

`pla` is the protocol of prefix-linear-attention ("Just read twice", arXiv 2407.05483), under which most tables of this
field were made: each context is cut to `length - 50` tokens around the answer (`cutting.py`), the prompts are `forms.py`'s.
lm-eval's own fda, swde and squad_completion are another protocol, with other scores.

Settings are a task's metadata. Tokens are the model's own, so that models of unlike vocabularies read unlike texts; `tokenizer`
names a fixed one instead. Under plain lm-eval the model's is found by its `pretrained` argument:

    lm_eval --model hf --model_args pretrained=FOLDER --include_path tasks --tasks recall \
        --metadata '{"lengths": [1024], "data": {"fda": "fda.jsonl"}}'
"""

import logging
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tasks.hub_data import given_for, split_of
from tasks.hub_recall.cutting import cut as cut_context
from tasks.hub_recall.forms import FORMS, Doc, Form, answers, strip_asked
from tasks.places import nearest
from tasks.tokenizing import tokenizer_for

if TYPE_CHECKING:
    from datasets import Dataset

ANSWER_ROOM = 50  # tokens of `length` left to the answer
SPLIT = "validation"
_log = logging.getLogger(__name__)


def dataset(
    form: str,
    sources: Mapping[str, str],
    lengths: int | Sequence[int] = (1024,),
    cut: str = "around-answer",
    truncation: str | None = None,
    twice: bool = False,
    tokenizer: str | None = None,
    pretrained: str | None = None,
    data: Mapping[str, str] | None = None,
    **_unused,
) -> "dict[str, Dataset]":
    """lm-eval's `custom_dataset`: {"test": documents of every length in turn}.

    `sources` maps names to hub ids; with several, a name ends in the length that it was made for and the one that fits is
    read. `cut` is the protocol's policy, `truncation` another one in its place, `data` local folders or files by name or
    hub id. Raises ValueError for settings or data that cannot be used, OSError where the hub cannot be had.
    """
    from datasets import Dataset

    if form not in FORMS:
        raise ValueError(f"no form named {form!r} (there are: {', '.join(FORMS)})")
    counted_in = tokenizer_for(tokenizer, pretrained)
    docs: list[Doc] = []
    for length in [lengths] if isinstance(lengths, int) else lengths:
        source = source_for(sources, int(length))
        raw = split_of(sources[source], SPLIT, given_for(source, sources[source], data or {}))
        docs += documents(form, raw, int(length), truncation or cut, counted_in, twice=twice)
    if not docs:
        raise ValueError(f"{form}: no document is left at lengths {lengths} under truncation {truncation or cut!r}")
    return {"test": Dataset.from_list(docs)}


def source_for(sources: Mapping[str, str], length: int) -> str:
    """The name of the data set for contexts of `length` tokens: the shortest made for that many, else the longest."""
    made_for = {name: int(size.group()) for name in sources if (size := re.search(r"\d+$", name))}
    if not made_for:
        return next(iter(sources))
    fitting = [name for name, size in made_for.items() if size >= length]
    return min(fitting, key=made_for.get) if fitting else max(made_for, key=made_for.get)


def documents(name: str, raw: Sequence[Doc], length: int, policy: str, tokenizer: Any, twice: bool = False) -> list[Doc]:
    """The documents of a form, ready to ask; `length` and the cut are in tokens.

    Keys: prompt, answers, context_id, length, item (its number in the data), truncated (whether the cut took something),
    held and survives (whether an answer stands in the context before and after the cut), place (of the mention of an answer
    that is nearest to what is asked, in characters of the prompt; None where none is left). Left out, whatever the policy:
    documents without an answer, or with one (or a key) shorter than the form minds; and what the policy `skip` leaves out.
    """
    form = FORMS[name]
    check_fields(name, list(raw.column_names if hasattr(raw, "column_names") else raw[0]), twice)
    docs = []
    for item, doc in enumerate(raw):
        if _asks_nothing(doc, form):
            continue
        text = (form.before_cut or str)(doc[form.context]).strip()
        left = cut_context(text, policy, length - ANSWER_ROOM, tokenizer, _place(text, doc, form), doc.get("tok_pos"))
        if left is None:
            continue
        accepted = answers(doc)
        prompt = (form.twice if twice else form.once)({**doc, form.context: left.text})
        docs.append(
            {
                "prompt": prompt,
                "answers": accepted,
                "context_id": _source_document(name, doc, form),
                "length": length,
                "item": item,
                "truncated": left.truncated,
                "held": stands_in(accepted, text),
                "survives": stands_in(accepted, left.text),
                "place": nearest(accepted, _before_asked(prompt, doc, form)),
            }
        )
    if dropped := len(raw) - len(docs):
        _log.info("%s: %d of %d documents left out: no answer to look for, or too long for %r", name, dropped, len(raw), policy)
    return docs


def check_fields(name: str, there: Sequence[str], twice: bool = False) -> None:
    """Raises ValueError where documents of a form lack fields of the hub's schema."""
    form = FORMS[name]
    wanted = (*form.fields, *(form.twice_fields if twice else ()))
    if missing := [field for field in wanted if field not in there]:
        raise ValueError(
            f"{name}: the documents lack {', '.join(missing)}; they hold {', '.join(there)}, wanted is the hub's schema: "
            f"{', '.join(wanted)}"
        )


def stands_in(accepted: Sequence[str], text: str) -> bool:
    """Whether one of the answers stands in the text, ignoring case."""
    return any(answer.casefold() in text.casefold() for answer in accepted)


def _first(value: Any) -> str:
    return (value if isinstance(value, str) else next(iter(value), "")).strip()


def _asks_nothing(doc: Doc, form: Form) -> bool:
    return not answers(doc) or any(len(_first(doc[field])) < form.shortest for field in form.sought)


def _place(text: str, doc: Doc, form: Form) -> int:
    """Where the first of the sought strings begins, in characters; else where another accepted answer does; else -1."""
    for strings in ([_first(doc[field]) for field in form.sought], *([other] for other in doc.get("alt_answers") or ())):
        found = [match.start() for string in strings if (match := re.search(re.escape(string), text, re.IGNORECASE))]
        if found:
            return min(found)
    return -1


def _before_asked(prompt: str, doc: Doc, form: Form) -> str:
    """The prompt up to what is asked at its end, which may hold the answer's words by chance."""
    return strip_asked(prompt.rstrip(": "), doc[form.asked].strip().rstrip(": ")) if form.asked else prompt


def _source_document(name: str, doc: Doc, form: Form) -> str:
    """What tells the document that several questions share, so that standard errors mind it."""
    known = next((str(doc[field]) for field in form.source if doc.get(field)), None)
    passage = doc.get("context") or doc[form.context]
    return f"{name}-{known or f'{zlib.crc32(passage.encode()):08x}'}"
