"""The worker of live states: what it tells, when, and that only one of several does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
import pytest
import pytest_asyncio

from services.business import live
from services.business.live import Teller
from services.business.shop import Shop
from services.data.live import LEASE_KEY, LeaseLost, LiveState, is_watched, open_desk
from services.live_stream import STREAM
from services.live_watch import ASKED, WATCHED
from services.settings import ValkeySettings
from tests.faults.waiting import until
from tests.own_valkey import OwnValkey, own_valkey
from tests.shopping import Books, place

WITHIN_S = 10.0
FAR_AWAY = 2**40  # seconds: nobody stops watching in these tests


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def one_valkey() -> AsyncIterator[OwnValkey]:
    async with own_valkey() as started:
        yield started


@pytest_asyncio.fixture
async def valkey(one_valkey: OwnValkey) -> OwnValkey:
    await one_valkey.client.flushall()
    return one_valkey


@asynccontextmanager
async def telling(shop: Shop, valkey: OwnValkey) -> AsyncIterator[Teller]:
    async with open_desk(ValkeySettings(valkey_url=valkey.url)) as desk:
        yield Teller(shop, desk)


async def watch(valkey: OwnValkey, *topics: str, asked: bool = False) -> None:
    await valkey.client.zadd(WATCHED, dict.fromkeys(topics, FAR_AWAY))
    if asked:
        await valkey.client.sadd(ASKED, *topics)


async def told(valkey: OwnValkey) -> list[tuple[str, Any]]:
    """Event and state of all entries so far."""
    entries: Any = await valkey.client.xrange(STREAM)
    return [(each[b"event"].decode(), orjson.loads(each[b"data"])) for _, each in entries]


async def test_price_band_and_stock_are_told_once_and_again_when_they_change(
    lab_shop: Shop, lab_books: Books, valkey: OwnValkey
) -> None:
    goods = await lab_books.goods(available=6, price_minor=500, variants=2)
    topic = f"product:{goods.slug}"
    await watch(valkey, topic)
    async with telling(lab_shop, valkey) as teller:
        assert await teller.run_once() == 1
        assert await teller.run_once() == 0
        await place(lab_shop, {goods.variant: 2})
        assert await teller.run_once() == 1
        await lab_books.rows(
            "update variants set price_minor = 700 where variant_id = $1", goods.variants[1]
        )
        assert await teller.run_once() == 1
    states = [state for event, state in await told(valkey) if event == "product"]
    assert [state["topic"] for state in states] == [topic] * 3
    shown = [
        [(one["available"], one["price"]["amount_minor"]) for one in state["variants"]]
        for state in states
    ]
    assert shown == [
        [(6, 500), (6, 500)],
        [(4, 500), (6, 500)],
        [(4, 500), (6, 700)],
    ]
    assert [state["variants"][0]["band"] for state in states] == [
        "in_stock",
        "few_left",
        "few_left",
    ]


async def test_of_many_only_what_has_changed_is_told_and_so_is_what_is_again_as_it_was(
    lab_shop: Shop, lab_books: Books, valkey: OwnValkey
) -> None:
    many = [await lab_books.goods(price_minor=500) for _ in range(5)]
    await watch(valkey, *(f"product:{goods.slug}" for goods in many))
    async with telling(lab_shop, valkey) as teller:
        assert await teller.run_once() == 5
        for price_minor in (700, 500):
            await lab_books.rows(
                "update variants set price_minor = $2 where variant_id = $1",
                many[3].variant,
                price_minor,
            )
            assert await teller.run_once() == 1
        await lab_books.rows(
            "update products set published = false where product_id = $1", many[2].product_id
        )
        assert await teller.run_once() == 1
    last = [state for _, state in await told(valkey)][-3:]
    assert [state["slug"] for state in last] == [many[3].slug] * 2 + [many[2].slug]
    prices = [[one["price"]["amount_minor"] for one in state["variants"]] for state in last]
    assert prices == [[700], [500], []]


async def test_what_nobody_watches_is_not_told(
    lab_shop: Shop, lab_books: Books, valkey: OwnValkey
) -> None:
    goods = await lab_books.goods()
    async with telling(lab_shop, valkey) as teller:
        assert await teller.run_once() == 0
        await place(lab_shop, {goods.variant: 1})
        assert await teller.run_once() == 0
    assert await told(valkey) == []


async def test_who_asks_is_told_though_nothing_has_changed(
    lab_shop: Shop, lab_books: Books, valkey: OwnValkey
) -> None:
    goods = await lab_books.goods()
    topic = f"product:{goods.slug}"
    async with telling(lab_shop, valkey) as teller:
        for _ in range(2):
            await watch(valkey, topic, asked=True)
            assert await teller.run_once() == 1
            assert await teller.run_once() == 0


async def test_a_product_that_is_not_on_sale_has_no_variants(
    lab_shop: Shop, lab_books: Books, valkey: OwnValkey
) -> None:
    goods = await lab_books.goods(published=False)
    await watch(valkey, f"product:{goods.slug}", "product:nothing")
    async with telling(lab_shop, valkey) as teller:
        assert await teller.run_once() == 2
    assert [state["variants"] for _, state in await told(valkey)] == [[], []]


async def test_a_sale_is_told_as_it_opens_sells_and_closes(
    lab_shop: Shop, lab_books: Books, valkey: OwnValkey
) -> None:
    goods = await lab_books.goods(price_minor=900)
    sale_id = await lab_books.flash_sale(goods.variant, opens_in_s=0.5, open_for_s=60, units=5)
    await watch(valkey, f"sale:{sale_id}")
    async with telling(lab_shop, valkey) as teller:
        assert await teller.run_once() == 1

        async def tells() -> bool:
            return await teller.run_once() == 1

        await until(tells, within_s=WITHIN_S, what="it opens")
        await lab_books.rows("update flash_sales set claimed = 2 where flash_sale_id = $1", sale_id)
        assert await teller.run_once() == 1
        await lab_books.rows(
            "update flash_sales set closes_at = opens_at + interval '1 ms'"
            " where flash_sale_id = $1",
            sale_id,
        )
        assert await teller.run_once() == 1
        # The books of this database are looked at by other tests.
        await lab_books.rows("update flash_sales set claimed = 0 where flash_sale_id = $1", sale_id)
    states = [state for _, state in await told(valkey)]
    assert [(each["state"], each["left"]) for each in states] == [
        ("upcoming", 5),
        ("open", 5),
        ("open", 3),
        ("over", 3),
    ]
    assert states[0]["server_time"] < states[0]["opens_at"] < states[1]["server_time"]


async def test_orders_go_to_the_topic_of_their_customer(
    lab_shop: Shop, lab_books: Books, valkey: OwnValkey
) -> None:
    goods = await lab_books.goods()
    mine = await place(lab_shop, {goods.variant: 1})
    others = await place(lab_shop, {goods.variant: 1})
    topic = f"customer:{mine.customer_id}"
    await watch(valkey, topic)
    async with telling(lab_shop, valkey) as teller:
        assert await teller.run_once() == 1
        await lab_books.rows(
            "update orders set state = 'expired' where order_id = any($1)",
            [mine.order_id, others.order_id],
        )
        assert await teller.run_once() == 1
        # The books of this database are looked at by other tests.
        await lab_books.rows(
            "update orders set state = 'placed' where order_id = any($1)",
            [mine.order_id, others.order_id],
        )
    found = await told(valkey)
    assert [event for event, _ in found] == ["order", "order"]
    assert [(each["topic"], each["order_id"], each["state"]) for _, each in found] == [
        (topic, str(mine.order_id), "placed"),
        (topic, str(mine.order_id), "expired"),
    ]


async def test_topics_that_mean_nothing_are_passed_over(lab_shop: Shop, valkey: OwnValkey) -> None:
    await watch(valkey, "analytics", "sale:1", "customer:", "x", asked=True)
    async with telling(lab_shop, valkey) as teller:
        assert await teller.run_once() == 0


async def test_a_topic_that_runs_out_is_not_looked_at_any_more(
    lab_shop: Shop, lab_books: Books, valkey: OwnValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "WATCHED_S", 0.0)
    goods = await lab_books.goods()
    topic = f"product:{goods.slug}"
    await watch(valkey, topic)
    async with telling(lab_shop, valkey) as teller:
        assert await teller.run_once() == 1
        assert (teller.watched, await is_watched(valkey.client, topic)) == (1, True)
        await valkey.client.zadd(WATCHED, {topic: 1})
        assert await teller.run_once() == 0
        assert (teller.watched, await is_watched(valkey.client, topic)) == (0, False)
        await watch(valkey, topic)
        assert await teller.run_once() == 1  # it is new again


async def test_one_of_two_tells_and_the_other_takes_over(
    lab_shop: Shop, lab_books: Books, valkey: OwnValkey
) -> None:
    goods = await lab_books.goods()
    await watch(valkey, f"product:{goods.slug}")
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(telling(lab_shop, valkey))
        second = await stack.enter_async_context(telling(lab_shop, valkey))
        assert (await first.run_once(), await second.run_once()) == (1, 0)
        assert (first.leads, second.leads) == (True, False)
        await valkey.client.delete(LEASE_KEY)  # as if the first had stood still for so long
        assert await second.run_once() == 1  # whatever the first has told
        assert await first.run_once() == 0
        assert (first.leads, second.leads) == (False, True)


async def test_who_has_lost_the_lease_writes_nothing(valkey: OwnValkey) -> None:
    settings = ValkeySettings(valkey_url=valkey.url)
    async with open_desk(settings) as late, open_desk(settings) as other:
        assert (await late.take()).held
        await valkey.client.delete(LEASE_KEY)
        turn = await other.take()
        assert turn.held
        assert turn.anew
        with pytest.raises(LeaseLost):
            await late.write([LiveState("product:a", "product", b"{}", "product:a")])
        await late.renew()
        await late.release()
        assert not (await late.take()).held
        assert await valkey.client.xlen(STREAM) == 0


async def test_the_lease_is_given_back_at_the_end(valkey: OwnValkey) -> None:
    settings = ValkeySettings(valkey_url=valkey.url)
    async with open_desk(settings) as desk:
        assert (await desk.take()).held
        ttl_ms = await valkey.client.pttl(LEASE_KEY)
        assert 0 < ttl_ms <= 2000
    assert not await valkey.client.exists(LEASE_KEY)


async def test_a_stream_that_was_evicted_is_written_anew(
    lab_shop: Shop, lab_books: Books, valkey: OwnValkey
) -> None:
    first, second = await lab_books.goods(), await lab_books.goods()
    await watch(valkey, f"product:{first.slug}", f"product:{second.slug}")
    async with telling(lab_shop, valkey) as teller:
        await teller.run_once()
        await valkey.client.delete(STREAM)
        await place(lab_shop, {first.variant: 1})
        assert await teller.run_once() == 1
        assert await teller.run_once() == 2  # the other's may have gone unread


async def test_states_never_go_back_while_workers_replace_each_other(
    lab_shop: Shop, lab_books: Books, valkey: OwnValkey
) -> None:
    goods = await lab_books.goods(available=60)
    await watch(valkey, f"product:{goods.slug}")

    async def works(teller: Teller) -> None:
        while not done.is_set():
            try:
                await teller.run_once()
            except LeaseLost:
                teller.forget()
            await asyncio.sleep(0)

    async def disturbs() -> None:
        while not done.is_set():
            await valkey.client.delete(LEASE_KEY)
            await asyncio.sleep(0.003)

    done = asyncio.Event()
    async with AsyncExitStack() as stack:
        tellers = [await stack.enter_async_context(telling(lab_shop, valkey)) for _ in range(3)]
        tasks = [asyncio.create_task(works(teller)) for teller in tellers]
        tasks.append(asyncio.create_task(disturbs()))
        for _ in range(30):
            await place(lab_shop, {goods.variant: 2})

        async def is_told() -> bool:
            states = await told(valkey)
            return bool(states) and states[-1][1]["variants"][0]["available"] == 0

        await until(is_told, within_s=WITHIN_S, what="the last state is told")
        done.set()
        await asyncio.gather(*tasks)
    left = [state["variants"][0]["available"] for _, state in await told(valkey)]
    assert left == sorted(left, reverse=True)
