"""No connection is held for ever: whatever a client has asked before it goes silent, it ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from services.access.edge import Edge
from services.access.limits import Limits
from services.access.protocol import AccessProtocol
from tests.access.conftest import Access, request, running
from tests.access.upstream import Seen, Upstream, answer
from tests.faults.waiting import until

SHORT = Limits(head_s=0.5, body_s=0.5, write_s=0.5, linger_s=0.3, keep_alive_s=0.3)
PAGES = b'{"pages":[{"path":"/products/{slug}","query":[]}]}'
LARGE = request("/products/large")
# More than the kernel takes for a client that does not read: 18 MB.
FLOOD = LARGE * 60
WAYS = {
    "a held page": (LARGE, True),
    "a request refused at once": (request("/internal/x"), True),
    "a request passed on": (request("/carts"), True),
    "many pages that are not read": (FLOOD, False),
    "many pages that are not read, and a request passed on": (FLOOD + request("/carts"), False),
    "many pages that are not read, and a request refused": (FLOOD + request("/internal/x"), False),
    "many pages, and what is no request": (FLOOD + b"\0\r\n\r\n", True),
    "what is no request": (b"\0\r\n\r\n", True),
}


async def business(seen: Seen) -> bytes:
    if seen.target == b"/products/large":
        return answer(bytes(300_000), cache_control="public, s-maxage=1000")
    return answer()


@pytest.fixture(scope="module")
async def access() -> AsyncIterator[Access]:
    async with (
        Upstream(business, pages=PAGES) as upstream,
        running(upstream, limits=SHORT, unlimited_networks="127.0.0.1/32") as access,
    ):
        pages = edge_of(access).pages
        await until(lambda: pages.is_page(b"/products/large"), within_s=5, what="pages")
        await access.send(LARGE)
        yield access


def edge_of(access: Access) -> Edge:
    protocol: type[AccessProtocol] = access.server.config.http  # type: ignore[assignment]
    return protocol.edge


@pytest.mark.parametrize(("sent", "reads"), WAYS.values(), ids=list(WAYS))
async def test_a_client_that_goes_silent_is_closed(
    access: Access, sent: bytes, reads: bool
) -> None:
    connections = edge_of(access).connections
    await until(lambda: connections.open == 0, within_s=5, what="nobody else is connected")
    loop = asyncio.get_running_loop()
    with socket.create_connection(("127.0.0.1", access.port)) as client:
        client.setblocking(False)
        await loop.sock_sendall(client, sent)
        reading = asyncio.create_task(read_all(client)) if reads else None
        await until(lambda: connections.open == 1, within_s=5, what="it is connected")
        await until(lambda: connections.open == 0, within_s=5, what="it is closed")
        if reading is not None:
            await reading


async def read_all(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while await loop.sock_recv(client, 1_048_576):
        pass


async def test_a_body_that_is_asked_for_behind_an_answer_is_asked_for_after_it() -> None:
    gate = asyncio.Event()

    async def script(_: Seen) -> bytes:
        await gate.wait()
        return answer()

    async with Upstream(script) as upstream, running(upstream) as access:
        client = await access.connect()
        waits = ("content-length: 2", "expect: 100-continue")
        client.writer.write(request("/carts") + request("/carts", *waits, method="PUT"))
        await until(lambda: len(upstream.requests) == 1, within_s=5, what="the first is asked")
        gate.set()
        assert [(await client.answer()).status for _ in range(2)] == [200, 100]
        assert (await client.send(b"ab")).status == 200
        assert upstream.requests[1].body == b"ab"
        await client.close()
