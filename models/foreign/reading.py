"""Reading another code's configuration: every setting is either carried over, noted as not honoured, or a reason to refuse.

read = Reader(fields); read.only("hidden_act", "swish", "silu"); read.unlike
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from transformers import PreTrainedConfig


@dataclass
class Reader:
    """fields: as they stand in config.json; half: whether the weights will be in fp16 or bf16; notes: what cannot be honoured;
    unlike: settings of layers that are not here; asked: the fields that were looked at."""

    fields: dict
    half: bool = False
    notes: list[str] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    def get(self, name: str, default=None):
        """The value of a field, or what the code that wrote it takes where there is none."""
        self.asked.add(name)
        return self.fields.get(name, default)

    def unknown(self, without_effect: tuple[str, ...]) -> list[str]:
        """Fields that nobody asked for, that are not `without_effect`, and that no model of Transformers' has anyway."""
        known = self.asked.union(without_effect, PreTrainedConfig().to_dict(), ("architectures", "auto_map", "torch_dtype"))
        return sorted(name for name in self.fields if name not in known and not name.startswith("_"))

    def only(self, name: str, *allowed) -> None:
        """A field that must have one of the values `allowed`, the first of them by default; any other makes another layer."""
        given = self.get(name, allowed[0])
        if given not in allowed:
            wanted = " or ".join(dict.fromkeys(map(repr, allowed)))
            self.unlike.append(f"{name} is {given!r} (wanted {wanted})")


@dataclass(frozen=True)
class Translation:
    """fields: of NHAConfig; names: (pattern, replacement) pairs over the weights' names, all applied in order; notes: what
    cannot be honoured."""

    fields: dict
    names: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()

    def rename(self, name: str) -> str | None:
        """A weight's name here, or None where it is not needed."""
        if name.endswith(".inv_freq"):
            return None
        for pattern, replacement in self.names:
            name = re.sub(pattern, replacement, name)
        return name
