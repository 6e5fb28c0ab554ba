"""Lists and the search: every order walked to its end, filters, cursors, and words misspelt."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import orjson
import pytest

from services.business.shop import Shop
from tests.faults.waiting import until
from tests.shopping import Books, asgi_client

SORTS = ("popular", "price", "-price", "newest")


async def walk(http: httpx.AsyncClient, **query: object) -> list[dict[str, Any]]:
    """Every item of a list, page by page."""
    items: list[dict[str, Any]] = []
    cursor: str | None = None
    for _ in range(1000):
        params = {key: str(value) for key, value in query.items()}
        answer = await http.get("/products", params=params | ({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200, answer.text
        page = answer.json()
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return items
        assert len(page["items"]) == query.get("limit", 24)
    raise AssertionError("the list has no end")


async def published(books: Books, order: str, where: str = "true") -> list[str]:
    sql = f"select slug from products where published and {where} order by {order}"  # noqa: S608 - the test's own
    return [row["slug"] for row in await books.rows(sql)]


ORDERS = {
    "popular": "popularity desc, product_id desc",
    "price": "price_from_minor, product_id",
    "-price": "price_from_minor desc, product_id desc",
    "newest": "created_at desc, product_id desc",
}


async def up_to_date(http: httpx.AsyncClient, books: Books) -> None:
    """Wait until lists are told of the newest product: one tag makes all of them old."""

    async def is_listed() -> bool:
        query = {"sort": "newest", "limit": "1"}
        items = (await http.get("/products", params=query)).json()["items"]
        return [item["slug"] for item in items] == (await published(books, ORDERS["newest"]))[:1]

    await until(is_listed, within_s=5.0, what="lists show the newest product")


@pytest.mark.parametrize("sort", SORTS)
async def test_pages_walk_the_whole_catalog_without_gap_or_repeat(
    sort: str, http: httpx.AsyncClient, books: Books
) -> None:
    await books.goods(price_minor=590)  # one more that costs as much as others
    await up_to_date(http, books)
    items = await walk(http, sort=sort, limit=37)
    slugs = [item["slug"] for item in items]
    assert slugs == await published(books, ORDERS[sort])
    assert len(set(slugs)) == len(slugs) > 300


async def test_a_list_goes_on_where_it_was_although_the_catalog_grows(
    http: httpx.AsyncClient, books: Books
) -> None:
    await up_to_date(http, books)
    before = await published(books, ORDERS["newest"])
    first = (await http.get("/products", params={"sort": "newest", "limit": "10"})).json()
    new = [await books.goods() for _ in range(3)]
    query = {"sort": "newest", "limit": "10", "cursor": first["next_cursor"]}
    second = (await http.get("/products", params=query)).json()
    shown = [item["slug"] for item in first["items"] + second["items"]]
    assert shown == before[:20]
    assert not {goods.slug for goods in new} & set(shown)


async def test_filters_narrow_every_page(http: httpx.AsyncClient, books: Books) -> None:
    categories = (await http.get("/categories")).json()["items"]
    chosen = max(categories, key=lambda category: category["product_count"])
    items = await walk(http, category=chosen["slug"], min_price=1000, max_price=5000, limit=7)
    assert items
    for item in items:
        assert item["category"] == chosen["slug"]
        assert 1000 <= item["price_from"]["amount_minor"] <= 5000
    where = f"category_slug = '{chosen['slug']}' and price_from_minor between 1000 and 5000"
    assert [item["slug"] for item in items] == await published(books, ORDERS["popular"], where)


async def test_categories_say_how_many_products_they_have(
    http: httpx.AsyncClient, books: Books
) -> None:
    answer = await http.get("/categories")
    counted = {item["slug"]: item["product_count"] for item in answer.json()["items"]}
    rows = await books.rows(
        "select category_slug, count(*) as n from products where published"
        " and category_slug is not null group by 1"
    )
    assert {slug: n for slug, n in counted.items() if n} == {r[0]: r[1] for r in rows}
    assert "s-maxage=5" in answer.headers["cache-control"]
    again = await http.get("/categories", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304


async def a_word(http: httpx.AsyncClient) -> str:
    """A word of some title, long enough to be misspelt."""
    items = (await http.get("/products", params={"limit": "50"})).json()["items"]
    words = [word for item in items for word in item["title"].split() if len(word) >= 7]
    return str(words[0]).lower()


async def test_words_are_found_ranked_and_to_the_last_page(http: httpx.AsyncClient) -> None:
    word = await a_word(http)
    first = (await http.get("/products", params={"q": word})).json()
    assert first["match"] == "words"
    assert word in first["items"][0]["title"].lower()
    items = await walk(http, q=word, limit=3)
    assert len({item["slug"] for item in items}) == len(items)
    by_price = await walk(http, q=word, sort="price", limit=3)
    prices = [item["price_from"]["amount_minor"] for item in by_price]
    assert prices == sorted(prices)
    assert {item["slug"] for item in by_price} == {item["slug"] for item in items}


async def test_a_misspelt_word_finds_what_looks_like_it(http: httpx.AsyncClient) -> None:
    word = await a_word(http)
    misspelt = word[:2] + word[3] + word[2] + word[4:]  # two letters change places
    answer = (await http.get("/products", params={"q": misspelt})).json()
    assert answer["match"] == "similar"
    assert any(word in item["title"].lower() for item in answer["items"][:5])
    items = await walk(http, q=misspelt, limit=2)
    assert len({item["slug"] for item in items}) == len(items)


async def test_what_nothing_looks_like_is_an_empty_list(http: httpx.AsyncClient) -> None:
    answer = await http.get("/products", params={"q": "qqqqxxxxzzzz"})
    assert answer.json() == {"items": [], "match": "similar", "next_cursor": None}


@pytest.mark.parametrize(
    "q", ["'", '"', "a & | !", "(((", "%", "_", "\\", ":*", "<->", "é", "日本", "-", "or", "a'b"]
)
async def test_no_query_is_taken_for_syntax(q: str, http: httpx.AsyncClient) -> None:
    assert (await http.get("/products", params={"q": q})).status_code == 200


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"sort": "cheapest"}, "sort"),
        ({"sort": "relevance"}, "sort"),
        ({"category": "no-such-category"}, "category"),
        ({"min_price": "-1"}, "min_price"),
        ({"min_price": "ten"}, "min_price"),
        ({"min_price": "5", "max_price": "4"}, "min_price"),
        ({"max_price": "9" * 30}, "max_price"),
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"q": ""}, "q"),
        ({"q": "x" * 101}, "q"),
        ({"q": "a\x00b"}, "q"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"cursor": ""}, "cursor"),
    ],
)
async def test_a_value_that_is_not_allowed_is_named(
    query: dict[str, str], field: str, http: httpx.AsyncClient
) -> None:
    answer = await http.get("/products", params=query)
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/invalid-request")
    assert [error["field"] for error in answer.json()["errors"]] == [field]


async def test_an_unknown_category_is_told_without_counting_the_catalog(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.data.products.SELECT_CATEGORIES", "select no_such_column")
    async with asgi_client(shop) as client:
        answer = await client.get("/products", params={"category": "made-up-by-anybody"})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "category")


async def test_a_parameter_given_twice_is_refused_and_an_unknown_one_passed_over(
    http: httpx.AsyncClient,
) -> None:
    twice = await http.get("/products?sort=price&sort=newest")
    assert twice.status_code == 400
    plain, more = await http.get("/products"), await http.get("/products?utm_source=mail")
    assert plain.content == more.content


def decoded(cursor: str) -> list[Any]:
    found: list[Any] = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    return found


def encoded(values: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(values)).rstrip(b"=").decode()


async def test_a_cursor_of_another_list_is_refused(http: httpx.AsyncClient) -> None:
    first = (await http.get("/products", params={"sort": "price", "limit": "5"})).json()
    cursor = first["next_cursor"]
    others: list[dict[str, str]] = [
        {"sort": "-price"},
        {"sort": "newest"},
        {"sort": "price", "min_price": "1"},
        {"sort": "price", "q": "word"},
    ]
    for query in others:
        answer = await http.get("/products", params={**query, "cursor": cursor})
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["field"] == "cursor"
    other_limit = {"sort": "price", "limit": "7", "cursor": cursor}
    assert (await http.get("/products", params=other_limit)).status_code == 200


@pytest.mark.parametrize("place", [0, 1, 2, 3])
@pytest.mark.parametrize("value", [None, [], {}, "x", -1, 10**18, 1e300, "9" * 40, True])
async def test_a_forged_cursor_is_no_server_error(
    place: int, value: object, http: httpx.AsyncClient
) -> None:
    first = (await http.get("/products", params={"sort": "price", "limit": "5"})).json()
    values = decoded(first["next_cursor"])
    values[place] = value
    query = {"sort": "price", "limit": "5", "cursor": encoded(values)}
    assert (await http.get("/products", params=query)).status_code in (200, 400)
