"""The model card of a proxy: what it is, what it was trained on and how, and what was measured of it. YAML front matter first, as
the Hugging Face hub reads it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml

from nha_eval.journal import write_atomic
from nha_eval.training.proxies.cells import Cell
from nha_eval.training.proxies.spec import ProxySpec


def write_card(folder: Path, run: Path, spec: ProxySpec, cell: Cell, record: dict[str, Any]) -> None:
    """README.md of the checkpoint in `folder`, out of its record and the environment.json of the folder `run`."""
    about = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    train, versions = about["data"]["train"], about.get("versions") or {}
    kept = _perplexity(record["kept"]["documents"], "all")
    shared = spec.model_dump(mode="json", exclude={"out", "models", "seeds"}, exclude_unset=True)
    lines = [
        f"| {one['window']} | {one['length']:,} | {_perplexity(one['documents'], 'all')} | {_perplexity(one['documents'], 'hits')} |"
        for one in record["measured"]
    ]
    sources = ", ".join(
        f"{source['source']} ({source.get('licence') or 'licence not stated'})"
        for source in about["data"]["text"].get("sources") or []
    )
    megabytes = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6
    text = f"""---
library_name: transformers
language: en
tags: [nha-eval, {cell.mixer}]
---
# {cell.model}

A language model of {record["parameters"] / 1e6:.2f} M weights ({record["embedding"] / 1e6:.2f} M of them embedding) with the mixer \
`{cell.mixer}`, trained from scratch to be compared with others of its size on the same tokens. It is a measuring device: too \
small and too little trained to be of use for anything else.

```python
import models  # this project's, which registers the architecture
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{folder.name}")  # this folder
```

## Training
- {train["tokens"]:,} tokens ({about["data"]["epochs"]:g} epochs), {record["steps"]:,} steps of {spec.batch} sequences of \
{spec.text.length:,}; learning rate {cell.rate:g}, {spec.schedule}; last loss {record["loss"]:.3f} nats
- window: {record["trained_window"]}; seed {cell.seed}; order of the tokens: SHA-256 {train["sha256"]}
- text: {sources or ", ".join(spec.text.source)}
- on {about["device"]}, {about["dtype"]}, commit {(about.get("commit") or "unknown")[:12]}, torch {versions.get("torch")}, \
Transformers {versions.get("transformers")}

## Measured
On {about["data"]["measured"]["tokens"]:,} tokens of documents that it was not trained on; hits complete a bigram that stood earlier \
in the sequence and comes at most {spec.evaluate.rare} times in training. As kept here, in bf16 ({megabytes:.2f} MB), its perplexity at \
{spec.text.length:,} tokens is {kept}.

| window | tokens a sequence | perplexity | of hits |
|---|---|---|---|
{chr(10).join(lines)}

```yaml
{yaml.safe_dump(shared, sort_keys=False).strip()}
```
"""
    write_atomic(folder / "README.md", text)


def _perplexity(documents: dict[str, list[float]], part: str) -> str:
    tokens = sum(documents[f"{part}_tokens"])
    return f"{math.exp(min(sum(documents[part]) / tokens, 700)):.2f}" if tokens else "-"
