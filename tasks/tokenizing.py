"""Which tokenizer a task counts in: one named in its metadata, else that of the model at hand.

The harness says which model is at hand (`counting_with`); under plain lm-eval it is found by the `pretrained` argument, which
lm-eval puts among the metadata.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any

_models_own: ContextVar[Any] = ContextVar("the tokenizer of the model at hand", default=None)


@contextlib.contextmanager
def counting_with(tokenizer: Any) -> Iterator[None]:
    """Tasks built inside count in tokens of `tokenizer` (a Transformers tokenizer), unless their metadata names another one."""
    token = _models_own.set(tokenizer)
    try:
        yield
    finally:
        _models_own.reset(token)


def tokenizer_for(named: str | None, pretrained: str | None) -> Any:
    """The tokenizer of that name, else of the model at hand, else of the folder or hub id `pretrained`.

    Raises ValueError where there is none of them, OSError where the hub cannot be had.
    """
    if named is None and (own := _models_own.get()) is not None:
        return own
    wanted = named or pretrained
    if not isinstance(wanted, str):
        raise ValueError("lengths are counted in tokens: give `tokenizer` (a folder or hub id) in the task's metadata")
    return _loaded(wanted)


@lru_cache(maxsize=2)
def _loaded(name: str) -> Any:
    from transformers import AutoTokenizer

    folder = Path(name).expanduser()
    return AutoTokenizer.from_pretrained(str(folder) if folder.is_dir() else name)
