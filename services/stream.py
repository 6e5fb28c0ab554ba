"""An answer that is read while it comes, and what holds its sender back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final, Protocol

from services.exchange import ExchangeError, Headers

BUFFERED_BYTES: Final = 65_536  # of a streamed answer before reading stops: asyncio's own mark


class Source(Protocol):
    """The connection that the answer comes from."""

    def resume_reading(self) -> None: ...

    def drop(self) -> None: ...


class Stream:
    """An answer whose body is read as it comes. Iterate once, or close it early."""

    def __init__(self, status: int, headers: Headers, connection: Source) -> None:
        self.status = status
        self.headers = headers
        self._connection: Source | None = connection
        self._chunks: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._error: ExchangeError | None = None
        self._wakeup: asyncio.Future[None] | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            while self._chunks:
                chunk = self._chunks.popleft()
                self._buffered_bytes -= len(chunk)
                if self._connection is not None and self._buffered_bytes < BUFFERED_BYTES // 2:
                    self._connection.resume_reading()
                yield chunk
            if self._error is not None:
                raise self._error
            if self._connection is None:
                return
            self._wakeup = asyncio.get_running_loop().create_future()
            await self._wakeup

    async def aclose(self) -> None:
        """Give the connection up if the body has not been read to its end."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()

    def feed(self, chunk: bytes) -> bool:
        """Take a piece of the body; false asks the connection to stop reading."""
        self._chunks.append(chunk)
        self._buffered_bytes += len(chunk)
        self._wake()
        return self._buffered_bytes < BUFFERED_BYTES

    def end(self, error: ExchangeError | None = None) -> None:
        self._connection = None
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)
