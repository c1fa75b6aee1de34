"""What models are to be trained on what MQAR, as the user says it in YAML.

    tasks:
      - {name: near, train: [{length: 64, pairs: 4, examples: 20_000}]}
    models:
      - {mixer: nha, windows: [8, 16], slots: [16]}
      - {mixer: swa, windows: [24, 32]}
    rates: [1.0e-3, 3.0e-3, 1.0e-2]

Each model's lists are crossed. Every task is a training by itself. The learning rate is chosen on a seed and on sequences of
their own (`rate_seed`, the split `selection`); what is reported comes from other seeds and the split `test`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from nha_eval.errors import UserError
from nha_eval.hybridize.spec import OneWindow
from nha_eval.spec import Count, Number, Switch, Whole, first_problem
from nha_eval.training.spec import Strict
from tasks.synthetic.mqar import check_setting

Seed = Annotated[Whole, Field(ge=0, lt=2**32)]
Slots = Annotated[Whole, Field(ge=1, le=256)]


class Asked(Strict):
    """Sequences of one kind."""

    length: Count  # tokens
    pairs: Count  # 4 times as many have to fit into the length


class Shown(Asked):
    examples: Count  # sequences of an epoch


class Task(Strict):
    """One training set and what is asked after it."""

    name: str = Field(min_length=1, max_length=40)
    train: list[Shown] = Field(min_length=1)  # a batch is of one kind, and the batches of all kinds come shuffled
    test: list[Asked] = Field(default_factory=list)  # none: the kinds that are trained on

    @property
    def asked(self) -> list[Asked]:
        return self.test or [Asked(length=kind.length, pairs=kind.pairs) for kind in self.train]

    @property
    def longest(self) -> int:
        return max(kind.length for kind in (*self.train, *self.asked))


class Model(Strict):
    """A pattern of mixers (`models.presets`) at some sizes; all lists are crossed."""

    mixer: str  # nha, nha-2026, transformer++, swa, gsa, gla, gated-deltanet, mamba2, gsa-h, gdn-h
    d_model: list[Count] = Field([64], min_length=1)
    heads: list[Count] = Field([2], min_length=1)
    windows: list[OneWindow] | None = Field(None, min_length=1)  # None: the pattern's own
    slots: list[Slots] | None = Field(None, min_length=1)  # a head; None: 64 where there are slots
    fusion: list[Literal["softmax", "sum"]] = Field(["softmax"], min_length=1)  # of slots and window
    slot_overlap: list[Switch] | None = Field(None, min_length=1)  # true: tokens enter the slots at once; None: the pattern's
    empty_slots: list[Literal["mask", "sink"]] = Field(["mask"], min_length=1)
    options: list[dict[str, Any]] = Field([{}], min_length=1)  # of the pattern's mixer, such as {conv_size: 4}
    test_windows: list[OneWindow] = Field(default_factory=list)  # tested at these too, when trained


class MqarSpec(Strict):
    """Units and legal values stand beside each field."""

    tasks: list[Task] = Field(min_length=1)
    models: list[Model] = Field(min_length=1)
    rates: list[Annotated[Number, Field(gt=0)]] = Field(min_length=1)  # learning rates
    widen: Whole = Field(0, ge=0, le=4)  # further rates tried of a model whose best one is the lowest or the highest tried
    rate_seed: Seed = 0  # on which the rate is chosen
    seeds: list[Seed] = Field([1, 2, 3], min_length=1)  # at the chosen rate
    vocabulary: Annotated[Whole, Field(ge=4, le=2**20)] = 8192  # tokens: half keys, half values
    power: Number = Field(0.01, gt=0)  # a of the gaps' law
    random_filler: Switch = False  # filler of random tokens, keys among them: another task
    data_seed: Seed = 0
    selection_examples: Count = 1000  # sequences of each kind that is asked
    test_examples: Count = 3000
    layers: Annotated[Whole, Field(ge=1, le=64)] = 2  # none has a feed-forward
    tie_embeddings: Switch = True
    initializer_range: Number = Field(0.02, gt=0)  # standard deviation of the weights at first
    epochs: Count = 32
    batch: Count = 256  # sequences a step
    warmup: Number = Field(0.1, ge=0, lt=1)  # share of the steps
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    weight_decay: Number = Field(0.1, ge=0)
    clip: Number = Field(1.0, gt=0)  # of the gradient's norm
    select_every: Count | None = None  # steps between measurements on the selection split; None: an epoch
    stop_at: Number | None = Field(None, gt=0, le=1)  # selection accuracy that ends a training early; None: none does
    save_every: Count | None = None  # steps, where a broken training goes on; None: at its beginning
    side_by_side: Count = 4  # trainings that a process has on a GPU at once; no accuracy depends on it
    device: str = "auto"  # auto, cpu, cuda or cuda:N
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"  # of arithmetic
    out: str | None = Field(None, min_length=1)  # run folder; None: results/runs/train-NAME

    @field_validator("tasks")
    @classmethod
    def _named_once(cls, value: list[Task]) -> list[Task]:
        names = [task.name for task in value]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"names {twice!r} twice: give each task a name of its own")
        return value

    @model_validator(mode="after")
    def _fits(self) -> MqarSpec:
        for task in self.tasks:
            for kind in (*task.train, *task.asked):
                try:
                    check_setting(kind.length, kind.pairs, self.vocabulary)
                except ValueError as problem:
                    raise ValueError(f"task {task.name}: {problem}") from problem
            few = next((kind for kind in task.train if kind.examples < self.batch), None)
            if few is not None:
                raise ValueError(f"task {task.name}: {few.examples} examples are less than one batch of {self.batch}")
        if self.rate_seed in self.seeds:
            raise ValueError(f"rate_seed {self.rate_seed} is among the seeds: the rate is chosen on a seed of its own")
        for name in ("seeds", "rates"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} holds one of them twice: give each once")
        return self

    def settings(self) -> dict[str, Any]:
        """All that decides the results of a training, as plain data."""
        # A sweep that is done may be widened.
        return self.model_dump(mode="json", exclude={"out", "side_by_side", "widen"})


def make_mqar_spec(content: dict[str, Any], *, where: str) -> MqarSpec:
    """The checked spec of a mapping; `where` names it. Raises UserError, one line, for the first thing that is wrong."""
    try:
        return MqarSpec.model_validate(content)
    except ValidationError as problem:
        raise UserError(first_problem(problem, where, _known_at)) from problem


def _known_at(parents: tuple[Any, ...]) -> list[str]:
    kinds = {"tasks": Task, "models": Model, "train": Shown, "test": Asked}
    named = [kinds[part] for part in parents if part in kinds]
    return list((named[-1] if named else MqarSpec).model_fields)
