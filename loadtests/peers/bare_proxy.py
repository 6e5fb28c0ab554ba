"""The barest proxy that Python can be on uvloop and httptools: what forwarding costs at the least.

Both messages are parsed and written anew from their parts, without Connection, and that is all:
no limits, no other rules about fields, no deadlines, no second try, no idea of what to do when
anything is unusual. It is a yardstick for access, not a server: whatever breaks, breaks.

python -m loadtests.peers.bare_proxy PORT HOST:PORT
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import Final, cast

import httptools
import uvloop

from infra.local.addresses import LOOPBACK

BACKLOG: Final = 4096
CONNECTIONS: Final = 64  # to what stands behind, as many as the others keep


class Above(asyncio.Protocol):
    """A connection to what stands behind."""

    idle: Final[list[Above]] = []
    waiting: Final[deque[tuple[Below, bytes]]] = deque()

    __slots__ = ("_asked_by", "_body", "_fields", "_parser", "_transport", "_whole")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        self._whole = False
        self.idle.append(self)

    def ask(self, asked_by: Below, request: bytes) -> None:
        self._asked_by = asked_by
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)
        if self._whole:
            self._whole = False
            status = b"HTTP/1.1 %d OK\r\n" % self._parser.get_status_code()
            answer = status + b"\r\n".join([*self._fields, b"", b"".join(self._body)])
            asked_by = self._asked_by
            if self.waiting:
                self.ask(*self.waiting.popleft())
            else:
                self.idle.append(self)
            if asked_by.transport.is_closing():
                return  # a generator that stops leaves without its last answers
            asked_by.transport.write(answer)
            if asked_by.closes:
                asked_by.transport.close()

    def on_message_begin(self) -> None:
        self._fields: list[bytes] = []
        self._body: list[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() != b"connection":
            self._fields.append(name + b": " + value)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._whole = True


class Below(asyncio.Protocol):
    """A connection of a client."""

    __slots__ = ("_fields", "_parser", "_url", "closes", "transport")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._fields: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() != b"connection":
            self._fields.append(name + b": " + value)

    def on_message_complete(self) -> None:
        self.closes = not self._parser.should_keep_alive()
        first = b"%b %b HTTP/1.1" % (self._parser.get_method(), self._url)
        request = b"\r\n".join([first, *self._fields, b"", b""])
        if Above.idle:
            Above.idle.pop().ask(self, request)
        else:
            Above.waiting.append((self, request))


async def serve(port: int, host: str, upstream_port: int) -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    for _ in range(CONNECTIONS):
        await loop.create_connection(Above, host, upstream_port)
    server = await loop.create_server(Below, LOOPBACK, port, backlog=BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    where, _, number = sys.argv[2].rpartition(":")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1]), where, int(number)))
