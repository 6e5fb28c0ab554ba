"""Expiry: stock of orders that were not paid in time comes back, once, and nothing else does."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from services.business.expiry import run_once
from services.business.payments import charge_and_settle, claim, pay, settle
from services.business.provider import Declined
from services.business.shop import Shop
from services.data import orders
from services.data.orders import OrderKey
from services.data.sources import Transaction
from services.deadline import Deadline
from services.problems import OrderNotPayable
from tests.faults.waiting import until
from tests.shopping import Books, Customer, place


async def is_over(books: Books, *keys: OrderKey) -> None:
    """As if the time of these holds had passed."""
    ids = [key.order_id for key in keys]
    past = "now() - interval '1 second'"
    for table, column in (("orders", "hold_expires_at"), ("stock_holds", "expires_at")):
        await books.rows(
            f"update {table} set {column} = {past} where order_id = any($1)", ids  # noqa: S608 - names of ours
        )  # fmt: skip


async def state(books: Books, key: OrderKey) -> str:
    found = await books.value("select state from orders where order_id = $1", key.order_id)
    return str(found)


async def test_an_order_that_was_not_paid_gives_its_stock_back(
    lab_shop: Shop, lab_books: Books
) -> None:
    goods = await lab_books.goods(available=7, variants=2)
    first, second = goods.variants
    over = await place(lab_shop, {first: 3, second: 1})
    still_held = await place(lab_shop, {first: 1})
    assert await run_once(lab_shop) == 0
    await is_over(lab_books, over)
    assert await run_once(lab_shop) == 1
    assert await lab_books.stock(first) == (6, 1, 0)
    assert await lab_books.stock(second) == (7, 0, 0)
    assert await state(lab_books, over) == "expired"
    assert await state(lab_books, still_held) == "placed"
    assert await run_once(lab_shop) == 0
    assert await lab_books.broken_rules() == []


async def test_a_page_that_shows_another_band_now_is_made_old(
    lab_shop: Shop, lab_books: Books
) -> None:
    goods = await lab_books.goods(available=7)
    key = await place(lab_shop, {goods.variant: 7})
    tags = "select count(*) from outbox where kind = 'tag' and name = $1"
    before = await lab_books.value(tags, f"product-{goods.product_id}")
    await is_over(lab_books, key)
    await run_once(lab_shop)
    assert await lab_books.value(tags, f"product-{goods.product_id}") == before + 1
    events = await lab_books.rows(
        "select name from outbox where aggregate_id = $1 order by outbox_id", str(key.order_id)
    )
    assert [row["name"] for row in events] == ["order_placed", "order_expired"]


async def test_several_workers_at_once_expire_each_order_once(
    lab_shop: Shop, lab_books: Books
) -> None:
    goods = await lab_books.goods(available=100)
    keys = [await place(lab_shop, {goods.variant: 2}) for _ in range(20)]
    await is_over(lab_books, *keys)
    counts = await asyncio.gather(*(run_once(lab_shop) for _ in range(6)))
    assert sum(counts) == 20
    assert await lab_books.stock(goods.variant) == (100, 0, 0)
    assert await lab_books.broken_rules() == []


async def test_stock_stays_while_a_payment_is_under_way_beyond_the_time_of_its_hold(
    lab_shop: Shop, lab_books: Books
) -> None:
    goods = await lab_books.goods(available=10)
    key = await place(lab_shop, {goods.variant: 2})
    claimed = await claim(lab_shop, key, "tok_approve", uuid4().hex, b"")
    await is_over(lab_books, key)
    assert await run_once(lab_shop) == 0
    paid = await charge_and_settle(lab_shop, claimed.payment, Deadline.after(5.0))
    assert paid is not None
    assert paid.state == "SUCCESS"
    assert await run_once(lab_shop) == 0
    assert await lab_books.stock(goods.variant) == (8, 0, 2)
    assert await lab_books.broken_rules() == []


async def payment_took_too_long(books: Books, *keys: OrderKey) -> None:
    """As if these payments had been under way for as long as they may be."""
    ids = [key.order_id for key in keys]
    await books.rows(
        "update stock_holds set paying_until = now() - interval '1 second'"
        " where order_id = any($1) and state = 'paying'", ids
    )  # fmt: skip


async def test_stock_is_kept_for_a_payment_that_does_not_end_for_fifteen_minutes_only(
    lab_shop: Shop, lab_books: Books
) -> None:
    goods = await lab_books.goods(available=10)
    keys = [await place(lab_shop, {goods.variant: 2}) for _ in range(2)]
    claimed = [await claim(lab_shop, key, "tok_approve", uuid4().hex, b"") for key in keys]
    left = await lab_books.value(
        "select paying_until - now() from stock_holds where order_id = $1", keys[0].order_id
    )
    assert timedelta(minutes=14) < left <= timedelta(minutes=15)
    await payment_took_too_long(lab_books, keys[0])
    assert await run_once(lab_shop) == 1
    assert [await state(lab_books, key) for key in keys] == ["expired", "placed"]
    assert await lab_books.stock(goods.variant) == (8, 2, 0)
    history = await lab_books.rows(
        "select from_state, to_state, cause from order_events where order_id = $1"
        " order by order_event_id", keys[0].order_id
    )  # fmt: skip
    assert [tuple(row) for row in history] == [
        (None, "placed", "placed"),
        ("placed", "expired", "not_paid_in_time"),
    ]
    assert await lab_books.broken_rules() == []
    # Only what the provider says ends the payment itself.
    await settle(lab_shop, claimed[0].payment, Declined("card_declined"))
    await settle(lab_shop, claimed[1].payment, Declined("card_declined"))
    assert await lab_books.stock(goods.variant) == (8, 2, 0)
    assert await lab_books.broken_rules() == []


async def test_several_workers_expire_what_was_paid_for_too_long_once(
    lab_shop: Shop, lab_books: Books
) -> None:
    goods = await lab_books.goods(available=100)
    keys = [await place(lab_shop, {goods.variant: 2}) for _ in range(20)]
    claims = [claim(lab_shop, key, "tok_approve", uuid4().hex, b"") for key in keys[:10]]
    claimed = await asyncio.gather(*claims)
    await is_over(lab_books, *keys[10:])
    await payment_took_too_long(lab_books, *keys)
    counts = await asyncio.gather(*(run_once(lab_shop) for _ in range(6)))
    assert sum(counts) == 20
    assert await lab_books.stock(goods.variant) == (100, 0, 0)
    assert await lab_books.broken_rules() == []
    for one in claimed:
        await settle(lab_shop, one.payment, Declined("card_declined"))


async def test_a_payment_that_began_anew_after_its_order_was_found_is_left_alone(
    lab_shop: Shop, lab_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holds had been paying for too long when it was found, and not when it was locked."""
    goods = await lab_books.goods()
    key = await place(lab_shop, {goods.variant: 2})
    first = await claim(lab_shop, key, "tok_approve", uuid4().hex, b"")
    await settle(lab_shop, first.payment, Declined("card_declined"))
    second = await claim(lab_shop, key, "tok_approve", uuid4().hex, b"")

    async def found_before(tx: Transaction, _: int) -> list[OrderKey]:
        await orders.lock_orders(tx, [key])
        return [key]

    monkeypatch.setattr(orders, "lock_expired_orders", found_before)
    assert await run_once(lab_shop) == 0
    assert await state(lab_books, key) == "placed"
    await settle(lab_shop, second.payment, Declined("card_declined"))


