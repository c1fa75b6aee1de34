"""The scores of tasks that are answered in words: does the answer stand anywhere in what the model wrote?

`contains` is the recall-intensive suites' metric: the gold string, ignoring case, anywhere in the generation; a document with
several accepted answers takes the best. 1 or 0 a document. The answer is compared as text, so no character of it is special.
`string_match_all` and `string_match_part` are RULER's (arXiv 2404.06654; github.com/NVIDIA/RULER).

    >>> contains({"answers": ["4821"]}, [" 4821."])
    {'contains': 1.0}
    >>> string_match_all({"answers": ["4821", "77"]}, [" 4821."])
    {'string_match_all': 0.5}
"""


def contains(doc: dict, results: list) -> dict[str, float]:
    """lm-eval's `process_results`: `doc["answers"]` (list of str) against `results[0]` (the generated text)."""
    return {"contains": float(any(_found(doc, results)))}


def string_match_all(doc: dict, results: list) -> dict[str, float]:
    """The share of `doc["answers"]` that stand in the generated text, ignoring case: all of them are wanted."""
    found = _found(doc, results)
    return {"string_match_all": sum(found) / len(found)}


def string_match_part(doc: dict, results: list) -> dict[str, float]:
    """1 where any of `doc["answers"]` stands in the generated text, ignoring case: each is a full answer.

    lm-eval 0.4.13 divides by their number here, so that a right answer scores 1 over how many ways there are to write it.
    """
    return {"string_match_part": float(any(_found(doc, results)))}


def copied(doc: dict, results: list) -> dict[str, float]:
    """The share of the words of `doc["answers"][0]` that the generated text has at their very places, ignoring case and commas.

    >>> copied({"answers": ["ocean, yellow, button, harbor, tree"]}, [" ocean, yellow, ribbon, harbor."])
    {'copied': 0.6}
    """
    generated = results[0][0] if isinstance(results[0], list) else results[0]
    wanted, found = (text.casefold().replace(",", " ").split() for text in (doc["answers"][0], generated.rstrip(". ")))
    return {"copied": sum(a == b for a, b in zip(wanted, found, strict=False)) / len(wanted)}


def _found(doc: dict, results: list) -> list[bool]:
    generated = results[0]
    if isinstance(generated, list):
        generated = generated[0]
    generated = generated.casefold()
    return [bool(answer.strip()) and answer.strip().casefold() in generated for answer in doc["answers"]]
