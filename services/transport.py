"""The httpx API over our keep-alive pools: one pool for each origin, http and https."""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterable, AsyncIterator
from types import TracebackType
from typing import Final, cast

import httpx

from services.deadline import Deadline
from services.keepalive import (
    IDLE_S,
    AnswerLimits,
    AnswerTimedOut,
    BodyMismatch,
    ConnectFailed,
    ConnectionLost,
    ConnectTimedOut,
    ExchangeError,
    Patience,
    Pool,
    PoolClosed,
    PoolTimedOut,
    SendingLost,
    SendTimedOut,
    Stream,
    UnsafeRequest,
)

POOL_SIZE: Final = 100  # connections to one origin: httpx's own default
# The pool writes these; httpx has put its own into the request.
NOT_PASSED: Final = frozenset(
    (b"host", b"connection", b"content-length", b"transfer-encoding", b"keep-alive")
)


class KeepAliveTransport(httpx.AsyncBaseTransport):
    """`httpx.AsyncClient(transport=KeepAliveTransport())`.

    Each of httpx's timeouts holds as httpx documents it. A request may also carry
    `extensions={"deadline": Deadline}`, after which nothing of it goes on. What httpx raises
    before a byte was sent is ConnectError, ConnectTimeout, PoolTimeout or LocalProtocolError.
    """

    def __init__(
        self,
        *,
        size: int = POOL_SIZE,
        idle_s: float = IDLE_S,
        tls: ssl.SSLContext | None = None,
        limits: AnswerLimits | None = None,
    ) -> None:
        self.pools: dict[tuple[str, str, int], Pool] = {}
        self._size = size
        self._idle_s = idle_s
        self._tls = tls
        self._limits = limits

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        pool = self._pool(request.url)
        body, length = _body(request)
        try:
            stream = await pool.stream(
                request.method.encode(),
                request.url.raw_path,
                [(name, value) for name, value in request.headers.raw if _passed(name)],
                body,
                length=length,
                host=request.headers.get("host", "").encode() or None,
                deadline=request.extensions.get("deadline", Deadline(math.inf)),
                patience=_patience(request),
            )
        except ExchangeError as error:
            raise _httpx_error(error, request) from error
        return httpx.Response(
            stream.status,
            headers=stream.headers,
            stream=_ResponseBody(stream, request),
            extensions={"http_version": b"HTTP/1.1"},
        )

    async def aclose(self) -> None:
        for pool in self.pools.values():
            await pool.aclose()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    def _pool(self, url: httpx.URL) -> Pool:
        if url.scheme not in ("http", "https") or not url.host:
            raise httpx.UnsupportedProtocol(f"{url.scheme}: is neither http nor https")
        secure = url.scheme == "https"
        port = url.port or (443 if secure else 80)
        pool = self.pools.get((url.scheme, url.host, port))
        if pool is None:
            if secure and self._tls is None:
                self._tls = ssl.create_default_context()
            pool = self.pools[url.scheme, url.host, port] = Pool(
                url.raw_host.decode(),
                port,
                size=self._size,
                tls=self._tls if secure else None,
                idle_s=self._idle_s,
                limits=self._limits,
            )
        return pool


class _ResponseBody(httpx.AsyncByteStream):
    def __init__(self, stream: Stream, request: httpx.Request) -> None:
        self._stream = stream
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield chunk
        except ExchangeError as error:
            raise _httpx_error(error, self._request) from error

    async def aclose(self) -> None:
        await self._stream.aclose()


def _passed(name: bytes) -> bool:
    return name.lower() not in NOT_PASSED


def _body(request: httpx.Request) -> tuple[bytes | AsyncIterable[bytes], int | None]:
    """The body, whole where httpx has it whole, and the length of one that is iterated."""
    try:
        return request.content, None
    except httpx.RequestNotRead:
        length = request.headers.get("content-length")
        return cast(AsyncIterable[bytes], request.stream), int(length) if length else None


def _patience(request: httpx.Request) -> Patience:
    timeout = request.extensions.get("timeout", {})

    def seconds(name: str) -> float:
        value = timeout.get(name)
        return math.inf if value is None else float(value)

    return Patience(
        connect_s=seconds("connect"),
        pool_s=seconds("pool"),
        write_s=seconds("write"),
        first_byte_s=seconds("read"),
        between_s=seconds("read"),
    )


def _httpx_error(error: ExchangeError, request: httpx.Request) -> httpx.RequestError:
    return _httpx_kind(error)(str(error), request=request)


def _httpx_kind(error: ExchangeError) -> type[httpx.RequestError]:
    """What httpx's own transport raises in the same case, but for BodyMismatch."""
    if isinstance(error, SendingLost):
        return httpx.WriteError
    if isinstance(error, ConnectionLost) and error.__cause__ is not None:
        return httpx.ReadError
    for kind, theirs in _KINDS.items():
        if isinstance(error, kind):
            return theirs
    return httpx.RemoteProtocolError  # BadAnswer, or closed before the answer was complete


_KINDS: Final[dict[type[ExchangeError], type[httpx.RequestError]]] = {
    UnsafeRequest: httpx.LocalProtocolError,
    ConnectFailed: httpx.ConnectError,
    ConnectTimedOut: httpx.ConnectTimeout,
    PoolTimedOut: httpx.PoolTimeout,
    PoolClosed: httpx.ConnectError,
    # httpx says LocalProtocolError, which here stands for what was not sent.
    BodyMismatch: httpx.WriteError,
    SendTimedOut: httpx.WriteTimeout,
    AnswerTimedOut: httpx.ReadTimeout,
}
