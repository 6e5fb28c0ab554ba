"""Pages answered by the protocol from memory: the answers, and by the rules, of the routes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast
from unittest.mock import Mock

import pytest
import pytest_asyncio
from starlette.applications import Starlette
from uvicorn.server import ServerState

from services import serving
from services.business import held as held_module
from services.business.app import Gate, _routes
from services.business.held import Fields, HeldPages
from services.business.protocol import BusinessProtocol
from services.business.server import KEEP_ALIVE_S, config_of
from services.business.shop import Shop
from tests.shopping import Books

WITHIN_S = 15.0
TRIES = 3  # a list is loaded anew every few seconds, so also between two requests, but not thrice
DATE = re.compile(rb"date: [^\r]*\r\n")
ROUTED = "x-twice: a\r\nx-twice: b"  # a field that stands twice is left to the application
WANTED = 200  # pages in one go, more than any buffer here takes


class Witness(HeldPages):
    """Remembers of each request whether it was answered from memory."""

    def __init__(self) -> None:
        super().__init__()
        self.from_memory: list[bool] = []

    def answer(self, method: bytes, target: bytes, fields: Fields, first: bytes) -> bytes | None:
        answer = super().answer(method, target, fields, first)
        self.from_memory.append(answer is not None)
        return answer


@dataclass
class Business:
    """The protocol, gate and routes of business on a port, round a shop of the test's process."""

    shop: Shop
    witness: Witness
    port: int
    connections: set[BusinessProtocol]
    secret: str
    make: Callable[..., asyncio.Protocol]

    def made(self, loop: Clock) -> BusinessProtocol:
        """A connection of the test's own, on a loop of the test's own."""
        return cast(BusinessProtocol, self.make(_loop=loop))

    async def ask(self, *requests: str) -> list[tuple[bytes, bytes]]:
        """Head without its date, and body, of the answer to each, all sent in one go."""
        async with self.connected() as (reader, writer):
            writer.write("".join(requests).encode("latin-1"))
            return [await read(reader, request.startswith("HEAD")) for request in requests]

    async def fast_and_routed(self, method: str, target: str, *lines: str) -> bool:
        """Whether a request is answered from memory; it is compared with the routed answer."""
        request = self.request(method, target, *lines)
        for _ in range(TRIES):
            del self.witness.from_memory[:]
            (answer,) = await self.ask(request)
            fast = list(self.witness.from_memory)
            (routed,) = await self.ask(self.request(method, target, *lines, ROUTED))
            assert self.witness.from_memory == fast  # the second one did not even look
            if answer == routed:
                break
        assert answer == routed, f"{request!r}"
        return fast == [True]

    def request(self, method: str, target: str, *lines: str, secret: str | None = None) -> str:
        shown = [f"x-internal-secret: {self.secret if secret is None else secret}"]
        head = [f"{method} {target} HTTP/1.1", "host: business", *shown, *lines]
        return "\r\n".join([*head, "", ""])

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        async with asyncio.timeout(WITHIN_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                yield reader, writer
            finally:
                writer.close()


async def read(reader: asyncio.StreamReader, without_body: bool = False) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)\r\n", head)
    if without_body or length is None or head.startswith(b"HTTP/1.1 304 "):
        return DATE.sub(b"", head), b""
    return DATE.sub(b"", head), await reader.readexactly(int(length[1]))


@pytest_asyncio.fixture
async def served(shop: Shop) -> AsyncIterator[Business]:
    witness, state = Witness(), ServerState()
    lent = replace(shop, held=witness)
    app = Starlette(routes=_routes())
    app.state.shop = lent
    gate = Gate(app, shop.settings)
    gate.held = witness
    config = config_of(gate, serving.Closing(gate), shop.settings)  # type: ignore[arg-type]
    config.load()
    state.default_headers = [(b"date", b"Sat, 28 Nov 2026 12:00:00 GMT")]

    kind = cast(type[BusinessProtocol], config.http_protocol_class)
    make = partial(kind, config=config, server_state=state, app_state={})
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    secret = shop.settings.internal_secret.get_secret_value()
    port = server.sockets[0].getsockname()[1]
    try:
        yield Business(lent, witness, port, state.connections, secret, make)  # type: ignore[arg-type]
    finally:
        server.close()
        for open_connection in list(state.connections):
            open_connection.shutdown()


@pytest_asyncio.fixture
async def page(served: Business, books: Books) -> str:
    """The target of a page that was asked for once."""
    goods = await books.goods(variants=3)
    await served.ask(served.request("GET", f"/products/{goods.slug}"))
    return f"/products/{goods.slug}"


async def etag_of(served: Business, target: str) -> str:
    ((head, _),) = await served.ask(served.request("HEAD", target))
    found = re.search(rb"\r\netag: ([^\r]*)\r\n", head)
    assert found is not None
    return found[1].decode()


async def is_held(served: Business, method: str, target: str, *lines: str) -> bool:
    """On a busy machine a heartbeat may come late, and nothing is held meanwhile: not thrice."""
    for _ in range(TRIES):
        if await served.fast_and_routed(method, target, *lines):
            return True
    return False


