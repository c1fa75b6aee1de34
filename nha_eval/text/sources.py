"""Where training text comes from: `debian`, a folder or file, a data set of the hub; never the data of this project's tasks.

    open_source("~/books", characters=10**8).documents()

A folder is read whole, its files in order of their names: .txt and .md (a document each), .jsonl and .jsonl.gz (a document a
line, under `text`) and .parquet (a row, under `text`). Other files are passed over. A hub data set is its split `train`,
streamed, column `text`; no code of it is run. What comes from elsewhere is kept in the cache and not asked for again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from nha_eval.catalog import HUB_ID, LONGEST_HUB_ID
from nha_eval.errors import UserError, nearest
from nha_eval.paths import user_path
from nha_eval.text.documents import Corpus


def _debian(characters: int) -> Corpus:
    from nha_eval.text.debian import debian_corpus

    return debian_corpus(characters)


BUILT_IN: dict[str, Callable[[int], Corpus]] = {"debian": _debian}


def open_source(given: str, characters: int) -> Corpus:
    """The corpus that `given` names, at most `characters` of it.

    Raises UserError, one line, for what is not there, cannot be read or reached, or is test data; MachineError for a full disk.
    """
    if given in BUILT_IN:
        return BUILT_IN[given](characters)
    advice = f"give {' or '.join(BUILT_IN)}, a folder or file of text, or a hub id (org/name)"
    path = user_path(given, "source", advice)
    if path.exists():
        refuse_test_data(given, path)
        from nha_eval.text.local import local_corpus

        return local_corpus(given, path, characters)
    name, _, config = given.partition(":")
    if HUB_ID.fullmatch(name) and len(name) <= LONGEST_HUB_ID:
        refuse_test_data(given, None)
        from nha_eval.text.hub_text import hub_corpus

        return hub_corpus(name, config or None, characters)
    if "/" in given or given.startswith((".", "~")):
        raise UserError(f"no such source: {given!r} is not there: {advice}")
    raise UserError(f"no such source: {given!r}; {nearest(given, BUILT_IN, what='built in')} ({advice})")


@lru_cache(maxsize=1)
def _test_data() -> tuple[frozenset[str], frozenset[str]]:
    """The hub ids of the tasks' data in small letters, and the names of folders that hold such data in caches."""
    from nha_eval.evaluate import known_suites
    from tasks.assets import BIGBENCH

    ids = {hub_id for members in known_suites().values() for task in members for _, hub_id in task.sources}
    folders = {name for hub_id in ids for name in (hub_id.replace("/", "___"), f"datasets--{hub_id.replace('/', '--')}")}
    return frozenset(hub_id.lower() for hub_id in ids), frozenset(name.lower() for name in (*folders, BIGBENCH.name))


def refuse_test_data(given: str, path: Path | None) -> None:
    """Raises UserError where the hub id, or the path where there is one, is data that the tasks here ask about."""
    ids, folders = _test_data()
    told = "this project's tasks test on it, and a model that has trained on it cannot be tested: give other text"
    name = given.partition(":")[0].lower()
    # The short forms that based's recall tasks come in, under whatever owner.
    if path is None and (name in ids or re.fullmatch(r"[^/]+/based[-_].*", name)):
        raise UserError(f"source {given!r} is test data: {told}")
    if path is not None and any(part.lower() in folders for part in path.resolve().parts):
        raise UserError(f"source {given!r} lies in a folder of test data: {told}")
