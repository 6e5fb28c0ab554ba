"""Customers who pay and look, at business itself, and notice when they are shown the past."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx

from services.business.shop import Shop
from services.consistency import INTERNAL_HEADER
from services.data.orders import OrderKey
from services.data.own_orders import SELECT_OWN_ORDER
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.shopping import place

# What an order is, from the past to the present.
STATES = ("placed", "paid")


@dataclass
class Session:
    """One customer with one order, as access speaks for him.

    forgetful: access tells business nothing of what he has seen. saw: the farthest he was shown.
    """

    http: httpx.AsyncClient
    key: OrderKey
    forgetful: bool = False
    seen: str | None = None
    saw: int = 0
    reads: int = 0
    stale: int = 0
    positions: list[tuple[int, int]] = field(default_factory=list)

    async def pay(self) -> None:
        answer = await self._kept(
            self.http.post(
                f"/orders/{self.key.order_id}/payments",
                json={"payment_method": "tok_approve"},
                headers=self._headers() | {"idempotency-key": uuid4().hex},
            )
        )
        assert answer.status_code == 201, answer.text
        self.saw = STATES.index("paid")

    async def look(self) -> None:
        """Look at the order; older than what was seen before is stale."""
        answer = await self._kept(
            self.http.get(f"/orders/{self.key.order_id}", headers=self._headers())
        )
        assert answer.status_code == 200, answer.text
        shown = STATES.index(answer.json()["state"])
        self.reads += 1
        self.stale += shown < self.saw
        self.saw = max(self.saw, shown)

    def _headers(self) -> dict[str, str]:
        headers = {"x-customer-id": str(self.key.customer_id)}
        return headers if self.seen is None else headers | {INTERNAL_HEADER: self.seen}

    async def _kept(self, sent: Any) -> httpx.Response:
        answer: httpx.Response = await sent
        customer_id, _, seen = answer.headers[INTERNAL_HEADER].partition("/")
        assert customer_id == str(self.key.customer_id)
        timeline, position = seen.split("/")
        self.positions.append((int(timeline), int(position)))
        if not self.forgetful:
            self.seen = seen
        return answer


async def sessions(
    shop: Shop, http: httpx.AsyncClient, variants: Sequence[UUID], *, forgetful: bool = False
) -> list[Session]:
    """New customers with an order each, of a variant each, so that none waits for another."""
    keys = [await place(shop, {variant: 1}) for variant in variants]
    return [Session(http, key, forgetful) for key in keys]


class Standby:
    """A standby as its superuser holds it."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self.connection = connection

    async def caught_up(self, primary: asyncpg.Connection[asyncpg.Record]) -> None:
        """Wait until it has all that was committed before."""
        position = await primary.fetchval("select pg_current_wal_flush_lsn()::text")

        async def is_there() -> bool:
            sql = "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn"
            return bool(await self.connection.fetchval(sql, position))

        await until(is_there, within_s=15, what="the standby has caught up")

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Nothing is replayed within the block."""
        await self.connection.execute("select pg_wal_replay_pause()")
        try:

            async def is_paused() -> bool:
                sql = "select pg_get_wal_replay_pause_state()"
                return bool(await self.connection.fetchval(sql) == "paused")

            await until(is_paused, within_s=10, what="replay is paused")
            yield
        finally:
            await self.connection.execute("select pg_wal_replay_resume()")


@asynccontextmanager
async def standby_of(stack: RunningStack) -> AsyncIterator[Standby]:
    connection = await asyncpg.connect(stack.dsn("postgres", "standby"))
    try:
        yield Standby(connection)
    finally:
        await connection.close()


async def own_reads_counted(connection: asyncpg.Connection[asyncpg.Record]) -> int:
    """How often this server has answered a read of somebody's order, by its own count."""
    sql = """
        select coalesce(sum(calls), 0)::int from pg_stat_statements
        where query like '%as hold_is_over%from order_lines l%'
    """
    assert "from order_lines l" in SELECT_OWN_ORDER
    return int(await connection.fetchval(sql))


async def at_once(work: list[Any]) -> None:
    async with asyncio.TaskGroup() as group:
        for one in work:
            group.create_task(one)
