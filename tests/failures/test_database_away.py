"""The database killed in the middle of payments, and a table that somebody has locked.

Experiments 1 and 10, on the whole stack with one standby.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import httpx
import pytest

from tests.faults.figures import record
from tests.faults.parts import Parts
from tests.faults.waiting import until
from tests.shopping import Books, Customer, Goods, ProviderBooks

pytestmark = pytest.mark.alone

BACK_WITHIN_S = 3.0
FINAL_WITHIN_S = 10.0
# The short forms run on a machine that has other work; the long ones hold the numbers.
PATIENCE = 4.0
SEEDS = 5
AT_ONCE = 10  # orders; more of them access refuses on a busy machine
OPEN = "select count(*) from payments where state in ('INIT', 'UNKNOWN', 'PENDING')"


async def placed(http: httpx.AsyncClient, goods: Goods, orders: int) -> list[tuple[Customer, str]]:
    customers = [Customer(http) for _ in range(orders)]
    ids = []
    for at in range(0, orders, AT_ONCE):
        ids += await asyncio.gather(
            *(customer.placed({goods.variant: 1}) for customer in customers[at : at + AT_ONCE])
        )
    return list(zip(customers, ids, strict=True))


async def killed_in_payments(
    parts: Parts, http: httpx.AsyncClient, books_of: Any, provider: ProviderBooks, *, seed: int
) -> dict[str, Any]:
    """What the fault cost; asserts what must never be."""
    dice = random.Random(seed)
    async with books_of() as books:
        goods = await books.goods(available=1000)
        orders = await placed(http, goods, 12)
    paying = [
        asyncio.create_task(customer.pay(order_id, key=order_id)) for customer, order_id in orders
    ]
    await asyncio.sleep(dice.uniform(0.0, 0.08))
    killed = parts.kill("primary")
    killed_at = time.monotonic()
    answers = await asyncio.gather(*paying)
    await parts.wait_until_healthy("primary", after_pid=killed)
    open_s = time.monotonic() - killed_at
    (customer, order_id), *_ = orders

    async def writes_again() -> bool:
        return (await customer.pay(order_id, key=order_id)).status_code in (200, 201, 202, 409)

    back_s = await until(writes_again, within_s=20.0, what="writes go on")
    async with books_of() as books:
        final_s = await all_final(books)
        for (_, order), answer in zip(orders, answers, strict=True):
            rows = await books.payments(order)
            charges = [len(await provider.charges(row["payment_id"])) for row in rows]
            assert sum(charges) <= 1
            if answer.status_code == 201:
                state = answer.json()["state"]
                assert state in [row["state"] for row in rows], "acknowledged, and not there"
        assert await books.broken_rules() == []
    return {
        "seed": seed,
        "answers": sorted(answer.status_code for answer in answers),
        "port_open_ms": round(open_s * 1000),
        "writes_back_ms": round(back_s * 1000),
        "all_final_ms": round(final_s * 1000),
    }


async def all_final(books: Books) -> float:
    """No payment stays open: reconcile asks for those whose end nobody knows."""

    async def are_final() -> bool:
        await books.rows(
            "update payments set next_check_at = now()"
            " where state in ('INIT', 'UNKNOWN') and next_check_at > now()"
        )
        return bool(await books.value(OPEN) == 0)

    return await until(are_final, within_s=60.0, what="every payment is final")


@pytest.fixture
def books_of(broken_stack: Any) -> Any:
    from tests.shopping import open_books

    return lambda: open_books(broken_stack.dsn("tercet_owner"))


async def test_a_primary_killed_in_the_middle_of_payments_charges_nobody_twice(
    parts: Parts, http: httpx.AsyncClient, books_of: Any, provider: ProviderBooks
) -> None:
    figures = await killed_in_payments(parts, http, books_of, provider, seed=1)
    assert figures["writes_back_ms"] <= BACK_WITHIN_S * 1000 * PATIENCE


@pytest.mark.faults
async def test_primaries_killed_in_the_middle_of_payments(
    parts: Parts, http: httpx.AsyncClient, books_of: Any, provider: ProviderBooks
) -> None:
    rounds = [
        await killed_in_payments(parts, http, books_of, provider, seed=seed)
        for seed in range(SEEDS)
    ]
    passed = all(
        one["writes_back_ms"] <= BACK_WITHIN_S * 1000
        and one["all_final_ms"] <= FINAL_WITHIN_S * 1000
        for one in rounds
    )
    record(1, "primary killed in the middle of payments", passed, rounds=rounds)
    assert passed, rounds


async def payments_beside_a_lock(
    http: httpx.AsyncClient, books: Books, books_of: Any, *, for_s: float
) -> dict[str, Any]:
    """Payments while a table of the catalog is locked and lists of it are asked for."""
    goods = await books.goods(available=1000)
    orders = await placed(http, goods, round(10 * for_s))
    took_s, states, asked = [], [], 0

    async def browse(number: int) -> None:
        nonlocal asked
        while True:
            await http.get(f"/products?q=word{number}x{asked}")
            asked += 1

    async with books_of() as locker, locker.connection.transaction():
        await locker.rows("lock table products in access exclusive mode")
        browsing = [asyncio.create_task(browse(number)) for number in range(16)]
        await asyncio.sleep(0.2)
        for customer, order_id in orders:
            started_at = time.monotonic()
            answer = await customer.pay(order_id)
            took_s.append(time.monotonic() - started_at)
            states.append(answer.json().get("state"))
            await asyncio.sleep(max(0.0, 0.1 - took_s[-1]))
        for task in browsing:
            task.cancel()
        await asyncio.gather(*browsing, return_exceptions=True)
    return {
        "payments": len(states),
        "paid": states.count("SUCCESS"),
        "slowest_ms": round(max(took_s) * 1000),
        "lists_asked": asked,
    }


async def test_payments_go_on_while_the_catalog_is_locked(
    http: httpx.AsyncClient, books: Books, books_of: Any
) -> None:
    figures = await payments_beside_a_lock(http, books, books_of, for_s=1.5)
    assert figures["paid"] == figures["payments"], figures
    assert figures["slowest_ms"] <= 500 * PATIENCE, figures


@pytest.mark.faults
async def test_payments_beside_a_lock_of_five_seconds(
    http: httpx.AsyncClient, books: Books, books_of: Any
) -> None:
    figures = await payments_beside_a_lock(http, books, books_of, for_s=5.0)
    passed = figures["paid"] == figures["payments"] and figures["slowest_ms"] <= 500
    record(10, "catalog locked for 5 s", passed, **figures)
    assert passed, figures
