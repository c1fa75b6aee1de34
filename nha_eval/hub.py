"""Whether the Hugging Face hub can be asked, found out within a few seconds.

A name server or proxy that does not answer can hold a request for a minute whatever its own time limit says, so the
question is put on a thread and waited for no longer than PATIENCE. HF_HUB_OFFLINE is respected.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nha_eval.errors import UserError, one_line

PATIENCE = 5.0  # seconds
# Whose errors, where they are no OSError, tell of the hub and not of this project.
CLIENT_PACKAGES = ("httpx", "httpcore", "requests", "urllib3", "huggingface_hub")


def ask(url: str, patience: float = PATIENCE) -> Any:
    """The server's answer (a requests.Response). Raises OSError with a short reason when there is none in time."""
    answer: list[Any] = []

    def request() -> None:
        import requests

        try:
            answer.append(requests.get(url, timeout=patience))
        except requests.Timeout:
            return
        except Exception as problem:
            answer.append(problem)

    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(patience)
    if not answer:
        raise OSError(f"no answer within {patience:g} s")
    if isinstance(answer[0], Exception):
        raise OSError(type(answer[0]).__name__) from answer[0]
    return answer[0]


def reachable(patience: float = PATIENCE) -> tuple[bool, str]:
    """Whether the hub answers, and a word on it."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False, "HF_HUB_OFFLINE is set"
    try:
        ask(f"{constants.ENDPOINT}/api/models?limit=1", patience)
    except OSError as problem:
        return False, one_line(str(problem))
    return True, constants.ENDPOINT


@contextmanager
def switched_off() -> Iterator[None]:
    """Inside, the hub's clients keep to their local caches."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def find_model(name: str) -> tuple[str, Path]:
    """A hub model's revision and its config.json, from the local cache or else from the hub.

    Raises UserError when it is in neither, or the hub cannot be asked.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str) and any(Path(cached).parent.glob("*.safetensors")):
        return Path(cached).parent.name, Path(cached)
    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"model {name!r} is not in the local cache and HF_HUB_OFFLINE is set: unset it, or give a preset or a folder"
        )
    try:
        answer = ask(f"{constants.ENDPOINT}/api/models/{name}")
    except OSError as problem:
        raise UserError(
            f"model {name!r} is no preset and no folder, and the hub cannot be reached ({problem}): give a preset or a folder"
        ) from problem
    if answer.status_code in (401, 403, 404):
        raise UserError(
            f"no such model: {name!r} is no preset, no folder, and not open to everybody on the hub ({answer.status_code}): "
            "check the name; `list` shows the presets"
        )
    try:
        revision = answer.json()["sha"]
        return revision, Path(hf_hub_download(name, "config.json", revision=revision))
    except Exception as problem:
        raise UserError(
            f"model {name!r}: the hub's answer cannot be used ({one_line(problem)}): try again, or give a checkpoint folder"
        ) from problem
