"""A second reading of a client's bytes, by the grammar of RFC 9112 and nothing of access' own.

What business gets must be what is read here: no request more, none else, none differently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# RFC 9112 3 lets a reader split the line at any run of spaces.
REQUEST_LINE: Final = re.compile(rb"(" + TOKEN + rb") +([\x21-\x7e]+) +HTTP/1\.([01])")
FIELD: Final = re.compile(rb"(" + TOKEN + rb"):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
# Not as in the grammar: empty names and values, and a quoted string behind a token, do no harm, as
# all of it is dropped; and spaces around them (BWS) are refused, as some readers stop at them.
EXTENSION: Final = (
    rb"(?:;(?:" + TOKEN + rb")?(?:=(?:" + TOKEN + rb")?(?:" + QUOTED + rb")?)?)*(?<!;)"
)
CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]+)" + EXTENSION)
HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]{2,}\])(?::[0-9]{1,5})?")
ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?]*)(/[^?]*)?(\?.*)?")
FRAMING: Final = frozenset((b"content-length", b"transfer-encoding"))
METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))
Headers = list[tuple[bytes, bytes]]
# "closed": by a request that is the last; what follows it is nobody's.
End = Literal["clean", "closed", "incomplete", "malformed"]


@dataclass(frozen=True)
class Request:
    """One request; target is in origin form, header names are lower-case."""

    method: bytes
    target: bytes
    headers: Headers
    body: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for known, value in self.headers if known == name]


class IncompleteError(Exception):
    """The bytes end before the request does."""


class MalformedError(Exception):
    """The bytes are no request that access has to serve."""


class Reader:
    """Reads requests off the front of a stream."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def requests(self) -> tuple[list[Request], End]:
        found: list[Request] = []
        while True:
            self._skip_empty_lines()
            if self._at == len(self._data):
                return found, "clean"
            try:
                request, last = self._request()
            except IncompleteError:
                return found, "incomplete"
            except MalformedError:
                return found, "malformed"
            found.append(request)
            if last:
                return found, "closed"

    def _skip_empty_lines(self) -> None:
        while self._data[self._at : self._at + 1] in (b"\r", b"\n"):
            self._at += 1

    def _line(self) -> bytes:
        end = self._data.find(b"\r\n", self._at)
        if end < 0:
            raise IncompleteError
        line = self._data[self._at : end]
        self._at = end + 2
        return line

    def _take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) < size:
            raise IncompleteError
        self._at += size
        return taken

    def _request(self) -> tuple[Request, bool]:
        match = REQUEST_LINE.fullmatch(self._line())
        if match is None:
            raise MalformedError
        method, target, minor = match.groups()
        headers = self._fields()
        target = _origin_form(method, target, headers, minor)
        tokens = _tokens(headers, b"connection")
        upgrade = b"upgrade" in tokens and any(name == b"upgrade" for name, _ in headers)
        framed = _framing(headers, minor)
        if upgrade and framed:
            raise MalformedError
        body = self._chunks() if framed == "chunked" else self._take(framed)
        old = minor == b"0" and b"keep-alive" not in tokens
        last = old or b"close" in tokens or upgrade
        return Request(method, target, headers, body), last

    def _fields(self) -> Headers:
        fields: Headers = []
        while line := self._line():
            match = FIELD.fullmatch(line)
            if match is None:
                raise MalformedError
            fields.append((match[1].lower(), match[2]))
        return fields

    def _chunks(self) -> bytes:
        body = b""
        while True:
            match = CHUNK_LINE.fullmatch(self._line())
            if match is None or int(match[1], 16) >= 2**64:
                raise MalformedError
            size = int(match[1], 16)
            if size == 0:
                if not FRAMING.isdisjoint(name for name, _ in self._fields()):
                    raise MalformedError  # RFC 9110 6.5.1
                return body
            body += self._take(size)
            if self._take(2) != b"\r\n":
                raise MalformedError


def _tokens(headers: Headers, name: bytes) -> list[bytes]:
    values = [value for known, value in headers if known == name]
    return [token.strip(b" \t").lower() for value in values for token in value.split(b",")]


def _framing(headers: Headers, minor: bytes) -> int | Literal["chunked"]:
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings:
        if lengths or minor == b"0" or [coding.lower() for coding in codings] != [b"chunked"]:
            raise MalformedError
        return "chunked"
    if not lengths:
        return 0
    if len(lengths) > 1 or re.fullmatch(rb"[0-9]+", lengths[0]) is None:
        raise MalformedError
    return int(lengths[0].lstrip(b"0")[:20] or b"0")  # more digits are more than ever come


def _origin_form(method: bytes, target: bytes, headers: Headers, minor: bytes) -> bytes:
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (minor == b"1" and not hosts) or method not in METHODS:
        raise MalformedError
    if hosts and HOST.fullmatch(hosts[0]) is None:
        raise MalformedError
    absolute = ABSOLUTE.fullmatch(target)
    if absolute is not None:
        if HOST.fullmatch(absolute[1]) is None:
            raise MalformedError
        target = (absolute[2] or b"/") + (absolute[3] or b"")
    if b"#" in target or not (target.startswith(b"/") or (target, method) == (b"*", b"OPTIONS")):
        raise MalformedError
    if re.search(rb"[\x00-\x1f\x7f]", unquote_to_bytes(target.partition(b"?")[0])) is not None:
        raise MalformedError
    return target


def read(data: bytes) -> tuple[list[Request], End]:
    """The requests in a stream, and what stands at the end of them."""
    return Reader(data).requests()
