"""How much of a recall task's contexts was cut, and whether the answers survived it.

Two cuts may happen to a document: its protocol's, which the task's documents tell of themselves, and the model's, which
takes the beginning of a prompt that is longer than it can hold. Both count.
"""

from collections.abc import Mapping
from typing import Any

from tasks.hub_recall import stands_in
from tasks.hub_recall.forms import answers

TRUNCATED, SURVIVES = "truncated", "answer_survives"


def fate(sample: dict[str, Any], kept: Mapping[str, str]) -> dict[str, bool] | None:
    """{truncated, held, survives} of one of lm-eval's logged samples; None where its document has no answer to look for.

    `kept` maps prompts that the model cut to what it read of them. `held` is whether an answer stands in the whole context.
    """
    doc = sample["doc"]
    if "held" in doc:
        found = {key: bool(doc[key]) for key in ("truncated", "held", "survives")}
    elif {"text", "value"} <= doc.keys():
        # lm-eval's own recall tasks, whose documents are the hub's.
        held = stands_in(answers(doc), doc["text"])
        found = {"truncated": False, "held": held, "survives": held}
    else:
        return None
    read = kept.get(sample["arguments"][0][0])
    if read is not None:
        found.update(truncated=True, survives=found["survives"] and stands_in(answers(doc), read))
    return found


def shares(fates: list[dict[str, bool]]) -> list[dict[str, Any]]:
    """Figures for the score table: the share of documents cut; of those that hold an answer, the share that keep it."""
    if not fates:
        return []
    held = [one["survives"] for one in fates if one["held"]]
    figures = [(TRUNCATED, [one["truncated"] for one in fates])] + ([(SURVIVES, held)] if held else [])
    return [{"metric": name, "value": sum(each) / len(each), "stderr": None, "n": len(each)} for name, each in figures]
