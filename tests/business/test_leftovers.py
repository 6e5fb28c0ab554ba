"""After mixed requests, many of them left in the middle, nothing of them is left in business."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import orjson
import psutil
import pytest

from services.business.app import Gate, create_app
from services.business.server import BusinessServer
from services.business.shop import Shop
from services.data.pool import Pool
from services.valkey import CONNECTIONS
from tests.faults.figures import record
from tests.faults.waiting import until
from tests.laboratory import OwnDatabase
from tests.shopping import Books, place

AT_ONCE: Final = 50
WITHIN_S: Final = 10.0
GONE_WITHIN_S: Final = 5.0
LOOKS: Final = 10
LOOK_EVERY_S: Final = 0.05
VALKEY_CONNECTIONS: Final = CONNECTIONS + 1  # the pool's, and the one that hears of tags
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close() resets the connection


class Server(BusinessServer):
    """Business as it is served, in the test's process, whose signals are pytest's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass
class Served:
    """A running business, and what it holds."""

    port: int
    gate: Gate
    answered: int = 0
    left: int = 0

    @property
    def shop(self) -> Shop:
        return self.gate.shop

    def held(self) -> Counter[str]:
        """Tasks by what they run, files, places in use, and connections that no pool accounts for.

        Pools grow while they are used, to their limits: what they keep is theirs.
        """
        found = Counter(
            f"task {getattr(task.get_coro(), '__qualname__', '?')}"
            for task in asyncio.all_tasks() - {asyncio.current_task()}
        )
        there = self._connections()
        found["files"] = psutil.Process().num_fds() - there.total()
        for pool in self._pools():
            found[f"connections to {pool.name}"] = there[pool.name] - pool.idle - pool.busy
            found[f"idle at {pool.name}"] = max(0, pool.idle - pool.size)
        for upstream in self.shop.upstreams:
            found[f"places at {upstream.name}"] = upstream.in_use + upstream.waiting
        provider = self.shop.provider_upstream
        found["connections to valkey"] = max(0, there["valkey"] - VALKEY_CONNECTIONS)
        found["connections to the provider"] = max(0, there[provider.name] - provider.limit)
        return found

    def _connections(self) -> Counter[str]:
        """Sockets by the dependency at their other end."""
        settings = self.shop.settings
        primary, standby = (pool.name for pool in self._pools())
        names = {
            urlsplit(settings.primary_dsn).port: primary,
            urlsplit(settings.standby_dsns[0]).port: standby,
            urlsplit(str(settings.provider_url)).port: self.shop.provider_upstream.name,
            urlsplit(settings.valkey_url).port: "valkey",
        }
        sockets = psutil.Process().net_connections("tcp")
        return Counter(
            names[one.raddr.port] for one in sockets if one.raddr and one.raddr.port in names
        )

    def _pools(self) -> list[Pool]:
        database = self.shop.database
        return [source.pool for source in (database.primary, *database.replicas)]


@asynccontextmanager
async def served(database: OwnDatabase) -> AsyncIterator[Served]:
    settings = database.settings(provider_timeout_ms=500)
    gate = create_app(settings)
    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(gate, settings)
    serving = asyncio.create_task(server.serve([listening]))
    try:
        await until(lambda: server.started, within_s=WITHIN_S, what="business serves")
        yield Served(listening.getsockname()[1], gate)
    finally:
        server.should_exit = True
        await serving


