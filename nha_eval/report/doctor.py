"""The doctor's verdicts in a report: which mixers of the run were found right on what it ran on, when, and by what figures.

environment.json holds them for each model, as they stood when its weights were loaded (`models.NAME.doctor`, from
`nha_eval.verdicts`); whatever else stands there is passed over.
"""

from __future__ import annotations

from nha_eval.plots._frames import clean_text

from .tables import MISSING, NOT_RUN, Table

CHECKS = ("kernel", "gradients", "split", "steps", "batch")
ABOUT = (
    "The doctor tries a mixer with small random weights: kernel and gradients against its definition in fp64, one pass over "
    "text against pieces and against single steps, padded batches against rows alone. An entry is a relative RMS error and "
    "its bound, the worst over windows. A verdict holds for the same device, versions and sources alone."
)


def verdicts(environment: dict) -> list[tuple[str, dict]]:
    """(mixer, verdict) of every mixer in the run; of a mixer whose models disagree, every verdict once."""
    found: list[tuple[str, dict]] = []
    for model in _dict(environment.get("models")).values():
        for mixer, verdict in _dict(_dict(_dict(model).get("doctor")).get("mixers")).items():
            pair = (clean_text(mixer, 40), _dict(verdict))
            if pair not in found:
                found.append(pair)
    return sorted(found, key=lambda pair: pair[0])


def doctor_table(environment: dict) -> Table | None:
    """A row a mixer; None where the run has no stamp."""
    rows = []
    for mixer, verdict in verdicts(environment):
        checks = _dict(verdict.get("checks"))
        told = [clean_text(verdict.get(key) or MISSING, 40) for key in ("backend", "verdict", "date")]
        commit = clean_text(verdict.get("commit") or "")[:8] or MISSING
        told.append(f"{commit} and changes" if verdict.get("dirty") is True else commit)
        rows.append([mixer, *told, *(_check(_dict(checks.get(check))) for check in CHECKS)])
    if not rows:
        return None
    return Table("Doctor", ["mixer", "backend", "verdict", "date", "commit", *CHECKS], rows, labels=5)


def _check(found: dict) -> str:
    error, bound = found.get("error"), found.get("bound")
    if not found:
        return MISSING
    if isinstance(error, float) and isinstance(bound, float):
        return f"{error:.0e} ({'below' if found.get('status') == 'ok' else 'over'} {bound:.0e})"
    return clean_text(found.get("status") or MISSING, 24)


def doctor_text(environment: dict) -> list[str]:
    """What the table is, and what to do about mixers that nothing is known of."""
    known = verdicts(environment)
    if not known:
        return []
    unknown = list(dict.fromkeys(mixer for mixer, verdict in known if verdict.get("verdict") == NOT_RUN))
    if not unknown:
        return [ABOUT]
    command = " ".join(["nha-eval doctor", *(f"--mixer {mixer}" for mixer in unknown)])
    return [ABOUT, f"The doctor was not run for {', '.join(unknown)} on this device, versions and sources: {command} does it."]


def doctor_warning(environment: dict) -> list[str]:
    """A sentence for the top of the report where the doctor found a mixer of the run wrong."""
    wrong = list(dict.fromkeys(mixer for mixer, verdict in verdicts(environment) if verdict.get("verdict") == "failed"))
    if not wrong:
        return []
    return [f"The doctor found {', '.join(wrong)} wrong on this machine (see Environment): figures of it cannot be relied on."]


def without_stamps(environment: dict) -> dict:
    """The environment without what `doctor_table` shows."""
    models = environment.get("models")
    if not isinstance(models, dict):
        return environment
    bare = {name: {k: v for k, v in m.items() if k != "doctor"} if isinstance(m, dict) else m for name, m in models.items()}
    return {**environment, "models": bare}


def _dict(value: object) -> dict:
    return value if isinstance(value, dict) else {}
