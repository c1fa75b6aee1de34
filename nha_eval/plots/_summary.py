"""From rows to scores: each task's primary metric, the mean over a suite's tasks, and the constant answer beside
it.

The primary metric of a task is the first of PRIMARY that it reports (`contains` for recall, RULER's own, `acc_norm` before
`acc` for choices). A suite's score is the unweighted mean over its tasks, one length at a time; its standard error is
sqrt(sum of squares) / tasks, tasks taken as independent. Where all contexts of a task happen to score alike, its
standard error is not zero but that of as many independent documents with two right and two wrong answers added (Agresti and
Coull 1998): a handful of contexts is no certainty. Metrics where less is better (perplexity) enter no suite
score.

    from nha_eval.plots import load_frames, suite_scores
    suite_scores(load_frames("results/runs/quickstart").scores)
"""

from __future__ import annotations

import numpy as np
import pandas as pd

PRIMARY = ("contains", "string_match_all", "string_match_part", "acc_norm", "acc", "exact_match", "em", "f1")
MAJORITY = "majority"
LOWER_IS_BETTER = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "loss")
# Half the width of a 95% interval in standard errors.
INTERVAL = 1.96

_TASK_KEY = ["suite", "task", "length", "model", "window"]
_SETTING = ["suite", "length", "model", "window"]


def metric_name(metric: str) -> str:
    """lm-eval's `acc_norm,none` without the filter's name."""
    return metric.split(",")[0].strip()


def primary_metric(metrics: list[str]) -> str | None:
    """The one of `metrics` that stands for the task; None when none of them can be a score."""
    names = {metric_name(metric): metric for metric in metrics}
    for wanted in PRIMARY:
        if wanted in names:
            return names[wanted]
    rest = [metric for name, metric in names.items() if name not in (*LOWER_IS_BETTER, MAJORITY) and "stderr" not in name]
    return rest[0] if rest else None


def _means(rows: pd.DataFrame, key: list[str], **others: tuple[str, str]) -> pd.DataFrame:
    """One row a key: value, stderr (NaN where one is missing), rows (how many) and `others` as `agg` takes them."""
    rows = rows.assign(variance=rows["stderr"] ** 2)
    means = rows.groupby(key, dropna=False, sort=False).agg(
        value=("value", "mean"),
        variance=("variance", "sum"),
        known=("variance", "count"),
        rows=("value", "size"),
        **others,
    )
    means["stderr"] = np.where(means["known"] == means["rows"], np.sqrt(means["variance"]) / means["rows"], np.nan)
    return means.reset_index()


def task_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """One row a scored cell: suite, task, length, model, window, metric, value, stderr, n, majority (NaN where
    there is none).

    Rows that repeat a cell (another seed, say) are averaged.
    """
    columns = [*_TASK_KEY, "metric", "value", "stderr", "n", "majority"]
    ok = scores[(scores["status"] == "ok") & scores["value"].notna()]
    if ok.empty:
        return pd.DataFrame(columns=columns)
    majority = ok[ok["metric"].map(metric_name) == MAJORITY].groupby(_TASK_KEY, dropna=False)["value"].mean()
    chosen = {
        key: primary_metric(list(dict.fromkeys(rows["metric"]))) for key, rows in ok.groupby(["suite", "task"], sort=False)
    }
    wanted = [
        chosen[key] == metric for key, metric in zip(zip(ok["suite"], ok["task"], strict=True), ok["metric"], strict=True)
    ]
    table = _means(ok[wanted], _TASK_KEY, metric=("metric", "first"), n=("n", "sum"), counted=("n", "count"))
    table["metric"] = table["metric"].map(metric_name)
    table["n"] = table["n"].where(table["counted"] > 0)
    table["stderr"] = table["stderr"].mask(table["stderr"] == 0, _plus_four_stderr(table["value"], table["n"]))
    table = table[columns[:-1]]
    if majority.empty:
        return table.assign(majority=np.nan)
    return table.merge(majority.rename("majority").reset_index(), on=_TASK_KEY, how="left")


def _plus_four_stderr(value: pd.Series, n: pd.Series) -> pd.Series:
    """Of a share `value` of n independent documents, four made-up ones added; NaN where n is not known or it is no share."""
    share = (value * n + 2) / (n + 4)
    return np.sqrt(share * (1 - share) / (n + 4)).where(value.between(0, 1))