class Mix:
    """Requests of all kinds, as bytes, with the secret and mostly with a short deadline."""

    def __init__(self, shop: Shop, slug: str, variant: str, orders: list[tuple[str, str]]) -> None:
        self._secret = shop.settings.internal_secret.get_secret_value()
        self._slug, self._variant, self._orders = slug, variant, orders
        self._dice = random.Random(4)

    def request(self) -> bytes:
        order_id, customer = self._dice.choice(self._orders)
        line = {"variant_id": self._variant, "quantity": 1}
        kinds: list[tuple[str, str, object]] = [
            ("GET", f"/products/{self._slug}", None),
            ("GET", f"/products?q=w{self._dice.random()}", None),
            ("GET", f"/products/{self._slug}/stock", None),
            ("GET", "/products/none", None),
            ("GET", f"/orders/{order_id}", None),
            ("GET", f"/internal/identities/{'0' * 64}", None),
            ("POST", "/orders", {"lines": [line]}),
            ("POST", "/orders", {"lines": []}),
            ("POST", f"/orders/{order_id}/payments", {"payment_method": "tok_approve"}),
        ]
        method, path, body = self._dice.choice(kinds)
        left_ms = self._dice.choice([1, 5, 20, 2000, 2000])
        head = [
            f"{method} {path} HTTP/1.1",
            "host: business",
            f"x-internal-secret: {self._secret}",
            f"x-customer-id: {customer}",
            f"x-deadline-ms: {left_ms}",
        ]
        if body is None:
            return "\r\n".join([*head, "", ""]).encode()
        data = orjson.dumps(body)
        head += ["content-type: application/json", f"idempotency-key: {uuid4().hex}"]
        return "\r\n".join([*head, f"content-length: {len(data)}", "", ""]).encode() + data

    def leaves(self) -> str:
        return self._dice.choice(["never", "never", "at once", "soon", "in the request"])


async def visit(business: Served, data: bytes, leaves: str) -> None:
    """One request on a connection of its own; most stay for the answer, some do not."""
    loop = asyncio.get_running_loop()
    client = socket.socket()
    client.setblocking(False)
    with client, suppress(ConnectionError):
        await loop.sock_connect(client, ("127.0.0.1", business.port))
        await loop.sock_sendall(client, data[:-7] if leaves == "in the request" else data)
        if leaves == "never":
            async with asyncio.timeout(WITHIN_S):
                assert (await loop.sock_recv(client, 65_536)).startswith(b"HTTP/1.1 ")
            business.answered += 1
            return
        await asyncio.sleep(0.003 if leaves == "soon" else 0)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        business.left += 1


async def visits(business: Served, mix: Mix, count: int) -> None:
    for _ in range(count // AT_ONCE):
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(visit(business, mix.request(), mix.leaves()))


async def leftovers(database: OwnDatabase, books: Books, count: int) -> dict[str, Any]:
    """How many requests there were, and what is held after them that was not before."""
    goods = await books.goods(available=1_000_000)
    async with served(database) as business:
        keys = [await place(business.shop, {goods.variant: 1}) for _ in range(20)]
        orders = [(str(key.order_id), str(key.customer_id)) for key in keys]
        mix = Mix(business.shop, goods.slug, str(goods.variant), orders)
        await visits(business, mix, 2 * AT_ONCE)  # what is opened lazily is open
        before = await settled(business)
        business.answered = business.left = 0
        await visits(business, mix, count)
        more = await more_than(before, business)
        return {
            "requests": count,
            "answered": business.answered,
            "left_in_the_middle": business.left,
            "held_more": dict(more),
        }


async def settled(business: Served) -> Counter[str]:
    """What is always held: the least of many looks, for a look of the watch comes and goes."""
    least = business.held()
    for _ in range(LOOKS):
        await asyncio.sleep(LOOK_EVERY_S)
        least &= business.held()
    return least


async def more_than(before: Counter[str], business: Served) -> Counter[str]:
    """What is held beyond that, and has not gone within GONE_WITHIN_S."""
    more = business.held() - before
    for _ in range(round(GONE_WITHIN_S / LOOK_EVERY_S)):
        if not more:
            break
        await asyncio.sleep(LOOK_EVERY_S)
        more = business.held() - before
    return more


async def test_nothing_is_left_of_requests_that_were_left(
    laboratory: OwnDatabase, lab_books: Books
) -> None:
    found = await leftovers(laboratory, lab_books, 400)
    assert found["left_in_the_middle"] > 100
    assert found["answered"] > 100
    assert found["held_more"] == {}, found


@pytest.mark.faults
async def test_nothing_is_left_of_ten_thousand_mixed_requests(
    laboratory: OwnDatabase, lab_books: Books
) -> None:
    found = await leftovers(laboratory, lab_books, 10_000)
    passed = found["held_more"] == {}
    record(51, "requests left in the middle, in business", passed, **found)
    assert passed, found
