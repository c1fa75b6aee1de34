"""What `eval` takes, written down a second time from its documentation: the answer that generated inputs are held against.

Nothing here comes from `nha_eval`. `spec_is_right` gives what the run must then be (models and their windows), or None.
"""

from models.presets import TINY_CONTEXT, preset_names
from tasks.suites import suite_names, suite_tasks

MOST = 2**31 - 1
KEYS = (
    *("models", "suites", "tasks", "windows", "lengths", "limit", "contexts", "batch", "device", "dtype", "seed"),
    *("threads", "costs", "out", "data"),
)
DTYPES = ("auto", "float32", "bfloat16", "float16")
WITHOUT_WINDOW = ("gsa-tiny", "gla-tiny", "mamba2-tiny", "gated-deltanet-tiny")


class Wrong(Exception):
    """Some rule is broken."""


def demand(holds):
    if not holds:
        raise Wrong


def whole(value, least=1, most=MOST):
    if isinstance(value, str):
        demand(value.strip() and set(value.strip()) <= set("0123456789") and len(value.strip()) <= 20)
        value = int(value)
    demand(isinstance(value, int) and not isinstance(value, bool) and least <= value <= most)
    return value


def window(value):
    if isinstance(value, str) and value.strip().lower() == "full":
        return "full"
    demand(isinstance(value, int | str))
    return whole(value.strip() if isinstance(value, str) else value, 0)


def several(value, kind):
    if value is None:
        return []
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
        demand(value)
    return [kind(item) for item in (value if isinstance(value, list) else [value])]


def name(value):
    demand(isinstance(value, str) and value)
    return value


def mapping(value, keys, singular=()):
    demand(isinstance(value, dict))
    found = {}
    for key, item in value.items():
        plural = f"{key}s" if key in singular else key
        demand(plural in keys and plural not in found)
        found[plural] = item
    return found


def path(value):
    demand(isinstance(value, str) and value.strip() and "\0" not in value)
    try:
        length = max(len(part.encode("utf-8", "surrogateescape")) for part in value.split("/"))
    except UnicodeEncodeError:
        raise Wrong from None
    demand(length < 256 and len(value.encode("utf-8", "surrogateescape")) < 4096)
    demand(not value.startswith("~") or value.split("/")[0] in ("~", "~root"))


def model_entry(value):
    if not isinstance(value, dict):
        return name(value), []
    found = mapping(value, ("name", "windows"), ("window",))
    return name(found.get("name")), several(found.get("windows"), window)


def task_entry(value):
    if not isinstance(value, dict):
        return {"name": name(value), "lengths": []}
    found = mapping(value, ("name", "lengths", "limit", "contexts"), ("length",))
    for key in ("limit", "contexts"):
        demand(found.get(key) is None or whole(found[key]))
    return {"name": name(found.get("name")), "lengths": several(found.get("lengths"), whole)}


def extra_entry(value):
    found = mapping(value, ("model", "windows", "lengths"), ("window", "length"))
    return name(found.get("model")), several(found.get("lengths"), whole), several(found.get("windows"), window)


def costs(value):
    """(asked lengths or None, extra entries), or None without costs."""
    if value is None or value is False:
        return None
    found = mapping(
        {} if value is True else value, ("lengths", "batch", "repeats", "decode_tokens", "seconds", "extra"), ("length",)
    )
    for key in ("batch", "repeats", "decode_tokens"):
        demand(key not in found or whole(found[key]))
    seconds = found.get("seconds", 1)
    demand(isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds < 1e308)
    extra = found.get("extra", [])
    demand(isinstance(extra, list))
    lengths = None if found.get("lengths") is None else several(found["lengths"], whole)
    return lengths, [extra_entry(item) for item in extra]


def spec_is_right(content):
    """{model: the set of its windows, or None for those that it comes with}, or None where the spec must be refused.

    For a CPU build of torch, offline; models other than tiny presets are taken for unknown.
    """
    try:
        return _right(content)
    except Wrong:
        return None


def _right(content):
    demand(isinstance(content, dict))
    singular = ("model", "suite", "task", "window", "length", "cost")
    found = mapping(content, KEYS, singular)
    models = several(found.get("models"), model_entry)
    suites, tasks = several(found.get("suites"), name), several(found.get("tasks"), task_entry)
    windows, lengths = several(found.get("windows"), window), several(found.get("lengths"), whole)
    for key in ("limit", "contexts", "threads"):
        demand(found.get(key) is None or whole(found[key], most=1024 if key == "threads" else MOST))
    demand("batch" not in found or found["batch"] == "auto" or whole(found["batch"]))
    demand("seed" not in found or whole(found["seed"], 0, 2**32 - 1) >= 0)
    demand(found.get("device", "auto") in ("auto", "cpu", "mps"))
    demand(isinstance(found.get("dtype", "auto"), str) and found.get("dtype", "auto") in DTYPES)
    # A folder; data sets by name, which lists and mappings are for, are not among the files here.
    folder = found.get("data")
    if isinstance(folder, list):
        demand(len(folder) == 1 and isinstance(folder[0], str))
        folder = folder[0]
    demand("=" not in str(folder or ""))
    for one in (found.get("out"), folder):
        if one is not None:
            path(one)
    measured = costs(found.get("costs", True))
    demand(models and (suites or tasks or "costs" in found))
    names = [one for one, _ in models]
    demand(len(set(names)) == len(names) and all(one in preset_names() and one.endswith("-tiny") for one in names))
    demand(set(suites) <= set(suite_names()))
    searched = suites or (suite_names() if tasks else [])
    known = {task.name: task for suite in searched for task in suite_tasks(suite)}
    chosen = tasks or [{"name": one, "lengths": []} for one in known]
    for task in chosen:
        demand(task["name"] in known)
        info = known[task["name"]]
        demand(info.has_lengths or not task["lengths"])
        asked = (task["lengths"] or lengths) if info.has_lengths else []
        demand(all(info.least_length <= length <= TINY_CONTEXT for length in asked))
    points, further = 0, {}
    if measured is not None:
        asked, extra = measured
        demand(all(length <= TINY_CONTEXT for length in asked or ()))
        demand(all(one in names and all(length <= TINY_CONTEXT for length in lengths) for one, lengths, _ in extra))
        points = 1 if asked is None else len(asked) + sum(len(lengths) for _, lengths, _ in extra)
        further = {one: windows for one, lengths, windows in extra if lengths}
    demand(chosen or points)
    asked = {one: own or windows for one, own in models}
    # Nothing asked: as the model comes, which its own tests are about.
    return {
        one: {"none"} if one in WITHOUT_WINDOW else {*asked[one], *further.get(one, ())} if asked[one] else None
        for one in names
    }
