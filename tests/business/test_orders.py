"""Placing orders over HTTP: prices, holds, keys, races, and what is nobody else's business."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx
import pytest

from services.business.placing import TOTAL_MAX_MINOR
from tests.shopping import Books, Customer, statuses

BUYERS = 60
UNITS = 5


async def test_prices_are_the_servers_and_the_stock_is_held(
    books: Books, customer: Customer
) -> None:
    shirt = await books.goods(price_minor=1999, available=10, variants=2)
    answer = await customer.order({shirt.variants[0]: 3, shirt.variants[1]: 1})
    order = answer.json()
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["location"] == f"/orders/{order['order_id']}"
    assert order["state"] == "placed"
    assert UUID(order["order_id"]).version == 7
    assert order["total"] == {"amount_minor": 4 * 1999, "currency": "USD"}
    assert [line["unit_price"]["amount_minor"] for line in order["lines"]] == [1999, 1999]
    assert await books.stock(shirt.variants[0]) == (7, 3, 0)
    assert await books.stock(shirt.variants[1]) == (9, 1, 0)
    left = datetime.fromisoformat(order["hold_expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=14) < left < timedelta(minutes=16)


async def test_an_order_keeps_its_price_when_the_price_changes(
    books: Books, customer: Customer
) -> None:
    goods = await books.goods(price_minor=500)
    order_id = await customer.placed({goods.variant: 2})
    await books.rows("update variants set price_minor = 900 where variant_id = $1", goods.variant)
    shown = (await customer.get(f"/orders/{order_id}")).json()
    assert shown["total"]["amount_minor"] == 1000
    again = await customer.order({goods.variant: 2})
    assert again.json()["total"]["amount_minor"] == 1800


async def test_a_price_sent_by_the_client_is_refused(books: Books, customer: Customer) -> None:
    goods = await books.goods()
    line = {"variant_id": str(goods.variant), "quantity": 1, "unit_price_minor": 1}
    answer = await customer.order([line])
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "/lines/0/unit_price_minor"


async def test_only_a_change_of_band_makes_the_page_old(books: Books, customer: Customer) -> None:
    goods = await books.goods(available=10)
    tag = f"product-{goods.product_id}"
    count = "select count(*) from outbox where kind = 'tag' and name = $1"
    await customer.placed({goods.variant: 4})  # 6 left: still in stock
    assert await books.value(count, tag) == 0
    await customer.placed({goods.variant: 1})  # 5 left: few
    assert await books.value(count, tag) == 1
    await customer.placed({goods.variant: 1})  # 4 left: few as before
    assert await books.value(count, tag) == 1
    await customer.placed({goods.variant: 4})  # none
    assert await books.value(count, tag) == 2


async def test_a_basket_is_held_whole_or_not_at_all(books: Books, customer: Customer) -> None:
    plenty, few = await books.goods(available=10), await books.goods(available=2)
    none = await books.goods(available=0)
    answer = await customer.order({plenty.variant: 1, few.variant: 3, none.variant: 1})
    assert answer.status_code == 409
    assert answer.json()["type"] == "/problems/out-of-stock"
    assert answer.json()["errors"] == [
        {"field": "/lines/1/quantity", "detail": "only 2 available"},
        {"field": "/lines/2/quantity", "detail": "only 0 available"},
    ]
    assert await books.stock(plenty.variant) == (10, 0, 0)
    assert await books.stock(few.variant) == (2, 0, 0)


async def test_a_refused_order_leaves_no_guest_and_burns_no_key(
    books: Books, customer: Customer
) -> None:
    goods = await books.goods(available=1)
    guests = await books.value("select count(*) from customers")
    refused = await customer.order({goods.variant: 2})
    assert refused.status_code == 409
    assert "set-cookie" not in refused.headers
    assert await books.value("select count(*) from customers") == guests
    await customer.placed({goods.variant: 1})
    key = uuid4().hex
    assert (await customer.order({goods.variant: 1}, key=key)).status_code == 409
    await books.rows(
        "update stock set received = received + 5, available = available + 5"
        " where variant_id = $1", goods.variant
    )  # fmt: skip
    await books.rows(
        "insert into stock_journal (variant_id, kind, quantity, reason)"
        " values ($1, 'receive', 5, 'a test')", goods.variant
    )  # fmt: skip
    assert (await customer.order({goods.variant: 1}, key=key)).status_code == 201


@pytest.mark.parametrize("why", ["unknown", "retired", "unpublished"])
async def test_what_is_not_for_sale_can_not_be_ordered(
    why: str, books: Books, customer: Customer
) -> None:
    good, bad = await books.goods(), await books.goods(published=why != "unpublished")
    if why == "retired":
        await books.rows(
            "update variants set retired_at = now() where variant_id = $1", bad.variant
        )
    wanted = uuid4() if why == "unknown" else bad.variant
    answer = await customer.order({good.variant: 1, wanted: 1})
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/unknown-variant"
    assert [error["field"] for error in answer.json()["errors"]] == ["/lines/1/variant_id"]
    assert await books.stock(good.variant) == (100, 0, 0)


async def test_the_largest_order_can_be_paid_and_one_above_it_is_refused(
    books: Books, customer: Customer
) -> None:
    """What the provider would not charge is not sold; sums beyond 63 bits are no server error."""
    large = await books.goods(price_minor=TOTAL_MAX_MINOR // 100)
    small, endless = await books.goods(price_minor=1), await books.goods(price_minor=2**53 - 1)
    lines = {large.variant: 100, small.variant: 1, endless.variant: 100}
    refused = await customer.order(lines)
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/total-too-large")
    named = [error["field"] for error in refused.json()["errors"]]
    assert named == ["/lines/1/quantity", "/lines/2/quantity"]
    assert await books.stock(large.variant) == (100, 0, 0)
    paid = await customer.pay(await customer.placed({large.variant: 100}))
    assert (paid.status_code, paid.json()["state"]) == (201, "SUCCESS")
    assert paid.json()["amount"]["amount_minor"] == TOTAL_MAX_MINOR


async def test_a_basket_has_one_currency_and_it_is_the_goods(
    books: Books, customer: Customer
) -> None:
    dollars, yen = await books.goods(), await books.goods(currency="JPY")
    mixed = await customer.order({dollars.variant: 1, yen.variant: 1})
    assert (mixed.status_code, mixed.json()["type"]) == (422, "/problems/currency-mismatch")
    other = await customer.order({yen.variant: 1}, currency="EUR")
    assert other.status_code == 422
    assert other.json()["errors"][0]["field"] == "/currency"
    right = await customer.order({yen.variant: 1}, currency="JPY")
    assert right.json()["total"] == {"amount_minor": 1000, "currency": "JPY"}


@pytest.mark.parametrize("quantity", [0, -1, 101, 10**9, 10**30, 1.0, 1e9, "1", True, None, [1]])
async def test_a_quantity_is_a_whole_number_from_1_to_100(
    quantity: object, books: Books, customer: Customer
) -> None:
    goods = await books.goods()
    answer = await customer.order([{"variant_id": str(goods.variant), "quantity": quantity}])
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "/lines/0/quantity"
    assert await books.stock(goods.variant) == (100, 0, 0)


async def test_a_number_of_thousands_of_digits_is_no_server_error(customer: Customer) -> None:
    body = b'{"lines":[{"variant_id":"%s","quantity":%s}]}' % (
        str(uuid4()).encode(),
        b"9" * 5000,
    )
    answer = await customer.http.post(
        "/orders",
        content=body,
        headers={"content-type": "application/json", "idempotency-key": uuid4().hex},
    )
    assert answer.status_code in (400, 422)


async def test_a_basket_has_1_to_50_lines_and_each_variant_once(
    books: Books, customer: Customer
) -> None:
    goods = await books.goods(variants=51)
    line = {"variant_id": str(goods.variant), "quantity": 1}
    for lines in ([], [line, line], dict.fromkeys(goods.variants, 1)):
        answer = await customer.order(lines)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "/lines"
    full = await customer.order(dict.fromkeys(goods.variants[:50], 1))
    assert full.status_code == 201
    assert len(full.json()["lines"]) == 50


async def test_the_same_key_gets_the_same_answer_and_one_order(
    books: Books, customer: Customer
) -> None:
    goods = await books.goods()
    await customer.placed({goods.variant: 1})
    key = uuid4().hex
    first = await customer.order({goods.variant: 2}, key=key)
    second = await customer.order({goods.variant: 2}, key=f'"{key}"')  # as a structured field
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert second.headers["location"] == first.headers["location"]
    assert await books.stock(goods.variant) == (97, 3, 0)


async def test_the_same_key_with_another_body_is_refused(books: Books, customer: Customer) -> None:
    goods = await books.goods()
    await customer.placed({goods.variant: 1})
    key = uuid4().hex
    await customer.order({goods.variant: 2}, key=key)
    other = await customer.order({goods.variant: 3}, key=key)
    assert other.status_code == 422
    assert other.json()["type"] == "/problems/idempotency-key-reused"
    assert await books.stock(goods.variant) == (97, 3, 0)


async def test_a_key_counts_within_one_customer(books: Books, http: httpx.AsyncClient) -> None:
    goods = await books.goods()
    key, orders = uuid4().hex, set()
    for _ in range(2):
        customer = Customer(http)
        await customer.placed({goods.variant: 1})
        answer = await customer.order({goods.variant: 1}, key=key)
        orders.add(answer.json()["order_id"])
    assert len(orders) == 2


@pytest.mark.parametrize("key", [None, "", '""', "a b", "ü", "x" * 256, "a\tb"])
async def test_an_order_needs_a_usable_key(
    key: str | None, books: Books, customer: Customer
) -> None:
    goods = await books.goods()
    headers = {} if key is None else {"idempotency-key": key.encode()}
    body = {"lines": [{"variant_id": str(goods.variant), "quantity": 1}]}
    answer = await customer.http.post("/orders", json=body, headers=headers)  # type: ignore[arg-type]  # header values are bytes or text
    assert answer.status_code == 400
    assert answer.json()["type"] == "/problems/idempotency-key-missing"
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


async def test_fifty_requests_with_one_key_place_one_order(
    books: Books, customer: Customer
) -> None:
    goods = await books.goods()
    await customer.placed({goods.variant: 1})
    key = uuid4().hex
    answers = await asyncio.gather(
        *(customer.order({goods.variant: 2}, key=key) for _ in range(50))
    )
    assert statuses(answers) == [201] * 50
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert await books.stock(goods.variant) == (97, 3, 0)


async def test_sixty_buyers_of_the_last_five_units_place_exactly_five_orders(
    books: Books, http: httpx.AsyncClient
) -> None:
    goods = await books.goods(available=UNITS)
    answers = await asyncio.gather(
        *(Customer(http).order({goods.variant: 1}) for _ in range(BUYERS))
    )
    assert statuses(answers) == [201] * UNITS + [409] * (BUYERS - UNITS)
    assert await books.stock(goods.variant) == (0, UNITS, 0)


async def test_baskets_that_share_goods_in_opposite_order_never_block_each_other(
    books: Books, http: httpx.AsyncClient
) -> None:
    goods = await books.goods(available=1000, variants=4)
    forward, backward = goods.variants, goods.variants[::-1]
    answers = await asyncio.gather(
        *(
            Customer(http).order(dict.fromkeys(forward if number % 2 else backward, 1))
            for number in range(40)
        )
    )
    assert statuses(answers) == [201] * 40, [a.text for a in answers if a.status_code != 201]
    assert await books.stock(goods.variant) == (960, 40, 0)


async def test_another_customers_order_is_as_unknown_as_none(
    books: Books, http: httpx.AsyncClient
) -> None:
    goods = await books.goods()
    owner, other = Customer(http), Customer(http)
    order_id = await owner.placed({goods.variant: 1})
    await other.placed({goods.variant: 1})
    theirs, nobodys = await other.get(f"/orders/{order_id}"), await other.get(f"/orders/{uuid4()}")
    assert (theirs.status_code, nobodys.status_code) == (404, 404)
    shown = [{**answer.json(), "request_id": ""} for answer in (theirs, nobodys)]
    assert shown[0] == shown[1]
    assert (await other.pay(order_id)).status_code == 404
    assert (await Customer(http).get(f"/orders/{order_id}")).status_code == 401
    assert (await owner.get(f"/orders/{order_id}")).status_code == 200
    assert (await owner.get("/orders/not-an-id")).status_code == 400
