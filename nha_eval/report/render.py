"""Sections to bytes: the HTML page with everything escaped by Jinja, and the Markdown with its own escapes.

The page's policy lets nothing be loaded, and no script run but the one whose hash it names: were a text of the run to come
through as markup after all, it would still do nothing.
"""

from __future__ import annotations

import base64
import hashlib
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
    css, js = (Markup((_HERE / f"page.{suffix}").read_text(encoding="utf-8")) for suffix in ("css", "js"))
    js_hash = f"sha256-{base64.b64encode(hashlib.sha256(js.encode()).digest()).decode()}"
    template = _environment(autoescape=True).get_template("page.html.j2")
    text = template.render(**_printable(page), css=css, js=js, js_hash=js_hash)
    return text.encode("utf-8", errors="replace")


def render_markdown(page: dict) -> bytes:
    """The same in Markdown, pictures by their files."""
    text = _environment(autoescape=False).get_template("page.md.j2").render(**_printable(page))
    return (text.rstrip() + "\n").encode("utf-8", errors="replace")
