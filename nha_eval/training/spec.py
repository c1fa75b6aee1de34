"""What language model is to be trained from scratch on what, as the user says it in YAML.

    model: nha-340m               # a preset; or `sizes:` with a pattern and sizes of one's own
    tokenizer: fla-hub/gla-1.3B-100B
    stream: {source: cerebras/SlimPajama-627B, length: 2048}
    tokens: 16_106_127_360
    batch: 256

Text comes from `text`, which is read whole, split and kept in the cache (docs/TEXT.md), or from `stream`, which is read as it
is trained on. Unknown keys are refused with the nearest known one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nha_eval.errors import UserError
from nha_eval.hybridize.spec import OneWindow, Tokens
from nha_eval.spec import Count, Number, Switch, Whole, first_problem
from nha_eval.text import TextSpec
from nha_eval.text.stream import StreamSpec


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Layers = Annotated[Whole, Field(ge=1, le=1000)]


class Widths(Strict):
    """Sizes of a model by NHAConfig's names."""

    hidden_size: Count
    intermediate_size: Annotated[Whole, Field(ge=0)]  # of the feed-forward; 0: none
    slots_intermediate_size: Annotated[Whole, Field(ge=0)] | None = None  # of layers with slots; None: as wide
    num_hidden_layers: Layers
    num_attention_heads: Count
    num_key_value_heads: Count | None = None  # None: as many
    num_slots: Annotated[Whole, Field(ge=1, le=256)] = 64
    tie_word_embeddings: Switch = False
    mixer_options: dict[str, dict[str, Any]] = Field(default_factory=dict)  # a mixer's own, by its name


class Sizes(Widths):
    """A pattern of mixers (`models.presets`) at sizes of one's own."""

    pattern: str  # nha, nha-2026, transformer++, swa, gsa, gla, gated-deltanet, mamba2, gsa-h, gdn-h, nha-h


class TrainSpec(Strict):
    """Units and legal values stand beside each field."""

    model: str | None = Field(None, min_length=1)  # a preset with random weights
    sizes: Sizes | None = None  # in its place
    window: OneWindow | None = None  # tokens, or "full": of layers that have one; None: the pattern's
    tokenizer: str = Field("bytes", min_length=1)  # bytes, bpe:N (made of `text`, N tokens), a folder or a hub id
    text: TextSpec | None = None
    stream: StreamSpec | None = None
    tokens: Tokens  # seen in all
    batch: Count = 8  # sequences a step, over all devices
    micro_batch: Count | None = None  # of these, at a time on a device; None: all
    learning_rate: Number = Field(3e-4, gt=0)
    warmup: Number = Field(0.02, ge=0, lt=1)  # share of the steps
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    weight_decay: Number = Field(0.01, ge=0)
    clip: Number = Field(1.0, gt=0)  # of the gradient's norm
    checkpointing: Switch = False  # whether layers are computed again for the backward pass, which takes less memory
    save_every: Count = 500  # steps; where a broken run goes on
    heldout_every: Count = 500  # steps
    heldout_tokens: Count = 65_536
    seed: Whole = Field(0, ge=0, lt=2**32)
    device: str = "auto"  # auto, cpu, cuda or cuda:N
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of arithmetic; weights in training are fp32; auto: bf16 on a GPU
    out: str | None = Field(None, min_length=1)  # run folder; None: results/runs/train-NAME

    @model_validator(mode="after")
    def _fits(self) -> TrainSpec:
        for one, other in (("model", "sizes"), ("text", "stream")):
            given = [name for name in (one, other) if getattr(self, name) is not None]
            if len(given) != 1:
                found = "both are given" if given else "neither is given"
                raise ValueError(f"{one} and {other}: {found}; wanted is one of the two")
        if self.tokens < self.tokens_of_step:
            raise ValueError(
                f"tokens is {self.tokens}, less than one step of {self.tokens_of_step} (batch times the text's length)"
            )
        return self

    @property
    def length(self) -> int:
        """Tokens a sequence."""
        return (self.text or self.stream).length

    @property
    def tokens_of_step(self) -> int:
        return self.batch * self.length

    @property
    def steps(self) -> int:
        return self.tokens // self.tokens_of_step

    def settings(self) -> dict[str, Any]:
        """All that decides the weights, as plain data."""
        return self.model_dump(mode="json", exclude={"out"})


def make_train_spec(content: dict[str, Any], *, where: str) -> TrainSpec:
    """The checked spec of a mapping; `where` names it. Raises UserError, one line, for the first thing that is wrong."""
    try:
        return TrainSpec.model_validate(content)
    except ValidationError as problem:
        raise UserError(first_problem(problem, where, _known_at)) from problem


def _known_at(parents: tuple[Any, ...]) -> list[str]:
    kinds = {"sizes": Sizes, "text": TextSpec, "stream": StreamSpec}
    named = [kinds[part] for part in parents if part in kinds]
    return list((named[-1] if named else TrainSpec).model_fields)