def suite_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """One row a (suite, length, model, window): value, stderr, tasks (scored), tasks_total (seen with any status),
    majority, metric.

    `majority` is the mean of the constant answer over the same tasks, NaN unless all of them have one. A row with
    fewer `tasks` than `tasks_total` is the mean of a part and must not be set against a whole one; `common_mean`
    compares on shared tasks.
    """
    columns = [*_SETTING, "value", "stderr", "tasks", "tasks_total", "majority", "metric"]
    tasks = task_scores(scores)
    if tasks.empty:
        return pd.DataFrame(columns=columns)
    usable = set(zip(tasks["suite"], tasks["task"], strict=True))
    failed = scores[scores["status"] != "ok"]
    seen = pd.concat([tasks[["suite", "length", "task"]], failed[["suite", "length", "task"]]]).drop_duplicates()
    never_scored = {key for key in zip(failed["suite"], failed["task"], strict=True) if key not in usable}
    # A task that nobody could run (its data is missing everywhere) is no part of anybody's mean.
    seen = seen[[key not in never_scored for key in zip(seen["suite"], seen["task"], strict=True)]]
    totals = seen.groupby(["suite", "length"], dropna=False)["task"].nunique().rename("tasks_total").reset_index()
    table = _means(tasks, _SETTING, majority=("majority", "mean"), known_majority=("majority", "count"))
    table["majority"] = table["majority"].where(table["known_majority"] == table["rows"])
    metrics = tasks.groupby("suite")["metric"].agg(lambda names: "/".join(dict.fromkeys(names)))
    table = table.rename(columns={"rows": "tasks"}).assign(metric=table["suite"].map(metrics))
    return table.merge(totals, on=["suite", "length"], how="left")[columns]


def score_words(row) -> str:
    """`0.764, 95% interval 0.658 to 0.870; 3 of 4 tasks` of a row of `suite_scores`."""
    told = f"{row.value:.3f}"
    if pd.notna(row.stderr):
        told += f", 95% interval {row.value - INTERVAL * row.stderr:.3f} to {row.value + INTERVAL * row.stderr:.3f}"
    return told if row.tasks == row.tasks_total else f"{told}; {row.tasks} of {row.tasks_total} tasks"


def common_mean(tasks: pd.DataFrame, settings: list[tuple[str, str]]) -> tuple[list[tuple[float, float]], int, float]:
    """Scores of `settings` (model, window) over the tasks that all of them have.

    `tasks` are rows of `task_scores` of one suite and length. Returns ([(value, stderr) a setting], number of tasks,
    constant answer's mean or NaN); no tasks in common gives ([], 0, NaN).
    """
    parts = [tasks[(tasks["model"] == model) & (tasks["window"] == window)] for model, window in settings]
    shared = set.intersection(*(set(part["task"]) for part in parts)) if parts else set()
    if not shared:
        return [], 0, float("nan")
    parts = [part[part["task"].isin(shared)] for part in parts]
    majority = parts[0]["majority"].mean(skipna=False)
    figures = []
    for part in parts:
        spread = float(np.sqrt((part["stderr"] ** 2).sum(skipna=False))) / len(part)
        figures.append((float(part["value"].mean()), spread))
    return figures, len(shared), float(majority)


def suite_groups(table: pd.DataFrame) -> list[tuple[str, float]]:
    """The (suite, length) pairs of a table, suites in order of appearance, lengths ascending, texts at their own
    length (NaN) last."""
    pairs = table[["suite", "length"]].drop_duplicates()
    order = {suite: index for index, suite in enumerate(dict.fromkeys(pairs["suite"]))}
    keys = list(zip(pairs["suite"], pairs["length"], strict=True))
    return sorted(keys, key=lambda key: (order[key[0]], np.inf if pd.isna(key[1]) else key[1]))


def longest_groups(table: pd.DataFrame) -> list[tuple[str, float]]:
    """One (suite, length) a suite: its longest asked length, or NaN where all its texts come at their own."""
    longest: dict[str, float] = {}
    for suite, length in suite_groups(table):
        if suite not in longest or pd.notna(length):
            longest[suite] = length
    return list(longest.items())


def of_group(table: pd.DataFrame, suite: str, length: float) -> pd.DataFrame:
    """The rows of one suite at one length (NaN: the texts' own)."""
    same = table["length"].isna() if pd.isna(length) else table["length"] == length
    return table[(table["suite"] == suite) & same]
