"""What hybrid is to be made of what, as the user says it in YAML.

    base: smollm2-135m            # a pretrained preset, a checkpoint's folder or a hub id
    window: 64
    full_layers: [7, 18, 20, 23]
    train: lora
    text: {source: debian, length: 2048}
    align: {tokens: 6_000_000, learning_rate: 2.0e-4, gate_learning_rate: 2.0e-3}
    distill: {tokens: 16_000_000}

A stage that is left out, or false, is not run. Unknown keys are refused with the nearest known one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from models.adapted import PROJECTIONS
from nha_eval.errors import UserError
from nha_eval.spec import Count, Number, Switch, Whole, find_spec, first_problem, lay_change, read_spec
from nha_eval.text import TextSpec
from nha_eval.window_settings import Setting, Window, check_names, check_settings, gather, parse_window, resolve

SPECS = Path(__file__).parent / "specs"
STAGES = ("align", "distill", "finetune")


Tokens = Annotated[Whole, Field(ge=1, le=10**14)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _window(value: Any) -> Window:
    return parse_window(value)


OneWindow = Annotated[Window, BeforeValidator(_window)]


class Gate(_Strict):
    """How gates start and what they are; `models.NHAConfig` says what each means."""

    scale: Number = Field(0.25, ge=0)  # of the rows of k_proj that they start from; 0: alike for every token
    bias: Number = 5.0  # where the bias starts
    horizons: tuple[Number, Number] | None = None  # tokens, of the fastest and the slowest slot, in place of the bias
    activation: Literal["sigmoid", "softmax"] = "sigmoid"  # softmax: slots compete for each token
    normalizer: Number = Field(8.0, gt=0)  # tau


class LoraSettings(_Strict):
    rank: Count = 16
    alpha: Number = Field(32.0, gt=0)
    targets: list[Literal["q_proj", "k_proj", "v_proj", "o_proj"]] = Field(list(PROJECTIONS), min_length=1)


class Stage(_Strict):
    tokens: Tokens  # seen in all
    batch: Count = 8  # sequences a step, over all devices
    micro_batch: Count | None = None  # of these, at a time on a device; None: all
    learning_rate: Number = Field(2e-4, gt=0)  # of the projections, or of LoRA
    gate_learning_rate: Number = Field(2e-3, gt=0)  # of gates and of what is learnt of the slots' logits
    warmup: Number = Field(0.05, ge=0, lt=1)  # share of the steps
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    weight_decay: Number = Field(0.0, ge=0)
    clip: Number = Field(1.0, gt=0)  # of the gradient's norm
    save_every: Count = 200  # steps; also where a broken run goes on
    heldout_every: Count = 200  # steps


class Distill(Stage):
    learning_rate: Number = Field(1e-4, gt=0)
    gate_learning_rate: Number = Field(1e-3, gt=0)
    temperature: Number = Field(1.0, gt=0)  # of both distributions
    top_k: Count | None = None  # the teacher's likeliest tokens alone, and all others as one; None: the whole distribution


class SelfText(_Strict):
    """Documents that the base model writes itself, at temperature 1, added to the training text."""

    documents: Count
    length: Count = 1024  # tokens each, at most
    batch: Count = 16  # at a time
    prefix_tokens: Count | None = 16  # of the training text, that each begins with; None: from nothing


class Heldout(_Strict):
    tokens: Count = 65_536  # of each length
    lengths: list[Count] = Field([2048], min_length=1)  # tokens
    windows: list[OneWindow] = Field(default_factory=list)  # others, at which the result is measured


class Copies(_Strict):
    """How copying is measured: a passage of held-out text that comes again after so much other text."""

    sequences: Count = 64
    passage: Annotated[Whole, Field(ge=8)] = 64  # tokens
    distances: list[Count] = Field([448, 1900], min_length=1)  # tokens between


class HybridSpec(_Strict):
    """Units and legal values stand beside each field."""

    base: str = Field(min_length=1)
    mixer: Literal["nha", "attention"] = "nha"  # attention: a sliding window alone, the control of what slots are worth
    window: OneWindow = 64  # tokens, or "full"
    # one a layer, in place of window and full_layers; or the name of one of the settings
    windows: list[OneWindow] | str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)  # windows by name, as docs/WINDOWS.md says, or files of them
    full_layers: list[Whole] = Field(default_factory=list)  # their indices
    window_jitter: list[OneWindow] = Field(default_factory=list)  # each step one of these in the place of `window`; none: fixed
    num_slots: Count | None = Field(None, le=256)  # a key-value head; None: as many as a head has dimensions
    empty_slots: Literal["mask", "sink"] = "mask"
    gate: Gate = Field(default_factory=Gate)
    slot_logits: Literal["bias", "scale", "both"] | None = None  # learnt of the slots' logits, a number each head
    slot_bias: Number = 0.0  # where that bias starts
    train: Literal["lora", "full", "gates"] = (
        "lora"  # gates always; full: q, k, v and o as well; lora: low-rank changes of them
    )
    lora: LoraSettings = Field(default_factory=LoraSettings)
    train_full_layers: Switch = True  # whether projections of layers with a full window are trained too, after alignment
    text: TextSpec = Field(default_factory=lambda: TextSpec(source="debian"))
    self_text: SelfText | None = None
    align: Stage | None = None
    distill: Distill | None = None
    finetune: Stage | None = None
    heldout: Heldout = Field(default_factory=Heldout)
    copying: Copies | None = None  # measured before training and after each stage; None, or false: not
    merge: Switch = False  # whether the result is a checkpoint by itself, where it would be kept apart from its base
    seed: Whole = Field(0, ge=0, lt=2**32)
    device: str = "auto"  # auto, cpu, cuda or cuda:N
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of arithmetic; what is trained is fp32; auto: bf16 on a GPU
    cuda_graph: Switch = True  # whether a step on one GPU, its micro-batch whole and its window fixed, is done as a CUDA graph
    out: str | None = Field(None, min_length=1)  # run folder; None: results/runs/hybridize-NAME

    @field_validator("align", "distill", "finetune", "self_text", "copying", mode="before")
    @classmethod
    def _left_out(cls, value: Any) -> Any:
        return None if value is False else value

    @field_validator("settings", mode="before")
    @classmethod
    def _settings(cls, value: Any) -> dict[str, Setting]:
        return {} if value is None else check_settings(value)

    @model_validator(mode="after")
    def _fits(self) -> HybridSpec:
        if self.windows is not None and self.full_layers:
            raise ValueError("windows and full_layers are both given: windows says of each layer already whether it is full")
        if isinstance(self.windows, str):
            check_names([self.windows], self.settings)
        if self.mixer == "attention":
            given = sorted({"num_slots", "gate", "slot_logits", "slot_bias", "empty_slots"} & self.model_fields_set)
            if given:
                raise ValueError(f"mixer attention has no slots: leave {', '.join(given)} out")
            if self.train == "gates":
                raise ValueError("mixer attention has no gates to train: wanted is train: lora or full")
            several = {
                "window": [] if self.windows else [self.window],
                "windows": self.windows,
                "window_jitter": self.window_jitter,
                "heldout.windows": self.heldout.windows,
            }
            nothing = next((name for name, chosen in several.items() if isinstance(chosen, list) and 0 in chosen), None)
            if nothing is not None:
                raise ValueError(
                    f"{nothing}: mixer attention reads nothing at a window of 0: wanted is 1 token or more, or full"
                )
        if self.train == "gates" and "full" in self.window_jitter:
            raise ValueError(
                "window_jitter: full, where gates take no part and nothing else is trained: leave full out, or give train: lora"
            )
        if self.self_text is not None and self.text.self_text is not None:
            raise ValueError("self_text and text.self_text are both given: the first writes what the second reads; keep one")
        for stage in STAGES:
            chosen = getattr(self, stage)
            if chosen is not None and chosen.tokens < chosen.batch * self.text.length:
                least = chosen.batch * self.text.length
                raise ValueError(f"{stage}: {chosen.tokens} tokens are less than one step of {least} (batch times text.length)")
        return self

    def windows_of(self, layers: int) -> list[int | None]:
        """The window of each of so many layers, None for full. Raises UserError where the spec's do not fit."""
        if isinstance(self.windows, str):
            least = [0 if self.mixer == "nha" else 1] * layers
            found = resolve(self.windows, self.settings[self.windows], least, self.base)
            return [None if window == "full" else int(window) for window in found]
        if self.windows is not None:
            if len(self.windows) != layers:
                raise UserError(f"windows has {len(self.windows)} entries: wanted is one for each of the {layers} layers")
            return [None if window == "full" else int(window) for window in self.windows]
        wrong = [i for i in self.full_layers if i >= layers]
        if wrong:
            raise UserError(f"full_layers names layer {wrong[0]}: wanted are indices from 0 to {layers - 1}")
        own = None if self.window == "full" else int(self.window)
        return [None if i in self.full_layers else own for i in range(layers)]

    def deciding(self) -> dict[str, Any]:
        """All that decides the weights, as plain data."""
        left_out: dict[str, Any] = {"out": True, "cuda_graph": True, "copying": True, "heldout": {"windows"}}
        content = self.model_dump(mode="json", exclude=left_out)
        # A file of settings may grow by others that this run does not name.
        named = self.windows if isinstance(self.windows, str) else None
        return {**content, "settings": {name: setting for name, setting in self.settings.items() if name == named}}


