"""Plain prose out of HTML, texts broken into lines of a typewriter's width, and dictionaries; and whether it is prose at all.

strip_html("<p>One.<p>Two.")        # "One.\\n\\nTwo."
is_prose(unwrap(text))
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

from tasks.filler import words

SHORTEST = 1000  # characters of a document
# Shares of all characters, or of all words, found in English prose and not in tables, code, or other languages.
LEAST_LETTERS, LEAST_COMMON, MOST_DIGITS = 0.72, 0.18, 0.06
LEAST_LINE = 60  # characters: what half of the text stands in lines longer than
_COMMON = frozenset(
    words(
        "the of and to a in is that it for as with was on be by he at his this i not or which but are from you have they had "
        "an were her there she one we all so if their will would when who no him my been has more out up into do any your "
        "what them can only other some than its then may these such"
    )
)
_WORDS = re.compile(r"[A-Za-z]+")
_MARK = re.compile(r" *\[(?:\d{4} )?[A-Z][\w. +-]{1,20}\]")

_SKIPPED = ("script", "style", "nav", "head", "footer", "form", "svg", "math", "template")
_BLOCKS = frozenset(
    words(
        "p div h1 h2 h3 h4 h5 h6 ul ol dl dd dt li pre blockquote section article header main aside hr tr td th center figure "
        "address"
    )
)
_NAVIGATION = re.compile(r"sidebar|navheader|navfooter|navigation|related|\btoc\b|breadcrumb|headerlink|footnote-backref", re.I)
# Lines of links that are not marked as such.
_LINKS = re.compile(
    r"(Next|Previous|Prev|Up): .*|Contents \| .*|(?=.*\bprev(ious)?\b).{0,60}\bnext\b.{0,40}|On this page:", re.I
)
_VOID = frozenset(words("area base br col embed hr img input link meta source track wbr"))


class _Stripper(HTMLParser):
    """Collects the text outside of navigation, scripts and tables."""

    def __init__(self, skipped: tuple[str, ...]) -> None:
        super().__init__(convert_charrefs=True)
        self._unwanted = skipped
        self.parts: list[str] = []
        self._skipped: str | None = None
        self._depth = 0
        self._verbatim = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipped is not None:
            self._depth += tag == self._skipped
            return
        told = " ".join(value or "" for name, value in attrs if name in ("class", "id", "role"))
        if tag in self._unwanted or (tag not in _VOID and tag not in ("body", "html") and _NAVIGATION.search(told)):
            self._skipped, self._depth = tag, 1
            return
        self._verbatim += tag == "pre"
        if tag == "br":
            self.parts.append("\n")
        elif tag in _BLOCKS:
            self.parts.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        if self._skipped is not None:
            self._depth -= tag == self._skipped
            if not self._depth:
                self._skipped = None
            return
        self._verbatim = max(0, self._verbatim - (tag == "pre"))
        if tag in _BLOCKS:
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if self._skipped is not None:
            return
        if not self._verbatim:
            data = re.sub(r"\s+", " ", data)
            data = data.lstrip() if not self.parts or self.parts[-1].endswith("\n") else data
        if data:
            self.parts.append(data)


def strip_html(page: str) -> str:
    """The page's text, paragraphs parted by empty lines; what is navigation, script or table is left out.

    Where hardly anything stands outside of tables, they are what the page is laid out with, and their text is taken.
    """
    text = _stripped(page, (*_SKIPPED, "table"))
    if len(text) >= SHORTEST or "<table" not in page.lower():
        return text
    whole = _stripped(page, _SKIPPED)
    return whole if len(whole) > 5 * len(text) else text


def _stripped(page: str, skipped: tuple[str, ...]) -> str:
    stripper = _Stripper(skipped)
    stripper.feed(page)
    stripper.close()
    lines = "".join(stripper.parts).split("\n")
    return tidy("\n".join(line for line in lines if not _LINKS.fullmatch(line.strip())))


def tidy(text: str) -> str:
    """Without controls, pilcrow anchors, white space at the ends of lines, and more than one empty line in a row."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f\xad¶]", "", text.replace("\xa0", " ").replace("\t", " "))
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def unwrap(text: str) -> str:
    """Lines that were broken at a width are joined again; verse, lists and code, whose lines differ, stay as they are."""
    return "\n\n".join(_joined(paragraph) for paragraph in text.split("\n\n"))


def join_entries(text: str) -> str:
    """A dictionary's text with each entry on one line, without the marks of sources such as [1913 Webster]."""
    return _MARK.sub("", re.sub(r"\n +", " ", text))


def _joined(paragraph: str) -> str:
    lines = paragraph.split("\n")
    if len(lines) < 2:
        return paragraph.strip(" ")
    inner = lines[:-1]
    broken = all(45 <= len(line) <= 100 for line in inner) and max(map(len, inner)) - min(map(len, inner)) <= 25
    # Only a paragraph's first line is set in, if any.
    indents = [len(line) - len(line.lstrip(" ")) for line in lines]
    if not broken or len(set(indents[1:])) > 1 or indents[1] > indents[0] or re.match(r"\s*([-*+|]|\d+[.)])\s", lines[-1]):
        return paragraph
    return re.sub(r" {2,}", " ", " ".join(line.strip() for line in lines))


def is_prose(text: str) -> bool:
    """Whether the text is English prose of at least 1000 characters, by the shares above."""
    if len(text) < SHORTEST:
        return False
    letters = sum(map(str.isalpha, text))
    digits = sum(map(str.isdigit, text))
    found = _WORDS.findall(text)
    if letters < LEAST_LETTERS * len(text) or digits > MOST_DIGITS * len(text) or not found:
        return False
    if sum(word.lower() in _COMMON for word in found) < LEAST_COMMON * len(found):
        return False
    long = sum(len(line) for line in text.split("\n") if len(line) >= LEAST_LINE)
    return 2 * long >= len(text)
