"""The score of recall tasks: does the answer stand anywhere in what the model wrote?

`contains` is the recall-intensive suites' metric: the gold string, ignoring case, anywhere in the generation; a document with
several accepted answers takes the best. 1 or 0 a document. The answer is compared as text, so no character of it is special.

    >>> contains({"answers": ["4821"]}, [" 4821."])
    {'contains': 1.0}
"""


def contains(doc: dict, results: list) -> dict[str, float]:
    """lm-eval's `process_results`: `doc["answers"]` (list of str) against `results[0]` (the generated text)."""
    generated = results[0]
    if isinstance(generated, list):
        generated = generated[0]
    generated = generated.casefold()
    hit = any(answer.strip() and answer.strip().casefold() in generated for answer in doc["answers"])
    return {"contains": float(hit)}
