"""A request as bytes: nothing that a caller gives can end a line or a message early."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from services.deadline import DEADLINE_HEADER
from services.exchange import Body, UnsafeRequest

# RFC 9110 9.2.1: these only ask. They may be sent anew although an answer may be on its way.
SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))
# RFC 9110 9.2.2: carried out twice, these leave the server as if carried out once.
IDEMPOTENT: Final = frozenset((*SAFE, b"PUT", b"DELETE"))
WITHOUT_BODY: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"TRACE"))

TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")  # RFC 9110 5.6.2
VISIBLE: Final = bytes(range(0x21, 0x7F))  # no space or control can end the request line early
CONTROLS: Final = bytes(n for n in range(32) if n != 9) + b"\x7f"  # RFC 9110 5.5: none but tab
# These decide where a message ends, so only this module writes them.
FRAMING: Final = frozenset(
    (
        *(b"content-length", b"transfer-encoding", b"connection", b"keep-alive"),
        *(b"proxy-connection", b"upgrade", b"te", b"trailer", b"expect"),
    )
)
JOINED_BODY_BYTES: Final = 16_384  # below this one write of head and body beats two
KNOWN_NAMES: Final = 1024  # kept; a bound, since some callers pass on what their clients send
_DEADLINE: Final = b"%b: %%d\r\n" % DEADLINE_HEADER.encode()


class _Names(dict[bytes, bytes]):
    """Header names found good, as a line begins with them."""

    def __missing__(self, name: bytes) -> bytes:
        if TOKEN.fullmatch(name) is None:
            raise UnsafeRequest("a header name has characters that can not be sent")
        if name.lower() in FRAMING:
            raise UnsafeRequest(f"{name.decode()} is written by the connection itself")
        start = name + b": "
        if len(self) < KNOWN_NAMES:
            self[name] = start
        return start


_names: Final = _Names()
_methods: Final = set(IDEMPOTENT | {b"POST", b"PATCH"})


class Request:
    """A request that was checked, or UnsafeRequest.

    length: Content-Length of a body that is iterated; without it that body goes in chunks.
    host: a Host other than that of the connection.
    own: whole lines after the headers, for which the caller vouches.
    """

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        body: Body,
        *,
        length: int | None,
        host: bytes | None,
        own: bytes = b"",
    ) -> None:
        self._lines = header_lines(method, target, headers, body, length) + own
        self._target = target
        self._host_line = None if host is None else host_line(host)
        self.method = method
        self.length = length
        self.is_whole = isinstance(body, bytes)
        self._joined = b""
        self.rest = body
        if isinstance(body, bytes) and len(body) <= JOINED_BODY_BYTES:
            self._joined, self.rest = body, b""

    def data(self, host_line: bytes, time_line: bytes) -> bytes:
        """The head and a short body; `rest` follows."""
        return b"%b %b HTTP/1.1\r\n%b%b%b\r\n%b" % (
            self.method,
            self._target,
            self._host_line or host_line,
            self._lines,
            time_line,
            self._joined,
        )


def header_lines(
    method: bytes,
    target: bytes,
    headers: Iterable[tuple[bytes, bytes]],
    body: Body,
    length: int | None,
) -> bytes:
    """The lines after Host, of a request whose first line is good too; or UnsafeRequest.

    No value can start a new line: the control characters in the result must be exactly the line
    ends written here.
    """
    if method not in _methods and TOKEN.fullmatch(method) is None:
        raise UnsafeRequest("the method has characters that can not be sent")
    if not target or target.translate(None, VISIBLE):
        raise UnsafeRequest("the target has characters that can not be sent")
    if not headers and not body and method in WITHOUT_BODY:
        return b""
    lines = [_names[name] + value for name, value in headers]
    if not isinstance(body, bytes):
        lines.append(b"transfer-encoding: chunked" if length is None else _length(length))
    elif body or method not in WITHOUT_BODY:
        lines.append(_length(len(body)))
    lines.append(b"")
    joined = b"\r\n".join(lines)
    if len(joined) - len(joined.translate(None, CONTROLS)) != 2 * (len(lines) - 1):
        raise UnsafeRequest("a header value has control characters")
    return joined


def host_line(host: bytes) -> bytes:
    """The Host line of a request, or UnsafeRequest."""
    if host.translate(None, CONTROLS) != host:
        raise UnsafeRequest("the host has control characters")
    return b"host: %b\r\n" % host


def deadline_line(left_ms: float) -> bytes:
    """What the server is told about the time it has; at least a millisecond."""
    return _DEADLINE % max(1, int(left_ms))


def _length(size_bytes: int) -> bytes:
    return b"content-length: %d" % size_bytes
