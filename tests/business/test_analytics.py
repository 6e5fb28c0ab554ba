"""GET /analytics/…: what was counted, by window and interval, for who may see it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from services.business.payments import pay
from services.business.rollups import catch_up
from services.business.shop import Shop
from services.events import AddToCart, Checkout, Purchase, Search, View
from tests.business.counting import count_all, entry, send, worker_of
from tests.shopping import Books, asgi_client, place
from tests.test_hyperloglog import named

ROUTES = ("series", "top-products", "funnel", "searches")


@pytest_asyncio.fixture
async def client(counting: Shop) -> AsyncIterator[httpx.AsyncClient]:
    """The merchant's."""
    async with asgi_client(counting) as opened:
        opened.headers.update({"x-customer-id": str(uuid4()), "x-customer-role": "merchant"})
        yield opened


async def get(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await client.get(f"/analytics/{path}", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


async def visit(counted: Books, log: Redis) -> list[str]:
    """Three visitors look, two fill a cart, one buys; returns the slugs of what they looked at."""
    goods = [await counted.goods() for _ in range(2)]
    slugs = [
        await counted.value("select slug from products where product_id = $1", one.product_id)
        for one in goods
    ]
    at = datetime.now(UTC)
    await send(
        log,
        *[entry(View(uuid4(), at, slugs[0]), visitor=named(who)) for who in range(3)],
        *[entry(AddToCart(uuid4(), at, slugs[1]), visitor=named(who)) for who in range(2)],
        entry(Checkout(uuid4(), at), Purchase(uuid4(), at), visitor=named(0)),
        entry(Search(uuid4(), at, "lamp", 0), visitor=named(4)),
        entry(Search(uuid4(), at, "Lamp", 2), Search(uuid4(), at, "chair", 1), visitor=named(4)),
    )
    return slugs


async def test_what_was_counted_is_told(
    client: httpx.AsyncClient,
    counting: Shop,
    counted: Books,
    log: Redis,
) -> None:
    slugs = await visit(counted, log)
    await count_all(worker_of(counting, log))
    for window in ("second", "minute", "hour"):
        series = await get(client, "series", window=window)
        types: dict[str, int] = {}
        for item in series["items"]:
            for kind, counts in item["types"].items():
                types[kind] = types.get(kind, 0) + counts["events"]
        assert types == {"view": 3, "add_to_cart": 2, "checkout": 1, "purchase": 1, "search": 3}
    funnel = await get(client, "funnel")
    steps = {step["type"]: step["visitors"] for step in funnel["steps"]}
    assert steps == {"view": 3, "add_to_cart": 2, "checkout": 1, "purchase": 1, "search": 1}
    assert funnel["visitors"] == 4
    views = await get(client, "top-products", by="views")
    first = views["items"][0]
    assert (first["slug"], first["views"]) == (slugs[0], 3)
    trend = await get(client, "top-products")
    assert [item["slug"] for item in trend["items"]] == [slugs[1], slugs[0]]  # carts say more
    assert trend["items"][1]["trend"] == pytest.approx(3, rel=0.01)
    searches = await get(client, "searches")
    assert [(one["query"], one["searches"]) for one in searches["items"]] == [
        ("lamp", 2), ("chair", 1)
    ]  # fmt: skip
    missed = await get(client, "searches", show="without-results")
    assert [one["query"] for one in missed["items"]] == ["lamp"]


async def test_revenue_is_by_window_and_currency(
    client: httpx.AsyncClient,
    counting: Shop,
    counted: Books,
) -> None:
    await catch_up(counting, timedelta())
    goods = await counted.goods()

    async def sold() -> int:
        series = await get(client, "series", window="hour")
        return sum(each["sales_minor"] for item in series["items"] for each in item["revenue"])

    before = await sold()
    key = await place(counting, {goods.variant: 3})
    await pay(counting, key, "tok_approve", "a-key", b"body")
    assert await catch_up(counting, timedelta()) == 1
    assert await sold() == before + 3000


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("series", {"window": "day"}, "window"),
        ("series", {"since": "yesterday"}, "since"),
        (
            "series",
            {"window": "second", "since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"},
            "since",
        ),
        (
            "funnel",
            {"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"},
            "since",
        ),
        (
            "funnel",
            {"since": "2020-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"},
            "since",
        ),
        ("top-products", {"limit": "0"}, "limit"),
        ("top-products", {"by": "price"}, "by"),
        ("searches", {"show": "some"}, "show"),
    ],
)
async def test_a_query_that_can_not_be_answered_is_named(
    client: httpx.AsyncClient, path: str, query: dict[str, str], field: str
) -> None:
    answer = await client.get(f"/analytics/{path}", params=query)
    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize("route", ROUTES)
async def test_nobody_else_is_told(counting: Shop, route: str) -> None:
    async with asgi_client(counting) as client:
        assert (await client.get(f"/analytics/{route}")).status_code == 401
        for role in ("guest", "customer"):
            headers = {"x-customer-id": str(uuid4()), "x-customer-role": role}
            answer = await client.get(f"/analytics/{route}", headers=headers)
            assert answer.status_code == 403


@pytest.mark.parametrize("route", ROUTES)
async def test_they_are_there_through_access(
    http: httpx.AsyncClient, operator: dict[str, str], route: str
) -> None:
    assert (await http.get(f"/analytics/{route}")).status_code == 401
    answer = await http.get(f"/analytics/{route}", headers=operator)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"


@pytest.fixture
def operator(stack: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {stack.secret('operator_token')}"}
