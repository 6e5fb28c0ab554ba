"""Requests in their plainest form, read without the parser: see services/plain.py."""

from __future__ import annotations

import re
from typing import Final

from services.access.fields import passed_lines
from services.access.framing import is_good_host
from services.access.limits import Limits
from services.exchange import Headers
from services.plain import NEVER_KEPT, Lines, NotPlainError

# Origin form of characters that mean the same to everybody: no escape, no fragment.
REQUEST_LINE: Final = re.compile(rb"(GET|HEAD) (/[A-Za-z0-9/._~!$&'()*+,;=:@?-]*) HTTP/1\.1")
# Header sections that are known as a whole: what one app sends is the same on all its connections.
SECTIONS_KEPT: Final = 512  # of up to 1 KB, and some three times that with what is known of them
SECTION_KEPT_BYTES: Final = 1024
_lines: Final = Lines(odd=(b"content-length",), connection=(b"keep-alive", b"close"))


class Section:
    """A header section without framing, and what follows from it. Not to be changed."""

    __slots__ = ("accept_encoding", "headers", "host", "if_none_match", "keep_alive", "passed")

    def __init__(self, headers: Headers, values: dict[bytes, bytes]) -> None:
        self.headers = headers
        self.host = values[b"host"]
        self.accept_encoding = values.get(b"accept-encoding", b"")
        self.if_none_match = values.get(b"if-none-match", b"")
        self.keep_alive = values.get(b"connection", b"").lower() != b"close"
        # What goes on to business, as lines, where nothing else has to be known for that.
        self.passed: bytes | None = None


_sections: Final[dict[bytes, Section]] = {}


class PlainRequest:
    """A GET or HEAD of HTTP/1.1 without a body, as attributes; names in lower case."""

    __slots__ = (
        *("accept_encoding", "body", "headers", "host", "if_none_match", "keep_alive"),
        *("method", "passed", "target"),
    )

    old = False

    def __init__(self, method: bytes, target: bytes, section: Section) -> None:
        self.method = method
        self.target = target
        self.headers = section.headers
        self.host = section.host
        self.accept_encoding = section.accept_encoding
        self.if_none_match = section.if_none_match
        self.keep_alive = section.keep_alive
        self.passed = section.passed
        self.body = b""


def plain_request(data: bytes, limits: Limits) -> PlainRequest | None:
    """The one request that the data is, or None: it is for the parser to say what it is."""
    if data[-4:] != b"\r\n\r\n" or len(data) > limits.piece_bytes:
        return None
    line, _, rest = data.partition(b"\r\n")
    first = REQUEST_LINE.fullmatch(line)
    if first is None:
        return None
    section = _sections.get(rest)
    if section is None:
        section = _read_section(rest)
        if section is None:
            return None
    method, target = first.groups()
    if len(section.headers) > limits.fields or len(target) > limits.url_bytes:
        return None
    return PlainRequest(method, target, section)


def _read_section(data: bytes) -> Section | None:
    try:
        headers = [_lines[line] for line in data[:-4].split(b"\r\n")]
    except NotPlainError:
        return None
    values = dict(headers)
    # A field that is there twice is to be joined, or Host.
    if len(values) != len(headers) or not is_good_host(values.get(b"host")):
        return None
    section = Section(headers, values)
    if len(data) <= SECTION_KEPT_BYTES and NEVER_KEPT.isdisjoint(values):
        section.passed = passed_lines(headers)
        if section.passed is not None:
            if len(_sections) >= SECTIONS_KEPT:
                _sections.clear()
            _sections[data] = section
    return section
