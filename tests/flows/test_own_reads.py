"""A customer's own things through all tiers: nobody is shown less than he has done."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import httpx
import pytest_asyncio

from tests.data.own_sessions import Standby, standby_of
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.shopping import TIMEOUT_S, Books, Goods


@pytest_asyncio.fixture
async def browser(base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """One customer with cookies and nothing else."""
    async with httpx.AsyncClient(base_url=base_url, timeout=TIMEOUT_S, trust_env=False) as client:
        yield client


@pytest_asyncio.fixture
async def standby(stack: RunningStack) -> AsyncIterator[Standby]:
    async with standby_of(stack) as opened:
        yield opened


def key() -> dict[str, str]:
    return {"idempotency-key": uuid4().hex}


async def placed(browser: httpx.AsyncClient, goods: Goods) -> str:
    lines = [{"variant_id": str(goods.variant), "quantity": 1}]
    answer = await browser.post("/orders", json={"lines": lines}, headers=key())
    assert answer.status_code == 201, answer.text
    return str(answer.json()["order_id"])


async def paid(browser: httpx.AsyncClient, order_id: str) -> None:
    body = {"payment_method": "tok_approve"}
    answer = await browser.post(f"/orders/{order_id}/payments", json=body, headers=key())
    assert answer.status_code == 201, answer.text


async def test_a_browser_is_shown_what_it_has_paid_and_without_its_cookies_it_is_not(
    browser: httpx.AsyncClient, books: Books, standby: Standby, stack: RunningStack
) -> None:
    primary = await asyncpg.connect(stack.dsn("postgres"))

    async def is_shown_the_past_without() -> bool:
        """The standby is late for a second before nobody reads from it: the machine may be slow."""
        order_id = await placed(browser, await books.goods())
        await standby.caught_up(primary)
        async with standby.paused():
            await paid(browser, order_id)
            own = await browser.get(f"/orders/{order_id}")
            assert own.json()["state"] == "paid"
            customer = browser.cookies["tercet_customer"]
            browser.cookies.delete("tercet_wrote")
            browser.cookies.delete("tercet_read")
            without = await browser.get(f"/orders/{order_id}")
            assert browser.cookies["tercet_customer"] == customer
        await standby.caught_up(primary)
        return bool(without.json()["state"] == "placed")

    try:
        await until(is_shown_the_past_without, within_s=30, what="a read without a token is stale")
    finally:
        await primary.close()


async def test_a_payment_and_a_read_each_leave_a_cookie_of_their_own(
    browser: httpx.AsyncClient, books: Books
) -> None:
    order_id = await placed(browser, await books.goods())
    assert {"tercet_customer", "tercet_wrote"} == set(browser.cookies)
    answer = await browser.get(f"/orders/{order_id}")
    assert {"tercet_customer", "tercet_wrote", "tercet_read"} == set(browser.cookies)
    assert browser.cookies["tercet_read"] == answer.headers["consistency-token"]
    assert answer.headers["cache-control"] == "no-store"


async def test_a_page_gives_a_customer_nothing_of_his_own(
    browser: httpx.AsyncClient, books: Books
) -> None:
    await placed(browser, await books.goods())
    goods = await books.goods()
    for path in (f"/products/{goods.slug}", f"/products/{goods.slug}/stock", "/products"):
        for _ in range(2):  # the second time it is held
            answer = await browser.get(path)
            assert answer.status_code == 200
            assert {"set-cookie", "consistency-token"}.isdisjoint(answer.headers)


async def test_a_guest_is_known_at_once(
    browser: httpx.AsyncClient, books: Books, standby: Standby
) -> None:
    """The identity that was made a moment ago is not on the standby yet."""
    goods = await books.goods()
    async with standby.paused():
        order_id = await placed(browser, goods)
        answer = await browser.get(f"/orders/{order_id}")
        assert answer.status_code == 200, answer.text
