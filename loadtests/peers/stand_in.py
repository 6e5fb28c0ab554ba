"""Stands in for business where a benchmark measures access alone: fixed answers, one process.

It answers as business does: a held product page with its tags and its position, the routes that
are pages, and a stock level that nobody may hold. `/` is a "hello" for tests of the benchmark.

python -m loadtests.peers.stand_in PORT
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final, cast

import httptools
import uvloop

from infra.local.addresses import LOOPBACK
from loadtests.peers import PAGE

BACKLOG: Final = 4096
PRODUCT: Final = b"/products/red-shirt"
STOCK: Final = PRODUCT + b"/stock"
ROUTES: Final = b'{"pages":[{"path":"/products/{slug}","query":[]}]}'
ETAG: Final = b'"red-shirt-1"'


def _answer(body: bytes, *fields: bytes, status: bytes = b"200 OK") -> bytes:
    head = [
        b"HTTP/1.1 " + status,
        b"content-type: application/json",
        b"content-length: %d" % len(body),
    ]
    return b"\r\n".join([*head, *fields, b"", body])


HELD_FIELDS: Final = (
    b"cache-control: public, max-age=0, s-maxage=3600, stale-while-revalidate=60",
    b"etag: " + ETAG,
    b"cache-tag: product:red-shirt",
    b"vary: accept-encoding",
    b"x-internal-position: 1",
)
ANSWERS: Final = {
    PRODUCT: _answer(PAGE, *HELD_FIELDS),
    STOCK: _answer(PAGE, b"cache-control: no-store"),
    b"/internal/pages": _answer(ROUTES),
    b"/ready": _answer(b"{}"),
    b"/": _answer(b'"Hello World!"'),
}
NOT_MODIFIED: Final = b"\r\n".join([b"HTTP/1.1 304 Not Modified", *HELD_FIELDS, b"", b""])
NOT_FOUND: Final = _answer(b"{}", b"cache-control: no-store", status=b"404 Not Found")


class StandIn(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)
        self._target, self._known = b"", False

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        self._target, self._known = url, False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"if-none-match":
            self._known = value == ETAG

    def on_message_complete(self) -> None:
        answer = ANSWERS.get(self._target, NOT_FOUND)
        self._transport.write(NOT_MODIFIED if self._known and self._target == PRODUCT else answer)
        if not self._parser.should_keep_alive():
            self._transport.close()


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(StandIn, LOOPBACK, port, backlog=BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
