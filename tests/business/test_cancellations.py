"""Cancelling over HTTP: an unpaid order is given back whole, once, by its owner only."""

from __future__ import annotations

from uuid import UUID, uuid4

import httpx

from tests.shopping import Books, Customer


def moves(order: dict[str, list[dict[str, str]]]) -> list[tuple[str | None, str, str]]:
    return [(event["from"], event["to"], event["cause"]) for event in order["events"]]


async def test_a_cancelled_order_gives_its_stock_back_and_says_so(
    books: Books, customer: Customer
) -> None:
    goods = await books.goods(available=5, variants=2)
    order_id = await customer.placed({goods.variants[0]: 5, goods.variants[1]: 1})
    answer = await customer.cancel(order_id)
    order = answer.json()
    assert (answer.status_code, order["state"]) == (200, "cancelled")
    assert answer.headers["cache-control"] == "no-store"
    assert moves(order) == [
        (None, "placed", "placed"),
        ("placed", "cancelled", "cancelled_by_customer"),
    ]
    assert [await books.stock(v) for v in goods.variants] == [(5, 0, 0), (5, 0, 0)]
    holds = "select distinct state from stock_holds where order_id = $1"
    assert await books.value(holds, UUID(order_id)) == "released"
    told = "select name from outbox where aggregate_id = $1 order by outbox_id"
    names = [row["name"] for row in await books.rows(told, order_id)]
    assert names == ["order_placed", "order_cancelled"]
    assert (await customer.cancel(order_id)).json() == order
    assert await books.stock(goods.variant) == (5, 0, 0)
    refused = await customer.pay(order_id)
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/order-not-payable")


async def test_what_is_paid_or_being_paid_is_not_cancelled_and_what_was_declined_is(
    books: Books, customer: Customer
) -> None:
    goods = await books.goods(available=10)
    for method, status in (("tok_approve", 409), ("tok_pending", 409), ("tok_decline", 200)):
        order_id = await customer.placed({goods.variant: 1})
        await customer.pay(order_id, method)
        answer = await customer.cancel(order_id)
        assert answer.status_code == status, method
        if status == 409:
            assert answer.json()["type"] == "/problems/order-not-cancellable"
    paid = (await customer.get(f"/orders/{await paid_order(customer, goods.variant)}")).json()
    assert moves(paid)[-1] == ("placed", "paid", "payment_captured")


async def paid_order(customer: Customer, variant: UUID) -> str:
    order_id = await customer.placed({variant: 1})
    assert (await customer.pay(order_id)).status_code == 201
    return order_id


async def test_another_customers_order_is_not_cancelled(
    books: Books, customer: Customer, http: httpx.AsyncClient
) -> None:
    goods = await books.goods(available=10)
    order_id, other = await customer.placed({goods.variant: 1}), Customer(http)
    await other.cart()
    assert (await other.cancel(order_id)).status_code == 404
    assert (await other.cancel(str(uuid4()))).status_code == 404
    assert (await Customer(http).cancel(order_id)).status_code == 401
    assert (await customer.get(f"/orders/{order_id}")).json()["state"] == "placed"
