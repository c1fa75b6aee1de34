"""A run in which everything a report shows is there: scores made from its samples, costs that cross, telemetry, failures."""

import numpy as np
from report_run import FULL, NHA, SWA, cost, full_telemetry, score, write_run
from scored_run import add

SETTINGS = {(FULL, "full"): 0.9, (NHA, "64"): 0.75, (NHA, "256"): 0.85, (SWA, "64"): 0.4, (SWA, "256"): 0.6}
TASKS = ("needle", "facts")
LENGTHS = (512, 1024, 2048, 4096)
DOCTOR = {
    "verdict": "passed",
    "backend": "chunked",
    "date": "2026-01-01",
    "commit": "0123456789abcdef",
    "dirty": False,
    "checks": {"kernel": {"status": "ok", "error": 3.1e-7, "bound": 1e-5}},
}


def samples(task, right, *, seed=0, n=40):
    """`n` documents in contexts of four; the share `right` of them, first in an order of the task's own, are answered right."""
    order = np.random.default_rng([len(task), seed]).permutation(n)
    found = []
    for place in range(n):
        correct = float(order[place] < round(right * n))
        one = {"doc_id": place, "context_id": f"{task}-{seed}-{place // 4}", "prompt_hash": f"{task}-{seed}-{place}"}
        one |= {"gold": [f"gold {place}"], "prediction": f"gold {place}" if correct else f"other {place}"}
        one |= {"asked": f"What is {task} number {place}?", "choices": None, "distance": 8 * place + 3, "depth": 1 - place / n}
        found.append({**one, "correct": correct, "metrics": {"contains": correct}})
    return found


def latency(window, length):
    """Full attention's is quadratic, a window's linear: they cross at 1,448 tokens, between two measured lengths."""
    return length**2 / 1448 if window == "full" else float(length)


def whole_run(folder, settings=SETTINGS, *, device="cpu", dtype="float32", version="1.0", seed=0, **about):
    """The run folder; `about` is added to environment.json."""
    rows, costs = [], []
    for (model, window), right in settings.items():
        for task in TASKS:
            own = samples(task, right, seed=seed)
            cell = {"suite": "recall", "length": 512, "device": device, "dtype": dtype, "task_version": version, "seed": seed}
            add(folder, model, window, own, task=task, **cell)
            value = sum(one["correct"] for one in own) / len(own)
            rows.append(score(model, window, task, value, 0.05, **cell, n=40, protocol="contains"))
        for length in LENGTHS:
            state = length * 1000 if window == "full" else int(window) * 1000
            where = {"device": device, "dtype": dtype}
            costs.append(cost(model, window, "prefill", length, latency(window, length), state, **where))
            costs.append(cost(model, window, "decode", length, 40.0, state, **where))
    if (FULL, "full") in settings:
        failed = cost(FULL, "full", "prefill", 8192, 1, 1, status="oom", reason="no room", device=device, dtype=dtype)
        costs.append({**failed, **dict.fromkeys(("latency_ms", "tokens_per_s", "peak_memory_mb", "state_bytes"), "")})
    models = {model: {"doctor": {"mixers": {"nha": DOCTOR}}, "weights_hash": model} for model, _ in settings}
    environment = {"command": "python run_eval.py eval quickstart", "cpu": "some processor", "cores": 2, "models": models}
    environment |= {"device": device, "dtype": dtype, "seed": seed, "versions": {"torch": "2.13.0"}, **about}
    telemetry = full_telemetry() if (NHA, "64") in settings else None
    return write_run(folder, rows, costs, environment, f"models: {list(models)}\n", telemetry)
