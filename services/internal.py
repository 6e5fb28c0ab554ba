"""A process' port for those who watch it: GET /metrics, and nothing else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST

REQUEST_BYTES: Final = 8_192
REQUEST_S: Final = 5.0
CONNECTIONS: Final = 16  # a scrape takes milliseconds, and there are one or two that scrape


class InternalServer:
    """One request a connection. It serves as long as it is not closed."""

    def __init__(self, text: Callable[[], bytes]) -> None:
        self._text = text
        self._servers: list[asyncio.Server] = []
        self._open = 0

    async def listen(self, listeners: list[socket.socket]) -> None:
        for listener in listeners:
            server = await asyncio.start_server(self._serve, sock=listener, limit=REQUEST_BYTES)
            self._servers.append(server)

    def close(self) -> None:
        for server in self._servers:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS:
                async with asyncio.timeout(REQUEST_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(head))
                    await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # no request: no answer
        finally:
            self._open -= 1
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.split(b" ", 1)[0].partition(b"?")[0]
        if path != b"/metrics":
            status, fields, body = b"404 Not Found", b"", b"GET /metrics\n"
        elif method not in (b"GET", b"HEAD"):
            status, fields, body = b"405 Method Not Allowed", b"allow: GET, HEAD\r\n", b""
        else:
            status, body = b"200 OK", self._text()
            fields = b"content-type: " + CONTENT_TYPE_LATEST.encode() + b"\r\n"
        return b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\nconnection: close\r\n\r\n%b" % (
            status,
            fields,
            len(body),
            b"" if method == b"HEAD" else body,
        )
