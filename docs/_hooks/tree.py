"""Pages of the tree around docs/ (CONTRIBUTING.md, results/reference, ...) in the site, each under its own path.

A link that leads out of docs/ brings the file that it leads to into the site, and is turned to where it lies there. So the same
link is right in the repository and on the site, and a file that is not there is a warning, which `--strict` makes an error.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
DOCS = "docs"
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")
# The README is the repository's front page, index.md the site's.
FRONT = {"README.md": "index.md"}
LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?P<after>[)\s])")
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
ADDRESS = re.compile(r"[a-z]+:|/")


def in_site(path: str) -> str:
    """Where a file of the tree, by its path from the root, lies in the site; a folder is its list."""
    if (ROOT / path).is_dir():
        return f"{path}/index.md"
    return FRONT.get(path, path.removeprefix(f"{DOCS}/"))


def in_tree(uri: str) -> str:
    """The path from the root of a page of the site."""
    return uri if (ROOT / uri).is_file() else f"{DOCS}/{uri}"


def targets(text: str, path: str) -> list[str]:
    """The files of the tree that the page at `path` links to."""
    prose = CODE.sub("", text)
    found = (match["target"] for match in LINK.finditer(prose) if not ADDRESS.match(match["target"]))
    return [posixpath.normpath(posixpath.join(posixpath.dirname(path), target)) for target in found]


def on_files(files: Files, config) -> Files:
    """Add the tree's pages, and what they and those of docs/ link to."""
    left = [*PAGES, *(in_tree(file.src_uri) for file in files.documentation_pages())]
    seen = set()
    while left:
        path = left.pop()
        if path in seen or path.startswith("..") or not (ROOT / path).is_file():
            continue
        seen.add(path)
        if files.get_file_from_path(in_site(path)) is None:
            files.append(File.generated(config, in_site(path), abs_src_path=str(ROOT / path)))
        if path.endswith(".md"):
            left += targets((ROOT / path).read_text(encoding="utf-8"), path)
    return files


def on_page_markdown(markdown: str, page, config, files: Files) -> str:
    """Turn links to where their files lie in the site."""
    uri = page.file.src_uri
    path = in_tree(uri)
    if not (ROOT / path).is_file():
        return markdown

    def turned(match: re.Match) -> str:
        target = match["target"]
        if ADDRESS.match(target):
            return match[0]
        lies = in_site(posixpath.normpath(posixpath.join(posixpath.dirname(path), target)))
        return (
            f"{match['before']}{posixpath.relpath(lies, posixpath.dirname(uri) or '.')}{match['anchor'] or ''}{match['after']}"
        )

    return "".join(part if place % 2 else LINK.sub(turned, part) for place, part in enumerate(CODE.split(markdown)))
