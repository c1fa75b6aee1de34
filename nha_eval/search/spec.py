"""What is to be searched, as the user says it: flags, a YAML file of the same names, or both (flags win).

model: nha:smollm2-135m
windows: [0, 16, 64, 256, full]
budgets: [0.25, 22MB]
text: debian
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nha_eval.errors import UserError, printable
from nha_eval.search.budgets import Budget, parse_budget
from nha_eval.spec import MOST_THREADS, Count, Whole, first_problem, split_commas
from nha_eval.window_settings import parse_window

WINDOWS = [0, 16, 64, 256, 1024, "full"]
SINGULAR = {"window": "windows", "budget": "budgets", "budget_latency": "budgets_latency"}
# One sequence says nothing of how much others differ.
Several = Annotated[Whole, Field(ge=2, le=100_000)]


def _listed(value: Any) -> list[Any]:
    parts = value if isinstance(value, list | tuple) else [value]
    return [piece for part in parts for piece in (split_commas(part) if isinstance(part, str) else [part])]


class SearchSpec(BaseModel):
    """A whole search. Units and legal values stand beside each field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1)  # preset, checkpoint folder or hub id, as of `eval`
    # tokens, or "full", which is always among them; None: WINDOWS as far as the layers take them and the texts show them
    windows: list[int | str] | None = None
    # of state: bytes with a unit, or shares of full attention's
    budgets: list[str | float | int] = Field(default_factory=list)
    # of latency: shares of full attention's
    budgets_latency: list[str | float | int] = Field(default_factory=list)
    phase: Literal["prefill", "decode"] = "decode"  # whose latency
    context: Count | None = None  # tokens at which a budget is meant; None: length
    method: Literal["greedy", "evolution"] = "greedy"  # evolution: after the greedy search, from what it found
    generations: Count = Field(8, le=10_000)  # of the evolution, for each budget
    text: str | list[str] = "debian"  # source or sources of text
    sequences: Several = 4  # of text to search on
    unseen: Several = 12  # of text to confirm on, and contexts of the probe to confirm on
    length: Count = 1024  # tokens a sequence; windows from it on cannot be told from full
    batch: Count = 1  # sequences run together
    probe: Whole = Field(4, ge=0, le=100_000)  # contexts of the recall probe; 0, off or false: none
    probe_length: Count | None = None  # tokens a context; None: length
    # what the search lowers is KL + weight * the answers' mean loss, both in nats a token
    probe_weight: float = Field(0.0, ge=0, strict=True, allow_inf_nan=False)
    device: str = "auto"  # auto, cpu, cuda or cuda:N
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: float32 on a CPU, bfloat16 on a GPU
    seed: Whole = Field(0, ge=0, lt=2**32)
    threads: Count | None = Field(None, le=MOST_THREADS)  # CPU threads; None: the physical cores
    time: float | None = Field(None, gt=0, strict=True, allow_inf_nan=False)  # minutes that the whole may take; None: no limit
    out: str | None = Field(None, min_length=1)  # run folder; None: results/runs/search-NAME

    @field_validator("windows", mode="before")
    @classmethod
    def _windows(cls, value: Any) -> Any:
        if value is None:
            return None
        given = list(dict.fromkeys(parse_window(item) for item in _listed(value)))
        if not [window for window in given if window != "full"]:
            raise ValueError("is full alone: wanted is at least one narrower window, as in 16,64,full")
        return sorted(given, key=lambda window: float("inf") if window == "full" else window)

    @field_validator("budgets", "budgets_latency", mode="before")
    @classmethod
    def _budgets(cls, value: Any, info: Any) -> Any:
        given = list(dict.fromkeys(_listed(value))) if value is not None else []
        for item in given:
            parse_budget(item, shares_only=info.field_name == "budgets_latency")
        return given

    @field_validator("text", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        given = value if isinstance(value, list) else [value]
        if not given or not all(isinstance(item, str) and item.strip() for item in given):
            raise ValueError(f"is {printable(repr(value), 60)}: wanted is a source of text, such as debian or a folder")
        return value

    @field_validator("probe", mode="before")
    @classmethod
    def _probe(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return cls.model_fields["probe"].default if value else 0
        return 0 if value == "off" else value

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", value):
            raise ValueError(f"is {printable(repr(value), 60)}: wanted is auto, cpu, cuda or cuda:N")
        return value

    @property
    def limits(self) -> list[Budget]:
        """The budgets; a quarter of full attention's state where none is given."""
        given = self.budgets_latency or self.budgets or [0.25]
        return [parse_budget(item) for item in given]

    @property
    def unit(self) -> Literal["bytes", "ms"]:
        """What the budgets are of."""
        return "ms" if self.budgets_latency else "bytes"

    def settings(self) -> dict[str, Any]:
        """All that decides what is found, as plain data; `time` decides only how far it gets."""
        return self.model_dump(mode="json", exclude={"out", "time", "threads"})


def make_search_spec(content: dict[str, Any], overrides: dict[str, Any], *, where: str) -> SearchSpec:
    """The checked spec of a file's mapping with the flags laid over it. UserError, one line, for the first thing wrong."""
    merged = {**{SINGULAR.get(key, key): value for key, value in content.items()}, **overrides}
    if "model" not in merged:
        raise UserError("no model: give MODEL (preset, checkpoint folder or hub id), or `model` in the spec")
    try:
        spec = SearchSpec.model_validate(merged)
    except ValidationError as problem:
        raise UserError(first_problem(problem, where, lambda _: list(SearchSpec.model_fields))) from problem
    if spec.budgets and spec.budgets_latency:
        raise UserError(f"{where}: budgets of state and of latency are given: wanted is one kind")
    if spec.probe_weight and not spec.probe:
        raise UserError(f"{where}: probe_weight is given and the probe is off: leave one out")
    return spec
