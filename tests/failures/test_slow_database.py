"""Experiments 6 and 11: a primary that hangs, and one whose connections slow queries hold."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import asyncpg
import httpx
import pytest
import pytest_asyncio

from tests.faults.figures import record
from tests.faults.parts import Parts
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.shopping import OPERATOR_FIELDS, Books, Customer, Goods, http_client

DEADLINE_MS: Final = 1000
LATE_MS: Final = 100
OPEN_WITHIN_S: Final = 1.0
NORMAL_WITHIN_S: Final = 2.0
REFUSED_WITHIN_MS: Final = 250
HEALED_WITHIN_S: Final = 20.0


@dataclass(frozen=True)
class Asked:
    """One request: how it ended, and when."""

    status: int
    began_at: float
    took_ms: float
    retry_after: str | None = None


def percentile(asked: Sequence[Asked], part: float) -> float:
    times = sorted(one.took_ms for one in asked)
    return round(times[max(0, math.ceil(part * len(times)) - 1)], 1) if times else 0.0


async def ask(send: Callable[[], Awaitable[httpx.Response]]) -> Asked:
    began_at = time.monotonic()
    answer = await send()
    took_ms = (time.monotonic() - began_at) * 1000
    return Asked(answer.status_code, began_at, took_ms, answer.headers.get("retry-after"))


async def offer(
    send: Callable[[], Awaitable[httpx.Response]], rate: float, seconds: float
) -> list[Asked]:
    """So many a second, whatever becomes of them."""
    running = []
    began_at = time.monotonic()
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, began_at + number / rate - time.monotonic()))
        running.append(asyncio.create_task(ask(send)))
    return list(await asyncio.gather(*running))


async def offer_until(
    done: asyncio.Event, send: Callable[[], Awaitable[httpx.Response]], rate: float, seconds: float
) -> list[Asked]:
    """For so many seconds, and as many again until it is done."""
    asked = await offer(send, rate, seconds)
    while not done.is_set():
        asked += await offer(send, rate, seconds)
    return asked


@pytest_asyncio.fixture
async def business(broken_stack: RunningStack) -> AsyncIterator[httpx.AsyncClient]:
    """Business as access reaches it, asked for answers within DEADLINE_MS."""
    async with http_client(
        broken_stack.environment["TERCET_BUSINESS_URL"],
        **{
            "x-internal-secret": broken_stack.secret("internal_secret"),
            "x-deadline-ms": str(DEADLINE_MS),
        },
    ) as client:
        yield client


async def state(business: httpx.AsyncClient) -> str:
    answer = await business.get("/operator/upstreams", headers=OPERATOR_FIELDS)
    items = answer.json()["items"]
    return str(next(item["state"] for item in items if item["name"] == "primary"))


def ordering(business: httpx.AsyncClient, goods: Goods) -> Callable[[], Awaitable[httpx.Response]]:
    """Orders of new guests."""
    body = {"lines": [{"variant_id": str(goods.variant), "quantity": 1}]}

    async def send() -> httpx.Response:
        return await business.post("/orders", json=body, headers={"idempotency-key": uuid4().hex})

    return send


async def hang(
    parts: Parts, business: httpx.AsyncClient, http: httpx.AsyncClient, books: Books, seconds: float
) -> dict[str, float]:
    """SIGSTOP the primary under orders and page views; how it was for them.

    For so long, or longer on a busy machine: until the breaker is open.
    """
    goods = await books.goods(available=1_000_000)
    order = ordering(business, goods)
    await offer(order, 20, 0.5)  # connections are open, the page is held
    assert (await http.get(f"/products/{goods.slug}")).status_code == 200
    parts.pause("primary")
    stopped_at, opened = time.monotonic(), asyncio.Event()

    def view() -> Awaitable[httpx.Response]:
        return http.get(f"/products/{goods.slug}")

    try:
        loads = [
            asyncio.create_task(offer_until(opened, order, 20, seconds)),
            asyncio.create_task(offer_until(opened, view, 40, seconds)),
        ]

        async def is_open() -> bool:
            return await state(business) == "open"

        try:
            await until(is_open, within_s=HEALED_WITHIN_S, what="the breaker is open")
            open_after_s = time.monotonic() - stopped_at
        finally:
            opened.set()
            orders, pages = await asyncio.gather(*loads)
    finally:
        parts.resume("primary")
    resumed_at = time.monotonic()

    async def is_normal() -> bool:
        """Five orders in a row."""
        answers = [await order() for _ in range(5)]
        return {answer.status_code for answer in answers} == {201}

    await until(is_normal, within_s=HEALED_WITHIN_S, what="orders are placed again")
    normal_after_s = time.monotonic() - resumed_at
    assert {one.status for one in orders} <= {201, 503, 504}
    return {
        "stopped_s": seconds,
        "answer_p99_ms": percentile([*orders, *pages], 0.99),
        "deadline_ms": DEADLINE_MS,
        "page_p99_ms": percentile(pages, 0.99),
        "open_after_s": round(open_after_s, 2),
        "pages_200": sum(one.status == 200 for one in pages) / len(pages),
        "normal_after_s": round(normal_after_s, 2),
    }


async def test_a_primary_that_hangs_costs_nobody_more_than_his_deadline(
    parts: Parts, business: httpx.AsyncClient, http: httpx.AsyncClient, books: Books
) -> None:
    found = await hang(parts, business, http, books, 1.6)
    # The machine is shared. How late it is just now is told by pages, which need no primary.
    late_s = 10 * found["page_p99_ms"] / 1000
    assert found["answer_p99_ms"] <= DEADLINE_MS + 5 * LATE_MS + 1000 * late_s, found
    assert found["pages_200"] >= 0.95, found
    # Where fewer than three orders hang at once it opens by their deadlines, half a window later.
    assert found["open_after_s"] <= 2 * OPEN_WITHIN_S + late_s, found
    assert found["normal_after_s"] <= 2 * NORMAL_WITHIN_S + late_s, found


@pytest.mark.faults
async def test_a_primary_that_hangs_for_ten_seconds(
    parts: Parts, business: httpx.AsyncClient, http: httpx.AsyncClient, books: Books
) -> None:
    found = await hang(parts, business, http, books, 10)
    passed = (
        found["answer_p99_ms"] <= DEADLINE_MS + LATE_MS
        and found["pages_200"] >= 0.95
        and found["open_after_s"] <= OPEN_WITHIN_S
        and found["normal_after_s"] <= NORMAL_WITHIN_S
    )
    record(6, "SIGSTOP of the primary, orders and a page", passed, **found)
    assert passed, found


# 11: twice as many slow queries as there are connections


@dataclass(frozen=True)
class Buyer:
    """A guest with an order to pay, who shows the token that access looks up."""

    business: httpx.AsyncClient
    customer_id: str
    order_id: str
    token_sha256: str

    async def log_in(self) -> httpx.Response:
        return await self.business.get(f"/internal/identities/{self.token_sha256}")

    async def pay(self) -> httpx.Response:
        return await self.business.post(
            f"/orders/{self.order_id}/payments",
            json={"payment_method": "tok_approve"},
            headers={"idempotency-key": uuid4().hex, "x-customer-id": self.customer_id},
        )


async def buyers(business: httpx.AsyncClient, books: Books, count: int) -> list[Buyer]:
    goods, found = await books.goods(available=1_000_000), []
    for _ in range(count):
        customer = Customer(business)
        order_id = await customer.placed({goods.variant: 1})
        sql = "select customer_id from orders where order_id = $1"
        customer_id = await books.value(sql, order_id)
        digest = hashlib.sha256(str(customer.token).encode()).hexdigest()
        found.append(Buyer(business, str(customer_id), order_id, digest))
    return found


async def buy(those: Sequence[Buyer], every_s: float) -> dict[str, list[Asked]]:
    """Logins and payments, one buyer after another."""
    logins, payments = [], []
    for buyer in those:
        logins.append(await ask(buyer.log_in))
        payments.append(await ask(buyer.pay))
        await asyncio.sleep(every_s)
    return {"login": logins, "payment": payments}


async def locked_there(stack: RunningStack) -> None:
    """A lock comes to the standby with the WAL, which is sent a moment later."""
    standby = await asyncpg.connect(stack.dsn("postgres", "standby"))
    sql = """
        select count(*) from pg_locks
        where relation = 'products'::regclass and mode = 'AccessExclusiveLock' and granted
    """

    async def is_there() -> bool:
        return bool(await standby.fetchval(sql))

    try:
        await until(is_there, within_s=5.0, what="the table is locked at the standby")
    finally:
        await standby.close()


async def beside_lists(
    business: httpx.AsyncClient, those: Sequence[Buyer]
) -> tuple[dict[str, list[Asked]], list[Asked]]:
    """Logins and payments while forty lists a second are asked for, of which none is held."""

    def ask_list() -> Awaitable[httpx.Response]:
        return business.get(f"/products?q={uuid4().hex}")

    lists = asyncio.create_task(offer(ask_list, 40, max(1.0, len(those) * 0.04)))
    await asyncio.sleep(0.3)  # more are asked for than have a place
    bought = await buy(those, 0.02)
    return bought, await lists


async def exhaust(
    stack: RunningStack, business: httpx.AsyncClient, books: Books, count: int
) -> dict[str, float]:
    """Logins and payments beside lists that are answered, and beside those of a locked table.

    The same lists both times: what differs is that they are slow, not how busy the machine is.
    """
    all_of_them = await buyers(business, books, 2 * count)
    before, listed = await beside_lists(business, all_of_them[:count])
    assert {one.status for one in listed} == {200}
    locker = await asyncpg.connect(stack.dsn("tercet_owner"))
    try:
        async with locker.transaction():
            await locker.execute("lock table products in access exclusive mode")
            # Any commit sends the WAL up to here to the standby, and the lock with it.
            await books.value("select pg_logical_emit_message(true, 'test', 'flush')")
            await locked_there(stack)
            during, listed = await beside_lists(business, all_of_them[count:])
    finally:
        await locker.close()
    assert {one.status for one in listed} <= {503, 504}, "the lists were not slow"
    assert all(one.retry_after is not None for one in listed if one.status == 503)
    # Those that had a place were cut off by their deadline; all others had to be told at once.
    refused = [one for one in listed if one.took_ms < DEADLINE_MS / 2]
    found: dict[str, float] = {
        "lists": len(listed),
        "refused": len(refused),
        "refused_p99_ms": percentile(refused, 0.99),
    }
    for name in ("login", "payment"):
        assert {one.status for one in (*before[name], *during[name])} <= {200, 201}
        for part in (0.5, 0.99):
            found[f"{name}_p{part * 100:.0f}_ms_before"] = percentile(before[name], part)
            found[f"{name}_p{part * 100:.0f}_ms"] = percentile(during[name], part)
    return found


async def test_payments_and_logins_find_connections_while_lists_hold_what_they_may(
    broken_stack: RunningStack, business: httpx.AsyncClient, books: Books
) -> None:
    found = await exhaust(broken_stack, business, books, 15)
    assert found["refused"] >= found["lists"] / 3, found
    assert found["refused_p99_ms"] <= 2 * REFUSED_WITHIN_MS, found  # the machine is shared
    for name in ("login", "payment"):
        assert found[f"{name}_p99_ms"] <= 2 * found[f"{name}_p99_ms_before"] + 200, found


@pytest.mark.faults
async def test_twice_as_many_slow_queries_as_connections(
    broken_stack: RunningStack, business: httpx.AsyncClient, books: Books
) -> None:
    found = await exhaust(broken_stack, business, books, 100)
    passed = found["refused_p99_ms"] <= REFUSED_WITHIN_MS and all(
        found[f"{name}_p99_ms"] <= 2 * found[f"{name}_p99_ms_before"]
        for name in ("login", "payment")
    )
    record(11, "40 lists/s of a locked table", passed, **found)
    assert passed, found