def make_hybrid_spec(content: dict[str, Any], overrides: dict[str, Any], *, where: str) -> HybridSpec:
    """The checked spec of a mapping with flags laid over it. Raises UserError, one line, for the first thing that is wrong."""
    merged = {**content, **{key: value for key, value in overrides.items() if value is not None}}
    if merged.get("settings") is not None:
        merged["settings"] = gather(merged["settings"], where)
    try:
        return HybridSpec.model_validate(merged)
    except ValidationError as problem:
        raise UserError(first_problem(problem, where, _known_at)) from problem


def _known_at(parents: tuple[Any, ...]) -> list[str]:
    kinds = {
        **dict.fromkeys(STAGES, Stage),
        "distill": Distill,
        "gate": Gate,
        "lora": LoraSettings,
        "text": TextSpec,
        "heldout": Heldout,
        "copying": Copies,
        "self_text": SelfText,
    }
    named = [kinds[part] for part in parents if part in kinds]
    return list((named[-1] if named else HybridSpec).model_fields)


def read_hybrid_spec(given: str, overrides: dict[str, Any], changes: list[str] | None = None) -> tuple[str, HybridSpec]:
    """(its bare name, the spec) of a path or a name; `changes` are laid over it, each as KEY=VALUE with dots between the keys
    of what is nested and the value in YAML (`gate.activation=softmax`)."""
    path = find_spec(given, SPECS)
    content = read_spec(path, "hybridize")
    for change in changes or ():
        lay_change(content, change)
    return path.stem, make_hybrid_spec(content, overrides, where=path.name)
