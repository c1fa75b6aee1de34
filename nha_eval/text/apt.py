"""Debian packages fetched with apt, as any user may: package lists and files are kept in a folder of one's own, nothing is
installed and nothing of a package is run.

    with Apt(folder) as apt: deb = apt.download("debian-faq")       # Deb: file, package, version, sha256
    for name, data in members(deb.file): ...
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nha_eval.errors import UserError, one_line

ADVICE = "give a folder of text as the source instead"
_TIMEOUT = 15  # seconds a server may be silent
_LARGEST = 64 * 2**20  # bytes of a file inside a package that is read


@dataclass(frozen=True)
class Deb:
    """A package file."""

    file: Path
    package: str
    version: str
    sha256: str
    bytes: int


class Apt:
    """apt-get with its lists and caches under `folder`. Raises UserError where apt or dpkg-deb is not there, or no package list
    can be had.
    """

    def __init__(self, folder: Path):
        missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
        if missing:
            raise UserError(f"source 'debian' needs {' and '.join(missing)}, which this machine has not: {ADVICE}")
        self._folder = folder
        for name in ("lists/partial", "archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        settings = {
            "Dir::State::lists": folder / "lists",
            "Dir::Cache": folder,
            "Dir::Cache::archives": folder / "archives",
            "Acquire::Retries": 1,
            "Acquire::http::Timeout": _TIMEOUT,
            "Acquire::https::Timeout": _TIMEOUT,
            "Acquire::Languages": "none",
            # A superuser's apt would fetch as a user who cannot write here.
            "APT::Sandbox::User": "root",
        }
        self._options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
        done = self._apt("update")
        if not any(
            path.is_file() and path.name.endswith(("Packages", "Packages.lz4")) for path in (folder / "lists").iterdir()
        ):
            raise UserError(
                f"source 'debian': apt can get no list of packages ({_reason(done)}): check the network, or {ADVICE}"
            )

    def download(self, package: str) -> Deb | None:
        """The newest version of a package; None where the lists have none of that name. Raises UserError where it cannot be
        fetched.
        """
        place = self._folder / "debs" / package
        place.mkdir(parents=True, exist_ok=True)
        done = self._apt("download", package, folder=place)
        if done.returncode:
            if "Unable to locate package" in done.stderr or "no installation candidate" in done.stderr.lower():
                return None
            raise UserError(f"source 'debian': apt cannot fetch {package} ({_reason(done)}): check the network, or {ADVICE}")
        file = next(place.glob("*.deb"))
        told = subprocess.run(
            ["dpkg-deb", "--show", "--showformat=${Version}", str(file)], capture_output=True, text=True, check=True
        )
        content = file.read_bytes()
        return Deb(file, package, told.stdout.strip(), hashlib.sha256(content).hexdigest(), len(content))

    def _apt(self, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = ["apt-get", "-q", *self._options, *arguments]
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
        return subprocess.run(command, cwd=folder or self._folder, env=environment, capture_output=True, text=True)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))]
    return one_line(lines[0] if lines else done.stderr or "no message", 160)


def members(deb: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The package's plain files of at most 64 MiB whose path (without a leading slash) is wanted, in the package's order."""
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    broken = UserError(f"source 'debian': {deb.name} is no whole package: try again")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as unpacked:
        try:
            with tarfile.open(fileobj=unpacked.stdout, mode="r|") as archive:
                for member in archive:
                    name = member.name.removeprefix("./")
                    if member.isfile() and member.size <= _LARGEST and wanted(name):
                        yield name, archive.extractfile(member).read()
        except tarfile.TarError as problem:
            raise broken from problem
        # What follows the archive's end must be read too, or dpkg-deb finds its pipe broken.
        unpacked.stdout.read()
    if unpacked.returncode:
        raise broken
