"""What comes of a request: an answer as values, or one of the ways in which it can fail."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import Protocol

Headers = list[tuple[bytes, bytes]]
Body = bytes | AsyncIterable[bytes]


class ExchangeError(Exception):
    """A request without an answer. Its subclasses say whether it may have been carried out."""


class NotSent(ExchangeError):
    """Not one byte reached the server: the request has certainly not been carried out."""


class UnsafeRequest(NotSent, ValueError):
    """A part of the request would be read as something else on the wire: CR, LF, NUL, framing."""


class ConnectFailed(NotSent):
    """Nobody listens, the name is unknown, or the TLS handshake failed."""


class ConnectTimedOut(NotSent):
    """The connection was not made in time."""


class PoolTimedOut(NotSent):
    """No connection of the pool became free in time."""


class PoolClosed(NotSent):
    """The pool was closed before the request got a connection."""


class Unknown(ExchangeError):
    """Something was sent and no answer came that can be believed: it may have been carried out."""


class SendTimedOut(Unknown):
    """The server stopped reading the request."""


class AnswerTimedOut(Unknown):
    """The answer did not come, or did not go on, in time."""


class ConnectionLost(Unknown):
    """The connection ended before the answer did; its cause is the system's error, if any."""


class Repeatable(ConnectionLost):
    """Not a byte of the answer came, and to send the request once more is right: not oftener."""


class SendingLost(ConnectionLost):
    """The connection ended before the whole request was sent."""


class BodyMismatch(Unknown):
    """An iterated body was longer or shorter than its Content-Length, found while it was sent."""


class BadAnswer(Unknown):
    """What came is not HTTP/1.1, or is longer than allowed."""


@dataclass(frozen=True, slots=True)
class Patience:
    """The longest single waits, in seconds; the request's deadline holds beside them."""

    connect_s: float = 1.0  # three tries of a lost SYN take longer; a tier next door needs none
    pool_s: float = math.inf
    write_s: float = math.inf
    first_byte_s: float = math.inf
    between_s: float = math.inf


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """What an answer may cost; a body that is streamed counts as one that is collected."""

    head_bytes: int = 65_536
    body_bytes: int = 8_388_608

    @property
    def plain_bytes(self) -> int:
        """A whole answer that is no longer than this breaks neither limit."""
        return min(self.head_bytes, self.body_bytes)


class Response:
    """A whole answer: status, headers with lower-case names, body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by its lower-case name."""
        return next((value for key, value in self.headers if key == name), None)


class Caller(Protocol):
    """Who waits for an exchange without a task; a future is one too.

    One of set_result and set_exception is called, once, from the connection's own callback after
    the connection was released: the next exchange may be begun in it.
    """

    def set_result(self, result: Response, /) -> None: ...

    def set_exception(self, error: ExchangeError, /) -> None: ...

    def done(self) -> bool:
        """Whether it has stopped waiting: then nothing is called."""
