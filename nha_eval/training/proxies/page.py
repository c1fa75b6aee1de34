"""The page of a proxy run: what was trained on what, and its tables in Markdown, out of the records alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from nha_eval.training.proxies.claims import claims
from nha_eval.training.proxies.pooled import Pool, Recalled

# What the full-attention proxy has to gain over the control before a form of recall says anything of the others.
CALIBRATED = 0.1
_NONE = "-"


def page(folder: Path, pool: Pool, speeds: dict[str, dict[str, Any]]) -> str:
    """The page as text. folder: holds environment.json."""
    about = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    parts = [_opening(folder, about, pool), _failed(pool)]
    if pool.names:
        parts += [
            _models(pool, speeds),
            _perplexities(pool),
            _against(pool),
            _lengths(pool),
            _positions(pool),
            _bigrams(pool),
            _recall(pool),
            _windows(pool),
            _claims(pool),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _opening(folder: Path, about: dict[str, Any], pool: Pool) -> str:
    spec, data = pool.spec, about["data"]
    versions = about.get("versions") or {}
    told = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "triton", "transformers", "fla-core") if versions.get(name)
    )
    done = ", ".join(str(seed) for seed in sorted({cell.seed for cell, _ in pool.done()})) or "none"
    train, measured = data["train"], data["measured"]
    return f"""# {folder.name.removeprefix("train-")}

Every model was trained on the same {train["tokens"]:,} tokens in the same order ({data["epochs"]:g} epochs of the text; \
SHA-256 {train["sha256"][:16]}), sequences of {train["length"]:,}, {spec.steps:,} steps of \
{spec.batch * spec.text.length:,} tokens, vocabulary {data["vocabulary"]:,}; seeds: {done}. Measured on \
{measured["tokens"]:,} tokens of the {measured["split"]} documents. \
Device {about["device"]}, {about["dtype"]}{f"; {told}" if told else ""}; commit {(about.get("commit") or "unknown")[:12]}.

Command: `{about["command"]}`

Intervals are 95%, over documents drawn anew; where there are several seeds their losses are averaged first. One seed tells \
nothing of what another would give.

