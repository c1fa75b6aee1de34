"""What each point of a plot shows, in words, for a page to say under the pointer.

A kind of plot calls `tell(artist, texts)` with a text a point, in the order drawn; `told(figure)` gives them back by the id
that the artist bears in an SVG file.
"""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.artist import Artist
from matplotlib.figure import Figure


def tell(artist: Artist, texts: Iterable[str]) -> None:
    """Name the artist, and note what its points show."""
    figure = artist.get_figure()
    notes = figure.__dict__.setdefault("_nha_told", {})
    gid = f"told-{len(notes)}"
    artist.set_gid(gid)
    notes[gid] = list(texts)


def told(figure: Figure) -> dict[str, list[str]]:
    """The texts of every artist by its id."""
    return dict(figure.__dict__.get("_nha_told", {}))
