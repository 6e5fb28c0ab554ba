"""One held page: what business answered, until when it may be used, and its ready bytes.

Ready bytes are whole answers, one for each combination of coding, kind and `close` that was asked
for. They carry Date, Age and Cache-Status and are remade at most once a second.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, NamedTuple

from services.access.cache_control import Terms, terms_of
from services.access.encodings import ENCODED_MIN_BYTES, IDENTITY, NAMES
from services.access.eviction import OUT
from services.access.fields import HOP_BY_HOP, INTERNAL, NOT_ANSWERED, connection_names
from services.exchange import Headers, Response
from services.request import CONTROLS

# A page without body, fields, tags and ready bytes, with what finds it again. A page of 3 KB counts
# as 4.7 KB with it; 4.4 were measured on CPython 3.11, and the rest is for the allocator.
PAGE_BYTES: Final = 1200
TAG_BYTES: Final = 350  # a tag's string, its place in the page, and the index entry it may need
BYTES_BYTES: Final = 130  # an object of bytes and its place in a dict, beside its content
UNVERIFIED_S: Final = 1.0  # how long a page is used while the tag stream is not to be trusted
# After a fetch that failed, an old page is used for this long before the next is tried; doubled
# with each failure. Business that is back is noticed within the larger one.
RETRY_MIN_S: Final = 0.25
RETRY_MAX_S: Final = 2.0

# The kinds of an answer, and `close`: together with a choice of codings they make a key.
WHOLE, HEAD, NOT_MODIFIED, CLOSE = 0, 1, 2, 4
KEYS_A_CHOICE: Final = 8

# Written here for each answer, or no longer true when it comes from memory.
_REWRITTEN: Final = frozenset((b"etag", b"vary", b"age", b"x-content-type-options", b"set-cookie"))
# RFC 9111 3.2: an answer without a body says nothing about the body that is held.
_KEPT_ON_304: Final = frozenset((b"content-type", b"content-encoding", b"content-range"))
_ON_304: Final = frozenset((b"cache-control", b"content-location", b"expires"))  # RFC 9110 15.4.5
_OPAQUE: Final = re.compile(rb'"[\x21\x23-\x7e\x80-\xff]*"')  # RFC 9110 8.8.3
_ETAG: Final = re.compile(rb"(?:W/)?" + _OPAQUE.pattern)
_ETAGS: Final = re.compile(
    rb"[\t ,]*%b(?:[\t ]*,[\t ,]*%b)*[\t ,]*" % (_ETAG.pattern, _ETAG.pattern)
)
_ALWAYS: Final = b"vary: accept-encoding\r\nx-content-type-options: nosniff\r\n"
_STATUS_LINES: Final = {
    status: f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
    for status in (200, 304, 404, 410)
}


class Content(NamedTuple):
    """What one answer of business says; fields are its header lines for clients."""

    status: int
    fields: bytes
    body: bytes
    etag: bytes  # b"" without one
    tags: tuple[str, ...]
    position: int | None  # bytes of WAL that it has seen; None where business did not say
    terms: Terms


def content_of(answer: Response) -> Content | None:
    """The content of an answer that may be held, or None."""
    terms = terms_of(answer.status, answer.headers)
    if terms is None:
        return None
    etag = answer.header(b"etag") or b""
    return Content(
        answer.status,
        _fields(answer.headers),
        answer.body,
        etag if _ETAG.fullmatch(etag) else b"",
        tags_of(answer.headers),
        position_of(answer),
        terms,
    )


def revalidated(page: Page, answer: Response) -> Content | None:
    """What is held, with the headers of a 304 (RFC 9111 3.2).

    None if it must not be held any more, or the 304 is about something else (RFC 9111 4.3.4).
    """
    etag = answer.header(b"etag")
    if not page.etag or (etag is not None and _opaque(etag) != _opaque(page.etag)):
        return None
    said = {name for name, _ in answer.headers} - _KEPT_ON_304
    headers = [field for field in _lines(page.fields) if field[0] not in said]
    headers += [field for field in answer.headers if field[0] not in _KEPT_ON_304]
    terms = terms_of(page.status, headers)
    if terms is None:
        return None
    tags = tags_of(answer.headers) if b"cache-tag" in said else page.tags
    fields = _fields(headers)
    return Content(page.status, fields, page.body, page.etag, tags, position_of(answer), terms)


def _opaque(etag: bytes) -> bytes:
    return etag.removeprefix(b"W/")


def tags_of(headers: Headers) -> tuple[str, ...]:
    value = b",".join(value for name, value in headers if name == b"cache-tag")
    tags = (tag.strip(b" \t").decode("latin-1") for tag in value.split(b","))
    return tuple(dict.fromkeys(tag for tag in tags if tag))


def position_of(answer: Response) -> int | None:
    value = answer.header(b"x-internal-position") or b""
    return int(value) if value.isdigit() and len(value) <= 20 else None  # 64 bits


def _fields(headers: Headers) -> bytes:
    named = connection_names(headers)
    lines = [
        name + b": " + value + b"\r\n"
        for name, value in headers
        if name not in NOT_ANSWERED
        and name not in HOP_BY_HOP
        and name not in INTERNAL
        and name not in named
        and name not in _REWRITTEN
        and not name.startswith(b"x-internal-")
    ]
    fields = b"".join(lines)
    if len(fields) - len(fields.translate(None, CONTROLS)) != 2 * len(lines):
        raise ValueError("an answer's header has control characters")
    return fields


def _lines(fields: bytes) -> Headers:
    lines = (line.partition(b": ") for line in fields.split(b"\r\n") if line)
    return [(name, value) for name, _, value in lines]


class Page:
    """A page by its canonical target. Times are monotonic, in seconds.

    position and checked_at tell how new it is: what business had seen, and when the fetch began
    that brought or last confirmed it. `old`: purged since, kept for when business fails.
    """

    __slots__ = (
        *("target", "status", "fields", "body", "etag", "tags", "position"),
        *("born_at", "checked_at", "fresh_until", "stale_until", "error_until", "old"),
        *("retry_at", "retry_s", "valid_until", "remake_at", "said"),
        *("ready", "encoded", "jobs", "ready_bytes", "hits", "size_bytes", "queue"),
    )

    def __init__(self, target: bytes, content: Content, began_at: float) -> None:
        self.target = target
        self.ready: dict[int, bytes] = {}
        self.encoded: dict[int, bytes | None] = {}  # None: not smaller than the body
        self.jobs: dict[int, asyncio.Future[bytes | None]] = {}
        self.ready_bytes = 0
        self.hits = self.size_bytes = 0
        self.queue = OUT
        self.body = b""
        self.fill(content, began_at)

    def fill(self, content: Content, began_at: float) -> None:
        """Take a newer answer in; what was made of the same body is kept."""
        if content.body != self.body:
            self.body = content.body
            self.encoded = {}
            self.jobs = {}
        self.status, self.fields = content.status, content.fields
        self.etag, self.tags, self.position = content.etag, content.tags, content.position
        terms = content.terms
        self.born_at = began_at - terms.age_s
        self.checked_at = began_at
        self.fresh_until = began_at + terms.fresh_s
        self.stale_until = self.fresh_until + terms.stale_s
        self.error_until = self.fresh_until + terms.error_s
        self.old = False
        self.retry_at = self.retry_s = 0.0
        self.valid_until = self.remake_at = 0.0
        self.said = b""
        self.ready = {}
        self.ready_bytes = 0

    def cost_bytes(self) -> int:
        """What the page takes of the memory for pages."""
        return (
            PAGE_BYTES
            + 2 * len(self.target)
            + len(self.fields)
            + len(self.body)
            + TAG_BYTES * len(self.tags)
            + sum(len(body) + BYTES_BYTES for body in self.encoded.values() if body is not None)
            + self.ready_bytes
        )

    def grow_old(self, now: float) -> None:
        """It was purged: from now on it is only used where business fails."""
        self.old = True
        self.fresh_until = min(self.fresh_until, now)
        self.stale_until = self.valid_until = self.remake_at = 0.0
        self.retry_at = 0.0

    def fetch_failed(self, now: float) -> None:
        """Use it without waiting for the next fetch, which is tried after a while."""
        if now < self.retry_at:
            return  # another one that waited for the same fetch has said so
        self.retry_s = min(RETRY_MAX_S, max(RETRY_MIN_S, 2 * self.retry_s))
        self.retry_at = now + self.retry_s

    def fresh_until_given(self, since: float | None) -> float:
        """Until when it is fresh, if purges are certain to have arrived since `since`."""
        if since is not None and since <= self.checked_at:
            return self.fresh_until
        return min(self.fresh_until, self.checked_at + UNVERIFIED_S)

    def matches(self, if_none_match: bytes) -> bool:
        """RFC 9110 13.1.2: weak comparison; only an answer that would be 200 is conditional."""
        if self.status != 200:
            return False
        if if_none_match == self.etag:
            return True
        if if_none_match.strip(b" \t") == b"*":
            return True
        opaque = _opaque(self.etag)
        if not opaque or opaque not in if_none_match or _ETAGS.fullmatch(if_none_match) is None:
            return False
        return opaque in _OPAQUE.findall(if_none_match)

    def select(self, order: tuple[int, ...]) -> tuple[int, bytes] | None:
        """The first coding of an order that is there, with its body.

        None: the client refuses the plain body and an encoded one is still being made.
        """
        if len(self.body) < ENCODED_MIN_BYTES:
            return IDENTITY, self.body
        for coding in order:
            if coding == IDENTITY:
                break
            body = self.encoded.get(coding)
            if body is not None:
                return coding, body
        else:
            if any(coding in self.jobs for coding in order):
                return None
        return IDENTITY, self.body

    def wanted(self, order: tuple[int, ...]) -> int | None:
        """The coding that should be made for an order of codings, if any."""
        coding = order[0]
        if coding == IDENTITY or len(self.body) < ENCODED_MIN_BYTES:
            return None
        return None if coding in self.encoded or coding in self.jobs else coding

    def render(self, variant: int, coding: int, body: bytes, now: float, said: bytes) -> bytes:
        """A whole answer; variant is a kind, with or without CLOSE; said is for Cache-Status."""
        kind = variant & ~CLOSE
        etag = self.etag
        if etag and coding != IDENTITY and not etag.startswith(b"W/"):
            etag = b"W/" + etag
        # An answer without a body is short for a reason: RFC 9110 15.4.5 names what it carries.
        parts = [_STATUS_LINES[304 if kind == NOT_MODIFIED else self.status]]
        if kind == NOT_MODIFIED:
            lines = _lines(self.fields)
            parts += [b"%b: %b\r\n" % field for field in lines if field[0] in _ON_304]
        else:
            parts.append(self.fields)
            if coding != IDENTITY:
                parts.append(b"content-encoding: %b\r\n" % NAMES[coding])
            parts.append(b"content-length: %d\r\n" % len(body))
        if etag:
            parts.append(b"etag: %b\r\n" % etag)
        age_s = max(0, math.floor(now - self.born_at))
        parts.append(
            b"%bdate: %b\r\nage: %d\r\ncache-status: Tercet; %b\r\n%b\r\n"
            % (_ALWAYS, _date(), age_s, said, b"connection: close\r\n" if variant & CLOSE else b"")
        )
        if kind == WHOLE:
            parts.append(body)
        return b"".join(parts)


_dated = (0, b"")


def _date() -> bytes:
    """Now, as Date says it (RFC 9110 5.6.7); the text is made once a second."""
    global _dated  # noqa: PLW0603 - a memo of one value
    second = int(time.time())
    if second != _dated[0]:
        _dated = (second, formatdate(second, usegmt=True).encode())
    return _dated[1]
