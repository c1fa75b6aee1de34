"""What some of RULER's tasks read: essays, SQuAD and HotpotQA, from the hub or from files of the user's own.

| name | hub | a file in its place |
|---|---|---|
| essays | baber/paul_graham_essays | .txt, a folder of .txt, or .json/.jsonl with `text` (RULER's PaulGrahamEssays.json) |
| ruler_squad | rajpurkar/squad_v2 | SQuAD's own JSON (dev-v2.0.json), or the hub's schema |
| hotpotqa | hotpotqa/hotpot_qa | HotpotQA's own JSON (hotpot_dev_distractor_v1.json), or the hub's schema |

    python -c "from tasks.ruler.material import read; print(len(read('essays', 'essays.txt')))"
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.hub_data import AnySplit, read_local
from tasks.ruler.questions import Passages, Question

if TYPE_CHECKING:
    from datasets import Dataset

LICENCES = {"essays": "all rights reserved by their author", "ruler_squad": "CC BY-SA 4.0", "hotpotqa": "CC BY-SA 4.0"}
# After a full stop, question or exclamation mark, perhaps in quotes or brackets, before what can begin a sentence.
_SENTENCE_END = re.compile(r"""(?:(?<=[.!?])|(?<=[.!?]["')\]]))\s+(?=["'(\[]?[A-Z0-9])""")
_HUB = {"essays": (None, "train"), "ruler_squad": (None, "validation"), "hotpotqa": ("distractor", "validation")}


def read(source: str, given: str | Path | None, hub_id: str | None = None) -> Any:
    """What the tasks on `source` need: sentences of the essays, or Passages; from `given`, else from the hub's `hub_id`.

    Raises ValueError for local data that cannot be used, OSError (of several kinds) where the hub cannot give it.
    """
    if given is None:
        return READERS[source](of_hub(source, hub_id))
    place = Path(given).expanduser()
    if not place.exists():
        raise ValueError(f"no such data: {str(given)!r}: {_WANTED[source]}")
    try:
        return READERS[source](_content(source, place))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, OSError) as problem:
        told = f"it lacks {problem}" if isinstance(problem, KeyError) else str(problem)
        raise ValueError(f"data {str(given)!r} cannot be read: {' '.join(told.split())}: {_WANTED[source]}") from problem


def of_hub(source: str, hub_id: str) -> "Dataset":
    """The split that the tasks read. Raises OSError (of several kinds) where the hub cannot give it."""
    import datasets

    config, split = _HUB[source]
    return datasets.load_dataset(hub_id, config, split=split)


def _content(source: str, place: Path) -> Any:
    """A file's content as its own format has it, else the split of the hub's schema."""
    if source == "essays" and (place.suffix == ".txt" or (place.is_dir() and any(place.rglob("*.txt")))):
        files = sorted(place.rglob("*.txt")) if place.is_dir() else [place]
        return [{"text": file.read_text(encoding="utf-8")} for file in files]
    if place.suffix == ".json":
        return json.loads(place.read_text(encoding="utf-8"))
    config, split = _HUB[source]
    found = read_local(place, config)
    if not isinstance(found, AnySplit) and split not in found:
        raise ValueError(f"it has no split {split!r}, only {', '.join(found)}")
    return found[split]


def sentences_of(content: Any) -> tuple[str, ...]:
    """The essays' sentences, in order. Raises ValueError where there are none."""
    texts: Iterable[Any] = [content] if isinstance(content, str | Mapping) else content
    whole = " ".join(text if isinstance(text, str) else text["text"] for text in texts)
    sentences = tuple(_SENTENCE_END.split(" ".join(whole.split())))
    if not any(sentences):
        raise ValueError("it holds no text")
    return sentences


def squad(content: Any) -> Passages:
    """SQuAD's articles (its own JSON, or the hub's rows), without the questions that have no answer."""
    rows = list(_squad_rows(content["data"]) if isinstance(content, Mapping) else _hub_squad_rows(content))
    places = _places(passage for _, passage, _, _ in rows)
    articles: dict[str, dict[int, None]] = {}
    for title, passage, _, _ in rows:
        articles.setdefault(title, {})[places[passage]] = None
    questions = (
        Question(text, answers, (places[passage],), tuple(i for i in articles[title] if i != places[passage]))
        for title, passage, text, answers in rows
        if answers
    )
    return _passages(places, questions)


def _squad_rows(articles: Sequence[Mapping]) -> Iterable[tuple[str, str, str, tuple[str, ...]]]:
    for number, article in enumerate(articles):
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                possible = not asked.get("is_impossible")
                answers = [answer["text"] for answer in asked["answers"]] if possible else []
                yield str(number), paragraph["context"], asked["question"], _accepted(answers)


def _hub_squad_rows(rows: Iterable[Mapping]) -> Iterable[tuple[str, str, str, tuple[str, ...]]]:
    for row in rows:
        yield row["title"], row["context"], row["question"], _accepted(row["answers"]["text"])


def hotpotqa(content: Any) -> Passages:
    """HotpotQA's questions (its own JSON, or the hub's rows), each with the ten passages that it comes with."""
    rows = []
    for row in content:
        context = row["context"]
        pairs = zip(context["title"], context["sentences"], strict=True) if isinstance(context, Mapping) else context
        passages = [f"{title}\n{''.join(sentences)}" for title, sentences in pairs]
        rows.append((row["question"], _accepted([row["answer"]]), passages))
    places = _places(passage for _, _, passages in rows for passage in passages)
    questions = (
        Question(text, answers, tuple(dict.fromkeys(places[passage] for passage in passages)))
        for text, answers, passages in rows
        if answers
    )
    return _passages(places, questions)


def _accepted(answers: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))


def _places(passages: Iterable[str]) -> dict[str, int]:
    return {passage: i for i, passage in enumerate(sorted(set(passages)))}


def _passages(places: Mapping[str, int], questions: Iterable[Question]) -> Passages:
    kept = tuple(questions)
    if not kept:
        raise ValueError("it holds no question with an answer")
    return Passages(tuple(places), kept)


READERS: dict[str, Callable[[Any], Any]] = {"essays": sentences_of, "ruler_squad": squad, "hotpotqa": hotpotqa}
_WANTED = {
    "essays": "wanted is a .txt file, a folder of them, or .json or .jsonl with `text`",
    "ruler_squad": "wanted is SQuAD's JSON (dev-v2.0.json), or a file in the hub's schema (rajpurkar/squad_v2)",
    "hotpotqa": "wanted is HotpotQA's JSON (hotpot_dev_distractor_v1.json), or a file in the hub's schema (hotpotqa/hotpot_qa)",
}
