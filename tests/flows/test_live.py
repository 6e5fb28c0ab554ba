"""Live streams through the whole stack: what is sold, ordered and paid is told to who watches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest_asyncio

from tests.access.live_client import Listener, close_all, listen
from tests.faults.waiting import until
from tests.flows.chromium import chromium
from tests.running_stack import RunningStack
from tests.security.revocation import begin, end
from tests.shopping import Books, Customer

BELIEVED_S = 1.5
ENDED_WITHIN_S = 1.0  # 0.1 until the relay looks, 0.5 until access does
TRIES = 3  # of a machine that may be busy
WITHIN_S = 20.0  # a tenth of a second, on a machine that has nothing else to do


@pytest_asyncio.fixture(autouse=True)
async def all_closed() -> AsyncIterator[None]:
    yield
    await close_all()


def states(listener: Listener, event: str) -> list[dict[str, Any]]:
    return [orjson.loads(data) for name, data in listener.events if name == event]


async def shows(listener: Listener, event: str, key: str, value: object) -> dict[str, Any]:
    """Wait for a state in which that is so."""

    def found() -> list[dict[str, Any]]:
        return [state for state in states(listener, event) if state.get(key) == value]

    await until(lambda: bool(found()), within_s=WITHIN_S, what=f"{event} with {key} {value}")
    return found()[-1]


def available(state: dict[str, Any]) -> list[int]:
    return [one["available"] for one in state["variants"]]


async def hears(listener: Listener, stock: list[int]) -> None:
    await until(
        lambda: any(available(state) == stock for state in states(listener, "product")),
        within_s=WITHIN_S,
        what=f"a stock of {stock}",
    )


async def test_stock_is_told_as_it_is_sold_and_given_back(
    stack: RunningStack, books: Books, customer: Customer
) -> None:
    port = urlsplit(stack.url).port or 80
    goods = await books.goods(available=5, variants=2)
    listener = await listen(port, f"products={goods.slug}")
    await hears(listener, [5, 5])
    order_id = await customer.placed({goods.variants[0]: 3})
    await hears(listener, [2, 5])
    assert (await customer.cancel(order_id)).status_code == 200
    await until(
        lambda: available(states(listener, "product")[-1]) == [5, 5],
        within_s=WITHIN_S,
        what="it is given back",
    )
    assert listener.resets == 0


async def test_a_sale_is_told_as_it_is_claimed(
    stack: RunningStack, books: Books, customer: Customer
) -> None:
    port = urlsplit(stack.url).port or 80
    goods = await books.goods(available=10)
    sale_id = await books.flash_sale(goods.variant, units=4)
    await customer.cart({})  # who claims has to be known
    listener = await listen(port, f"sales={sale_id}")
    assert (await shows(listener, "sale", "left", 4))["state"] == "open"
    assert (await customer.claim(sale_id, 3)).status_code == 201
    await shows(listener, "sale", "left", 1)


async def test_orders_are_told_to_who_placed_them_and_to_nobody_else(
    stack: RunningStack, books: Books, customer: Customer
) -> None:
    port = urlsplit(stack.url).port or 80
    other = Customer(customer.http)
    goods = await books.goods(available=100)
    for one in (customer, other):
        await one.cart({})
    mine = await listen(port, "orders=me", f"authorization: Bearer {customer.token}")
    others = await listen(port, "orders=me", f"authorization: Bearer {other.token}")
    my_order = await customer.placed({goods.variant: 1})
    await shows(mine, "order", "order_id", my_order)
    assert (await customer.pay(my_order)).status_code == 201
    paid = await shows(mine, "order", "state", "paid")
    assert paid["payment"]["state"] == "SUCCESS"
    other_order = await other.placed({goods.variant: 1})
    await shows(others, "order", "order_id", other_order)
    assert {state["order_id"] for state in states(mine, "order")} == {my_order}
    assert {state["order_id"] for state in states(others, "order")} == {other_order}


async def ended_after_s(port: int, books: Books) -> float:
    """How long the streams of sessions go on that end; one that does not end goes on."""
    lasting, *sessions = [await begin(books) for _ in range(4)]
    stays, *streams = [
        await listen(port, "orders=me", f"authorization: Bearer {one.token}")
        for one in (lasting, *sessions)
    ]
    for stream in streams:
        await stream.begun()
    await asyncio.sleep(BELIEVED_S)  # from now on it is the tag stream that vouches for them
    assert not any(stream.ended for stream in streams)
    ended_at = await end(books, sessions)
    await until(lambda: all(stream.ended for stream in streams), within_s=WITHIN_S, what="they end")
    took_s = time.monotonic() - ended_at
    assert not stays.ended
    again = await listen(port, "orders=me", f"authorization: Bearer {sessions[0].token}")
    assert again.status == 401
    return took_s


async def test_the_stream_of_a_session_that_ends_is_ended_within_a_second(
    stack: RunningStack, books: Books
) -> None:
    took: list[float] = []
    while len(took) < TRIES and not any(took_s < ENDED_WITHIN_S for took_s in took):
        took.append(await ended_after_s(urlsplit(stack.url).port or 80, books))
    assert min(took) < ENDED_WITHIN_S, took


WATCH = """
    window.told = []
    window.live = new EventSource('/live?products=SLUG&orders=me')
    for (const kind of ['product', 'order', 'reset'])
        live.addEventListener(kind, e => told.push([kind, JSON.parse(e.data), e.lastEventId]))
    'watching'