async def test_stock_of_a_payment_that_failed_too_late_comes_back(
    lab_shop: Shop, lab_books: Books
) -> None:
    goods = await lab_books.goods(available=10)
    key = await place(lab_shop, {goods.variant: 2})
    claimed = await claim(lab_shop, key, "tok_approve", uuid4().hex, b"")
    await is_over(lab_books, key)
    await settle(lab_shop, claimed.payment, Declined("card_declined"))
    assert await run_once(lab_shop) == 1
    assert await lab_books.stock(goods.variant) == (10, 0, 0)
    assert await lab_books.broken_rules() == []


async def test_an_expired_order_is_not_payable_any_more(lab_shop: Shop, lab_books: Books) -> None:
    goods = await lab_books.goods()
    key = await place(lab_shop, {goods.variant: 2})
    await is_over(lab_books, key)
    await run_once(lab_shop)
    with pytest.raises(OrderNotPayable):
        await pay(lab_shop, key, "tok_approve", uuid4().hex, b"")


async def test_paying_against_expiring_has_one_winner(lab_shop: Shop, lab_books: Books) -> None:
    """The time of the holds is over and that of the orders is not: both may try."""
    goods = await lab_books.goods(available=100)
    keys = [await place(lab_shop, {goods.variant: 1}) for _ in range(12)]
    await lab_books.rows(
        "update stock_holds set expires_at = now() where order_id = any($1)",
        [key.order_id for key in keys],
    )
    results = await asyncio.gather(
        *(claim(lab_shop, key, "tok_approve", uuid4().hex, b"") for key in keys),
        *(run_once(lab_shop) for _ in range(3)),
        return_exceptions=True,
    )
    lost = [isinstance(result, OrderNotPayable) for result in results[:12]]
    for key, has_lost in zip(keys, lost, strict=True):
        assert await state(lab_books, key) == ("expired" if has_lost else "placed")
    while await run_once(lab_shop):
        pass
    paying = lost.count(False)
    assert await lab_books.stock(goods.variant) == (100 - paying, paying, 0)
    assert await lab_books.broken_rules() == []


async def test_an_order_whose_payment_began_after_it_was_found_is_left_alone(
    lab_shop: Shop, lab_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement that finds orders may see holds as they were before a claim committed, and
    lock the order after: the lock does not look at the holds again."""
    goods = await lab_books.goods()
    key = await place(lab_shop, {goods.variant: 2})
    await claim(lab_shop, key, "tok_approve", uuid4().hex, b"")

    async def found_before_the_claim(tx: Transaction, _: int) -> list[OrderKey]:
        await orders.lock_orders(tx, [key])
        return [key]

    monkeypatch.setattr(orders, "lock_expired_orders", found_before_the_claim)
    assert await run_once(lab_shop) == 0
    assert await state(lab_books, key) == "placed"
    assert await lab_books.stock(goods.variant) == (98, 2, 0)
    assert await lab_books.broken_rules() == []


async def test_the_worker_of_the_stack_does_it_too(books: Books, customer: Customer) -> None:
    goods = await books.goods(available=5)
    order_id = await customer.placed({goods.variant: 5})
    await is_over(books, OrderKey(UUID(int=0), UUID(order_id)))

    async def is_back() -> bool:
        return await books.stock(goods.variant) == (5, 0, 0)

    await until(is_back, within_s=5.0, what="the stock is back")
    shown = (await customer.get(f"/orders/{order_id}")).json()
    assert shown["state"] == "expired"
    refused = await customer.pay(order_id)
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/order-not-payable")
    assert (await customer.order({goods.variant: 5})).status_code == 201
