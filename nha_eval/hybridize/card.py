"""The model card of a hybrid: what it was made of and how, and the figures that its own folder holds. YAML front matter first,
as the Hugging Face hub reads it.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import jinja2
import yaml

from nha_eval.hybridize.spec import STAGES, HybridSpec
from nha_eval.journal import write_atomic

TEMPLATE = Path(__file__).with_name("card.md.j2")


def write_card(model: Path, spec: HybridSpec, run: Path) -> None:
    """README.md of the checkpoint in `model`, out of the tables and environment.json of its training's folder `run`."""
    heldout = _rows(run / "heldout.csv")
    positions = _rows(run / "positions.csv")
    last = (heldout[-1]["stage"], heldout[-1]["step"])
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    sources = environment["text"].get("sources") or []
    text = _template().render(
        name=run.name.removeprefix("hybridize-"),
        spec=spec,
        yaml=yaml.safe_dump(spec.model_dump(mode="json", exclude={"out"}, exclude_unset=True), sort_keys=False).strip(),
        stages=[(name, getattr(spec, name)) for name in STAGES if getattr(spec, name) is not None],
        heldout=[_last_of(heldout, stage) for stage in dict.fromkeys(row["stage"] for row in heldout)],
        positions=[row for row in positions if (row["stage"], row["step"]) == last],
        copies=_rows(run / "copying.csv") if (run / "copying.csv").exists() else [],
        sources=sources,
        environment=environment,
        apart=spec.train != "full" and not spec.merge,
        bytes=sum(file.stat().st_size for file in model.glob("*.safetensors")),
    )
    write_atomic(model / "README.md", text)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _last_of(rows: list[dict[str, str]], stage: str) -> list[dict[str, str]]:
    """The rows of a stage's last step, a length each."""
    own = [row for row in rows if row["stage"] == stage]
    return [row for row in own if row["step"] == own[-1]["step"]]


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["figure"] = _figure
    return environment.get_template(TEMPLATE.name)


def _figure(value: Any, digits: int = 4) -> str:
    return f"{float(value):.{digits}g}"
