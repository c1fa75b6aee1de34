"""What a run found, in plain sentences made from its figures.

Whether a score differs from full attention's is said by the paired comparison of the same difference (`differences`),
where the run's samples allow one; else two scores are `not distinguishable` when their 95% intervals overlap (or touch).
Settings are compared on the tasks that all of them have, and nothing is said where a figure is missing. One window stands
for all in the headline: the middle one of those that most models were scored at; a few settings by name come behind it.
Costs are compared at the longest length, and in the same batch, dtype and device, in which full attention and the model
were both timed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from nha_eval.plots._frames import Frames, clean_text, window_order
from nha_eval.plots._lines import measured
from nha_eval.plots._settings import Setting, form_of, full_setting, has_windows, is_named, role, settings_of
from nha_eval.plots._summary import INTERVAL, common_mean, longest_groups, of_group, task_scores

from .differences import NO_DIFFERENCE, TOO_FEW, Differences, significance
from .tables import share, size, times

# More models than these at one window are left to the tables.
_AT_MOST = 4
# And more settings by name than these.
_NAMES_AT_MOST = 3
_SAME = ["length", "batch_size", "dtype", "device", "hardware"]


def headline(frames: Frames, found: Differences | None = None) -> list[str]:
    """Sentences, the most telling first; one that says so when the run has nothing to compare yet. `found` are the run's
    paired comparisons."""
    found = found or Differences()
    tasks = task_scores(frames.scores)
    settings = settings_of(tasks, frames.costs)
    models = [model for model in dict.fromkeys(model for model, _ in settings) if has_windows(settings, model)]
    middle = middle_window(settings_of(tasks) if len(tasks) else settings, models)
    names = sorted({window for _, window in settings if is_named(window)})[:_NAMES_AT_MOST]
    # Slots first where one model has them, the window alone beside them.
    ordered = sorted(models, key=lambda model: role(models, model) != "NHA")
    scored = settings_of(tasks)
    said: list[str] = []
    for window in [*([] if middle is None else [middle]), *names]:
        own = _to_tell([model for model in ordered if (model, window) in scored])
        for suite, length in longest_groups(tasks):
            here = Group(of_group(tasks, suite, length), suite, length, found)
            said += _suite_sentences(here, window, settings, own)
        for model in _to_tell([model for model in ordered if (model, window) in settings]):
            said += _cost_sentences(frames.costs, settings, models, model, window)
    if said:
        return said
    if tasks.empty and frames.costs[frames.costs["status"] == "ok"].empty:
        return ["Nothing has been measured in this run yet."]
    return ["This run has no window to set against full attention yet; the tables below hold what was measured."]


def _to_tell(models: list[str]) -> list[str]:
    """As many as there is room for, in their order: one without slots is among them where there is one."""
    slots = [model for model in models if form_of(model)[0] == "nha"]
    others = [model for model in models if model not in slots]
    chosen = slots[: _AT_MOST - bool(others)]
    chosen += others[: _AT_MOST - len(chosen)]
    return [model for model in models if model in chosen]


def middle_window(settings: list[Setting], models: list[str]) -> str | None:
    """The middle one (the narrower of two) of the windows in tokens that the most of `models` have; None when none
    has any."""
    counts: dict[str, int] = {}
    for model, window in settings:
        if model in models and window.isdecimal():
            counts[window] = counts.get(window, 0) + 1
    most = sorted((window for window in counts if counts[window] == max(counts.values())), key=window_order)
    return most[(len(most) - 1) // 2] if most else None


@dataclass(frozen=True)
class Score:
    """A mean score and its standard error (NaN: not known)."""

    value: float
    stderr: float

    def verdict(self, other: Score) -> str:
        """`above`, `below`, `same` (95% intervals overlap or touch) or `unknown` (an error is missing) of this one
        against the other."""
        if math.isnan(self.stderr) or math.isnan(other.stderr):
            return "unknown"
        gap = abs(self.value - other.value)
        # The tolerance keeps intervals that just touch from falling either way by rounding.
        if gap <= INTERVAL * (self.stderr + other.stderr) + 1e-12:
            return "same"
        return "above" if self.value > other.value else "below"


@dataclass(frozen=True)
class Group:
    """A suite at one length: rows of `task_scores`, and the run's paired comparisons."""

    rows: pd.DataFrame
    suite: str
    length: float  # tokens; NaN: texts at their own length
    found: Differences

    def paired(self, setting: Setting, score: Score, base: Score) -> dict | None:
        """The comparison that tested score.value - base.value."""
        return self.found.of_suite(setting, self.suite, self.length, score.value - base.value)

    def verdict(self, setting: Setting, score: Score, base: Score) -> str:
        """As `Score.verdict`, by the paired comparison where there is one."""
        row = self.paired(setting, score, base)
        if row is None:
            return score.verdict(base)
        if row["verdict"] in (NO_DIFFERENCE, TOO_FEW):
            return "same" if row["verdict"] == NO_DIFFERENCE else "unknown"
        return "above" if row["difference"] > 0 else "below"


