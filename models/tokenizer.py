"""A tokenizer of bytes, for models with random weights: it needs no file and no network.

Each byte is a token; 256 pads, 257 begins and 258 ends a text.
"""

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = 256, 257, 258
VOCABULARY = 259


def byte_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """One token a byte of UTF-8; `max_length` tokens is what the model takes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = {letter: i for i, letter in enumerate(letters)} | {"<pad>": PAD, "<s>": BOS, "</s>": EOS}
    tokenizer = Tokenizer(BPE(vocab=names, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=max_length
    )
