"""A small business: `python -m tests.failures.small_business PORT [HOST]`.

It answers everything after a few milliseconds, with its pid and nothing that may be held. It
imports little, so that it starts fast.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Final, cast

import httptools
import uvloop

ANSWER_S: Final = 0.005
HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncache-control: no-store\r\n"


class Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        asyncio.get_running_loop().call_later(ANSWER_S, self._answer)

    def _answer(self) -> None:
        body = b'{"pid": %d, "pages": []}' % os.getpid()
        if not self._transport.is_closing():
            self._transport.write(HEAD + b"content-length: %d\r\n\r\n%b" % (len(body), body))


async def serve(host: str, port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, host, port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1", int(sys.argv[1])))
