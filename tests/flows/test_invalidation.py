"""A change reaches every page: through outbox, relay, tag stream and cache, past a late standby."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx

from services.business.shop import Shop
from services.data.cache import UNVERIFIED_TTL_S
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.shopping import Books, Customer, Goods, asgi_client

SHOWN_WITHIN_S = 3.0  # commit to page: relay, publish, purge, refill


@asynccontextmanager
async def late_standby(stack: RunningStack) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A standby that receives and does not replay."""
    connection = await asyncpg.connect(stack.dsn("postgres", "standby"))
    try:
        await connection.execute("select pg_wal_replay_pause()")

        async def is_paused() -> bool:
            state = await connection.fetchval("select pg_get_wal_replay_pause_state()")
            return bool(state == "paused")

        await until(is_paused, within_s=5.0, what="the standby's replay is paused")
        yield connection
    finally:
        await connection.execute("select pg_wal_replay_resume()")
        await connection.close()


async def band(client: httpx.AsyncClient, goods: Goods) -> str:
    answer = (await client.get(f"/products/{goods.slug}")).raise_for_status()
    return str(answer.json()["variants"][0]["band"])


async def shows(client: httpx.AsyncClient, goods: Goods, wanted: str) -> float:
    async def is_shown() -> bool:
        return await band(client, goods) == wanted

    return await until(is_shown, within_s=SHOWN_WITHIN_S, what=f"the page shows {wanted}")


async def test_a_change_of_band_is_on_the_page_at_once(
    business: httpx.AsyncClient, books: Books, customer: Customer
) -> None:
    goods = await books.goods(available=7)
    assert await band(business, goods) == "in_stock"
    await customer.placed({goods.variant: 2})
    took_s = [await shows(business, goods, "few_left")]
    await customer.placed({goods.variant: 5})
    took_s.append(await shows(business, goods, "sold_out"))
    # By the tag, not because a value without one is asked for again after a second.
    assert min(took_s) < UNVERIFIED_TTL_S / 2


async def test_a_late_standby_does_not_put_the_old_page_back(
    stack: RunningStack, business: httpx.AsyncClient, books: Books, customer: Customer
) -> None:
    """The position rule: the page is read where the change is, though the standby lacks it."""
    goods = await books.goods(available=7)
    assert await band(business, goods) == "in_stock"
    async with late_standby(stack) as standby:
        await customer.placed({goods.variant: 2})
        await shows(business, goods, "few_left")
        # Not once more the old one, although the standby still has it.
        stale = await standby.fetchval(
            "select band from stock where variant_id = $1", goods.variant
        )
        assert stale == "in_stock"
        for _ in range(20):
            assert await band(business, goods) == "few_left"
            await asyncio.sleep(0.01)
    assert await band(business, goods) == "few_left"


async def test_another_process_takes_the_new_page_from_valkey_or_reads_it_where_it_is(
    stack: RunningStack,
    business: httpx.AsyncClient,
    books: Books,
    customer: Customer,
    shop: Shop,
) -> None:
    """Two processes hold the page; neither may show the old one after the other has the new."""
    goods = await books.goods(available=7)
    await band(business, goods)
    async with asgi_client(shop) as here:
        assert await band(here, goods) == "in_stock"
        async with late_standby(stack):
            await customer.placed({goods.variant: 7})
            await shows(business, goods, "sold_out")
            await shows(here, goods, "sold_out")


async def test_stock_that_comes_in_is_on_the_page_at_once(
    stack: RunningStack, http: httpx.AsyncClient, business: httpx.AsyncClient, books: Books
) -> None:
    goods = await books.goods(available=0)
    assert await band(business, goods) == "sold_out"
    token = stack.secret("operator_token")
    answer = await http.post(
        "/operator/stock-movements",
        json={
            "variant_id": str(goods.variant),
            "kind": "receive",
            "quantity": 50,
            "reason": "a delivery",
        },
        headers={"authorization": f"Bearer {token}"},
    )
    assert answer.status_code == 201
    await shows(business, goods, "in_stock")


async def test_reads_go_on_without_the_standbys_word(
    stack: RunningStack, http: httpx.AsyncClient, books: Books, customer: Customer
) -> None:
    """An exact stock answer never comes from a standby that is too late."""
    goods = await books.goods(available=9)
    async with late_standby(stack):
        await customer.placed({goods.variant: 4})

        async def is_exact() -> bool:
            answer = await http.get(f"/products/{goods.slug}/stock")
            variants = answer.json().get("variants")
            return answer.status_code == 200 and variants[0]["available"] == 5

        # The lag limit is 1 s: then the primary is asked.
        await until(is_exact, within_s=4.0, what="the stock is read from the primary")
