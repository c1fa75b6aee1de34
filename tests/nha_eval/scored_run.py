"""A run folder as `eval` leaves it, written by the journal itself, with the answers that a test wants."""

from nha_eval.journal import Journal

CELL = {
    "kind": "score",
    "suite": "recall",
    "task_version": "1.0",
    "protocol": "contains",
    "seed": 0,
    "limit": None,
    "contexts": 8,
}


def documents(right, *, each=None, seed=0, metric="contains", prompt="prompt"):
    """A sample a document: right[i] is its figure; `each` documents share a context."""
    return [
        {
            "doc_id": i,
            "context_id": None if each is None else f"text-{i // each}",
            "prompt_hash": f"{prompt}-{seed}-{i}",
            "gold": ["4821"],
            "metrics": {metric: float(value)},
        }
        for i, value in enumerate(right)
    ]


def add(folder, model, window, samples, *, task="needle", length=512, metric="contains", status="ok", value=None, **cell):
    """Add one scored cell to the folder, which is made where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.yaml").write_text("models: []\n")
    values = [sample["metrics"][metric] for sample in samples]
    mean = sum(values) / len(values) if value is None and values else value  # `value` for what is no mean
    about = {**CELL, "model": model, "window": window, "task": task, "length": length, **cell}
    rows = [{"metric": metric, "value": mean, "n": len(values)}] if status == "ok" else []
    record = {"status": status, "reason": None if status == "ok" else "no room", "rows": rows, "cell": about}
    record["finished"] = cell.get("finished", "2026-01-01T00:00:00+00:00")
    name = f"{model}-{window}-{task}-{length}-{about['task_version']}".replace("/", "-").replace(":", "-")
    Journal(folder).write(name, record, samples)
    return folder
