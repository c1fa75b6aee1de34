"""YAML that somebody else wrote, as plain data: nothing in it is executed, expanded without bounds, or silently dropped.

Beside what yaml.SafeLoader refuses (tags that make objects) this refuses keys given twice, of which YAML would keep the last;
a value inside itself; and what a few lines with anchors can unfold to.

    load("models: [nha-tiny]")      # {"models": ["nha-tiny"]}
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from nha_eval.errors import printable

MOST_BYTES = 2**18  # of a file; PyYAML reads about 100 KB a second
MOST_DEPTH = 32  # of values inside values
MOST_VALUES = 20_000  # with every anchor written out


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str):
        super().__init__(text)
        self._depth = 0
        self._measures: dict[int, tuple[int, int]] = {}  # of a whole node, by its id: (values in it, depth)

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        alias = isinstance(event, yaml.AliasEvent)
        if alias and id(self.anchors.get(event.anchor)) not in self._measures and event.anchor in self.anchors:
            raise _refusal(f"&{event.anchor} stands inside itself", event)
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise _refusal(f"more than {MOST_DEPTH} values inside each other", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if not alias:
            self._measure(node, event)
        return node

    def _measure(self, node: Any, event: Any) -> None:
        inside = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            inside = [part for pair in inside for part in pair]
        measures = [self._measures[id(part)] for part in inside]
        values, depth = 1 + sum(m[0] for m in measures), 1 + max((m[1] for m in measures), default=0)
        if values > MOST_VALUES or depth > MOST_DEPTH:
            raise _refusal(f"anchors that unfold to more than {MOST_VALUES} values, or {MOST_DEPTH} inside each other", event)
        self._measures[id(node)] = values, depth

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise _refusal(f"the key {key.value!r} is given twice", key)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


# YAML 1.1, which PyYAML keeps to, takes 1e-3 for text.
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+][0-9]+$"), list("-+0123456789"))


def _refusal(text: str, where: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, text, where.start_mark)


def load(text: str) -> Any:
    """The data in a YAML text. Raises yaml.YAMLError, with the line where there is one, for anything else."""
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.YAMLError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError) as problem:
        # Constructors of numbers, dates and booleans raise whatever they meet, as in `!!int x` or 2020-13-45.
        told = " ".join(str(problem).split()) or type(problem).__name__
        raise yaml.YAMLError(f"a value that is not what it is said to be: {told}") from problem
    finally:
        if loader is not None:
            loader.dispose()


def read(path: Path) -> Any:
    """The data in a YAML file. Raises OSError, UnicodeDecodeError where it is not UTF-8, and yaml.YAMLError."""
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise yaml.YAMLError(f"it is longer than {MOST_BYTES} bytes")
    return load(content.decode("utf-8"))


def told(problem: yaml.YAMLError | UnicodeDecodeError) -> tuple[str, str]:
    """(`, line 3` where it is known, what is wrong) of what `load` and `read` raise, for a message."""
    mark = getattr(problem, "problem_mark", None)
    place = f", line {mark.line + 1}" if mark else ""
    return place, printable(getattr(problem, "problem", None) or problem, 200)