async def test_a_page_is_answered_from_memory_as_it_would_be_routed(
    served: Business, page: str
) -> None:
    for target in (page, "/products?limit=3&sort=price", "/products", "/categories"):
        await served.ask(served.request("GET", target))
        for method in ("GET", "HEAD"):
            assert await is_held(served, method, target)
            etag = await etag_of(served, target)
            for known in (etag, f"W/{etag}", f'"other", {etag}', "*", '"other"', etag[1:-1], ""):
                assert await is_held(served, method, target, f"if-none-match: {known}")


async def test_a_known_page_is_304_with_what_caches_need_and_without_its_bytes(
    served: Business, page: str
) -> None:
    etag = await etag_of(served, page)
    ((head, body),) = await served.ask(served.request("GET", page, f"if-none-match: {etag}"))
    lines = head.decode().split("\r\n")
    assert served.witness.from_memory[-1]
    assert (lines[0], body) == ("HTTP/1.1 304 Not Modified", b"")
    names = [line.partition(":")[0] for line in lines[1:] if line]
    assert names == ["cache-control", "etag", "cache-tag", "x-internal-position"]


async def test_head_has_the_length_of_the_page_and_nothing_after_it(
    served: Business, page: str
) -> None:
    head, get = await served.ask(served.request("HEAD", page), served.request("GET", page))
    assert served.witness.from_memory[-2:] == [True, True]
    assert head == (get[0], b"")
    assert b"content-length: %d\r\n" % len(get[1]) in head[0]


async def test_nobody_gets_a_page_from_memory_without_the_secret(
    served: Business, page: str
) -> None:
    right = served.secret
    for wrong in ("", "wrong", right[:-1], right + "x", right.swapcase()):
        del served.witness.from_memory[:]
        ((head, body),) = await served.ask(served.request("GET", page, secret=wrong))
        assert head.startswith(b"HTTP/1.1 403 ")
        assert b"/problems/forbidden" in body
        assert served.witness.from_memory == []


async def test_a_page_that_is_behind_is_not_given(served: Business, page: str) -> None:
    ((head, _),) = await served.ask(served.request("HEAD", page))
    at = int(re.findall(rb"x-internal-position: (\d+)", head)[0])
    assert await served.fast_and_routed("GET", page, f"x-internal-min-position: {at}")
    del served.witness.from_memory[:]
    line = f"x-internal-min-position: {at + 1}"
    ((head, _),) = await served.ask(served.request("GET", page, line))
    assert served.witness.from_memory == [False]
    assert int(re.findall(rb"x-internal-position: (\d+)", head)[0]) > at
    assert await served.fast_and_routed("GET", page, line)  # what was read anew is held
    for wrong in ("", "x", "-1", "1" * 20, "1e3", "+1", " 1 1"):
        assert not await served.fast_and_routed("GET", page, f"x-internal-min-position: {wrong}")


async def test_a_purged_page_is_read_anew(served: Business, page: str, books: Books) -> None:
    slug = page.rpartition("/")[2]
    row = (await books.rows("select product_id from products where slug = $1", slug))[0]
    await books.rows("update products set title = 'Renamed' where slug = $1", slug)
    await books.replayed()
    position = await books.value("select pg_current_wal_lsn() - '0/0'::pg_lsn")
    assert b"Renamed" not in (await served.ask(served.request("GET", page)))[0][1]
    served.shop.pages.purge([f"product-{row['product_id']}"], int(position))
    del served.witness.from_memory[:]
    assert b"Renamed" in (await served.ask(served.request("GET", page)))[0][1]
    assert served.witness.from_memory == [False]
    assert await served.fast_and_routed("GET", page)


async def test_without_time_left_nothing_is_answered_from_memory(
    served: Business, page: str
) -> None:
    for left in ("0", "00", ""):
        assert not await served.fast_and_routed("GET", page, f"x-deadline-ms: {left}")
    for left in ("1000", "5000", "10"):
        assert await served.fast_and_routed("GET", page, f"x-deadline-ms: {left}")


async def test_answers_keep_the_order_of_the_requests(served: Business, page: str) -> None:
    routed = served.request("GET", f"{page}/stock")
    fast = served.request("GET", page)
    answers = await served.ask(fast, routed, fast, served.request("HEAD", page), routed, fast)
    alone = [(await served.ask(request))[0] for request in (fast, routed)]
    bare = (alone[0][0], b"")
    assert answers == [alone[0], alone[1], alone[0], bare, alone[1], alone[0]]


@pytest.mark.parametrize(
    "lines",
    [
        "content-length: 3\r\n\r\nabc",
        "content-length: 0",
        "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0",
        "expect: 100-continue",
        "connection: upgrade\r\nupgrade: websocket",
    ],
)
async def test_a_request_that_is_not_plain_is_routed_and_the_next_one_is_understood(
    served: Business, page: str, lines: str
) -> None:
    (plain,) = await served.ask(served.request("GET", page))
    del served.witness.from_memory[:]
    request = served.request("GET", page, lines)
    if lines.endswith("abc"):
        request = request.removesuffix("\r\n\r\n")
    async with served.connected() as (reader, writer):
        writer.write(request.encode())
        assert await read(reader) == plain
        if "upgrade" in lines:
            return  # what follows is another protocol's
        writer.write(served.request("GET", page).encode())
        assert await read(reader) == plain
    assert served.witness.from_memory == [True]


