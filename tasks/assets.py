"""Where the tasks' data comes from: BIG-bench task files, out of its source package on the package index.

The package (358 MB) is fetched by pip with its hash required. pip then asks the package's own build, in isolation, for its
metadata: it has no way to download a source package without that. The JSON files wanted are streamed out of the archive
and the archive is deleted: 13 MB stay, after some 25 s on a fast line. The data is for evaluation only, never for training.

    python -c "from tasks.assets import bigbench_examples; print(len(bigbench_examples('timedial')))"
"""

import json
import shutil
import tarfile
from functools import lru_cache
from pathlib import Path

from models.assets import Asset, AssetUnavailable, fetch

BIGBENCH_TASKS = ("causal_judgment", "disfl_qa", "riddle_sense", "social_iqa", "strategyqa", "timedial", "winowhy")


def _stream_tasks(archive: Path, folder: Path) -> None:
    """Write `TASK.json` for each wanted task, reading the archive once from front to back."""
    wanted = {f"bigbench/benchmark_tasks/{task}/task.json": task for task in BIGBENCH_TASKS}
    with tarfile.open(archive, mode="r|gz") as members:
        for member in members:
            task = wanted.pop(member.name.partition("/")[2], None)
            if task is None or not member.isfile():
                continue
            with (folder / f"{task}.json").open("wb") as file:
                shutil.copyfileobj(members.extractfile(member), file)
            if not wanted:
                return
    raise AssetUnavailable(f"{archive.name} lacks {', '.join(sorted(wanted))}")


BIGBENCH = Asset(
    name="bigbench-1.0.0-tasks",
    requirement="bigbench==1.0.0",
    filename="bigbench-1.0.0.tar.gz",
    sources=("downloads", "pip"),
    licence="Apache-2.0 (each task's data under the licence it names)",
    size=358_249_635,
    disk=900_000_000,
    sha256="1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
    unpack=_stream_tasks,
)


@lru_cache(maxsize=4)
def bigbench_examples(task: str) -> list[dict]:
    """A BIG-bench task's examples as its JSON has them (shared: do not change them); fetched when first needed.

    Raises ValueError for an unknown task, AssetUnavailable where the data cannot be had.
    """
    if task not in BIGBENCH_TASKS:
        raise ValueError(f"no BIG-bench task named {task!r} (there are: {', '.join(BIGBENCH_TASKS)})")
    text = (fetch(BIGBENCH) / f"{task}.json").read_text(encoding="utf-8")
    return json.loads(text)["examples"]