"""
ORDER = """
    fetch('/orders', {
        method: 'POST',
        headers: {'content-type': 'application/json', 'idempotency-key': 'KEY'},
        body: JSON.stringify({lines: [{variant_id: 'VARIANT', quantity: 1}]}),
    }).then(answer => answer.status)
"""


async def test_event_source_in_a_real_browser_shows_what_is_sold_and_ones_own_order(
    stack: RunningStack, books: Books, customer: Customer, tmp_path: Path
) -> None:
    goods = await books.goods(available=9)
    order = ORDER.replace("VARIANT", str(goods.variant))
    async with chromium(tmp_path / "profile") as browser:
        await browser.open(f"{stack.url}/products/{goods.slug}")
        assert await browser.run(order.replace("KEY", "first")) == 201  # by its cookie from now on
        assert await browser.run(WATCH.replace("SLUG", goods.slug)) == "watching"

        async def told(kind: str) -> list[Any]:
            found: list[Any] = await browser.run(f"told.filter(each => each[0] === '{kind}')")
            return found

        async def shows_stock(stock: int) -> bool:
            return any(available(each[1]) == [stock] for each in await told("product"))

        async def has_orders(count: int) -> bool:
            return len({each[1]["order_id"] for each in await told("order")}) == count

        await until(lambda: shows_stock(8), within_s=WITHIN_S, what="the stock as it is")
        await until(lambda: has_orders(1), within_s=WITHIN_S, what="the order that there is")
        await customer.placed({goods.variant: 2})
        await until(lambda: shows_stock(6), within_s=WITHIN_S, what="what another has ordered")
        assert await has_orders(1)
        assert await browser.run(order.replace("KEY", "second")) == 201
        await until(lambda: has_orders(2), within_s=WITHIN_S, what="the second order")
        assert await told("reset") == []
        assert all(each[2] for each in await told("product"))
        assert await browser.run("live.readyState") == 1


async def test_two_who_watch_and_many_who_buy_end_with_the_truth(
    stack: RunningStack, books: Books, customer: Customer
) -> None:
    """Whoever leaves and comes back at any moment, what he has in the end is what there is."""
    port = urlsplit(stack.url).port or 80
    goods = await books.goods(available=60, variants=2)
    query, last_id, seen = f"products={goods.slug}", "", []
    steady = await listen(port, query)
    buying = asyncio.gather(*(customer.placed({goods.variants[n % 2]: 1}) for n in range(20)))
    for _ in range(6):
        lines = [f"Last-Event-ID: {last_id}"] if last_id else []
        restless = await listen(port, query, *lines)
        await restless.begun()
        await asyncio.sleep(0.05)
        seen += states(restless, "product")
        assert restless.resets == 0
        last_id = restless.last_id
        await restless.close()
    await buying
    restless = await listen(port, query, f"Last-Event-ID: {last_id}")

    def has_the_truth() -> bool:
        latest = [*seen, *states(restless, "product")][-1:]
        known = states(steady, "product")[-1:]
        return [available(state) for state in (*latest, *known)] == [[50, 50]] * 2

    await until(has_the_truth, within_s=WITHIN_S, what="both show what is left")
    everything = [available(state) for state in states(steady, "product")]
    assert everything == sorted(everything, key=sum, reverse=True)
