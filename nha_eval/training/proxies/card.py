"""The model card of a proxy: what it is, what it was trained on and how, what was measured of it. YAML front matter first, as
the Hugging Face hub reads it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jinja2
import yaml

from nha_eval.journal import write_atomic
from nha_eval.training.proxies.cells import Cell
from nha_eval.training.proxies.spec import ProxySpec

_TEMPLATE = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    undefined=jinja2.StrictUndefined,
    autoescape=False,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
).get_template("card.md.j2")


def write_card(folder: Path, run: Path, spec: ProxySpec, cell: Cell, record: dict[str, Any]) -> None:
    """README.md of the checkpoint in `folder`, out of its record and the environment.json of the folder `run`."""
    about = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    shared = spec.model_dump(mode="json", exclude={"out", "models", "seeds"}, exclude_unset=True)
    text = _TEMPLATE.render(
        name=folder.name,
        cell=cell,
        spec=spec,
        record=record,
        about=about,
        sources=about["data"]["text"].get("sources") or [{"source": name} for name in spec.text.source],
        perplexity=_perplexity,
        megabytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6,
        yaml=yaml.safe_dump(shared, sort_keys=False).strip(),
    )
    write_atomic(folder / "README.md", text)


def _perplexity(documents: dict[str, list[float]], part: str) -> str:
    tokens = sum(documents[f"{part}_tokens"])
    return f"{math.exp(min(sum(documents[part]) / tokens, 700)):.2f}" if tokens else "-"
