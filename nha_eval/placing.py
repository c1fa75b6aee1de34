"""How far from a prompt's end the answer stands that a recall document asks for, in the model's own tokens.

Tasks say where the answer begins in the prompt (`place`, in characters); of lm-eval's own recall tasks, whose documents are the
hub's, the mention nearest to the end is looked for.
"""

from collections.abc import Mapping
from typing import Any

from tasks.hub_recall.forms import answers
from tasks.places import TokenPlace, in_tokens, nearest


def answer_place(doc: Mapping[str, Any], prompt: str, tokenizer: Any) -> TokenPlace | None:
    """The place of the document's answer in the prompt; None where the document does not tell, no answer stands there, or the
    model has no tokenizer.
    """
    if tokenizer is None:
        return None
    if "place" in doc:
        place, accepted = doc["place"], doc["answers"]
    elif {"text", "value"} <= doc.keys():
        accepted = answers(doc)
        place = nearest(accepted, prompt)
    else:
        return None
    # What is put before a document's own prompt (examples, a description) would move the place.
    if place is None or not any(prompt[place:].casefold().startswith(answer.casefold()) for answer in accepted):
        return None
    return in_tokens(prompt, place, tokenizer)
