"""What models are to be trained side by side on what text, and how they are measured, as the user says it in YAML.

    text: {source: debian, length: 1024}
    tokenizer: bpe:16384
    sizes: {hidden_size: 512, intermediate_size: 1408, num_hidden_layers: 8, num_attention_heads: 8}
    models:
      - {mixer: transformer++}
      - {mixer: nha, windows: [0, 16, full], test_windows: [0, 16, full]}
      - {mixer: nha, window_jitter: [0, 16, full]}
    tokens: 40_000_000

Each model's lists are crossed, and every model sees the same tokens in the same order.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from nha_eval.errors import UserError
from nha_eval.hybridize.spec import OneWindow, Tokens
from nha_eval.spec import Count, Number, Switch, Whole, first_problem
from nha_eval.text import TextSpec
from nha_eval.training.spec import Strict, Widths

Seed = Annotated[Whole, Field(ge=0, lt=2**32)]
Slots = Annotated[Whole, Field(ge=1, le=256)]
FORMS = ("passage", "random", "fact")
# What may change from one call to the next in the same folder.
GROWING = ("models", "seeds", "speed_steps", "keep_models", "save_every", "cuda_graph")


class Model(Strict):
    """A pattern of mixers (`models.presets`); all lists are crossed."""

    mixer: str  # nha, nha-2026, transformer++, swa, gsa, gla, gated-deltanet, mamba2, gsa-h, gdn-h, nha-h
    windows: list[OneWindow] | None = Field(None, min_length=1)  # None: the pattern's own
    slots: list[Slots] | None = Field(None, min_length=1)  # a head; None: those of `sizes`
    options: list[dict[str, Any]] = Field([{}], min_length=1)  # of its mixer, over those of `sizes`, such as {conv_size: 4}
    window_jitter: list[OneWindow] = Field(default_factory=list)  # each step one of these in the place of the window
    test_windows: list[OneWindow] = Field(default_factory=list)  # measured at these too, when trained
    learning_rate: Number | None = Field(None, gt=0)  # None: that of all


class Evaluate(Strict):
    """How perplexity is measured."""

    split: Literal["unseen", "heldout"] = "unseen"  # of the text
    lengths: list[Annotated[Whole, Field(ge=1, le=64)]] = Field([1, 2, 4, 8], min_length=1)  # times the text's length
    tokens: Count | None = None  # at most, from the split's beginning; None: all
    rare: Count = 5  # times at most that the bigram of a hit comes in training
    resamples: Annotated[Whole, Field(ge=100, le=1_000_000)] = 10_000  # of the documents, for intervals


class Recall(Strict):
    """How recall in context is measured: what stood before is met again after so many tokens of other text."""

    forms: list[Literal["passage", "random", "fact"]] = Field(list(FORMS))
    distances: list[Count] = Field([32, 128, 512], min_length=1)  # tokens between what is told and where it is asked
    sequences: Annotated[Whole, Field(ge=2, le=10_000)] = 128  # of each form and distance


class ProxySpec(Strict):
    """Units and legal values stand beside each field."""

    text: TextSpec
    tokenizer: str = Field("bytes", min_length=1)  # bytes, bpe:N (made of `text`, N tokens), a folder or a hub id
    sizes: Widths
    models: list[Model] = Field(min_length=1)
    seeds: list[Seed] = Field([1], min_length=1)  # of the weights; the tokens' order is the text's seed's
    tokens: Tokens  # each model sees
    batch: Count = 32  # sequences a step
    micro_batch: Count | None = None  # of these, at a time; None: all
    learning_rate: Number = Field(1e-3, gt=0)
    warmup: Number = Field(0.05, ge=0, lt=1)  # share of the steps
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    weight_decay: Number = Field(0.1, ge=0)
    clip: Number = Field(1.0, gt=0)  # of the gradient's norm
    save_every: Count | None = None  # steps, where a broken training goes on; None: at its beginning
    evaluate: Evaluate = Evaluate()
    recall: Recall = Recall()
    speed_steps: Annotated[Whole, Field(ge=0, le=10_000)] = 20  # timed of each model, nothing beside it; 0: none
    # whether a step on one GPU, its micro-batch whole and its window fixed, is done as a CUDA graph
    cuda_graph: Switch = False
    keep_models: Switch = True  # as checkpoints in bf16, in models/
    device: str = "auto"  # auto, cpu, cuda or cuda:N
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of arithmetic; weights in training are fp32; auto: bf16 on a GPU
    out: str | None = Field(None, min_length=1)  # run folder; None: results/runs/train-NAME

    @model_validator(mode="after")
    def _fits(self) -> ProxySpec:
        if self.text.packing != "blocks":
            raise ValueError("text.packing is documents, and these models are trained and measured on blocks; leave it out")
        if self.tokens < self.batch * self.text.length:
            step = self.batch * self.text.length
            raise ValueError(f"tokens is {self.tokens}, less than one step of {step} (batch times the text's length)")
        if self.batch % (self.micro_batch or 1):
            raise ValueError(f"batch is {self.batch}, no multiple of micro_batch {self.micro_batch}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds holds one of them twice: give each once")
        for model in self.models:
            if model.window_jitter and (model.windows or not model.test_windows):
                raise ValueError(
                    f"models: {model.mixer} with window_jitter has no window of its own: give test_windows, and no windows"
                )
        return self

    @property
    def steps(self) -> int:
        return self.tokens // (self.batch * self.text.length)

    def settings(self) -> dict[str, Any]:
        """All that decides the results, as plain data."""
        return self.model_dump(mode="json", exclude={"out"})

    def shared(self) -> dict[str, Any]:
        """What a folder's trainings have in common: models and seeds may be added to it later."""
        return {key: value for key, value in self.settings().items() if key not in GROWING}


def make_proxy_spec(content: dict[str, Any], *, where: str) -> ProxySpec:
    """The checked spec of a mapping; `where` names it. Raises UserError, one line, for the first thing that is wrong."""
    try:
        return ProxySpec.model_validate(content)
    except ValidationError as problem:
        raise UserError(first_problem(problem, where, _known_at)) from problem


def _known_at(parents: tuple[Any, ...]) -> list[str]:
    kinds = {"sizes": Widths, "text": TextSpec, "models": Model, "evaluate": Evaluate, "recall": Recall}
    named = [kinds[part] for part in parents if part in kinds]
    return list((named[-1] if named else ProxySpec).model_fields)
