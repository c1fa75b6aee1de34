"""A mixer's own options, as `NHAConfig.mixer_options` holds them by its name."""

from __future__ import annotations

import math
from dataclasses import fields


def options_of(config, name: str, kind: type):
    """The options of the mixer `name`: a `kind` (a dataclass) from config.mixer_options; ValueError for an unknown one, and one
    that is no positive number."""
    given = config.mixer_options.get(name, {})
    known = [f.name for f in fields(kind)]
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(f"mixer_options[{name!r}] has {', '.join(map(repr, unknown))}; wanted any of {', '.join(known)}")
    whole = [f.name for f in fields(kind) if f.type in (int, "int")]
    for key, value in given.items():
        number = isinstance(value, int if key in whole else int | float) and not isinstance(value, bool)
        if not (number and 0 < value < math.inf):
            wanted = "an integer" if key in whole else "a number"
            raise ValueError(f"mixer_options[{name!r}][{key!r}] is {value!r}; wanted {wanted} > 0")
    return kind(**given)
