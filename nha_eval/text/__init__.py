"""Text to train, distil and search on: from a name to token sequences, with what is held out kept apart.

    from models.assets import smollm2_folder
    from nha_eval.text import TextSpec, open_text
    from transformers import AutoTokenizer

    text = open_text(TextSpec(source="debian", length=2048), AutoTokenizer.from_pretrained(smollm2_folder()))
    text.train[0]["input_ids"]          # LongTensor [2048]; item i depends on the seed and i alone
    text.heldout(length=1024, n=64)     # for evaluating and choosing; text.unseen(...) for confirming
    text.about                          # sources, licences, hashes, counts, what was removed

`docs/TEXT.md` tells the sources and their licences. Nothing here imports torch before a sequence is asked for.
"""

from nha_eval.text.opening import Text, open_text
from nha_eval.text.sequences import Documents, FixedBlocks, Sequences
from nha_eval.text.spec import TextSpec, make_text_spec

__all__ = ["Documents", "FixedBlocks", "Sequences", "Text", "TextSpec", "make_text_spec", "open_text"]
