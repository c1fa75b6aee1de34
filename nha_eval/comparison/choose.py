"""Which settings are set against which: two that are named, all against a baseline, or equal ones of two runs."""

from __future__ import annotations

from dataclasses import dataclass

from nha_eval.comparison.folders import RunScores, Setting
from nha_eval.errors import UserError, nearest
from nha_eval.plots._settings import form_of, full_setting


@dataclass(frozen=True)
class Side:
    """A setting in a run."""

    run: RunScores
    setting: Setting

    def is_of(self, other: Side) -> bool:
        """Whether both are the same scores."""
        return self.run.path.resolve() == other.run.path.resolve() and self.setting == other.setting


Pair = tuple[Side, Side]


def choose_pairs(first: RunScores, second: RunScores, *, a: str | None, b: str | None, baseline: str | None) -> list[Pair]:
    """The pairs, A against B. `second` is `first` where one run was given.

    `a` is looked for in the first run and `b` in the second; `baseline` is in the first run, and B of every pair. Without
    any of them: equal settings of two runs, or in one run every setting against full attention. Raises UserError.
    """
    two = first.path.resolve() != second.path.resolve()
    if baseline is not None:
        if a is not None or b is not None:
            raise UserError("--baseline does not go with --a and --b: give the one or the others")
        return _against_baseline(first, second, baseline)
    if a is None and b is None:
        if first is not second and not two:
            raise UserError(f"{first.path} is given twice: give another run, or settings of this one with --a and --b")
        return _equal_settings(first, second) if two else _against_full(first)
    if not two and (a is None or b is None):
        raise UserError(f"--{'b' if b is None else 'a'} is missing: give both --a and --b, or --baseline ({_there(first)})")
    return _named(first, second, a if a is not None else b, b if b is not None else a)


def _named(first: RunScores, second: RunScores, a: str, b: str) -> list[Pair]:
    left, right = _find(first, "--a", a), _find(second, "--b", b)
    if len(left) > 1 and len(right) > 1:
        windows = {side.setting.window: side for side in right}
        pairs = [(side, windows[side.setting.window]) for side in left if side.setting.window in windows]
        if not pairs:
            raise UserError(f"--a {a!r} and --b {b!r} have no window in common: name the windows, as in --a {left[0].setting}")
    else:
        pairs = [(one, other) for one in left for other in right]
    pairs = [pair for pair in pairs if not pair[0].is_of(pair[1])]
    if not pairs:
        raise UserError(f"--a {a!r} and --b {b!r} are the same scores: name two settings ({_there(first)})")
    return pairs


def _against_baseline(first: RunScores, second: RunScores, baseline: str) -> list[Pair]:
    found = _find(first, "--baseline", baseline)
    if len(found) > 1:
        named = ", ".join(str(side.setting) for side in found)
        raise UserError(f"--baseline {baseline!r} names several settings: give one of {named}")
    pairs = [(Side(second, setting), found[0]) for setting in second.tasks]
    pairs = [pair for pair in pairs if not pair[0].is_of(pair[1])]
    if not pairs:
        raise UserError(f"{first.path} holds no setting beside the baseline {baseline!r}: there is nothing to compare it with")
    return pairs


def unlike_windows(first: RunScores, second: RunScores) -> list[Setting]:
    """Settings that both runs have by one name, with other windows in the one than in the other."""
    shared = [setting for setting in first.tasks if setting in second.tasks]
    return [setting for setting in shared if first.windows_of(setting) != second.windows_of(setting)]


def _equal_settings(first: RunScores, second: RunScores) -> list[Pair]:
    unlike = unlike_windows(first, second)
    shared = [setting for setting in first.tasks if setting in second.tasks and setting not in unlike]
    if unlike and not shared:
        raise UserError(
            f"{unlike[0]} has other windows in {first.path} than in {second.path}: give --a and --b to compare them even so"
        )
    if not shared and len(first.tasks) == len(second.tasks) == 1:
        return [(Side(first, next(iter(first.tasks))), Side(second, next(iter(second.tasks))))]
    if not shared:
        raise UserError(
            f"{first.path} and {second.path} have no setting in common: give --a and --b, or --baseline "
            f"({_there(first)}; {_there(second)})"
        )
    return [(Side(first, setting), Side(second, setting)) for setting in shared]


def reference_pairs(run: RunScores, first: Setting) -> list[Pair]:
    """What a report compares: every setting against full attention, or against `first` in a run without any."""
    return _full_pairs(run) or [(Side(run, setting), Side(run, first)) for setting in run.tasks if setting != first]


def slot_pairs(run: RunScores) -> list[Pair]:
    """What slots bring: NHA against the sliding window alone, of one base and at one window."""
    forms = {setting: form_of(setting.model) for setting in run.tasks}
    return [
        (Side(run, setting), Side(run, other))
        for setting, (form, base) in forms.items()
        for other, found in forms.items()
        if form == "nha" and found == ("swa", base) and setting.window == other.window != "full"
    ]


def _full_pairs(run: RunScores) -> list[Pair]:
    """Every setting against the full attention that the report measures it against."""
    settings = [(setting.model, setting.window) for setting in run.tasks]
    full = [full_setting(settings, model) for model, _ in settings]
    return [
        (Side(run, Setting(*setting)), Side(run, Setting(*other)))
        for setting, other in zip(settings, full, strict=True)
        if other is not None and setting != other
    ]


def _against_full(run: RunScores) -> list[Pair]:
    pairs = _full_pairs(run)
    if not pairs:
        raise UserError(f"{run.path} has no full attention to compare with: give --a and --b, or --baseline ({_there(run)})")
    return pairs


def _find(run: RunScores, option: str, given: str) -> list[Side]:
    found = run.settings_like(given)
    if not found:
        names = [*map(str, run.tasks), *(setting.model for setting in run.tasks)]
        raise UserError(f"{option} {given!r}: no such setting in {run.path}; {nearest(given, names, what='settings')}")
    return [Side(run, setting) for setting in found]


def _there(run: RunScores) -> str:
    names = list(map(str, run.tasks))
    return f"settings in {run.path}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
