"""Targets of pages: one spelling for each page, whatever a client adds to the address.

Business says which paths are pages and which query parameters matter (GET /internal/pages). All
others are dropped, so that neither `?utm_source=…` nor random parameters can miss or fill.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import quote, quote_plus, unquote_to_bytes

import msgspec

TARGET_MAX_BYTES: Final = 2048  # as sent; a longer one is passed on as it is
# RFC 3986 pchar: what stands unencoded in a segment of a canonical path.
SEGMENT_SAFE: Final = "!$&'()*+,;=:@~"
VALUE_SAFE: Final = "!$'()*,:@/?~"  # without those that separate: & = + ;

# Spellings remembered: lists are asked for in few of them, and finding one costs 10 microseconds.
KNOWN_KEPT: Final = 4096
KNOWN_MAX_BYTES: Final = 256

_BAD_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class PageRule(msgspec.Struct, frozen=True):
    """A path such as /products/{slug}, where {…} is any one segment, and its parameters."""

    path: str
    query: list[str] = []


class PageRules(msgspec.Struct, frozen=True):
    """What GET /internal/pages answers."""

    pages: list[PageRule]


_decode = msgspec.json.Decoder(PageRules).decode


def read_rules(document: bytes) -> list[PageRule]:
    """The rules of GET /internal/pages; msgspec.DecodeError where it is something else."""
    return _decode(document).pages


class Targets:
    """The rules, and canonical targets by them. Without rules nothing is a page."""

    def __init__(self, rules: Iterable[PageRule] = ()) -> None:
        self._spellings: dict[bytes, bytes] = {}  # b"" is no page
        self._paths: dict[int, list[tuple[Sequence[str | None], frozenset[str]]]] = {}
        for rule in rules:
            parts = [
                None if part.startswith("{") and part.endswith("}") else part
                for part in rule.path.split("/")[1:]
            ]
            self._paths.setdefault(len(parts), []).append((parts, frozenset(rule.query)))

    def canonical(self, target: bytes) -> bytes | None:
        """The one spelling of a page's target; None where it is no page, or is not understood."""
        known = self._spellings.get(target)
        if known is not None:
            return known or None
        canonical = self._spelled(target)
        if len(target) <= KNOWN_MAX_BYTES:
            if len(self._spellings) >= KNOWN_KEPT:
                self._spellings.clear()  # random ones came in; the few that count are soon back
            self._spellings[target] = canonical or b""
        return canonical

    def _spelled(self, target: bytes) -> bytes | None:
        if len(target) > TARGET_MAX_BYTES or target[:1] != b"/" or b"#" in target:
            return None
        path, _, query = target.partition(b"?")
        segments = _segments(path)
        if segments is None:
            return None
        known = self._known(segments)
        if known is None:
            return None
        canonical = "".join("/" + quote(segment, SEGMENT_SAFE) for segment in segments)
        if query and known:
            pairs = _pairs(query, known)
            if pairs is None:
                return None
            if pairs:
                canonical += "?" + "&".join(pairs)
        return canonical.encode()

    def _known(self, segments: list[str]) -> frozenset[str] | None:
        """The parameters that matter for a path; None if it is no page."""
        for parts, known in self._paths.get(len(segments), ()):
            if all(part is None or part == segment for part, segment in zip(parts, segments)):  # noqa: B905 - of one length
                return known
        return None


def _segments(path: bytes) -> list[str] | None:
    """The decoded segments; None where decoding could be read in two ways."""
    text = _decoded(path)
    if text is None or text.count("/") != path.count(b"/"):
        return None  # %2F: whoever routes on the decoded path sees other segments
    segments = text.split("/")[1:]
    if any(segment in ("", ".", "..") for segment in segments):
        return None
    return segments


def _pairs(query: bytes, known: frozenset[str]) -> list[str] | None:
    """The known parameters as name=value, sorted by name; values of one name keep their order."""
    pairs = []
    for part in query.split(b"&"):
        raw_name, _, raw_value = part.partition(b"=")
        name = _decoded(raw_name.replace(b"+", b" "))
        if name is None or name not in known:
            continue
        value = _decoded(raw_value.replace(b"+", b" "))
        if value is None:
            return None
        pairs.append((name, value))
    pairs.sort(key=lambda pair: pair[0])
    return [
        f"{quote_plus(name, VALUE_SAFE)}={quote_plus(value, VALUE_SAFE)}" for name, value in pairs
    ]


def _decoded(text: bytes) -> str | None:
    """Percent-decoded UTF-8 without control characters, or None."""
    if _BAD_PERCENT.search(text) is not None:
        return None
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return None
    return None if _CONTROL.search(decoded) is not None else decoded