@pytest.mark.parametrize(
    ("version", "wish"), [("1.1", "close"), ("1.0", "close"), ("1.0", "keep-alive")]
)
async def test_who_wants_the_connection_closed_has_it_closed(
    served: Business, page: str, version: str, wish: str
) -> None:
    request = served.request("GET", page, f"connection: {wish}")
    request = request.replace("HTTP/1.1", f"HTTP/{version}")
    async with served.connected() as (reader, writer):
        writer.write(request.encode())
        head, body = await read(reader)
        assert b"\r\nconnection: close\r\n" in head
        assert body
        assert await reader.read() == b""


async def test_a_request_may_come_byte_by_byte(served: Business, page: str) -> None:
    (whole,) = await served.ask(served.request("GET", page))
    del served.witness.from_memory[:]
    async with served.connected() as (reader, writer):
        for byte in served.request("GET", page).encode():
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert await read(reader) == whole
    assert served.witness.from_memory == [True]


async def test_who_does_not_read_is_not_answered_into_memory(served: Business) -> None:
    target = "/products?limit=100"
    ((_, body),) = await served.ask(served.request("GET", target))
    async with served.connected() as (reader, writer):
        writer.write(served.request("GET", target).encode() * WANTED)
        assert await read(reader)
        (connection,) = served.connections
        assert connection.transport.get_write_buffer_size() < 4 * len(body)
        for _ in range(WANTED - 1):
            assert (await read(reader))[1] == body


class Clock:
    """Stands in for the loop of a connection: time goes on when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.Handle:
        timer = (self.now + seconds, callback)
        self.timers.append(timer)
        handle = Mock(spec=asyncio.Handle)
        handle.cancel = lambda: self.timers.remove(timer)
        return handle

    def create_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    def call_soon(self, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(callback)

    def go_on(self, seconds: float) -> None:
        self.now += seconds
        for timer in [timer for timer in self.timers if timer[0] <= self.now]:
            self.timers.remove(timer)
            timer[1]()


async def test_a_connection_is_closed_when_it_was_idle_for_long_and_not_before(
    served: Business, page: str
) -> None:
    clock, transport = Clock(), Mock(spec=asyncio.Transport)
    transport.is_closing.return_value = False
    transport.get_extra_info.return_value = None
    connection = served.made(clock)
    connection.connection_made(transport)
    fast = served.request("GET", page).encode()
    for _ in range(5):
        connection.data_received(fast)
        clock.go_on(KEEP_ALIVE_S - 1)
    assert len(clock.timers) == 1
    connection.data_received(served.request("GET", page, ROUTED).encode())
    clock.go_on(KEEP_ALIVE_S + 1)  # and its answer is not there yet
    transport.close.assert_not_called()
    await asyncio.gather(*connection.tasks)
    connection.data_received(fast)
    connection.data_received(served.request("GET", page, ROUTED).encode())
    await asyncio.gather(*connection.tasks)
    assert len(clock.timers) == 1
    connection.data_received(fast[:20])
    clock.go_on(KEEP_ALIVE_S - 1)
    connection.data_received(fast[20:])
    clock.go_on(KEEP_ALIVE_S - 1)
    assert len(clock.timers) == 1
    transport.close.assert_not_called()
    clock.go_on(2)
    transport.close.assert_called_once()
    connection.connection_lost(None)
    assert clock.timers == []


async def test_a_server_that_stops_leaves_answers_to_the_application(
    served: Business, page: str
) -> None:
    assert await served.fast_and_routed("GET", page)
    served.witness.close()
    assert not await served.fast_and_routed("GET", page)


async def test_wrong_methods_and_pages_that_are_not_there_are_routed(
    served: Business, page: str
) -> None:
    for method in ("POST", "DELETE", "OPTIONS"):
        assert not await served.fast_and_routed(method, page)
    for _ in range(2):
        assert not await served.fast_and_routed("GET", f"{page}-none")
        assert not await served.fast_and_routed("GET", "/products?limit=0")
        assert not await served.fast_and_routed("GET", f"{page}/stock")


async def test_only_so_many_targets_are_remembered(
    served: Business, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_module, "TARGETS_MAX", 2)
    targets = [f"/products?limit={limit}" for limit in (5, 6, 7)]
    remembered: list[bool] = []
    for _ in range(TRIES):  # the change that made the page may purge the lists meanwhile
        for target in targets:
            await served.ask(served.request("GET", target))
        remembered = [await served.fast_and_routed("GET", target) for target in reversed(targets)]
        if remembered == [True, True, False]:
            break
    assert remembered == [True, True, False]
