"""Experiment 45: what is left of a request's time goes along with it, and nothing outlasts it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from uuid import uuid4

import asyncpg
import httpx
import msgspec
import pytest
import pytest_asyncio

from services.business.provider import Approved, ChargeOrder
from services.business.providers.sandbox_adapter import open_sandbox
from services.business.shop import Shop
from services.data.orders import OrderKey
from services.deadline import Deadline
from tests.access.upstream import Seen, Upstream, answer
from tests.faults.figures import record
from tests.laboratory import OwnDatabase
from tests.shopping import Books, Goods, asgi_client, place

DEADLINE_MS: Final = 200
LATE_MS: Final = 100  # an answer after its deadline, and a statement in the database
# Another statement of ours than those of the watch and of a new connection, which go on for ever.
# A connection that has told its position in the WAL has it behind its name.
OURS: Final = """
    select query, state, extract(epoch from clock_timestamp() - query_start) * 1000 as for_ms
    from pg_stat_activity
    where datname = current_database() and application_name like 'tercet primary%'
        and query !~* '^\\s*select\\M.*(pg_current_wal_lsn|pg_is_in_recovery)'
"""


@pytest_asyncio.fixture(scope="module")
async def client(lab_shop: Shop) -> AsyncIterator[httpx.AsyncClient]:
    async with asgi_client(lab_shop) as opened:
        yield opened


@asynccontextmanager
async def blocked(laboratory: OwnDatabase, goods: Goods, order_id: object) -> AsyncIterator[None]:
    """The rows that an order of these goods and a payment of this order need are locked."""
    blocker = await asyncpg.connect(laboratory.superuser_dsn())
    try:
        async with blocker.transaction():
            await blocker.execute(
                "select from stock where variant_id = $1 for update", goods.variant
            )
            await blocker.execute("select from orders where order_id = $1 for update", order_id)
            yield
    finally:
        await blocker.close()


class Late:
    """By how much things came after the deadline, in ms, the worst of all rounds."""

    def __init__(self) -> None:
        self.answer = self.cancelled = -1e9
        self.began = 0  # statements that began after it
        self.alarm = 0.0  # what was due at the deadline, in this process: how busy the machine is

    async def round(
        self, client: httpx.AsyncClient, books: Books, path: str, body: object, customer: object
    ) -> None:
        headers = {
            "x-deadline-ms": str(DEADLINE_MS),
            "idempotency-key": uuid4().hex,
            "x-customer-id": str(customer),
        }
        over_at = time.monotonic() + DEADLINE_MS / 1000
        asyncio.get_running_loop().call_later(DEADLINE_MS / 1000, self._rings, over_at)
        refused = await client.post(path, json=body, headers=headers)
        self.answer = max(self.answer, (time.monotonic() - over_at) * 1000)
        assert (refused.status_code, refused.json()["type"]) == (
            504,
            "/problems/deadline-exceeded",
        )
        gone_at = await self._watch(books, over_at)
        self.cancelled = max(self.cancelled, (gone_at - over_at) * 1000)

    def _rings(self, due_at: float) -> None:
        self.alarm = max(self.alarm, (time.monotonic() - due_at) * 1000)

    async def _watch(self, books: Books, over_at: float) -> float:
        """When the statement was gone; looks on for a while at whether another one begins."""
        gone_at = None
        while gone_at is None or time.monotonic() < gone_at + 0.1:
            assert time.monotonic() < over_at + 2, "the statement still runs"
            rows = await books.rows(OURS)
            since_ms = (time.monotonic() - over_at) * 1000
            running = [row for row in rows if row["state"] == "active"]
            if not running and gone_at is None:
                gone_at = time.monotonic()
            self.began += sum(
                not row["query"].startswith("rollback") and float(row["for_ms"]) < since_ms - 20
                for row in rows
            )
        return gone_at


async def run(
    rounds: int, client: httpx.AsyncClient, books: Books, laboratory: OwnDatabase, shop: Shop
) -> Late:
    goods, late = await books.goods(), Late()
    key: OrderKey = await place(shop, {goods.variant: 1})
    assert await books.rows(OURS), "statements of ours are not seen, late or not"
    line = {"variant_id": str(goods.variant), "quantity": 1}
    async with blocked(laboratory, goods, key.order_id):
        for _ in range(rounds):
            await late.round(client, books, "/orders", {"lines": [line]}, key.customer_id)
            await late.round(
                client,
                books,
                f"/orders/{key.order_id}/payments",
                {"payment_method": "tok_approve"},
                key.customer_id,
            )
    assert await books.stock(goods.variant) == (99, 1, 0)
    assert await books.payments(str(key.order_id)) == []
    return late


async def test_at_the_deadline_all_ends_and_nothing_begins(
    client: httpx.AsyncClient, lab_books: Books, laboratory: OwnDatabase, lab_shop: Shop
) -> None:
    late = await run(2, client, lab_books, laboratory, lab_shop)
    assert late.began == 0
    # On a loaded machine; the long form has the figure.
    limit_ms = 3 * LATE_MS + 3 * late.alarm
    assert late.answer < limit_ms, vars(late)
    assert late.cancelled < limit_ms, vars(late)


@pytest.mark.faults
async def test_at_a_hundred_deadlines_all_ends_in_a_tenth_of_a_second(
    client: httpx.AsyncClient, lab_books: Books, laboratory: OwnDatabase, lab_shop: Shop
) -> None:
    # So many in a row are a database that is down, which a breaker would say instead.
    breaker = lab_shop.database.primary.pool.upstream.breaker
    breaker.force("closed")
    try:
        late = await run(50, client, lab_books, laboratory, lab_shop)
    finally:
        breaker.force(None)
    passed = late.began == 0 and late.answer <= LATE_MS and late.cancelled <= LATE_MS
    record(
        45,
        f"a deadline of {DEADLINE_MS} ms, rows locked for longer",
        passed,
        requests=100,
        answer_late_ms=round(late.answer, 1),
        cancelled_late_ms=round(late.cancelled, 1),
        begun_after_it=late.began,
    )
    assert passed, vars(late)


async def test_the_provider_is_told_what_is_left_and_cut_off_by_it(lab_shop: Shop) -> None:
    order = ChargeOrder(uuid4(), 500, "USD", "tok_approve")
    charge = {
        "charge_id": "ch_1",
        "charge_key": str(order.payment_id),
        "status": "approved",
        "amount_minor": 500,
        "currency": "USD",
    }

    async def script(_: Seen) -> bytes:
        return answer(msgspec.json.encode(charge), 201, content_type="application/json")

    async with Upstream(script) as bank:
        settings = lab_shop.settings.model_copy(
            update={"provider_url": f"http://127.0.0.1:{bank.port}", "provider_timeout_ms": 3000}
        )
        async with open_sandbox(settings) as (provider, _):
            assert await provider.charge(order, Deadline.after(2)) == Approved("ch_1")
            await provider.charge(order, Deadline.after(60))
            assert not isinstance(await provider.find(order, Deadline.after(0)), Approved)
    told = [int(seen.header(b"x-deadline-ms") or b"0") for seen in bank.requests]
    assert len(told) == 2  # and nothing was sent when no time was left
    assert 1500 < told[0] <= 2000
    assert 2500 < told[1] <= 3000  # the provider's own timeout is the shorter one


async def test_work_without_time_is_refused_by_every_dependency(lab_shop: Shop) -> None:
    async def never(_: Deadline) -> None:
        await asyncio.sleep(0)
        pytest.fail("began after its deadline")

    for upstream in lab_shop.upstreams:
        before = upstream.tally.refused["deadline"]
        await upstream.call(never, Deadline.after(0))
        assert upstream.tally.refused["deadline"] == before + 1
