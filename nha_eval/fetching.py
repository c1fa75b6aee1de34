"""Has weights and data fetched before workers start, where a progress bar can be seen and a failure costs one attempt,
not one a cell.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from nha_eval import hub
from nha_eval.errors import MachineError, UserError, is_disk_trouble
from tasks.hub_data import given_for, is_cached

HUB = "hub:"


def known_assets() -> dict[str, Any]:
    """Every asset that `models` and `tasks` declare, by name."""
    from models import assets as weights
    from tasks import assets as data

    declared = [*vars(weights).values(), *vars(data).values()]
    return {asset.name: asset for asset in declared if isinstance(asset, weights.Asset)}


def fetch_all(names: Iterable[str]) -> dict[str, str]:
    """Fetch what is not in the cache yet; give back the names that cannot be had, each with its reason.

    Raises MachineError when the disk is full, UserError where the cache folder cannot be written.
    """
    from models.assets import AssetCorrupt, AssetUnavailable, cache_dir, fetch

    known = known_assets()
    names = list(dict.fromkeys(names))
    failures = _out_of_reach([name for name in names if name.startswith(HUB)])
    for name in names:
        if name.startswith(HUB):
            continue
        try:
            fetch(known[name])
        except (AssetUnavailable, AssetCorrupt) as problem:
            failures[name] = " ".join(str(problem).split())
        except OSError as problem:
            if not is_disk_trouble(problem):
                raise UserError(
                    f"cannot fetch {name} into {cache_dir()}: {problem.strerror or problem}: give a folder that can be written "
                    "with --data"
                ) from problem
            raise MachineError(
                f"cannot fetch {name}: {problem}; free some space, then give the same command again"
            ) from problem
    return failures


def hub_needs(task: Any, given: Mapping[str, Any]) -> tuple[str, ...]:
    """The hub's data that the task reads, as one name to be fetched, but for what is given locally."""
    wanted = [hub_id for source, hub_id in task.sources if given_for(source, hub_id, given) is None]
    return (HUB + ",".join(wanted),) if wanted else ()


def _out_of_reach(names: list[str]) -> dict[str, str]:
    """Those of the hub's data that cannot be had, with the reason; the hub is asked once, and only where the cache lacks any.

    Nothing is downloaded here: a task's data is small, and the worker reads it when it comes to the task. Of several data sets
    of one task (NQ has one a length) any in the cache leaves it to the worker to find out.
    """
    lacking = [name for name in names if not any(is_cached(hub_id) for hub_id in name.removeprefix(HUB).split(","))]
    if not lacking:
        return {}
    answers, word = hub.reachable()
    if answers:
        return {}
    advice = "give it with --data NAME=PATH, or try again with a connection"
    return dict.fromkeys(lacking, f"the Hugging Face hub cannot be reached ({word}): {advice}")