def _suite_sentences(group: Group, window: str, settings: list[Setting], models: list[str]) -> list[str]:
    here = set(settings_of(group.rows))
    present = [model for model in models if (model, window) in here]
    sharing: dict[Setting | None, list[str]] = {}
    for model in present:
        sharing.setdefault(full_setting(settings, model), []).append(model)
    said = []
    for full, own in sharing.items():
        # Of several runs the roles alone would not tell one model from another.
        said += _against_full(group, window, full, own, present if len(sharing) > 1 else own)
    return said


def _against_full(group: Group, window: str, full: Setting | None, sharing: list[str], named: list[str]) -> list[str]:
    rows, length = group.rows, group.length
    name = clean_text(group.suite, 48)
    at = f"At {_window(window)}" + ("" if math.isnan(length) else f" and {length:,.0f} tokens")
    if full is None or full not in set(settings_of(rows)):
        return [f"{at}, full attention has no {name} score to compare with yet."]
    wanted = [full, *((model, window) for model in sharing)]
    figures, shared, majority = common_mean(rows, wanted)
    if not shared:
        whose = _joined([role(named, model) for model in sharing])
        return [f"{at}, full attention and {whose} have no {name} task in common yet."]
    scores = [Score(*pair) for pair in figures]
    base, others = scores[0], dict(zip(sharing, scores[1:], strict=True))
    all_tasks = rows["task"].nunique()
    part = f" (on {shared} of {all_tasks} tasks)" if shared < all_tasks else ""
    said = [_kept_sentence(at, name + part, base, others, majority, group, window, named)]
    if len(sharing) >= 2:
        said[0] += " " + _between_sentence(group, window, sharing[0], sharing[1], others, named)
    # A score that the constant answer reaches cannot tell windows apart, so no window is called enough on it.
    if _at_floor(base, majority) or is_named(window):
        return said
    return said + _narrowest_sentence(group, name, full, sharing, named)


def _at_floor(base: Score, majority: float) -> bool:
    floor = 0.0 if math.isnan(majority) else majority
    return base.value <= floor + (0 if math.isnan(base.stderr) else INTERVAL * base.stderr)


def _kept_sentence(
    at: str,
    name: str,
    base: Score,
    others: dict[str, Score],
    majority: float,
    group: Group,
    window: str,
    listed: list[str],
) -> str:
    if _at_floor(base, majority):
        floor = "0" if math.isnan(majority) else f"the constant answer's {majority:.2f}"
        pairs = " and ".join(f"{role(listed, model)} {found.value:.2f}" for model, found in others.items())
        finding = f"full attention itself, at {base.value:.2f}, is not distinguishable from {floor}"
        return f"{at}, {name} cannot tell settings apart: {finding} ({pairs})."
    parts = []
    for model, found in others.items():
        row = group.paired((model, window), found, base)
        if row is not None:
            verdict = f"; {significance(row)}"
        else:
            verdict = {"same": ", not distinguishable from it", "above": ", more than it"}.get(found.verdict(base), "")
        kept = (
            f"keeps {share(found.value / base.value)} of full attention's {name} score"
            if not parts
            else share(found.value / base.value)
        )
        against = f"{found.value:.2f} against {base.value:.2f}" if not parts else f"{found.value:.2f}"
        parts.append(f"{role(listed, model)} {kept} ({against}{verdict})")
    constant = "" if math.isnan(majority) else f"; the constant answer gets {majority:.2f}"
    return f"{at}, {_joined(parts)}{constant}."


def _between_sentence(group: Group, window: str, first: str, second: str, others: dict[str, Score], names: list[str]) -> str:
    one, two = role(names, first), role(names, second)
    gap = abs(others[first].value - others[second].value)
    settings = (first, window), (second, window)
    row = group.found.of_slots(*settings, group.suite, group.length, others[first].value - others[second].value)
    if row is not None:
        ahead = "ahead of" if row["difference"] >= 0 else "behind"
        return f"What the slots bring: {one} is {gap:.3f} {ahead} {two}; {significance(row)}."
    verdict = others[first].verdict(others[second])
    if verdict == "unknown":
        return f"Without standard errors {one} and {two} cannot be ranked."
    if verdict == "same":
        return f"{_capital(one)} and {two} are not distinguishable here: their 95% intervals overlap."
    return f"{_capital(one)} is {gap:.2f} {'ahead of' if verdict == 'above' else 'behind'} {two}."


