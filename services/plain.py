"""Message heads in their plainest form, read a line at a time instead of a byte at a time.

A parser calls back for each field, which is most of what reading a short message costs in Python.
Most messages come whole and in a form about which there is nothing to be said; their fields are the
same again and again, so a line is looked up, and looked at only when it is new. What is in any way
out of the ordinary is None here and belongs to the parser: this module never refuses anything, and
whatever it reads, the parser reads in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from services.exchange import Response

Field = tuple[bytes, bytes]

# A strict part of RFC 9112 5: token, colon, one space, then text that begins and ends visibly.
LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([!-~](?:[\t -~]*[!-~])?)")
STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) [ -~]*")
BODILESS: Final = (204, 304)
LINES_KEPT: Final = 2048  # some 300 bytes each; when there are more they all go, and come again
LINE_KEPT_BYTES: Final = 256
STATUSES_KEPT: Final = 64
LENGTH_DIGITS: Final = 9

# Fields by which a parser would decide how a message is read.
FRAMING: Final = frozenset(
    (
        *(b"transfer-encoding", b"upgrade", b"proxy-connection", b"expect", b"trailer"),
        b"http2-settings",
    )
)
# Hardly ever the same twice, or secret, as most fields are whose names begin with x- : to remember
# them would only push others out.
NEVER_KEPT: Final = frozenset(
    (
        *(b"cookie", b"set-cookie", b"authorization", b"traceparent", b"tracestate"),
        *(b"idempotency-key", b"if-none-match", b"etag"),
    )
)


class NotPlainError(Exception):
    """For the parser."""


class Lines(dict[bytes, Field]):
    """Fields, names in lower case, by the line they were read from."""

    def __init__(self, *, odd: Collection[bytes], connection: Collection[bytes]) -> None:
        """odd: names that are for the parser; connection: the values of Connection that are not."""
        super().__init__()
        self._odd = FRAMING.union(odd)
        self._connection = connection

    def __missing__(self, line: bytes) -> Field:
        """Read a line that is not known yet, or NotPlainError."""
        match = LINE.fullmatch(line)
        if match is None:
            raise NotPlainError
        name, value = match[1].lower(), match[2]
        if name in self._odd or (name == b"connection" and value.lower() not in self._connection):
            raise NotPlainError
        field = (name, value)
        if len(line) <= LINE_KEPT_BYTES and name not in NEVER_KEPT and name[:2] != b"x-":
            if len(self) >= LINES_KEPT:
                self.clear()
            self[line] = field
        return field


_answer_lines: Final = Lines(odd=(), connection=(b"keep-alive",))
_field_of: Final = _answer_lines.__getitem__
_statuses: Final[dict[bytes, int]] = {}


def plain_answer(data: bytes) -> Response | None:
    """A whole answer with a body after which its connection stays, or None.

    Only one with a Content-Length that is just what has come, with each field once.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    lines = data[:end].split(b"\r\n")
    first = lines.pop(0)
    status = _statuses.get(first) or _status_of(first)
    if not status:
        return None
    try:
        headers = list(map(_field_of, lines))
    except NotPlainError:
        return None
    values = dict(headers)
    length = values.get(b"content-length")
    body = data[end + 4 :]
    if (
        length is None
        or len(values) != len(headers)
        or not length.isdigit()
        or len(length) > LENGTH_DIGITS
        or int(length) != len(body)
    ):
        return None
    return Response(status, headers, body)


def _status_of(line: bytes) -> int:
    match = STATUS_LINE.fullmatch(line)
    status = int(match[1]) if match is not None else 0
    if status in BODILESS:
        return 0
    if status and len(_statuses) < STATUSES_KEPT:
        _statuses[line] = status
    return status
