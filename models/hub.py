"""Checkpoints from the Hugging Face hub: safetensors and text files only, and a hub out of reach is found out in seconds."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from models.errors import ModelUnavailable

REACH_SECONDS = 4
# No pickles, no code.
WANTED_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]


def hub_reachable() -> bool:
    """Whether the hub answers within seconds; False where HF_HUB_OFFLINE asks not to try."""
    if constants.HF_HUB_OFFLINE:
        return False
    # Needed here alone, and not by every installation of Transformers.
    import requests

    try:
        requests.head(constants.ENDPOINT, timeout=REACH_SECONDS, allow_redirects=False)
    except requests.RequestException:
        return False
    return True


def hub_folder(name: str) -> Path:
    """The local folder of the checkpoint `owner/name`, fetched if the hub answers, else out of its cache.

    Raises ModelUnavailable where it is in neither.
    """
    offline = not hub_reachable()
    try:
        return Path(snapshot_download(name, allow_patterns=WANTED_FILES, local_files_only=offline))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        if offline:
            why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} does not answer"
            raise ModelUnavailable(
                f"{name} is no local folder, and it is not in the local hub cache ({why}); give a checkpoint's folder"
            ) from error
        raise ModelUnavailable(f"{name} cannot be had from the hub: {' '.join(str(error).split())[:200]}") from error
