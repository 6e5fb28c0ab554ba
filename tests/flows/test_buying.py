"""A stranger buys: from the list to the paid order, by what each answer says."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import httpx

from services.data.proofs import RULES
from tests.shopping import Books, Customer, ProviderBooks, statuses


async def test_a_stranger_finds_orders_and_pays(
    http: httpx.AsyncClient, provider: ProviderBooks
) -> None:
    listed = (await http.get("/products", params={"sort": "price"})).json()["items"]
    page = (await http.get(f"/products/{listed[0]['slug']}")).json()
    variant = next(v for v in page["variants"] if v["band"] == "in_stock")
    line = {"variant_id": variant["variant_id"], "quantity": 2}
    ordered = await http.post(
        "/orders", json={"lines": [line]}, headers={"idempotency-key": uuid4().hex}
    )
    order = ordered.json()
    assert order["total"]["amount_minor"] == 2 * variant["price"]["amount_minor"]
    paid = await http.post(
        f"/orders/{order['order_id']}/payments",
        json={"payment_method": "tok_approve"},
        headers={
            "idempotency-key": uuid4().hex,
            "authorization": f"Bearer {order['customer_token']}",
        },
    )
    payment = paid.json()
    assert (paid.status_code, payment["state"]) == (201, "SUCCESS")
    assert payment["amount"] == order["total"]
    (charge,) = await provider.charges(payment["payment_id"])
    assert (charge["status"], charge["amount_minor"]) == (
        "approved",
        order["total"]["amount_minor"],
    )


async def test_a_crowd_that_buys_pays_declines_and_leaves_breaks_no_rule(
    http: httpx.AsyncClient, books: Books
) -> None:
    """Thirty customers after forty units, each in their own way; then the books are proved."""
    goods = await books.goods(available=40)
    methods = ("tok_approve", "tok_decline", "tok_drop_after_charge", "tok_pending", "")

    async def buy(number: int) -> list[httpx.Response]:
        customer = Customer(http)
        answers = [await customer.order({goods.variant: 1 + number % 3})]
        if answers[0].status_code == 201 and methods[number % 5]:
            order_id = answers[0].json()["order_id"]
            answers += await asyncio.gather(
                customer.pay(order_id, methods[number % 5]), customer.pay(order_id)
            )
        return answers

    answers = await asyncio.gather(*(buy(number) for number in range(30)))
    assert set(statuses([answer for group in answers for answer in group])) <= {201, 202, 409}
    available, held, sold = await books.stock(goods.variant)
    assert available + held + sold == 40
    assert sold > 0
    assert await books.broken_rules() == []
    assert len(RULES) >= 15
