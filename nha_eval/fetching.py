"""Has weights and data fetched before workers start, where a progress bar can be seen and a failure costs one attempt,
not one a cell.
"""

from collections.abc import Iterable
from typing import Any

from nha_eval.errors import MachineError, UserError, is_disk_trouble


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
    failures: dict[str, str] = {}
    for name in dict.fromkeys(names):
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
