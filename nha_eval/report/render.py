"""Sections to bytes: the HTML page with everything escaped by Jinja, and the Markdown with its own escapes."""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

from nha_eval.plots._frames import clean_text

from .tables import fenced, markdown_text

_HERE = Path(__file__).parent


def _environment(autoescape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters.update(md=markdown_text, fenced=fenced)
    return environment


def _printable(page: dict) -> dict:
    return {**page, "name": clean_text(page["name"], 80) or "run"}


def render_html(page: dict) -> bytes:
    """The page; `page` holds name, status, headline and sections."""
    css = Markup((_HERE / "page.css").read_text(encoding="utf-8"))
    text = _environment(autoescape=True).get_template("page.html.j2").render(**_printable(page), css=css)
    return text.encode("utf-8", errors="replace")


def render_markdown(page: dict) -> bytes:
    """The same in Markdown, pictures by their files."""
    text = _environment(autoescape=False).get_template("page.md.j2").render(**_printable(page))
    return (text.rstrip() + "\n").encode("utf-8", errors="replace")
