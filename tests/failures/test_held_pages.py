"""Held pages while what they depend on is away: they go on, not much older than they have to be."""

from __future__ import annotations

import time
from typing import Final

import httpx
import pytest

from tests.faults.figures import record
from tests.faults.parts import Parts
from tests.faults.waiting import until
from tests.holding import Holder, holding
from tests.running_stack import RunningStack
from tests.shopping import Books, Goods

HELD: Final = 50
# Without Valkey nobody hears of a change: access and business each look again after a second.
WITHOUT_VALKEY_S: Final = 2.0
FETCH_S: Final = 0.3
HEALED_WITHIN_S: Final = 45.0


async def reprice(books: Books, goods: Goods, price_minor: int) -> float:
    """Change the price as an import does; returns when (monotonic) it was committed.

    Nobody wakes the relay: it looks every 100 ms.
    """
    tag = f"product-{goods.product_id}"
    async with books.connection.transaction():
        await books.rows(
            "update variants set price_minor = $2 where variant_id = $1", goods.variant, price_minor
        )
        await books.rows(
            "insert into outbox (kind, name, aggregate_id) values ('tag', $1, $1)", tag
        )
    return time.monotonic()


async def replaced_after(holder: Holder, goods: Goods, price_minor: int, since: float) -> float:
    async def is_replaced() -> bool:
        return await holder.price(goods) == price_minor

    await until(is_replaced, within_s=10.0, what="the page is replaced")
    return time.monotonic() - since


@pytest.mark.faults
async def test_held_pages_go_on_without_valkey_and_without_business(
    broken_stack: RunningStack, parts: Parts, http: httpx.AsyncClient, books: Books
) -> None:
    many = [await books.goods(price_minor=100) for _ in range(HELD)]
    async with holding(broken_stack) as holder:
        await holder.verified()
        for goods in many:
            assert await holder.price(goods) == 100
        async with parts.held_down("valkey"):
            late_s = []
            for number, goods in enumerate(many[:10]):
                await holder.price(goods)  # so that it has just been looked at: the worst case
                committed_at = await reprice(books, goods, 200 + number)
                late_s.append(await replaced_after(holder, goods, 200 + number, committed_at))
            assert holder.stream.verified_since() is None
            assert holder.pages.entries == HELD  # nothing is thrown away
            parts.kill("business")
            began_at = time.monotonic()
            shown = [await holder.price(goods) for goods in many]
            answered_s = time.monotonic() - began_at
            assert shown == [200 + number for number in range(10)] + [100] * (HELD - 10)
            assert holder.pages.entries == HELD
        healed_at = time.monotonic()
        await parts.wait_until_healthy("valkey", within_s=HEALED_WITHIN_S)
        await parts.wait_until_healthy("business", within_s=HEALED_WITHIN_S)
        await holder.verified(within_s=HEALED_WITHIN_S)
        healed_s = time.monotonic() - healed_at
        back_s = []
        for number, goods in enumerate(many[:10]):
            await holder.price(goods)
            committed_at = await reprice(books, goods, 300 + number)
            back_s.append(await replaced_after(holder, goods, 300 + number, committed_at))
        await holder.price(many[0])
        assert (await holder.get(f"/products/{many[0].slug}")).held
    passed = max(late_s) <= WITHOUT_VALKEY_S + FETCH_S and sorted(back_s)[5] <= FETCH_S
    record(
        21,
        "Valkey is away, then business too",
        passed,
        worst_staleness_ms=round(1000 * max(late_s)),
        median_staleness_ms=round(1000 * sorted(late_s)[5]),
        held_pages_answered_without_business=len(shown),
        answered_in_ms=round(1000 * answered_s),
        verified_again_after_ms=round(1000 * healed_s),
        median_staleness_then_ms=round(1000 * sorted(back_s)[5]),
    )
    assert passed
