"""The source `debian`: English prose out of Debian packages, books, manuals and dictionaries under free licences.

Each package's version, SHA-256 and licence, and how many documents it gave, stand in the manifest. Pages that are no prose, or
most of whose words stood in earlier pages (a manual comes as one page and as many), are left out. Packages that a release of
Debian has not are passed over, so the text differs between releases; its digest says so.

    debian_corpus(characters=10**9).about["packages"]
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nha_eval.errors import UserError
from nha_eval.text.apt import ADVICE, Apt, members
from nha_eval.text.documents import Corpus, Document, pieces
from nha_eval.text.local import decode
from nha_eval.text.near import NEAR, Shingles
from nha_eval.text.prose import is_prose, join_entries, strip_html, tidy, unwrap
from nha_eval.text.showing import Bar, note
from nha_eval.text.stored import stored_corpus, text_folder

FORM = 1  # of how packages become documents; part of the corpus's name in the cache
DICTIONARY_PIECE = 20_000  # characters of a dictionary that make a document
_SEEN_BITS = 27


@dataclass(frozen=True)
class Package:
    """A package, its text's licence as its copyright file says, and what it is."""

    name: str
    licence: str
    what: str
    only: str = ""  # what the paths that are read hold, such as /en-US/


PACKAGES = (
    Package("anarchism", "GPL-2+", "An Anarchist FAQ, a book of political history"),
    Package("linux-doc-6.1", "GPL-2", "the Linux kernel's documentation"),
    Package("dict-gcide", "GPL-2+", "Webster's dictionary of 1913, enlarged"),
    Package("dict-foldoc", "GFDL-1.1+", "the Free On-line Dictionary of Computing"),
    Package("dict-jargon", "public domain", "the Jargon File"),
    Package("dict-devil", "public domain", "Ambrose Bierce's Devil's Dictionary"),
    Package("python3.11-doc", "PSF-2", "the Python language's documentation"),
    Package("racket-doc", "MIT or Apache-2.0", "the Racket language's documentation"),
    Package("postgresql-doc-15", "PostgreSQL", "a database's manual"),
    Package("git-doc", "GPL-2", "a version control system's manual"),
    Package("apache2-doc", "Apache-2.0", "a web server's manual"),
    Package("python-django-doc", "BSD-3-Clause", "a web framework's documentation"),
    Package("exim4-doc-html", "GPL-2+", "a mail server's specification"),
    Package("octave-doc", "GPL-3+", "a numerical language's manual"),
    Package("krb5-doc", "CC-BY-SA-3.0", "Kerberos' manuals"),
    Package("borgbackup-doc", "BSD-3-Clause", "a backup program's manual"),
    Package("debian-handbook", "GPL-2+ or CC-BY-SA-3.0", "The Debian Administrator's Handbook", only="/en-US/"),
    Package("installation-guide-amd64", "GPL-2", "how to install Debian", only="/en/"),
    Package("debian-policy", "GPL-2+", "what Debian's packages are to be like"),
    Package("developers-reference", "GPL-2+", "how Debian is made"),
    Package("debian-reference-en", "GPL-2+", "a guide to Debian"),
    Package("debmake-doc", "Expat", "a guide for Debian's maintainers"),
    Package("maint-guide", "GPL-2+", "an older guide for Debian's maintainers"),
    Package("debian-history", "GPL-2+", "a short history of Debian"),
    Package("harden-doc", "GPL-2", "Securing Debian", only="/en-US/"),
    Package("mh-book", "GPL-2+", "MH & nmh, a book on electronic mail"),
    Package("png-definitive-guide", "GFDL-1.1+, no invariant sections", "PNG: The Definitive Guide"),
    Package("cfi-en", "public domain", "Copyright does not exist, a book on hackers"),
    Package("abs-guide", "public domain", "the Advanced Bash-Scripting Guide"),
)

_UNPACK = {".gz": gzip.decompress, ".dz": gzip.decompress, ".xz": lzma.decompress, ".bz2": bz2.decompress}
_PAGES, _TEXTS, _DICTIONARIES = (".html", ".htm", ".xhtml"), (".txt", ".text"), (".dict",)
_LEFT_OUT = re.compile(
    r"/(_sources|_static|_modules|examples?)/|/(changelog|news|copyright|readme|genindex|search|todo)\b[^/]*$", re.I
)


