"""report.md of a search: what was found under each budget, beside the families; which layers matter; how it was measured."""

from __future__ import annotations

from typing import Any

from nha_eval.search.confirm import ALPHA

Row = dict[str, Any]
MOST_LAYERS = 8  # listed


def page(about: Row, comparison: list[Row], sensitivity: list[Row], pictures: list[str]) -> str:
    """The page in Markdown. about: the search's settings and counts, as `run` gathers them."""
    lines = [f"# Search: {about['model']}", "", *_summary(about, comparison)]
    for budget in dict.fromkeys(row["budget"] for row in comparison):
        lines += ["", *_budget([row for row in comparison if row["budget"] == budget], about)]
    lines += ["", *_layers(sensitivity)]
    lines += ["", *(f"![{name}]({name})" for name in pictures)] if pictures else []
    return "\n".join([*lines, "", *_how(about), ""])


def _summary(about: Row, comparison: list[Row]) -> list[str]:
    lines = []
    for row in comparison:
        if row["family"] != "searched":
            continue
        others = [each for each in comparison if each["budget"] == row["budget"] and each.get("kl_difference") is not None]
        real = [each for each in others if each["kl_p_holm"] < ALPHA]
        better = [each["family"] for each in real if each["kl_difference"] > 0]
        worse = [each["family"] for each in real if each["kl_difference"] < 0]
        told = f"KL {_figure(row, 'unseen_kl')} nats a token on unseen text, with {_cost(row, about)}"
        if not others:
            verdict = "nothing else to compare with"
        elif about["too_few"]:
            verdict = "too few unseen sequences to tell: no outcome could have been significant"
        else:
            verdict = f"lower than {', '.join(better)}" if better else "shown lower than none of the families"
            verdict += f"; higher than {', '.join(worse)}" if worse else ""
            verdict += f" ({len(others)} compared, Holm-corrected p < {ALPHA:g})"
        lines.append(f"- Budget {row['budget']}: `{row['name']}` has {told}; {verdict}.")
    if not about["in_time"]:
        lines.append("- The time limit ended the search; the same command goes on from here.")
    return lines


def _cost(row: Row, about: Row) -> str:
    if about["unit"] == "ms":
        return f"{row['latency_ms_measured']:.4g} ms ({row['latency_ms']:.4g} by the sum over layers)"
    return f"{row['state_bytes'] / 2**20:.2f} MiB of state ({100 * row['state_share']:.1f}% of full attention's)"


def _figure(row: Row, name: str) -> str:
    value, stderr = row.get(name), row.get(f"{name}_stderr")
    if value is None:
        return ""
    return f"{value:.4f}" + (f" ± {stderr:.4f}" if stderr is not None else "")


def _budget(rows: list[Row], about: Row) -> list[str]:
    unit = about["unit"]
    probe = any(row.get("unseen_answer_loss") is not None for row in rows)
    head = ["family", "full layers", "rest", "state, MiB", *(["ms, measured"] if unit == "ms" else []), "KL, held out"]
    head += ["KL, unseen", "KL less searched's (95%)", "p, Holm", *(["answer loss, unseen", "recall, unseen"] if probe else [])]
    lines = [
        f"## Budget {rows[0]['budget']}: at most {rows[0]['limit']:{',.0f' if unit == 'bytes' else '.4g'}} {unit}",
        "",
        _line(head),
        _line(["---"] * len(head)),
    ]
    for row in rows:
        if row.get("kl") is None:
            lines.append(_line([row["family"], row["reason"] or "", *[""] * (len(head) - 2)]))
            continue
        rest = "mixed" if row["rest_window"] is None else row["rest_window"]
        cells = [row["family"], row["full_layers"], rest, f"{row['state_bytes'] / 2**20:.2f}"]
        cells += [f"{row['latency_ms_measured']:.4g}"] if unit == "ms" else []
        cells += [_figure(row, "kl"), _figure(row, "unseen_kl"), _difference(row), _p(row)]
        cells += [_figure(row, "unseen_answer_loss"), f"{row['unseen_recall']:.3f}"] if probe else []
        lines.append(_line(cells))
    return lines


def _difference(row: Row) -> str:
    if row.get("kl_difference") is None:
        return row["reason"] or ""
    low, high = ("" if row[f"kl_{end}"] is None else f"{row[f'kl_{end}']:+.4f}" for end in ("low", "high"))
    return f"{row['kl_difference']:+.4f}" + (f" ({low} to {high})" if low or high else "")


def _p(row: Row) -> str:
    value = row.get("kl_p_holm")
    return "" if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _layers(sensitivity: list[Row]) -> list[str]:
    lines = ["## Layers alone", "", "Those that cost most when they alone are narrowed, KL in nats a token:", ""]
    lines += [_line(["window", *range(1, MOST_LAYERS + 1)]), _line(["---"] * (MOST_LAYERS + 1))]
    for window in sorted({row["window"] for row in sensitivity}):
        rows = sorted((row for row in sensitivity if row["window"] == window), key=lambda row: -row["kl"])[:MOST_LAYERS]
        cells = [f"layer {row['layer']}: {row['kl']:.3f}" for row in rows]
        lines.append(_line([window, *cells, *[""] * (MOST_LAYERS - len(cells))]))
    return lines


def _how(about: Row) -> list[str]:
    text = ", ".join(map(str, about["text"]))
    probe = f"{about['probe']} contexts of {about['probe_length']} tokens" if about["probe"] else "none"
    return [
        "## How",
        "",
        f"- Model: {about['model']} ({about['source']}), weights {about['weights_hash']}, {about['dtype']} on "
        f"{about['device_name']}.",
        f"- Text: {text}; {about['sequences']} sequences of {about['length']:,} tokens to search on, {about['unseen']} others "
        f"to confirm on. Budgets are meant at {about['context']:,} tokens.",
        f"- Probe: {probe}; what was searched on was not confirmed on. Seed {about['seed']}.",
        f"- Windows: {', '.join(map(str, about['windows']))}. {about['evaluated']} settings evaluated, method "
        f"{about['method']}.",
        "- KL is that of the setting from the same model with all windows full; p is of paired tests over unseen sequences, "
        "corrected by Holm over all tests of the search. Nothing was trained.",
    ]


def _line(cells: list[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
