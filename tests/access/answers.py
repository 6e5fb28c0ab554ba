"""Reading what a server has sent, strictly: RFC 9112 4 to 6, with nothing between the answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\t\x20-\x7e]*")
FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Reply:
    """One final answer; header names are lower-case."""

    status: int
    headers: Headers
    body: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for known, value in self.headers if known == name]

    @property
    def closes(self) -> bool:
        return b"close" in self.values(b"connection")


def read_head(data: bytes) -> tuple[int, Headers, bytes] | None:
    """Status, headers and what follows; None when the head is not whole."""
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return None
    first, *lines = head.split(b"\r\n")
    status = STATUS_LINE.fullmatch(first)
    assert status is not None, first
    fields = [FIELD.fullmatch(line) for line in lines]
    assert None not in fields, lines
    headers = [(field[1].lower(), field[2]) for field in fields if field is not None]
    return int(status[1]), headers, rest


def replies(received: bytes, heads: Sequence[int] = ()) -> tuple[list[Reply], bytes]:
    """The final answers in order, and what is left of one that is not whole.

    heads: the places of the answers to HEAD, which have a length and no body. The last answer of
    a connection that ends may have none either: it can be the refusal of a HEAD.
    """
    found: list[Reply] = []
    while received:
        read = read_head(received)
        if read is None:
            break
        status, headers, rest = read
        if status < 200:
            received = rest
            continue
        lengths = [value for name, value in headers if name == b"content-length"]
        assert not any(name == b"transfer-encoding" for name, _ in headers), headers
        assert len(lengths) == (status not in (204, 304)), headers
        size = 0 if status in (204, 304) or len(found) in heads else int(lengths[0])
        reply = Reply(status, headers, rest[:size])
        if len(rest) < size and not (reply.closes and not rest):
            break
        found.append(reply)
        received = rest[size:]
    return found, received
