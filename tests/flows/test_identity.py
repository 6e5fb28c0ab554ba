"""A guest is known by a token, as a bearer or a cookie, from the first order on."""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio

from tests.shopping import Books, Customer, Goods

COOKIE = re.compile(
    r"tercet_customer=(?P<token>[A-Za-z0-9_-]{43}); Path=/; Max-Age=7776000; HttpOnly; SameSite=Lax"
)


@pytest_asyncio.fixture
async def goods(books: Books) -> Goods:
    return await books.goods()


async def order(http: httpx.AsyncClient, goods: Goods, **credential: str) -> httpx.Response:
    body = {"lines": [{"variant_id": str(goods.variant), "quantity": 1}]}
    headers = {"idempotency-key": uuid4().hex, **credential}
    return await http.post("/orders", json=body, headers=headers)


async def test_the_first_order_makes_a_guest_with_a_token_in_body_and_cookie(
    http: httpx.AsyncClient, goods: Goods
) -> None:
    answer = await order(http, goods)
    token = answer.json()["customer_token"]
    cookies = [COOKIE.fullmatch(value) for value in answer.headers.get_list("set-cookie")]
    cookie = next(found for found in cookies if found is not None)
    assert cookie["token"] == token
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("way", ["bearer", "cookie"])
async def test_the_token_is_the_customer(way: str, http: httpx.AsyncClient, goods: Goods) -> None:
    first = await order(http, goods)
    token = first.json()["customer_token"]
    if way == "bearer":
        credential = {"authorization": f"Bearer {token}"}
    else:
        credential = {"cookie": f"theme=dark; tercet_customer={token}"}
    second = await order(http, goods, **credential)
    assert second.status_code == 201
    assert second.json()["customer_token"] is None
    assert not any(COOKIE.fullmatch(value) for value in second.headers.get_list("set-cookie"))
    for answer in (first, second):
        path = f"/orders/{answer.json()['order_id']}"
        assert (await http.get(path, headers=credential)).status_code == 200
        assert (await http.get(path)).status_code == 401


async def test_only_the_hash_of_a_token_is_kept(
    http: httpx.AsyncClient, goods: Goods, books: Books
) -> None:
    answer = await order(http, goods)
    token = answer.json()["customer_token"]
    row = (
        await books.rows(
            "select t.*, expires_at - t.created_at as lives, octet_length(token_sha256) as bytes"
            " from customer_tokens t join orders using (customer_id) where order_id = $1",
            UUID(answer.json()["order_id"]),
        )
    )[0]
    assert row["token_sha256"] == hashlib.sha256(token.encode()).digest()
    assert abs(row["lives"] - timedelta(days=90)) < timedelta(seconds=1)
    stored = await books.value(
        "select count(*) from idempotency_keys where position($1::bytea in response_body) > 0",
        token.encode(),
    )
    assert stored == 0


@pytest.mark.parametrize("token", ["x" * 43, "", "short", "a" * 44, "ä" * 43, "a b"])
async def test_a_bearer_that_nobody_has_is_refused_and_makes_no_guest(
    token: str, http: httpx.AsyncClient, goods: Goods, books: Books
) -> None:
    before = await books.value("select count(*) from customers")
    headers = {
        b"idempotency-key": uuid4().hex.encode(),
        b"authorization": f"Bearer {token}".strip().encode(),
    }
    body = {"lines": [{"variant_id": str(goods.variant), "quantity": 1}]}
    answer = await http.post("/orders", json=body, headers=headers)
    assert answer.status_code == 401
    assert await books.value("select count(*) from customers") == before


async def test_a_cookie_that_nobody_has_counts_as_none(
    http: httpx.AsyncClient, goods: Goods
) -> None:
    answer = await order(http, goods, cookie=f"tercet_customer={'x' * 43}")
    assert answer.status_code == 201
    assert answer.json()["customer_token"]


async def test_nobody_can_say_who_they_are_in_our_own_words(
    http: httpx.AsyncClient, goods: Goods, books: Books
) -> None:
    owner = Customer(http)
    order_id = await owner.placed({goods.variant: 1})
    sql = "select customer_id::text from orders where order_id = $1"
    customer_id = await books.value(sql, UUID(order_id))
    for name in ("x-customer-id", "X-Customer-Id", "x_customer_id", "x-user-id"):
        answer = await http.get(f"/orders/{order_id}", headers={name: customer_id})
        assert answer.status_code == 401


async def test_a_token_that_is_over_is_nobodys(
    http: httpx.AsyncClient, business: httpx.AsyncClient, goods: Goods, books: Books
) -> None:
    answer = await order(http, goods)
    digest = hashlib.sha256(answer.json()["customer_token"].encode()).hexdigest()
    path = f"/internal/identities/{digest}"
    known = await business.get(path)
    assert known.status_code == 200
    assert known.headers["cache-control"] == "no-store"
    await books.rows(
        "update customer_tokens set expires_at = now() where token_sha256 = $1",
        bytes.fromhex(digest),
    )
    assert (await business.get(path)).status_code == 404
    for other in ("0" * 64, "0" * 63, "z" * 64, "0" * 66, " " * 64):
        assert (await business.get(f"/internal/identities/{other}")).status_code == 404
    assert (await http.get(path)).status_code == 404
