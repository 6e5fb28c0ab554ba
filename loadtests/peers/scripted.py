"""Business with a scripted cost: `python -m loadtests.peers.scripted PORT`.

At most `at_once` requests are worked on, each for latency_ms; the others wait, all of them, as
they would before a database. POST /scripted sets both, and `fails`: then everything is answered
503 at once. GET /scripted tells what has come, by the first part of the path.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, deque
from typing import Final, cast

import httptools
import orjson
import uvloop

FREE: Final = (b"/ready", b"/live", b"/internal/")  # what costs nothing: not part of the load
HEAD: Final = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncache-control: no-store\r\n"


class Script:
    """How business behaves now, and what it has done."""

    def __init__(self) -> None:
        self.at_once = 1_000_000
        self.latency_ms = 0.0
        self.fails = False
        self.working = self.peak = 0
        self.came: Counter[str] = Counter()
        self._line: deque[Connection] = deque()

    def take(self, connection: Connection, target: bytes) -> None:
        self.came[target.split(b"/", 2)[1].decode()] += 1
        if self.fails:
            connection.answer(503, b"{}")
        elif self.working < self.at_once:
            self._begin(connection)
        else:
            self._line.append(connection)

    def _begin(self, connection: Connection) -> None:
        self.working += 1
        self.peak = max(self.peak, self.working)
        asyncio.get_running_loop().call_later(self.latency_ms / 1000, self._end, connection)

    def _end(self, connection: Connection) -> None:
        self.working -= 1
        connection.answer(200, b'{"pages":[]}')
        while self._line and self.working < self.at_once:
            self._begin(self._line.popleft())

    def told(self, body: bytes) -> bytes:
        """Change the script if there is a body, and say how things are; peak: since last asked."""
        for name, value in orjson.loads(body or b"{}").items():
            setattr(self, name, value)
        peak, self.peak = self.peak, self.working
        return orjson.dumps({"came": self.came, "working": self.working, "peak": peak})


class Connection(asyncio.Protocol):
    def __init__(self, script: Script) -> None:
        self._script = script
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._target = self._body = b""

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._target == b"/scripted":
            self.answer(200, self._script.told(self._body))
        elif self._target.startswith(FREE):
            self.answer(200, b'{"pages":[]}')
        else:
            self._script.take(self, self._target)

    def answer(self, status: int, body: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(
                HEAD % status + b"content-length: %d\r\n\r\n%b" % (len(body), body)
            )


async def serve(port: int) -> None:
    script = Script()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(script), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
