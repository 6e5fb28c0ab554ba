"""A small HTTP/1.1 server on a real socket that records what it got and answers by script."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import cast

import httptools

Headers = list[tuple[bytes, bytes]]
PAGES_TARGET = b"/internal/pages"
NO_PAGES = b'{"pages":[]}'


@dataclass
class Seen:
    """One request as it came over the wire."""

    method: bytes = b""
    target: bytes = b""
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    connection: int = 0

    def header(self, name: bytes) -> bytes | None:
        values = self.values(name)
        return values[0] if values else None

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    def names(self) -> set[bytes]:
        return {name for name, _ in self.headers}


# What is done with a request: bytes are written as they are; None ends the connection.
Script = Callable[[Seen], Awaitable[bytes | None]]


def answer(body: bytes = b"ok", status: int = 200, **headers: str) -> bytes:
    """A plain answer; header names are given with underscores."""
    lines = [f"HTTP/1.1 {status} Status", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def always(data: bytes | None) -> Script:
    async def script(_: Seen) -> bytes | None:
        return data

    return script


class Upstream:
    """`async with Upstream(script) as upstream`; upstream.script may be changed at any time."""

    def __init__(
        self,
        script: Script | None = None,
        tls: ssl.SSLContext | None = None,
        *,
        pages: bytes | None = NO_PAGES,
    ) -> None:
        self.script = script or always(answer())
        self.requests: list[Seen] = []
        self.connections = 0
        # Which routes may be held, and their query parameters; None: the script says it.
        self.pages = pages

        self.open: set[_Connection] = set()
        self._tls = tls

    async def __aenter__(self) -> Upstream:
        await self.listen(0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def listen(self, port: int, host: str = "127.0.0.1") -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), host, port, ssl=self._tls
        )
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for connection in list(self.open):
            connection.close()
        await asyncio.sleep(0)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"


class _Connection(asyncio.Protocol):
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._parser = httptools.HttpRequestParser(self)
        self._queue: asyncio.Queue[Seen] = asyncio.Queue()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        self._upstream.connections += 1
        self._number = self._upstream.connections
        self._upstream.open.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.open.discard(self)
        self._task.cancel()

    def close(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._seen = Seen(connection=self._number)

    def on_url(self, url: bytes) -> None:
        self._seen.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._seen.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self._seen.body += body

    def on_message_complete(self) -> None:
        self._seen.method = self._parser.get_method()
        pages = self._upstream.pages
        if pages is not None and self._seen.target == PAGES_TARGET:
            # Asked by access itself, at any time: not one of the requests that a test counts.
            self._transport.write(answer(pages))
            return
        self._upstream.requests.append(self._seen)
        self._queue.put_nowait(self._seen)

    async def _serve(self) -> None:
        while True:
            seen = await self._queue.get()
            data = await self._upstream.script(seen)
            if data is None:
                self._transport.abort()
                return
            self._transport.write(data)
            if b"connection: close" in data.lower():
                self._transport.close()
                return
