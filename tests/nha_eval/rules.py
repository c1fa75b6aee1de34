"""What `eval` takes, written down a second time from its documentation: the answer that generated inputs are held against.

Nothing here comes from `nha_eval`. `spec_is_right` gives what the run must then be (models and their windows), or None.
"""

from models.patterns import TINY_CONTEXT
from models.presets import preset_config, preset_names
from tasks.suites import suite_names, suite_tasks

MOST = 2**31 - 1
KEYS = (
    *("models", "suites", "tasks", "windows", "lengths", "limit", "contexts", "batch", "device", "dtype", "seed"),
    *("threads", "costs", "out", "data", "settings"),
)
DTYPES = ("auto", "float32", "bfloat16", "float16")
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
LEAST_WINDOW = {"nha": 0, "attention": 1}  # of other mixers none
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


def slug(text):
    """Whether it may be a setting's name."""
    allowed = set(LETTERS + "0123456789-_")
    return 1 <= len(text) <= 60 and text[0] in LETTERS and set(text) <= allowed and text.lower() not in ("full", "none", "own")


def window_or_name(value):
    return value.strip() if isinstance(value, str) and slug(value.strip()) else window(value)


def layers(value):
    demand(isinstance(value, list) and all(type(i) is int and 0 <= i < 10_000 for i in value) and len(set(value)) == len(value))
    return value


def layer_window(value):
    return "none" if isinstance(value, str) and value.strip().lower() == "none" else window(value)


def form(value):
    """A setting's windows as a list, or (window of all layers, layers at full)."""
    if isinstance(value, list):
        demand(1 <= len(value) <= 10_000)
        return [layer_window(item) for item in value]
    demand(isinstance(value, dict))
    if set(value) == {"windows"}:
        demand(isinstance(value["windows"], dict))
        placed = [(i, layer_window(key)) for key in value["windows"] for i in layers(value["windows"][key])]
        for key in value["windows"]:
            layer_window(key)
        demand(placed and sorted(i for i, _ in placed) == list(range(len(placed))))
        return [at for _, at in sorted(placed)]
    demand(set(value) in ({"window"}, {"window", "full"}))
    full = value.get("full")
    return window(value["window"]), [] if full is None else sorted(layers(full))


def named_settings(value):
    if value is None:
        return {}
    found = {}
    for part in value if isinstance(value, list) else [value]:
        # Paths of files are given by flag here.
        demand(isinstance(part, dict) and all(isinstance(key, str) and slug(key) for key in part))
        for key, item in part.items():
            demand(found.setdefault(key, form(item)) == form(item))
    return found


def fits(setting, model):
    """Whether a setting has a window for each layer of a tiny preset, and none for layers without."""
    least = [LEAST_WINDOW.get(mixer) for mixer in preset_config(model).mixers]
    if isinstance(setting, tuple):
        at, full = setting
        demand(all(i < len(least) for i in full))
        setting = ["full" if i in full else "none" if least[i] is None else at for i in range(len(least))]
    demand(len(setting) == len(least))
    for at, lowest in zip(setting, least, strict=True):
        demand((at == "none") == (lowest is None) and (isinstance(at, str) or at >= lowest))


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
    return name(found.get("name")), several(found.get("windows"), window_or_name)


def task_entry(value):
    if not isinstance(value, dict):
        return {"name": name(value), "lengths": []}
    found = mapping(value, ("name", "lengths", "limit", "contexts"), ("length",))
    for key in ("limit", "contexts"):
        demand(found.get(key) is None or whole(found[key]))
    return {"name": name(found.get("name")), "lengths": several(found.get("lengths"), whole)}


def extra_entry(value):
    found = mapping(value, ("model", "windows", "lengths"), ("window", "length"))
    return name(found.get("model")), several(found.get("lengths"), whole), several(found.get("windows"), window_or_name)


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
    singular = ("model", "suite", "task", "window", "length", "cost", "setting")
    found = mapping(content, KEYS, singular)
    models = several(found.get("models"), model_entry)
    suites, tasks = several(found.get("suites"), name), several(found.get("tasks"), task_entry)
    settings = named_settings(found.get("settings"))
    windows, lengths = several(found.get("windows"), window_or_name), several(found.get("lengths"), whole)
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
    extra = measured[1] if measured is not None else []
    every = [*windows, *(at for _, own in models for at in own), *(at for _, _, own in extra for at in own)]
    demand(all(isinstance(at, int) or at == "full" or at in settings for at in every))
    asked = {one: own or windows for one, own in models}
    for one in names:
        used = [*asked[one], *(at for model, lengths, own in extra if model == one and lengths for at in own)]
        for at in used if one not in WITHOUT_WINDOW else ():
            if at in settings:
                fits(settings[at], one)
    # Nothing asked: as the model comes, which its own tests are about.
    return {
        one: {"none"} if one in WITHOUT_WINDOW else {*asked[one], *further.get(one, ())} if asked[one] else None
        for one in names
    }
