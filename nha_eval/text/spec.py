"""What text a model is to be trained, distilled or searched on, as the user says it.

    make_text_spec({"source": ["debian", "~/books"], "length": 2048, "recall_share": 0.25}, where="text.yaml")

The splits depend on the sources, `characters` and the `heldout_` fields alone: with every tokenizer, length and seed the same
documents are held out.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nha_eval.errors import UserError
from nha_eval.spec import Count, Number, Whole, first_problem


class TextSpec(BaseModel):
    """Units and legal values stand beside each field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: list[str] = Field(min_length=1)  # "debian", folders, files, hub ids (org/name, org/name:config), a folder of tokens
    length: Count = 2048  # tokens a training sequence
    packing: Literal["blocks", "documents"] = "blocks"  # documents: whole ones where they fit, none seeing another
    seed: Whole = Field(0, ge=0, lt=2**32)  # of the order of the sequences, and of the recall text
    recall_share: Number = Field(0.0, ge=0, le=1)  # of the sequences: text made for recall
    self_text: str | None = Field(None, min_length=1)  # .jsonl that a model wrote (`write_self_text`); for training alone
    # of the documents, in the held-out and in the unseen text each
    heldout_share: Number = Field(0.02, gt=0, le=0.25)
    heldout_characters: Count = 400_000  # at least, in each of the two, up to a tenth of all: some 100,000 tokens
    characters: Count = 500_000_000  # at most, read of each source
    # the token between documents; None: the tokenizer's EOS, or what a folder of tokens was made with
    separator: str | None = Field(None, min_length=1)

    @field_validator("source", mode="before")
    @classmethod
    def _sources(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("source")
    @classmethod
    def _named(cls, value: list[str]) -> list[str]:
        if not all(item.strip() for item in value):
            raise ValueError("holds an empty name: give debian, a folder, a file or a hub id")
        return value


def make_text_spec(content: dict[str, Any], *, where: str) -> TextSpec:
    """The checked spec of a mapping; `where` names it in messages. Raises UserError, one line, for the first thing wrong."""
    try:
        return TextSpec.model_validate(content)
    except ValidationError as problem:
        raise UserError(first_problem(problem, where, lambda _: list(TextSpec.model_fields))) from problem