def debian_corpus(characters: int) -> Corpus:
    """The prose of all PACKAGES, fetched first where the cache does not hold it; at most `characters`."""
    return stored_corpus("debian", debian_folder().name, lambda scratch: build(PACKAGES, scratch), characters)


def debian_folder() -> Path:
    """Where the cache keeps the text, there or not; another place for another list of packages."""
    names = json.dumps([FORM, [asdict(package) for package in PACKAGES]])
    return text_folder() / f"debian-{hashlib.sha256(names.encode()).hexdigest()[:8]}"


def build(packages: Iterable[Package], scratch: Path) -> tuple[list[Document], dict[str, Any]]:
    """The documents of the packages and their manifest. Raises UserError where none of them can be had."""
    packages = list(packages)
    documents: list[Document] = []
    rows, missing = [], []
    repeats = Repeats()
    with Bar("lists of packages", len(packages)) as bar:
        apt = Apt(scratch)
        for package in packages:
            bar.advance(0, package.name)
            deb = apt.download(package.name)
            if deb is None:
                missing.append(package.name)
            else:
                found = sorted(texts_of(deb.file, package.only))
                texts = [(name, text) for name, text in found if not repeats.saw(text)]
                documents += [Document(text, "debian", f"{package.name}/{name}") for name, text in texts]
                rows.append(
                    {
                        **asdict(package),
                        **{"version": deb.version, "sha256": deb.sha256, "bytes": deb.bytes},
                        **{"documents": len(texts), "characters": sum(len(text) for _, text in texts)},
                    }
                )
                deb.file.unlink()
            bar.advance()
    if not documents:
        raise UserError(f"source 'debian': apt's lists have none of its {len(packages)} packages with text in it: {ADVICE}")
    if missing:
        note(f"note: source 'debian': this release has no {', '.join(missing)}; the text goes without")
    licences = sorted({row["licence"] for row in rows})
    return documents, {"kind": "debian", "licence": "; ".join(licences), "packages": rows, "missing": missing}


def texts_of(deb: Path, only: str = "") -> Iterator[tuple[str, str]]:
    """(path inside, text) of all prose in a package file, from paths that hold `only`."""
    for path, data in members(deb, lambda name: only in f"/{name}" and _kind(name) is not None):
        for number, text in enumerate(_read(path, data)):
            if is_prose(text):
                yield (path if number == 0 else f"{path}#{number}"), text


def _kind(path: str) -> str | None:
    """The ending that says how a file is read; None for one that is not."""
    plain = path.lower()
    for ending in _UNPACK:
        plain = plain.removesuffix(ending)
    ending = Path(plain).suffix
    known = ending in (*_PAGES, *_TEXTS, *_DICTIONARIES)
    return ending if known and not _LEFT_OUT.search(f"/{plain}") else None


def _read(path: str, data: bytes) -> list[str]:
    unpack = _UNPACK.get(Path(path.lower()).suffix)
    try:
        text = decode(unpack(data) if unpack else data)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return []
    kind = _kind(path)
    if kind in _PAGES:
        return [strip_html(text)]
    if kind in _DICTIONARIES:
        return [piece.strip() for piece in pieces(join_entries(tidy(text)), DICTIONARY_PIECE)]
    return [unwrap(tidy(text))]


class Repeats:
    """Tells texts at least half of whose word 5-grams stood in those seen before, from a table of 2^27 marks.

    Two 5-grams may share a mark: with 20 million of them, one in seven of a new text's reads as seen.
    """

    def __init__(self) -> None:
        self._shingles = Shingles()
        self._seen = np.zeros(2**_SEEN_BITS, bool)

    def saw(self, text: str) -> bool:
        """Whether most of the text was there before; if not, it is from now on."""
        places = (self._shingles(text) >> np.uint64(64 - _SEEN_BITS)).astype(np.int64)
        if len(places) and self._seen[places].mean() >= NEAR:
            return True
        self._seen[places] = True
        return False