def _narrowest_sentence(group: Group, name: str, full: Setting, models: list[str], named: list[str]) -> list[str]:
    """How wide a window has to be for each model, those with the same answer said together."""
    answers: dict[str, list[str]] = {}
    for model in models:
        if answer := _narrowest(group, full, model):
            answers.setdefault(answer, []).append(role(named, model))
    said = [answer.format(names=_joined(names), verb="is" if len(names) == 1 else "are") for answer, names in answers.items()]
    return [f"On {name}, {'; '.join(said)}."] if said else []


def _narrowest(group: Group, full: Setting, model: str) -> str:
    """The answer, to be filled with names and verb: from which window on is none distinguishably below full attention?"""
    own = [window for name, window in settings_of(group.rows) if name == model and window.isdecimal()]
    if len(own) < 2:
        return ""
    verdicts = {}
    for window in own:
        figures, shared, _ = common_mean(group.rows, [full, (model, window)])
        base, score = (Score(*pair) for pair in figures) if shared else (None, None)
        verdicts[window] = group.verdict((model, window), score, base) if shared else "unknown"
    if "unknown" in verdicts.values():
        return ""
    enough = None
    for window in reversed(own):
        if verdicts[window] == "below":
            break
        enough = window
    if enough is None:
        return f"{{names}} {{verb}} below full attention even at the widest window measured, {own[-1]}"
    if enough == own[0]:
        return f"{{names}} {{verb}} not distinguishably below full attention at any window measured ({own[0]} to {own[-1]})"
    return f"the narrowest window at which {{names}} {{verb}} not distinguishably below full attention is {enough}"


def _cost_sentences(costs: pd.DataFrame, settings: list[Setting], models: list[str], model: str, window: str) -> list[str]:
    full = full_setting(settings, model)
    if full is None or (model, window) == full:
        return []
    name = role(models, model)
    clauses: dict[float, list[str]] = {}
    state = _paired(costs, "state_bytes", None, full, (model, window))
    if state is not None:
        clauses.setdefault(state["length"], []).append(_state_clause(name, state))
    for phase, what in (("prefill", "prefill takes"), ("decode", "decoding a token takes")):
        pair = _paired(costs, "latency_ms", phase, full, (model, window))
        if pair is not None:
            clauses.setdefault(pair["length"], []).append(f"{what} {_time_clause(pair)}")
    said = []
    for length in sorted(clauses, reverse=True):
        own = clauses[length]
        whose = "" if own[0].startswith(name) else f" for {name}"
        said.append(f"At {length:,.0f} tokens and {_window(window)},{whose} {_joined(own)}.")
    return said


def _paired(costs: pd.DataFrame, column: str, phase: str | None, full: Setting, own: Setting) -> pd.Series | None:
    """One row with `column` (and quartiles) of both settings (suffixes _full, _own) at the longest length that both
    have; smallest batch."""
    rows = measured(costs, column)
    rows = rows[rows["phase"] == phase] if phase else rows
    figures = [column, "latency_ms_p25", "latency_ms_p75"]
    sides = []
    for model, window in (full, own):
        side = rows[(rows["model"] == model) & (rows["window"] == window)]
        sides.append(side.groupby(_SAME, dropna=False, as_index=False)[figures[: 3 if phase else 1]].max())
    both = sides[0].merge(sides[1], on=_SAME, suffixes=("_full", "_own"))
    if both.empty:
        return None
    return both.sort_values(["length", "batch_size"], ascending=[False, True]).iloc[0]


def _state_clause(name: str, pair: pd.Series) -> str:
    ours, theirs = pair["state_bytes_own"], pair["state_bytes_full"]
    sizes = f"({size(ours)} against {size(theirs)})"
    if abs(ours / theirs - 1) < 0.005:
        return f"{name}'s state is as large as full attention's {sizes}"
    ratio, word = (theirs / ours, "smaller") if ours < theirs else (ours / theirs, "larger")
    return f"{name}'s state is {times(ratio)} times {word} than full attention's {sizes}"


def _time_clause(pair: pd.Series) -> str:
    ratio = pair["latency_ms_own"] / pair["latency_ms_full"]
    low, high = pair["latency_ms_p25_own"], pair["latency_ms_p75_own"]
    # A missing quartile makes every comparison false, so no overlap is claimed without both.
    overlap = low <= pair["latency_ms_p75_full"] and pair["latency_ms_p25_full"] <= high
    doubt = " (not distinguishable: the quartiles of the timings overlap)" if overlap else ""
    return (
        f"{times(ratio)} of full attention's time{doubt}"
        if ratio < 1.995
        else f"{times(ratio)} times full attention's time{doubt}"
    )


def _window(window: str) -> str:
    return f"the setting {clean_text(window, 60)}" if is_named(window) else f"a window of {window}"


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:] if text.startswith("sliding") else text
