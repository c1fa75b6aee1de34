"""A tiny random Llama with a byte-level tokenizer of its own, made in a second without a network; lm-eval requests for it."""

import random
from types import SimpleNamespace

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

VOCABULARY = """
the a of and river stone seven green letter garden window sleeps carries under between yellow captain morning answer
question harbour quiet engine paper mountain never always twelve number reads writes because
"""


def words(count: int, seed: int) -> str:
    """`count` words, a text that depends on `seed` alone."""
    rng = random.Random(seed)
    return " ".join(rng.choice(VOCABULARY.split()) for _ in range(count))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 tokens: common words take one or two, others several, so strings span tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([words(200, seed) for seed in range(5)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")


def make_model(window: int | None = None, dtype: torch.dtype = torch.float32, **changes):
    """A random model of two layers whose logits are far from uniform; with `window`, all its layers slide."""
    settings = {
        **{"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "initializer_range": 0.3},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256},
        **{"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None, **changes},
    }
    torch.manual_seed(0)
    if window is None:
        return LlamaForCausalLM(LlamaConfig(**settings)).to(dtype).eval()
    return MistralForCausalLM(MistralConfig(sliding_window=window, **settings)).to(dtype).eval()


def loaded(model, tokenizer=None) -> SimpleNamespace:
    """What HarnessLM is made from."""
    return SimpleNamespace(
        model=model, tokenizer=tokenizer or make_tokenizer(), max_length=model.config.max_position_embeddings
    )


def plain(like: SimpleNamespace, **settings) -> HFLM:
    """lm-eval's own model around the same weights, one request at a time."""
    return HFLM(pretrained=like.model, tokenizer=like.tokenizer, backend="causal", batch_size=1, **settings)


def ask(kind: str, *arguments: tuple) -> list[Instance]:
    """lm-eval requests of one kind ("loglikelihood", "generate_until", "loglikelihood_rolling")."""
    return [Instance(request_type=kind, doc={}, arguments=args, idx=0) for args in arguments]
