"""A flash sale while tiers are killed: every unit is sold once, no hold stays (experiment 55)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID, uuid4

import httpx
import pytest

from tests.faults import figures
from tests.faults.parts import Parts
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.shopping import Books, Customer, open_books

AT_ONCE: Final = 100
AGAIN_S: Final = 0.1
RECOVERED_WITHIN_S: Final = 90.0  # a killed primary replays its WAL on a busy machine
STUCK_AFTER_S: Final = 5.0  # the experiment's limit, after the time of the holds is over
NOT_STUCK_WITHIN_S: Final = 30.0  # on a machine that has other things to do
# Said of what may have to be done again, and by the same key.
PASSING: Final = frozenset((429, 500, 502, 503, 504))


@dataclass
class Sale:
    """What the buyers have got so far; each has one key and asks until he is told."""

    flash_sale_id: UUID
    http: httpx.AsyncClient
    outcomes: Counter[str] = field(default_factory=Counter)
    orders: set[str] = field(default_factory=set)
    again: int = 0

    async def buy(self, token: str, place: asyncio.Semaphore) -> None:
        customer, key = Customer(self.http, token), uuid4().hex
        async with place:
            while (outcome := await self._ask(customer, key)) is None:
                self.again += 1
                await asyncio.sleep(AGAIN_S)
        self.outcomes[outcome] += 1

    async def _ask(self, customer: Customer, key: str) -> str | None:
        """What became of it; None where that is not known yet."""
        try:
            answer = await customer.claim(self.flash_sale_id, key=key)
        except httpx.TransportError:
            return None
        if answer.status_code in PASSING:
            return None
        if answer.status_code == 201:
            self.orders.add(answer.json()["order_id"])
            return "placed"
        kind = str(answer.json()["type"]).rpartition("/")[2]
        return None if kind == "idempotency-key-running" else kind


async def sell(
    books: Books,
    http: httpx.AsyncClient,
    parts: Parts,
    *,
    buyers: int,
    units: int,
    killed: Sequence[str],
) -> dict[str, object]:
    """Kill each of these parts once while units are sold; what came of it, and how long holds stay
    after their time."""
    goods = await books.goods(available=units + 50)
    sale_id = await books.flash_sale(goods.variant, units=units, customer_limit=1)
    sale, place = Sale(sale_id, http), asyncio.Semaphore(AT_ONCE)
    tokens = await books.guests(buyers)
    buying = [asyncio.create_task(sale.buy(token, place)) for token in tokens]
    pids = {}
    for number, name in enumerate(killed, start=1):
        sold = units * number // (len(killed) + 2)
        await until(
            lambda sold=sold: len(sale.orders) >= sold,  # type: ignore[misc]  # a default
            within_s=RECOVERED_WITHIN_S,
            what=f"{sold} are sold",
        )
        pids[name] = parts.kill(name)
    async with asyncio.timeout(RECOVERED_WITHIN_S):
        await asyncio.gather(*buying)
    for name, pid in pids.items():
        await parts.wait_until_healthy(name, after_pid=pid)
    return {
        "buyers": buyers,
        "units": units,
        "killed": list(killed),
        **sale.outcomes,
        "orders": len(sale.orders),
        "asked_again": sale.again,
        "variant": str(goods.variant),
        "flash_sale": str(sale_id),
    }


async def check(books: Books, found: dict[str, object]) -> float:
    """Each unit sold once, everybody told; returns how long the last hold stays after its time."""
    buyers, units = int(str(found["buyers"])), int(str(found["units"]))
    variant, sale_id = UUID(str(found.pop("variant"))), UUID(str(found.pop("flash_sale")))
    assert found["placed"] == found["orders"] == units, found
    assert found["flash-sale-sold-out"] == buyers - units, found
    assert await books.stock(variant) == (50, units, 0)
    assert await books.claimed(sale_id) == units
    assert await books.broken_rules() == []
    await books.let_holds_end(variant)
    ended_at = time.monotonic()

    async def all_are_back() -> bool:
        return await books.stock(variant) == (units + 50, 0, 0)

    await until(all_are_back, within_s=NOT_STUCK_WITHIN_S, what="every hold has ended")
    assert await books.claimed(sale_id) == 0
    assert await books.broken_rules() == []
    return time.monotonic() - ended_at


async def test_a_flash_sale_sells_each_unit_once_while_access_and_business_are_killed(
    books: Books, http: httpx.AsyncClient, parts: Parts
) -> None:
    killed = ("business", "access")
    found = await sell(books, http, parts, buyers=200, units=40, killed=killed)
    await check(books, found)


@pytest.mark.faults
async def test_two_thousand_buyers_of_a_hundred_units_while_each_tier_is_killed(
    broken_stack: RunningStack, http: httpx.AsyncClient, parts: Parts
) -> None:
    """Experiment 55. The books are opened again: the killed primary has ended their connection."""
    dsn, standby = broken_stack.dsn("tercet_owner"), broken_stack.dsn("tercet_read", "standby")
    async with open_books(dsn, standby) as before:
        killed = ("business", "access", "primary")
        found = await sell(before, http, parts, buyers=2000, units=100, killed=killed)
    async with open_books(dsn, standby) as books:
        after_s = await check(books, found)
    passed = after_s <= STUCK_AFTER_S
    figures.record(
        55, "a flash sale with each tier killed", passed, holds_end_after_s=after_s, **found
    )
    assert passed, after_s
