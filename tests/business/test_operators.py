"""Operator routes: only with the token, and stock moves only by entries that add up."""

from __future__ import annotations

from uuid import uuid4

import httpx
import pytest

from services.business.shop import Shop
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.shopping import OPERATOR_FIELDS, Books, Customer, asgi_client, http_client

MOVEMENTS = "/operator/stock-movements"


@pytest.fixture
def operator(stack: RunningStack, base_url: str) -> httpx.AsyncClient:
    return http_client(base_url, authorization=f"Bearer {stack.secret('operator_token')}")


def movement(variant_id: object, quantity: object = 5, kind: str = "receive") -> dict[str, object]:
    return {
        "variant_id": str(variant_id),
        "kind": kind,
        "quantity": quantity,
        "reason": "a delivery",
    }


@pytest.mark.parametrize(
    "authorization", [None, "Bearer wrong", "Bearer", "Basic b3BlcmF0b3I6", "", "Bearer \xe9"]
)
async def test_without_the_operators_token_nothing_is_shown_or_moved(
    authorization: str | None, http: httpx.AsyncClient, books: Books
) -> None:
    goods = await books.goods(available=3)
    headers = {} if authorization is None else {"authorization": authorization.encode("latin-1")}
    for answer in (
        await http.put("/operator/upstreams/valkey", json={"forced": "open"}, headers=headers),  # type: ignore[arg-type]  # the same
        await http.get("/operator/upstreams", headers=headers),  # type: ignore[arg-type]  # header values are bytes or text
        await http.post(MOVEMENTS, json=movement(goods.variant), headers=headers),  # type: ignore[arg-type]  # the same
    ):
        assert (answer.status_code, answer.json()["type"]) == (401, "/problems/unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert await books.stock(goods.variant) == (3, 0, 0)


async def test_a_customers_token_is_no_operators(books: Books, customer: Customer) -> None:
    await customer.placed({(await books.goods()).variant: 1})
    assert (await customer.get("/operator/upstreams")).status_code == 403


async def test_stock_moves_by_entries_of_the_journal(
    operator: httpx.AsyncClient, books: Books
) -> None:
    goods = await books.goods(available=3)
    received = await operator.post(MOVEMENTS, json=movement(goods.variant, 5))
    assert received.status_code == 201
    assert received.json() == {
        "variant_id": str(goods.variant),
        "received": 8,
        "available": 8,
        "band": "in_stock",
    }
    corrected = await operator.post(MOVEMENTS, json=movement(goods.variant, -8, "adjust"))
    assert corrected.json()["band"] == "sold_out"
    entries = await books.rows(
        "select kind, quantity, reason from stock_journal where variant_id = $1"
        " order by stock_journal_id", goods.variant
    )  # fmt: skip
    assert [tuple(row) for row in entries][1:] == [
        ("receive", 5, "a delivery"),
        ("adjust", -8, "a delivery"),
    ]
    assert "what came in is the sum of the journal" not in await books.broken_rules()
    await operator.aclose()


async def test_what_orders_hold_can_not_be_taken_away(
    operator: httpx.AsyncClient, books: Books, customer: Customer
) -> None:
    goods = await books.goods(available=5)
    await customer.placed({goods.variant: 3})
    answer = await operator.post(MOVEMENTS, json=movement(goods.variant, -3, "adjust"))
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/out-of-stock")
    assert await books.stock(goods.variant) == (2, 3, 0)
    await operator.aclose()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"quantity": 0}, "/quantity"),
        ({"quantity": -1}, "/quantity"),
        ({"quantity": 1.5}, "/quantity"),
        ({"quantity": True}, "/quantity"),
        ({"quantity": 10**9 + 1}, "/quantity"),
        ({"kind": "steal"}, "/kind"),
        ({"reason": ""}, "/reason"),
        ({"reason": "a\x00b"}, "/reason"),
        ({"reason": "x" * 201}, "/reason"),
        ({"variant_id": "1"}, "/variant_id"),
        ({"price": 1}, "/price"),
    ],
)
async def test_an_entry_that_makes_no_sense_is_refused(
    change: dict[str, object], field: str, operator: httpx.AsyncClient, books: Books
) -> None:
    goods = await books.goods(available=5)
    answer = await operator.post(MOVEMENTS, json=movement(goods.variant) | change)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field
    assert await books.stock(goods.variant) == (5, 0, 0)
    await operator.aclose()


async def test_an_unknown_variant_has_no_stock_to_move(operator: httpx.AsyncClient) -> None:
    answer = await operator.post(MOVEMENTS, json=movement(uuid4()))
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/unknown-variant")
    await operator.aclose()


async def test_every_dependency_is_shown_with_its_breaker(operator: httpx.AsyncClient) -> None:
    items = (await operator.get("/operator/upstreams")).json()["items"]
    assert [item["name"] for item in items] == ["primary", "standby-1", "valkey", "provider"]
    assert {item["state"] for item in items} <= {"closed", "open", "half_open"}
    assert {item["state"] for item in items[:3]} == {"closed"}
    assert all(item["in_use"] <= item["limit"] for item in items)
    await operator.aclose()


async def test_a_breaker_is_held_open_or_closed_and_let_go(
    shop: Shop, books: Books, operator: httpx.AsyncClient
) -> None:
    """On a process of the test's own: nobody else's calls are refused."""
    goods = await books.goods()
    async with asgi_client(shop) as client:
        client.headers.update(OPERATOR_FIELDS)

        async def force(state: str | None) -> dict[str, object]:
            answer = await client.put("/operator/upstreams/primary", json={"forced": state})
            assert answer.status_code == 200, answer.text
            shown: dict[str, object] = answer.json()
            return shown

        async def lists_are_shown() -> bool:
            return (await client.get("/products")).status_code == 200

        try:
            held = await force("open")
            assert (held["state"], held["forced"]) == ("open", "open")
            refused = await Customer(client).order({goods.variant: 1})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            # The standby is another, once it is known to have what was sold just now.
            await until(lists_are_shown, within_s=20, what="the standby answers")
            assert (await force("closed"))["state"] == "closed"
            assert (await Customer(client).order({goods.variant: 1})).status_code == 201
        finally:
            assert (await force(None))["forced"] is None
    await operator.aclose()


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        ("nobody", {"forced": None}, 404),
        ("valkey", {}, 422),
        ("valkey", {"forced": "ajar"}, 422),
        ("valkey", {"forced": None, "for_s": 1}, 422),
    ],
)
async def test_what_can_not_be_held_is_refused(
    name: str, body: dict[str, object], status: int, operator: httpx.AsyncClient
) -> None:
    answer = await operator.put(f"/operator/upstreams/{name}", json=body)
    assert answer.status_code == status, answer.text
    await operator.aclose()
