"""Carts over HTTP: shown at the prices of now, ordered as they were shown, once, by their owner."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from services.business.schemas import LINES_MAX
from tests.shopping import Books, Customer


async def test_a_cart_makes_a_guest_and_shows_what_is_in_it(
    books: Books, customer: Customer
) -> None:
    goods = await books.goods(price_minor=1999, variants=2)
    answer = await customer.cart({goods.variants[1]: 2, goods.variants[0]: 1})
    cart = answer.json()
    assert answer.status_code == 201
    assert "tercet_customer=" in answer.headers["set-cookie"]
    assert answer.headers["location"] == f"/carts/{cart['cart_id']}"
    assert answer.headers["cache-control"] == "no-store"
    assert UUID(cart["cart_id"]).version == 7
    assert [line["variant_id"] for line in cart["lines"]] == [str(v) for v in goods.variants[::-1]]
    assert [line["quantity"] for line in cart["lines"]] == [2, 1]
    assert cart["total"] == {"amount_minor": 3 * 1999, "currency": "USD"}
    assert {line["band"] for line in cart["lines"]} == {"in_stock"}
    shown = (await customer.get(f"/carts/{cart['cart_id']}")).json()
    assert shown == cart | {"customer_token": None}
    assert await books.stock(goods.variant) == (100, 0, 0)


async def test_an_empty_cart_is_filled_changed_and_emptied(
    books: Books, customer: Customer
) -> None:
    goods = await books.goods(variants=2)
    first, second = goods.variants
    cart = (await customer.cart()).json()
    assert (cart["lines"], cart["total"]) == ([], None)
    versions = [cart["version"]]
    for variant, quantity in ((first, 1), (second, 2), (first, 3)):
        answer = await customer.put_line(cart["cart_id"], variant, quantity)
        assert answer.status_code == 200, answer.text
        versions.append(answer.json()["version"])
    lines = answer.json()["lines"]
    assert [(line["variant_id"], line["quantity"]) for line in lines] == [
        (str(first), 3),
        (str(second), 2),
    ]
    gone = (await customer.delete_line(cart["cart_id"], first)).json()
    assert [line["variant_id"] for line in gone["lines"]] == [str(second)]
    versions.append(gone["version"])
    assert len(set(versions)) == len(versions)


async def test_what_is_repeated_changes_no_version(books: Books, customer: Customer) -> None:
    goods = await books.goods(variants=2)
    cart_id = (await customer.cart()).json()["cart_id"]
    put = [await customer.put_line(cart_id, goods.variant, 2) for _ in range(2)]
    assert put[0].json() == put[1].json()
    left = [await customer.delete_line(cart_id, goods.variants[1]) for _ in range(2)]
    assert left[1].status_code == 200
    assert left[1].json() == put[0].json()


async def test_a_change_of_price_or_title_is_another_version_and_one_of_stock_is_not(
    books: Books, customer: Customer
) -> None:
    goods = await books.goods(price_minor=500, available=6)
    cart = (await customer.cart({goods.variant: 1})).json()
    await Customer(customer.http).placed({goods.variant: 5})
    few = await seen(books, customer, cart["cart_id"])
    assert few["lines"][0]["band"] == "few_left"
    assert few["version"] == cart["version"]
    await books.rows("update variants set price_minor = 600 where variant_id = $1", goods.variant)
    dearer = await seen(books, customer, cart["cart_id"])
    assert dearer["total"]["amount_minor"] == 600
    assert dearer["version"] != cart["version"]
    await books.rows("update products set title = 'New' where product_id = $1", goods.product_id)
    assert (await seen(books, customer, cart["cart_id"]))["version"] != dearer["version"]


async def seen(books: Books, customer: Customer, cart_id: str) -> dict[str, Any]:
    """The cart, once the standby has what was changed."""
    await books.replayed()
    found: dict[str, Any] = (await customer.get(f"/carts/{cart_id}")).json()
    return found


async def test_another_customers_cart_is_as_unknown_as_none(
    books: Books, customer: Customer, http: httpx.AsyncClient
) -> None:
    goods = await books.goods()
    cart = (await customer.cart({goods.variant: 1})).json()
    other = Customer(http)
    await other.cart()
    for cart_id in (cart["cart_id"], str(uuid4())):
        answers = [
            await other.get(f"/carts/{cart_id}"),
            await other.put_line(cart_id, goods.variant, 5),
            await other.delete_line(cart_id, goods.variant),
            await other.order_cart({**cart, "cart_id": cart_id}),
            await Customer(http).order_cart({**cart, "cart_id": cart_id}),
        ]
        assert [answer.status_code for answer in answers] == [404] * 5
    assert (await Customer(http).get(f"/carts/{cart['cart_id']}")).status_code == 401
    same = (await customer.get(f"/carts/{cart['cart_id']}")).json()
    assert same["version"] == cart["version"]


async def test_only_what_is_for_sale_comes_in_and_what_is_not_any_more_blocks_ordering(
    books: Books, customer: Customer
) -> None:
    goods = await books.goods(variants=2)
    unknown = await customer.cart({goods.variant: 1, uuid4(): 1})
    assert (unknown.status_code, unknown.json()["type"]) == (422, "/problems/unknown-variant")
    assert [error["field"] for error in unknown.json()["errors"]] == ["/lines/1/variant_id"]
    cart_id = (await customer.cart(dict.fromkeys(goods.variants, 1))).json()["cart_id"]
    assert (await customer.put_line(cart_id, uuid4(), 1)).status_code == 422
    await books.rows("update variants set retired_at = now() where variant_id = $1", goods.variant)
    cart = await seen(books, customer, cart_id)
    lines = {line["variant_id"]: line for line in cart["lines"]}
    assert [lines[str(v)]["for_sale"] for v in goods.variants] == [False, True]
    assert lines[str(goods.variant)]["unit_price"] is None
    assert cart["total"] is None
    refused = await customer.order_cart(cart)
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/unknown-variant")
    left = (await customer.delete_line(cart_id, goods.variant)).json()
    assert (await customer.order_cart(left)).status_code == 201


async def test_a_cart_has_as_many_lines_as_an_order(books: Books, customer: Customer) -> None:
    goods = await books.goods(variants=LINES_MAX + 1)
    lines = dict.fromkeys(goods.variants[:LINES_MAX], 1)
    cart_id = (await customer.cart(lines)).json()["cart_id"]
    full = await customer.put_line(cart_id, goods.variants[-1], 1)
    assert (full.status_code, full.json()["type"]) == (409, "/problems/cart-full")
    assert (await customer.put_line(cart_id, goods.variants[0], 2)).status_code == 200
    assert (await customer.cart(dict.fromkeys(goods.variants, 1))).status_code == 422
    for quantity in (0, 101, "1", None):
        assert (await customer.put_line(cart_id, goods.variant, quantity)).status_code == 422


async def test_lines_put_at_once_never_make_more_than_a_cart_holds(
    books: Books, customer: Customer
) -> None:
    goods = await books.goods(variants=LINES_MAX + 5)
    lines = dict.fromkeys(goods.variants[: LINES_MAX - 1], 1)
    cart_id = (await customer.cart(lines)).json()["cart_id"]
    last = goods.variants[LINES_MAX - 1 :]
    answers = await asyncio.gather(*(customer.put_line(cart_id, v, 1) for v in last))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5


async def test_an_order_takes_the_cart_as_it_was_shown_once(
    books: Books, customer: Customer
) -> None:
    goods = await books.goods(price_minor=300, variants=2)
    cart = (await customer.cart({goods.variants[1]: 2, goods.variants[0]: 1})).json()
    key = uuid4().hex
    answer = await customer.order_cart(cart, key=key)
    order = answer.json()
    assert answer.status_code == 201, answer.text
    assert [line["variant_id"] for line in order["lines"]] == [
        line["variant_id"] for line in cart["lines"]
    ]
    assert order["total"] == cart["total"]
    assert [(event["from"], event["to"], event["cause"]) for event in order["events"]] == [
        (None, "placed", "placed")
    ]
    again = await customer.order_cart(cart, key=key)
    assert again.json() == order
    assert again.headers["idempotent-replayed"] == "true"
    ordered = (await customer.get(f"/carts/{cart['cart_id']}")).json()
    assert (ordered["state"], ordered["order_id"]) == ("ordered", order["order_id"])
    for refused in (
        await customer.order_cart(ordered),
        await customer.put_line(cart["cart_id"], goods.variant, 5),
        await customer.delete_line(cart["cart_id"], goods.variant),
    ):
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/cart-ordered")


async def test_a_cart_that_is_not_what_was_shown_is_not_ordered_and_is_shown_anew(
    books: Books, customer: Customer
) -> None:
    goods = await books.goods(price_minor=300)
    shown = (await customer.cart({goods.variant: 1})).json()
    await books.rows("update variants set price_minor = 900 where variant_id = $1", goods.variant)
    refused = await customer.order_cart(shown)
    problem = refused.json()
    assert (refused.status_code, problem["type"]) == (409, "/problems/cart-changed")
    assert problem["cart"]["total"]["amount_minor"] == 900
    assert problem["cart"] == (await seen(books, customer, shown["cart_id"]))
    await customer.put_line(shown["cart_id"], goods.variant, 2)
    changed = await customer.order_cart(problem["cart"])
    assert changed.status_code == 409
    assert changed.json()["cart"]["lines"][0]["quantity"] == 2
    order = await customer.order_cart(changed.json()["cart"])
    assert (order.status_code, order.json()["total"]["amount_minor"]) == (201, 1800)


async def test_a_cart_that_can_not_be_held_stays_open(books: Books, customer: Customer) -> None:
    goods, yen = await books.goods(available=1), await books.goods(currency="JPY")
    cart = (await customer.cart({goods.variant: 2})).json()
    short = await customer.order_cart(cart)
    assert (short.status_code, short.json()["type"]) == (409, "/problems/out-of-stock")
    mixed = (await customer.put_line(cart["cart_id"], yen.variant, 1)).json()
    assert mixed["total"] is None
    refused = await customer.order_cart(mixed)
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/currency-mismatch")
    await customer.delete_line(cart["cart_id"], yen.variant)
    one = (await customer.put_line(cart["cart_id"], goods.variant, 1)).json()
    assert (await customer.order_cart(one)).status_code == 201
    empty = await customer.order_cart((await customer.cart()).json())
    assert (empty.status_code, empty.json()["type"]) == (409, "/problems/cart-empty")


@pytest.mark.parametrize("missing", ["cart_id", "cart_version", "both"])
async def test_an_order_has_either_lines_or_a_cart(
    missing: str, books: Books, customer: Customer
) -> None:
    cart = (await customer.cart({(await books.goods()).variant: 1})).json()
    body = {"cart_id": cart["cart_id"], "cart_version": cart["version"]}
    if missing == "both":
        body["lines"] = [{"variant_id": cart["lines"][0]["variant_id"], "quantity": 1}]
    else:
        del body[missing]
    answer = await customer.post("/orders", body)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-body")
