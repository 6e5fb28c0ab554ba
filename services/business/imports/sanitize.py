"""Descriptions from outside, made safe to show and plain to search.

The allow-list is text: headings, lists, tables, emphasis and links. Scripts, styles, frames,
forms, pictures, event handlers, classes and inline styles are dropped; a link keeps its address
only where that is http or https.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Final

import nh3

TAGS: Final = frozenset(
    {
        "a", "b", "blockquote", "br", "caption", "code", "dd", "div", "dl", "dt", "em", "h2", "h3",
        "h4", "h5", "h6", "hr", "i", "li", "ol", "p", "pre", "s", "small", "span", "strong", "sub",
        "sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "u", "ul",
    }
)  # fmt: skip
ATTRIBUTES: Final = {"a": {"href"}, "td": {"colspan", "rowspan"}, "th": {"colspan", "rowspan"}}

SEARCH_TEXT_MAX: Final = 4000  # characters; a search vector of PostgreSQL ends at 1 MB
SEPARATE_TAGS: Final = re.compile(r"<[^>]*>")
_LOOKS_LIKE_HTML: Final = re.compile(r"<[a-zA-Z/!]")

_CLEANER: Final = nh3.Cleaner(
    tags=TAGS,
    attributes=ATTRIBUTES,
    # What stands inside these is no text for a reader.
    clean_content_tags={"script", "style", "title", "noscript", "template", "iframe", "object"},
    url_schemes={"http", "https"},
    url_relative="deny",
    # Nothing we vouch for: no credit with search engines, no handle on our window, no referrer.
    link_rel="nofollow noopener noreferrer",
    strip_comments=True,
)


def safe_html(text: str) -> str:
    """HTML from outside as HTML that can be shown: balanced, and of the allow-list only."""
    return _CLEANER.clean(text).strip()


def html_of_text(text: str) -> str:
    """Plain text as paragraphs; text that is HTML already is made safe instead."""
    if _LOOKS_LIKE_HTML.search(text):
        return safe_html(text)
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return "".join(f"<p>{html.escape(part, quote=False)}</p>" for part in paragraphs if part)


def plain_text(safe: str) -> str:
    """The words of safe HTML, with a space where a tag stood."""
    return " ".join(html.unescape(SEPARATE_TAGS.sub(" ", safe)).split())


def search_text(words: Iterable[str], safe_description: str) -> str:
    """What a search looks through besides title and vendor, cut to a bounded length."""
    return " ".join([*words, plain_text(safe_description)])[:SEARCH_TEXT_MAX].strip()
