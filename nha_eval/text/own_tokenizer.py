"""A tokenizer made of the very text that is trained on: byte-level BPE (arXiv 1508.07909), for models too small for the
vocabulary of a large one.

    own_tokenizer(TextSpec(source="debian"), 16_384)

It sees the training split alone, and is kept in the cache as `text/bpe-KEY`, a folder that `AutoTokenizer` reads. KEY is a hash
of the sources, the settings of the splits and the size.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from nha_eval.errors import MachineError, UserError, is_disk_trouble
from nha_eval.paths import user_path
from nha_eval.text.documents import pieces
from nha_eval.text.opening import DECIDES, sources_of, split_sources
from nha_eval.text.spec import TextSpec
from nha_eval.text.stored import text_folder
from nha_eval.text.tokens import is_tokens_folder

FORM = 1  # of how it is made; part of the key
PAD, BOS, EOS = "<pad>", "<s>", "</s>"
SMALLEST, LARGEST = 300, 2**16  # tokens: 256 bytes and what stands beside them; what a tokens folder holds in 16 bits
_PIECE = 20_000  # characters given to the trainer at once


def own_tokenizer(spec: TextSpec, size: int) -> Any:
    """The tokenizer of `size` tokens made of the text's training split, out of the cache where it is there.

    Raises UserError for a size that it cannot have, for a text with fewer different pieces, and for a folder of tokens, which
    holds no text any more; and as `open_text`.
    """
    from filelock import FileLock
    from transformers import AutoTokenizer

    if not SMALLEST <= size <= LARGEST:
        raise UserError(f"tokenizer bpe:{size}: wanted are {SMALLEST} to {LARGEST} tokens")
    ready = next((name for name in spec.source if is_tokens_folder(user_path(name, "source"))), None)
    if ready is not None:
        raise UserError(
            f"tokenizer bpe:{size} is made of text, and source {ready!r} holds tokens: give the folder of the tokenizer that "
            "they are of (`text/bpe-*` of the cache they come from)"
        )
    corpora, own, digests = sources_of(spec)
    decides = {key: getattr(spec, key) for key in DECIDES if key != "self_text"}
    key = json.dumps([FORM, digests, own is not None, decides, size], sort_keys=True)
    folder = text_folder() / f"bpe-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not (folder / "tokenizer.json").is_file():
                documents = split_sources(corpora, own, spec)[0]["train"]
                _keep(_trained((part for d in documents for part in pieces(d.text, _PIECE)), size), folder)
    except OSError as problem:
        if is_disk_trouble(problem):
            raise MachineError(f"cannot keep the tokenizer: {problem}; free some space, then try again") from problem
        raise UserError(
            f"cannot keep the tokenizer in {folder.parent}: {problem.strerror or problem}: set NHA_EVAL_CACHE to a folder that "
            "can be written"
        ) from problem
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _trained(texts: Any, size: int) -> Any:
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(BPE())
    # Digits by themselves: numbers then are spelt alike wherever they stand.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[PAD, BOS, EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < size:
        raise UserError(
            f"tokenizer bpe:{size}: the text gives no more than {tokenizer.get_vocab_size()} tokens: ask for fewer, or give "
            "more text"
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS)


def _keep(tokenizer: Any, folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        tokenizer.save_pretrained(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
