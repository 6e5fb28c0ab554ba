"""The parser of requests, and the request that is being read.

A reader serves one connection from the first byte of a request to the end of the last one that
came with it, and then the next connection that says something: ten thousand idle connections have
no parser at all, and a short one does not make its own.
"""

from __future__ import annotations

from typing import Final, Protocol

import httptools

from services.access.framing import (
    METHODS,
    Refused,
    check_host,
    coding_is_chunked,
    length_of,
    method_not_served,
    plain_target,
    require_one_host,
    too_long,
)
from services.access.limits import Limits
from services.exchange import Headers
from services.problems import HeadersTooLarge, InvalidRequest, UriTooLong

# Fields that decide how the request is read, or which form of a held page is the answer.
WATCHED: Final = frozenset(
    (
        *(b"host", b"content-length", b"transfer-encoding", b"expect"),
        *(b"accept-encoding", b"if-none-match"),
    )
)


class Owner(Protocol):
    """The connection that is read for."""

    def body_begins(self) -> None: ...

    def request_read(self) -> None: ...


class Reader:
    """What httptools tells, as attributes. They hold for a request once its callbacks are called.

    A callback raises Refused for what can not be served; the connection ends with it.
    """

    __slots__ = (
        "_limits",
        "_received",
        "accept_encoding",
        "authority",
        "body",
        "body_bytes",
        "chunked",
        "completed",
        "expects_continue",
        "fed_bytes",
        "has_body",
        "head_done",
        "headers",
        "host",
        "hosts",
        "if_none_match",
        "method",
        "owner",
        "parser",
        "passed",
        "pieces",
        "reading",
        "target",
        "trailer_bytes",
        "url",
        "usable",
        "version",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.owner: Owner | None = None
        self.passed: bytes | None = None  # nothing is known in advance
        self.reading = False  # between the first byte of a request and its last
        self.usable = True  # until its parser has stopped
        self.completed = False  # whether a request has ended since the connection took the reader
        self.parser = httptools.HttpRequestParser(self)
        # What follows a request with `Connection: close` is passed over, and no error.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def discard(self) -> None:
        """Not to be used again. The parser holds this object's methods: a cycle, cut here."""
        self.owner = None
        self.parser = None  # type: ignore[assignment]

    def fed(self, size_bytes: int) -> None:
        """Bound what the parser itself does not: a field or a chunk that never ends.

        Called after a piece that ended within a request.
        """
        self.pieces += 1
        self.fed_bytes += size_bytes
        limits = self._limits
        if not self.head_done:
            if self.fed_bytes > limits.head_bytes + limits.url_bytes + limits.piece_bytes:
                raise Refused(HeadersTooLarge())
        elif self.fed_bytes > self.body_bytes + limits.chunk_overhead_bytes + limits.piece_bytes:
            raise Refused(InvalidRequest("The chunks are mostly framing."))

    # What the parser says

    def on_message_begin(self) -> None:
        self.reading = True
        self.head_done = self.has_body = self.chunked = self.expects_continue = False
        self.pieces = self.fed_bytes = self.body_bytes = self.hosts = 0
        self.url = self.body = self.host = self.accept_encoding = self.if_none_match = b""
        self.headers: Headers = []

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > self._limits.url_bytes:
            raise Refused(UriTooLong(f"At most {self._limits.url_bytes} bytes."))

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self.headers
        if self.head_done:  # a trailer counts, and is dropped: it could name anything
            self._drop_trailer(name, value)
            return
        name = name.lower()
        if value and value[-1] in (32, 9):  # the parser leaves what RFC 9112 5.1 takes off
            value = value.rstrip(b" \t")
        headers.append((name, value))
        if name in WATCHED:
            self._watch(name, value)

    def _drop_trailer(self, name: bytes, value: bytes) -> None:
        self.trailer_bytes += len(name) + len(value) + 4
        if self.trailer_bytes > self._limits.head_bytes:
            raise Refused(HeadersTooLarge())

    def _watch(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self.hosts += 1
            check_host(value)
            self.host = value
        elif name == b"accept-encoding":
            self.accept_encoding += b"," + value if self.accept_encoding else value
        elif name == b"if-none-match":
            self.if_none_match += b"," + value if self.if_none_match else value
        elif name == b"content-length":
            length = length_of(value, limit_bytes=self._limits.body_bytes)
            self.has_body = self.has_body or length > 0
        elif name == b"transfer-encoding":
            coding_is_chunked(value)
            self.has_body = self.chunked = True
        elif value.lower() == b"100-continue":
            self.expects_continue = True

    def on_headers_complete(self) -> None:
        parser = self.parser
        headers = self.headers
        self.head_done = True
        # The parser knows only HTTP/1: what else it lets through ends here.
        self.version = version = parser.get_http_version()
        self.method = method = parser.get_method()
        self._count(self.pieces)
        require_one_host(self.hosts, version, chunked=self.chunked)
        if method not in METHODS:
            raise Refused(method_not_served(method))
        url = self.url
        if url[0] == 47 and b"#" not in url and b"%" not in url:
            self.target = url
        else:
            self.target, authority = plain_target(method, url)
            if authority is not None:  # it takes the place of Host (RFC 9112 3.2.2)
                self.host = authority
                self.headers = [field for field in headers if field[0] != b"host"]
                self.headers.append((b"host", authority))
        if self.has_body:
            if parser.should_upgrade():
                raise Refused(InvalidRequest("A request with Upgrade has no body here."))
            self.fed_bytes = self.trailer_bytes = 0
            self._received = bytearray()  # bytes would be copied whole for each small chunk
            if self.owner is not None:
                self.owner.body_begins()

    def _count(self, pieces: int) -> None:
        """Fields and, where they did not come in one piece, their bytes."""
        limits = self._limits
        if len(self.headers) <= limits.fields:
            if not pieces:
                return
            size_bytes = sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size_bytes <= limits.head_bytes:
                return
        raise Refused(
            HeadersTooLarge(f"At most {limits.head_bytes} bytes and {limits.fields} fields.")
        )

    def on_body(self, body: bytes) -> None:
        self._received += body
        self.body_bytes += len(body)
        if self.body_bytes > self._limits.body_bytes:
            raise Refused(too_long(self._limits.body_bytes))

    def on_message_complete(self) -> None:
        self.reading = False
        self.completed = True
        if self.body_bytes:
            self.body = bytes(self._received)
        parser = self.parser
        if not parser.should_keep_alive() or parser.should_upgrade():
            self.usable = False  # the parser takes nothing more: it is not for the next connection
        if self.owner is not None:
            self.owner.request_read()

    def is_head(self) -> bool:
        """Whether what is being read, or was refused while it was, is a HEAD."""
        return self.reading and bool(self.url) and bool(self.parser.get_method() == b"HEAD")

    def keeps_alive(self) -> bool:
        """Whether another request may follow this one, as far as the client is concerned.

        By its version and its Connection field (RFC 9112 9.3), both of which the parser has read.
        """
        return self.usable

    @property
    def old(self) -> bool:
        """HTTP/1.0: its connection is kept when it asks for that and is told."""
        return self.version == "1.0"
