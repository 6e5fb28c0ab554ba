"""The product page from its parts, each of them late or broken, and how caches may hold it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable
from typing import Any

import httpx
import orjson
import pytest
import pytest_asyncio

from services.business.catalog import PART_TIMEOUT_S, gather_product
from services.business.documents import Part
from services.business.shop import Shop
from services.data import products, stock
from services.data.link import Record
from services.data.pages import Page
from services.data.sources import Reader
from services.problems import Unavailable
from tests.faults.waiting import until
from tests.shopping import Books, Customer, Goods, asgi_client

STATEMENTS = {
    "product": products.SELECT_PRODUCT,
    "offers": products.SELECT_OFFERS,
    "band": stock.SELECT_STOCK,
    "rating": products.SELECT_RATING,
    "related": products.SELECT_RELATED,
}
OPTIONAL: tuple[Part, ...] = ("band", "rating", "related")
TRIES = 3  # on a busy machine other parts may be late as well, but not always
REQUIRED = ("product", "offers")


class Faulty:
    """The database, one statement of which is slow or broken."""

    def __init__(self, reader: Reader, part: str, fault: str) -> None:
        self._reader = reader
        self._sql = STATEMENTS[part]
        self._fault = fault
        self.struck = 0

    async def _strike(self, sql: str) -> bool:
        if sql != self._sql:
            return False
        self.struck += 1
        if self._fault == "broken":
            raise Unavailable
        if self._fault == "a bug":
            raise LookupError
        if self._fault == "slow":
            await asyncio.sleep(10)
        return self._fault == "empty once" and self.struck == 1

    async def fetch(self, sql: str, *args: object) -> list[Record]:
        return [] if await self._strike(sql) else await self._reader.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: object) -> Record | None:
        return None if await self._strike(sql) else await self._reader.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: object) -> Any:
        return None if await self._strike(sql) else await self._reader.fetchval(sql, *args)

    async def find(self, sql: str, *key: Hashable) -> list[Record]:
        return [] if await self._strike(sql) else await self._reader.find(sql, *key)


@pytest_asyncio.fixture(scope="module")
async def slug(http: httpx.AsyncClient) -> str:
    """A product of the catalog with everything a page can have."""
    items = (await http.get("/products")).json()["items"]
    for item in items:
        shown = (await http.get(f"/products/{item['slug']}")).json()
        if shown["rating"] and shown["related"] and shown["images"]:
            return str(item["slug"])
    raise AssertionError("no product has rating, related products and images")


@pytest_asyncio.fixture(scope="module")
async def goods(books: Books) -> Goods:
    return await books.goods(variants=3, price_minor=1234)


def body_of(page: Page | None) -> dict[str, Any]:
    assert page is not None
    shown: dict[str, Any] = orjson.loads(page.body)
    return shown


async def test_a_page_has_all_its_parts(http: httpx.AsyncClient, slug: str) -> None:
    answer = await http.get(f"/products/{slug}")
    shown = answer.json()
    assert answer.status_code == 200
    assert shown["slug"] == slug
    assert shown["degraded"] == []
    assert {v["band"] for v in shown["variants"]} <= {"in_stock", "few_left", "sold_out"}
    assert all(v["price"]["amount_minor"] > 0 for v in shown["variants"])
    assert 1 <= shown["rating"]["average"] <= 5
    assert slug not in {item["slug"] for item in shown["related"]}


@pytest.mark.parametrize("fault", ["slow", "broken", "a bug"])
@pytest.mark.parametrize("part", OPTIONAL)
async def test_a_page_does_without_an_optional_part_and_says_so(
    part: Part, fault: str, shop: Shop, slug: str
) -> None:
    for _ in range(TRIES):
        reader = Faulty(shop.database.reads, part, fault)
        started_at = time.monotonic()
        page = await gather_product(reader, slug)
        took_s = time.monotonic() - started_at
        assert reader.struck == 1
        shown, whole = body_of(page), body_of(await gather_product(shop.database.reads, slug))
        if shown["degraded"] == [part] and not whole["degraded"]:
            break
    assert took_s < PART_TIMEOUT_S[part] + 0.5
    assert page is not None
    assert page.degraded
    assert shown["degraded"] == [part]
    if part == "band":
        assert {v["band"] for v in shown["variants"]} == {"unknown"}
    else:
        assert shown[part] == ([] if part == "related" else None)
        assert shown["variants"] == whole["variants"]
    assert shown["title"] == whole["title"]


@pytest.mark.parametrize("part", REQUIRED)
async def test_a_page_is_not_shown_without_product_or_prices(
    part: str, shop: Shop, slug: str
) -> None:
    with pytest.raises(ExceptionGroup) as failed:
        await gather_product(Faulty(shop.database.reads, part, "broken"), slug)
    assert [type(error) for error in failed.value.exceptions] == [Unavailable]


@pytest.mark.parametrize("part", REQUIRED)
async def test_a_page_whose_product_or_prices_are_late_ends_with_its_deadline(
    part: str, shop: Shop, slug: str
) -> None:
    """And takes the other parts along: none of them is still being fetched."""
    reader = Faulty(shop.database.reads, part, "slow")
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await gather_product(reader, slug)
    names = {task.get_coro().__qualname__ for task in asyncio.all_tasks() - before}  # type: ignore[union-attr]  # tasks here are of coroutines
    assert not any("select_" in name or "optional" in name for name in names)


async def test_all_optional_parts_may_be_missing_at_once(shop: Shop, slug: str) -> None:
    reader: Reader = shop.database.reads
    for part in OPTIONAL:
        reader = Faulty(reader, part, "slow" if part == "rating" else "broken")
    started_at = time.monotonic()
    shown = body_of(await gather_product(reader, slug))
    assert time.monotonic() - started_at < max(PART_TIMEOUT_S.values()) + 0.5
    assert sorted(shown["degraded"]) == sorted(OPTIONAL)


@pytest.mark.parametrize("part", ["offers", "band"])
async def test_a_product_that_is_added_between_two_reads_is_read_again(
    part: str, shop: Shop, goods: Goods
) -> None:
    """Each part is a snapshot of its own; half a page would be held until it expires."""
    reader = Faulty(shop.database.reads, part, "empty once")
    shown = body_of(await gather_product(reader, goods.slug))
    assert reader.struck == 2
    assert [v["band"] for v in shown["variants"]] == ["in_stock"] * 3
    assert shown["degraded"] == []


async def test_a_degraded_page_is_held_for_a_second_and_not_by_us(
    shop: Shop, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    goods = await books.goods()
    async with asgi_client(shop) as client:
        with monkeypatch.context() as broken:
            broken.setattr("services.data.stock.SELECT_STOCK", "select no_such_column from stock")
            for _ in range(2):
                answer = await client.get(f"/products/{goods.slug}")
                assert answer.json()["degraded"] == ["band"]
                assert answer.headers["cache-control"] == "public, max-age=0, s-maxage=1"
        whole = await client.get(f"/products/{goods.slug}")
    assert whole.json()["degraded"] == []
    assert "s-maxage=10" in whole.headers["cache-control"]


async def test_a_page_says_how_it_may_be_held(
    http: httpx.AsyncClient, business: httpx.AsyncClient, slug: str
) -> None:
    answer = await business.get(f"/products/{slug}")
    directives = set(answer.headers["cache-control"].split(", "))
    assert directives == {
        "public",
        "max-age=0",
        "s-maxage=10",
        "stale-while-revalidate=30",
        "stale-if-error=86400",
    }
    assert answer.headers["cache-tag"] == f"product-{answer.json()['product_id']}"
    assert "set-cookie" not in answer.headers
    assert "vary" not in answer.headers
    outside = await http.get(f"/products/{slug}")
    assert outside.headers["cache-control"] == answer.headers["cache-control"]
    assert "cache-tag" not in outside.headers


async def test_a_page_that_is_known_is_not_sent_again(http: httpx.AsyncClient, slug: str) -> None:
    plain = {"accept-encoding": "identity"}  # an encoded page has a weak tag
    answer = await http.get(f"/products/{slug}", headers=plain)
    etag = answer.headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = await http.get(f"/products/{slug}", headers={**plain, "if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
        assert again.headers["cache-control"] == answer.headers["cache-control"]
    for other in ('"other"', etag.strip('"'), ""):
        again = await http.get(f"/products/{slug}", headers={**plain, "if-none-match": other})
        assert (again.status_code, again.content) == (200, answer.content)


async def test_head_says_what_get_would(http: httpx.AsyncClient, slug: str) -> None:
    got, head = await http.get(f"/products/{slug}"), await http.head(f"/products/{slug}")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("etag", "cache-control", "content-type", "content-length"):
        assert head.headers[name] == got.headers[name]


async def test_a_page_is_the_same_for_everybody(
    http: httpx.AsyncClient, customer: Customer, goods: Goods
) -> None:
    await customer.placed({goods.variant: 1})
    known, nobody = (
        await customer.get(f"/products/{goods.slug}", cookie="a=b"),
        await http.get(f"/products/{goods.slug}"),
    )
    assert known.content == nobody.content
    assert "set-cookie" not in known.headers


async def test_what_is_unpublished_is_not_there(http: httpx.AsyncClient, books: Books) -> None:
    hidden = await books.goods(published=False)
    for path in (f"/products/{hidden.slug}", f"/products/{hidden.slug}/stock"):
        answer = await http.get(path)
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("slug", ["no-such-product", "UPPER", "a--b", "-", "x" * 201, "a%00b"])
async def test_what_is_no_product_is_not_found(slug: str, business: httpx.AsyncClient) -> None:
    for path in (f"/products/{slug}", f"/products/{slug}/stock"):
        assert (await business.get(path)).status_code == 404


async def test_stock_is_exact_and_held_by_nobody(
    http: httpx.AsyncClient, books: Books, customer: Customer
) -> None:
    goods = await books.goods(available=9, variants=2)
    await customer.placed({goods.variants[0]: 4})

    async def is_exact() -> bool:
        answer = await http.get(f"/products/{goods.slug}/stock")
        assert answer.headers["cache-control"] == "no-store"
        shown = [(v["available"], v["band"]) for v in answer.json()["variants"]]
        return shown == [(5, "few_left"), (9, "in_stock")]

    await until(is_exact, within_s=2.0, what="the standby shows the stock")


async def test_a_product_with_nothing_on_sale_has_a_page_and_no_stock(
    http: httpx.AsyncClient, books: Books
) -> None:
    goods = await books.goods()
    sql = "update variants set retired_at = now() where product_id = $1"
    await books.rows(sql, goods.product_id)
    await books.replayed()
    page = await http.get(f"/products/{goods.slug}")
    stock = await http.get(f"/products/{goods.slug}/stock")
    assert (page.status_code, page.json()["variants"]) == (200, [])
    assert (stock.status_code, stock.json()) == (200, {"slug": goods.slug, "variants": []})


async def test_a_retired_variant_is_not_on_the_page(shop: Shop, books: Books) -> None:
    goods = await books.goods(variants=3)
    sql = "update variants set retired_at = now() where variant_id = $1"
    await books.rows(sql, goods.variants[1])
    shown = body_of(await gather_product(shop.database.primary, goods.slug))
    shown_ids = [v["variant_id"] for v in shown["variants"]]
    assert shown_ids == [str(goods.variants[0]), str(goods.variants[2])]
