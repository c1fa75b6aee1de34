"""Plots made fit to stand inside a page: ids of their own, colours from the page's theme, nothing that reaches
outside.

Matplotlib writes colours as hex values; those that the plots' style knows become CSS variables, so that one picture
serves a light and a dark page.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from nha_eval.plots._style import THEMED

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_COLOUR = re.compile("|".join(map(re.escape, THEMED)), re.IGNORECASE)


def inline(svg: bytes, prefix: str, label: str, told: dict[str, list[str]] | None = None) -> str:
    """An SVG file of matplotlib's as markup for HTML; `prefix` keeps its ids apart from other pictures', `label` is
    read aloud in its place, and `told` says of artists by their id what each of their points shows (`plots._told`)."""
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    root = ET.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    _tell(root, told or {})
    for element in root.iter():
        for name, value in list(element.attrib.items()):
            if name == "id":
                value = f"{prefix}-{value}"
            elif name in ("href", f"{{{_XLINK}}}href") and value.startswith("#"):
                value = f"#{prefix}-{value[1:]}"
            elif name in ("clip-path", "style", "fill", "stroke"):
                value = value.replace("url(#", f"url(#{prefix}-")
                # Presentation attributes do not take variables, but styles do, and matplotlib writes styles.
                value = _COLOUR.sub(lambda match: f"var({THEMED[match[0].lower()]})", value) if name == "style" else value
            element.set(name, value)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", label)
    return ET.tostring(root, encoding="unicode")


def _tell(root: ET.Element, told: dict[str, list[str]]) -> None:
    """Put the words at the points that they are of; nowhere where matplotlib drew more or fewer than there are."""
    groups = {element.get("id"): element for element in root.iter(f"{{{_SVG}}}g")}
    for gid, texts in told.items():
        group = groups.get(gid)
        if group is None:
            continue
        # Markers are uses of one shape; what has none is drawn as paths.
        points = list(group.iter(f"{{{_SVG}}}use"))
        if not points:
            points = list(group.iter(f"{{{_SVG}}}path"))
        if len(points) == len(texts):
            for point, text in zip(points, texts, strict=True):
                point.set("data-tip", text)
