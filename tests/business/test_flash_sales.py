"""Flash sales over HTTP: who sets one up, what a claim is, and how a claim is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from services.business.expiry import run_once as expire
from services.business.payments import pay
from services.business.sale_claims import CLAIM_UNITS, NewClaim
from services.business.shop import Shop
from services.data.orders import OrderKey
from services.problems import FlashSaleLimitReached, FlashSaleSoldOut
from tests.running_stack import RunningStack
from tests.shopping import Books, Customer, http_client


@pytest.fixture
async def operator(stack: RunningStack, base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    authorization = f"Bearer {stack.secret('operator_token')}"
    async with http_client(base_url, authorization=authorization) as client:
        yield client


@pytest.fixture
async def buyer(http: httpx.AsyncClient, books: Books) -> Customer:
    """One whom the shop knows."""
    (token,) = await books.guests(1)
    return Customer(http, token)


def terms(variant_id: object, /, **changes: object) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "variant_id": str(variant_id),
        "opens_at": (now - timedelta(minutes=1)).isoformat(),
        "closes_at": (now + timedelta(hours=1)).isoformat(),
        "quantity": 10,
        "customer_limit": 2,
        "unit_price": {"amount_minor": 700, "currency": "USD"},
    } | changes


async def set_up(
    operator: httpx.AsyncClient, body: dict[str, Any], key: str | None = None
) -> httpx.Response:
    headers = {"idempotency-key": key or uuid4().hex}
    return await operator.post("/flash-sales", json=body, headers=headers)


async def test_a_sale_is_set_up_shown_and_claimed(
    operator: httpx.AsyncClient, books: Books, buyer: Customer
) -> None:
    goods = await books.goods(price_minor=1000, available=20)
    made = await set_up(operator, terms(goods.variant))
    assert made.status_code == 201, made.text
    sale = made.json()
    assert made.headers["location"] == f"/flash-sales/{sale['flash_sale_id']}"
    await books.replayed()
    shown = await buyer.get(made.headers["location"])
    assert (shown.json(), shown.headers["cache-control"]) == (sale, "no-store")
    assert (sale["left"], sale["quantity"], sale["customer_limit"]) == (10, 10, 2)
    claimed = await buyer.claim(sale["flash_sale_id"], 2)
    order = claimed.json()
    assert claimed.status_code == 201, claimed.text
    assert claimed.headers["location"] == f"/orders/{order['order_id']}"
    assert order["total"] == {"amount_minor": 1400, "currency": "USD"}
    assert order["customer_token"] is None
    assert (await buyer.get(claimed.headers["location"])).json() == order
    assert await books.stock(goods.variant) == (18, 2, 0)
    await books.replayed()
    assert (await buyer.get(made.headers["location"])).json()["left"] == 8
    assert (await buyer.pay(order["order_id"])).status_code == 201
    assert await books.stock(goods.variant) == (18, 0, 2)
    assert await books.broken_rules() == []


async def test_a_sale_is_set_up_once_by_a_key_and_by_the_operator_alone(
    operator: httpx.AsyncClient, http: httpx.AsyncClient, books: Books, buyer: Customer
) -> None:
    body, key = terms((await books.goods()).variant), uuid4().hex
    first, second = await set_up(operator, body, key), await set_up(operator, body, key)
    assert (second.status_code, second.content) == (201, first.content)
    assert second.headers["idempotent-replayed"] == "true"
    other = await set_up(operator, {**body, "quantity": 11}, key)
    assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")
    missing = await operator.post("/flash-sales", json=body)
    assert missing.json()["type"] == "/problems/idempotency-key-missing"
    nobody = await http.post("/flash-sales", json=body)
    assert (nobody.status_code, nobody.json()["type"]) == (401, "/problems/unauthenticated")
    stranger = await buyer.post("/flash-sales", body)
    assert (stranger.status_code, stranger.json()["type"]) == (403, "/problems/forbidden")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"quantity": 0}, "/quantity"),
        ({"quantity": True}, "/quantity"),
        ({"customer_limit": 0}, "/customer_limit"),
        ({"customer_limit": 1001}, "/customer_limit"),
        ({"opens_at": "2026-11-11"}, "/opens_at"),
        ({"opens_at": 1_800_000_000}, "/opens_at"),
        ({"opens_at": "2026-11-11T00:00:00"}, "/opens_at"),
        ({"opens_at": "2026-13-11T00:00:00Z"}, "/opens_at"),
        ({"opens_at": "0001-01-01T00:00:00+12:00"}, "/opens_at"),
        ({"closes_at": "2026-01-01T00:00:00Z"}, "/closes_at"),
        ({"unit_price": {"amount_minor": 0, "currency": "USD"}}, "/unit_price/amount_minor"),
        ({"unit_price": {"amount_minor": 10**12, "currency": "USD"}}, "/unit_price/amount_minor"),
        ({"unit_price": {"amount_minor": 1, "currency": "EUR"}}, "/unit_price/currency"),
        ({"variant_id": "1"}, "/variant_id"),
        ({"variant_id": str(uuid4())}, "/variant_id"),
        ({"colour": "red"}, "/colour"),
    ],
)
async def test_a_sale_that_makes_no_sense_is_refused(
    change: dict[str, object], field: str, operator: httpx.AsyncClient, books: Books
) -> None:
    answer = await set_up(operator, terms((await books.goods()).variant, **change))
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == field


async def test_a_claim_is_repeated_by_its_key_even_when_nothing_is_left(
    books: Books, buyer: Customer
) -> None:
    sale_id = await books.flash_sale((await books.goods()).variant, units=1, customer_limit=1)
    first = await buyer.claim(sale_id, key="mine")
    again = await buyer.claim(sale_id, key="mine")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    elsewhere = await books.flash_sale((await books.goods()).variant)
    for other in (
        await buyer.claim(sale_id, 2, key="mine"),
        await buyer.claim(elsewhere, key="mine"),
    ):
        assert other.json()["type"] == "/problems/idempotency-key-reused"
    assert await books.claimed(elsewhere) == 0


async def test_who_is_refused_is_told_why_and_keeps_his_key(books: Books, buyer: Customer) -> None:
    goods = await books.goods(available=3)
    sale_id = await books.flash_sale(goods.variant, units=5, customer_limit=4, opens_in_s=30.0)
    early = await buyer.claim(sale_id, key="mine")
    assert early.json()["type"] == "/problems/flash-sale-not-open-yet"
    assert 25 <= int(early.headers["retry-after"]) <= 30
    await books.rows("update flash_sales set opens_at = now() where flash_sale_id = $1", sale_id)
    refusals = [(5, "limit-reached", "at most 4"), (4, "out-of-stock", "only 3 available")]
    for quantity, problem, said in refusals:
        answer = await buyer.claim(sale_id, quantity, key="mine")
        assert answer.status_code == 409
        assert answer.json()["type"].endswith(problem)
        (error,) = answer.json()["errors"]
        assert error["field"] == "/quantity"
        assert error["detail"].startswith(said)
    assert (await buyer.claim(sale_id, 3, key="mine")).status_code == 201
    assert (await buyer.claim(sale_id, 2)).json()["type"].endswith("limit-reached")
    await books.rows("update flash_sales set closes_at = now() where flash_sale_id = $1", sale_id)
    assert (await buyer.claim(sale_id)).json()["type"] == "/problems/flash-sale-over"
    assert await books.claimed(sale_id) == 3
    assert (await buyer.claim(uuid4())).status_code == 404
    assert (await Customer(buyer.http).claim(sale_id)).status_code == 401


async def test_a_sale_ends_with_its_product(books: Books, buyer: Customer) -> None:
    goods = await books.goods()
    sale_id = await books.flash_sale(goods.variant)
    await books.rows("update products set published = false where slug = $1", goods.slug)
    assert (await buyer.claim(sale_id)).json()["type"] == "/problems/flash-sale-over"


async def claim_in(shop: Shop, sale_id: UUID, customer_id: UUID, quantity: int = 1) -> OrderKey:
    claim = NewClaim(customer_id, sale_id, quantity, uuid4().hex, b"")
    placed = await shop.join(CLAIM_UNITS, claim)
    return OrderKey(customer_id, placed.order_id)


async def test_units_that_are_not_paid_go_back_to_the_sale_and_to_the_customers_limit(
    lab_shop: Shop, lab_books: Books
) -> None:
    goods = await lab_books.goods(available=10)
    sale_id = await lab_books.flash_sale(goods.variant, units=3, customer_limit=2)
    first, second = await lab_books.guest_ids(2)
    await claim_in(lab_shop, sale_id, first, 2)
    paid = await claim_in(lab_shop, sale_id, second, 1)
    await pay(lab_shop, paid, "tok_approve", uuid4().hex, b"")
    with pytest.raises(FlashSaleSoldOut):
        await claim_in(lab_shop, sale_id, second)
    await lab_books.let_holds_end(goods.variant)
    assert await expire(lab_shop) == 1
    assert await lab_books.claimed(sale_id) == 1
    assert await expire(lab_shop) == 0
    await claim_in(lab_shop, sale_id, first, 2)
    assert await lab_books.claimed(sale_id) == 3
    assert await lab_books.stock(goods.variant) == (7, 2, 1)
    assert await lab_books.broken_rules() == []


async def test_of_one_batch_each_is_decided_in_turn(lab_shop: Shop, lab_books: Books) -> None:
    goods = await lab_books.goods(available=3)
    sale_id = await lab_books.flash_sale(goods.variant, units=100, customer_limit=2)
    first, second = await lab_books.guest_ids(2)
    # Of stock 3: 2 taken, 2 too many, 1 over the limit, 1 taken by who needs no more than is left.
    rows = [(first, 2), (second, 2), (first, 1), (second, 1)]
    claims = [NewClaim(who, sale_id, units, uuid4().hex, b"") for who, units in rows]
    outcomes = await CLAIM_UNITS.work(lab_shop, claims, True)
    kinds = [getattr(outcome, "name", "placed") for outcome in outcomes]
    assert kinds == ["placed", "out-of-stock", "flash-sale-limit-reached", "placed"]
    assert await lab_books.broken_rules() == []


async def test_who_is_refused_at_a_look_waits_for_nobody(lab_shop: Shop, lab_books: Books) -> None:
    goods = await lab_books.goods()
    sale_id = await lab_books.flash_sale(goods.variant, units=1, customer_limit=1)
    (winner, *others) = await lab_books.guest_ids(4)
    await claim_in(lab_shop, sale_id, winner)
    async with lab_books.connection.transaction():
        for table, column, value in (
            ("flash_sales", "flash_sale_id", sale_id),
            ("stock", "variant_id", goods.variant),
        ):
            sql = f"select from {table} where {column} = $1 for update"
            await lab_books.rows(sql, value)
        for who in others:
            with pytest.raises(FlashSaleSoldOut):
                await claim_in(lab_shop, sale_id, who)
            with pytest.raises(FlashSaleLimitReached):
                await claim_in(lab_shop, sale_id, who, 2)
