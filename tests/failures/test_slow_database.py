"""Experiment 6: a primary that hangs, accepting everything and answering nothing."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from tests.faults.figures import record
from tests.faults.parts import Parts
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.shopping import Books, Goods, http_client

DEADLINE_MS: Final = 1000
LATE_MS: Final = 100
OPEN_WITHIN_S: Final = 1.0
NORMAL_WITHIN_S: Final = 2.0
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


@pytest_asyncio.fixture
async def business(broken_stack: RunningStack) -> AsyncIterator[httpx.AsyncClient]:
    """Business as access reaches it, asked for answers within DEADLINE_MS."""
    async with http_client(
        broken_stack.environment["TERCET_BUSINESS_URL"],
        **{
            "x-internal-secret": broken_stack.secret("internal_secret"),
            "x-deadline-ms": str(DEADLINE_MS),
            "authorization": f"Bearer {broken_stack.secret('operator_token')}",
        },
    ) as client:
        yield client


async def state(business: httpx.AsyncClient) -> str:
    items = (await business.get("/operator/upstreams")).json()["items"]
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
    """SIGSTOP the primary for so long under orders and page views; how it was for them."""
    goods = await books.goods(available=1_000_000)
    order = ordering(business, goods)
    await offer(order, 20, 0.5)  # connections are open, the page is held
    assert (await http.get(f"/products/{goods.slug}")).status_code == 200
    parts.pause("primary")
    stopped_at = time.monotonic()
    try:
        loads = [
            asyncio.create_task(offer(order, 20, seconds)),
            asyncio.create_task(offer(lambda: http.get(f"/products/{goods.slug}"), 40, seconds)),
        ]

        async def is_open() -> bool:
            return await state(business) == "open"

        await until(is_open, within_s=seconds, what="the breaker is open")
        open_after_s = time.monotonic() - stopped_at
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
        "open_after_s": round(open_after_s, 2),
        "pages_200": sum(one.status == 200 for one in pages) / len(pages),
        "normal_after_s": round(normal_after_s, 2),
    }


async def test_a_primary_that_hangs_costs_nobody_more_than_his_deadline(
    parts: Parts, business: httpx.AsyncClient, http: httpx.AsyncClient, books: Books
) -> None:
    found = await hang(parts, business, http, books, 1.6)
    assert found["answer_p99_ms"] <= DEADLINE_MS + 5 * LATE_MS, found  # the machine is shared
    assert found["pages_200"] >= 0.95, found
    assert found["open_after_s"] <= 1.5 * OPEN_WITHIN_S, found
    assert found["normal_after_s"] <= 2 * NORMAL_WITHIN_S, found


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
