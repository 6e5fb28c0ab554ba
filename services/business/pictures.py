"""Pictures of generated products: small SVGs drawn here, from nothing but their name."""

from __future__ import annotations

import hashlib
import re
from html import escape
from typing import Final

from services.business.imports.goods import COLOURS
from services.business.silhouettes import BOX, OF_WORD, PENDANT, TSHIRT

# The same form as a slug in the schema, with some room for the view at its end.
NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")
NAME_MAX: Final = 240
TITLE_MAX: Final = 30  # characters that fit below the picture

_PALETTE: Final = {colour.name.lower(): colour.rgb for colour in COLOURS}
# Materials that have a colour of their own, for goods that are not dyed.
_MATERIALS: Final = {
    "oak": "#c49a62", "walnut": "#6f4b33", "ash": "#d3bf9a", "birch": "#dcc9a3", "beech": "#cfa878",
    "cherry": "#9a5238", "bamboo": "#c9b667", "pine": "#d9b779", "brass": "#c5a03f",
    "steel": "#8b959e", "copper": "#b56b3c", "silver": "#b9c0c6", "pewter": "#8f9395",
    "titanium": "#777f86", "aluminium": "#a9b2b8", "highland": "#6b4a35", "smoked": "#4c4038",
    "washed": "#8a6a4a", "organic": "#7c8750", "estate": "#7a4b34",
}  # fmt: skip

_FRAME: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 400" role="img" aria-label="{title}">'
    '<rect width="400" height="400" fill="{p}"/>'
    '<circle cx="{x}" cy="{y}" r="{r}" fill="{halo}"/>'
    '<ellipse cx="200" cy="304" rx="112" ry="10" fill="{shadow}"/>{thing}'
    '<text x="200" y="362" text-anchor="middle" font-family="system-ui,sans-serif" font-size="19" '
    'fill="{ink}">{title}</text></svg>'
)


def is_name(name: str) -> bool:
    """Whether it could be the name of a picture: anything else is not worth drawing."""
    return len(name) <= NAME_MAX and NAME.match(name) is not None


def draw(name: str) -> bytes:
    """The picture of that name as SVG, always the same bytes, under 2 kB.

    A name is the slug of a generated product and a view of it: words of its title, code, view, as
    in aldin-linen-shirt-1dtq3hu-rust. A view that is a colour shows the thing in it, 2 shows it
    from the other side. Any other name gives a picture too, of a box where its words say nothing.
    """
    words, _, view = name.rpartition("-")
    title_words = words.split("-")[:-1] or [name]
    chance = hashlib.sha256(words.encode()).digest()
    colour = _colour(title_words, view, chance)
    paper = _mixed(_colour_at(chance[1]), "#ffffff", 0.86)
    title = escape(_shortened(" ".join(word.capitalize() for word in title_words)))
    thing = _silhouette(title_words).format(
        c=colour, d=_mixed(colour, "#1b1f27", 0.3), l=_mixed(colour, "#ffffff", 0.45), p=paper
    )
    if view == "2":
        thing = f'<g transform="matrix(-1 0 0 1 400 0)">{thing}</g>'  # from the other side
    picture = _FRAME.format(
        title=title,
        p=paper,
        x=120 + chance[2] % 160,
        y=110 + chance[3] % 120,
        r=90 + chance[4] % 60,
        halo=_mixed(paper, "#ffffff", 0.55),
        shadow=_mixed(paper, "#1b1f27", 0.14),
        thing=thing,
        ink=_mixed(paper, "#1b1f27", 0.78),
    )
    return picture.encode()


def _silhouette(title_words: list[str]) -> str:
    last = title_words[-1]
    if title_words[-2:] == ["pendant", "lamp"]:
        return PENDANT
    if title_words[-2:] == ["t", "shirt"]:
        return TSHIRT
    return OF_WORD.get(last, BOX)


def _colour(title_words: list[str], view: str, chance: bytes) -> str:
    named = _PALETTE.get(view)
    material = next((_MATERIALS[word] for word in title_words if word in _MATERIALS), None)
    return named or material or _colour_at(chance[0])


def _colour_at(number: int) -> str:
    return COLOURS[number % len(COLOURS)].rgb


def _mixed(colour: str, other: str, share: float) -> str:
    """A colour with that share of another one in it."""
    pairs = ((int(colour[at : at + 2], 16), int(other[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{round(one * (1 - share) + two * share):02x}" for one, two in pairs)


def _shortened(title: str) -> str:
    return title if len(title) <= TITLE_MAX else title[: TITLE_MAX - 1].rstrip() + "…"