```yaml
{yaml.safe_dump(spec.model_dump(mode="json", exclude={"out"}, exclude_unset=True), sort_keys=False).strip()}
```"""


def _failed(pool: Pool) -> str:
    lines = [
        f"- {cell.label}: {record['status']} ({record['reason']})"
        for cell, record in zip(pool.cells, pool.records, strict=True)
        if record["status"] != "ok"
    ]
    return "\n".join(["## Without figures", "", *lines]) if lines else ""


def _models(pool: Pool, speeds: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name in pool.names:
        record, speed = pool.record(name), speeds.get(name) or {}
        rate = f"{speed['tokens_per_s']:,.0f}" if "tokens_per_s" in speed else speed.get("reason") or "not measured"
        rate += " (graph)" if speed.get("graph") else ""
        memory = f"{speed['peak_memory_mb'] / 1024:.2f}" if "peak_memory_mb" in speed else _NONE
        weights = (f"{record[key] / 1e6:.2f}" for key in ("parameters", "embedding"))
        rows.append([name, *weights, f"{record['state_elements']:,}", rate, memory])
    head = ["model", "parameters, M", "of these embedding, M", "numbers of state a sequence", "tokens/s", "GiB in training"]
    told = "\n\nTokens/s and memory of a training step, alone on the device" if speeds else ""
    if any(speed.get("graph") for speed in speeds.values()):
        told += "; (graph): captured once and done again, else called from Python"
    return "## Models\n\n" + _table(head, rows) + (told and told + ".")


def _perplexities(pool: Pool) -> str:
    rows = []
    for name in pool.names:
        losses = pool.at(name)
        rows.append([name, *(_with_interval(losses, part) for part in ("all", "hits", "rest")), _seeds(losses)])
    tokens = {part: int(pool.at(pool.names[0]).tokens(part).sum()) for part in ("all", "hits")}
    rare = pool.spec.evaluate.rare
    return (
        f"## Perplexity at {pool.spec.text.length:,} tokens\n\n"
        + _table(["model", "all", "hits", "rest", "all, least and greatest of a seed"], rows)
        + f"\n\nHits: tokens that complete a bigram which stood earlier in the sequence and comes at most {rare} times in "
        + f"training (arXiv 2312.04927; counted exactly): {tokens['hits']:,} of {tokens['all']:,}."
    )


def _against(pool: Pool) -> str:
    others = [name for name in pool.names if name != pool.base]
    if not others:
        return ""
    rows = []
    for name in others:
        row = [name]
        for part in ("all", "hits", "rest"):
            mean, low, high = pool.at(name).against(pool.at(pool.base), part)
            row.append(_ratio(mean, low, high))
        rows.append(row)
    return f"## Perplexity over that of {pool.base}, paired by document\n\n" + _table(["model", "all", "hits", "rest"], rows)


def _lengths(pool: Pool) -> str:
    if len(pool.lengths) < 2:
        return ""
    length = pool.spec.text.length
    parts = []
    for part in ("all", "hits"):
        rows = [[name, *(_exp(pool.at(name, times).nll(part)) for times in pool.lengths)] for name in pool.names]
        parts.append(f"{part}:\n\n" + _table(["model", *(f"{times} x ({times * length:,})" for times in pool.lengths)], rows))
    return "## Perplexity beyond the training's length\n\nThe same tokens at every length.\n\n" + "\n\n".join(parts)


def _positions(pool: Pool) -> str:
    longest = pool.lengths[-1] * pool.spec.text.length
    found: dict[str, dict[tuple[int, int], list[float]]] = {}
    for cell, record in pool.done():
        for one in record["measured"]:
            if one["length"] == longest and str(one["window"]) == pool.own[cell.model]:
                for span in one["positions"]:
                    if span["tokens"]:
                        at = found.setdefault(cell.model, {}).setdefault((span["first"], span["last"]), [])
                        at.append(span["nll"] / span["tokens"])
    spans = list(next(iter(found.values())))
    rows = [[name, *(_exp(sum(places[span]) / len(places[span])) for span in spans)] for name, places in found.items()]
    head = [f"{first:,} to {last:,}" for first, last in spans]
    return f"## Perplexity by position, in sequences of {longest:,}\n\n" + _table(["model", *head], rows)


def _bigrams(pool: Pool) -> str:
    found: dict[str, dict[tuple[bool, int, int | None], list[float]]] = {}
    for cell, record in pool.done():
        for one in record["measured"]:
            if one["length"] == pool.spec.text.length and str(one["window"]) == pool.own[cell.model]:
                for kind in one["bigrams"]:
                    at = found.setdefault(cell.model, {}).setdefault((kind["seen"], kind["first"], kind["last"]), [])
                    at.append(kind["nll"] / kind["tokens"])
    counts = sorted({(first, last) for kinds in found.values() for _, first, last in kinds}, key=lambda count: count[0])
    parts = []
    for seen, word in ((True, "that stood in the context before"), (False, "that did not")):
        rows = [
            [name, *(_exp(_mean(kinds.get((seen, *count)))) for count in counts)]
            for name, kinds in found.items()
        ]  # fmt: skip
        parts.append(f"Bigrams {word}:\n\n" + _table(["model", *(_times(*count) for count in counts)], rows))
    return "## Perplexity by how often the bigram comes in training\n\n" + "\n\n".join(parts)


def _times(first: int, last: int | None) -> str:
    if last is None:
        return f"{first:,} times or more"
    return f"{first:,} times" if first == last else f"{first:,} to {last:,}"


def _recall(pool: Pool) -> str:
    asked = [(form, distance) for form in pool.spec.recall.forms for distance in sorted(set(pool.spec.recall.distances))]
    if not asked:
        return ""
    can = {place: _calibrated(pool, *place) for place in asked}
    head = ["model", *(f"{form} {distance:,}{'' if can[form, distance] else ' *'}" for form, distance in asked)]
    rows, nats = [], []
    for name in pool.names:
        found = [pool.recall(name, *place) for place in asked]
        rows.append([name, *(_NONE if one is None else _recalled(one) for one in found)])
        nats.append([name, *(_NONE if one is None or one.nats is None else _likelier(*one.nats) for one in found)])
    likelier = (
        "\n\nBy how much the asked tokens are likelier where they were told, in nats a token:\n\n" + _table(head, nats)
        if any(cell != _NONE for row in nats for cell in row[1:])
        else ""
    )
    return (
        "## Recall in context\n\nShare foretold right by form and distance in tokens, less the share with what was told taken "
        "out; its interval is over sequences.\n\n"
        + _table(head, rows)
        + f"\n\n\\* the full-attention proxy gains less than {CALIBRATED:g}: the form tells nothing of the others. Forms: "
        "`passage`, met again word for word; `random`, the same of random tokens; `fact`, one of three stated facts asked back."
        + likelier
    )


def _calibrated(pool: Pool, form: str, distance: int) -> bool:
    found = None if pool.reference is None else pool.recall(pool.reference, form, distance)
    return found is not None and found.gain >= CALIBRATED


def _windows(pool: Pool) -> str:
    several = [name for name in pool.names if len(pool.windows(name)) > 1]
    if not several:
        return ""
    columns = sorted({window for name in several for window in pool.windows(name)}, key=_window_order)
    parts = []
    for part in ("all", "hits"):
        rows = []
        for name in several:
            there = pool.windows(name)
            cells = [_exp(pool.at(name, 1, window).nll(part)) if window in there else _NONE for window in columns]
            trained = str(pool.record(name)["trained_window"])
            rows.append(
                [name, *(f"**{cell}**" if window == trained else cell for window, cell in zip(columns, cells, strict=True))]
            )
        parts.append(f"{part}:\n\n" + _table(["trained as", *(f"w = {window}" for window in columns)], rows))
    lost = []
    for name in several:
        for window in pool.windows(name)[1:]:
            mean, low, high = pool.at(name, 1, window).against(pool.at(name), "all")
            lost.append([name, window, pool.own[name], _ratio(mean, low, high)])
    return (
        "## Windows other than the one trained at\n\nPerplexity; in bold at the window trained at.\n\n"
        + "\n\n".join(parts)
        + "\n\nPerplexity over that at the model's own window, all tokens, paired by document:\n\n"
        + _table(["model", "window", "own", "ratio"], lost)
    )


def _claims(pool: Pool) -> str:
    found = claims(pool)
    if not found:
        return ""
    rows = [
        [one.what, one.published, "{:+.4f} ({:+.4f} to {:+.4f})".format(*one.difference), one.verdict] for one in found
    ]  # fmt: skip
    return (
        "## The paper's order, pair by pair\n\nPublished at 1.3 G weights and 100 G tokens; here NHA's loss less the other's, "
        "in nats a token, of all tokens and of hits.\n\n" + _table(["published", "figures", "here", "at this size"], rows)
    )


def _with_interval(losses: Any, part: str) -> str:
    low, high = losses.interval(part)
    return f"{_exp(losses.nll(part))} ({_exp(low)} to {_exp(high)})"


def _seeds(losses: Any) -> str:
    if len(losses.seeds) < 2:
        return _NONE
    found = [losses.nll("all", seed) for seed in losses.seeds]
    return f"{_exp(min(found))} to {_exp(max(found))}"


def _ratio(mean: float, low: float, high: float) -> str:
    return (
        " ".join([f"{math.exp(mean):.3f}", f"({math.exp(low):.3f} to {math.exp(high):.3f})"]) if not math.isnan(mean) else _NONE
    )


def _recalled(found: Recalled) -> str:
    return f"{found.right:.2f} - {found.control:.2f} ({found.low:+.2f} to {found.high:+.2f})"


def _likelier(nats: float, low: float, high: float) -> str:
    return f"{nats:+.3f} ({low:+.3f} to {high:+.3f})"


def _mean(values: list[float] | None) -> float:
    return sum(values) / len(values) if values else math.nan


def _exp(nll: float) -> str:
    if math.isnan(nll):
        return _NONE
    value = math.exp(min(nll, 700.0))
    return f"{value:.2f}" if value < 1e4 else f"{value:.3g}"


def _window_order(window: str) -> tuple[int, int]:
    return (0, int(window)) if window.isdecimal() else (1, 0)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
