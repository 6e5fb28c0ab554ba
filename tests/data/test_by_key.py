"""Reads by key on a real database: one statement for all who wait, everybody with its rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import asyncpg
import pytest_asyncio

from services.data.by_key import LANES, ByKey
from services.data.products import select_offers, select_product
from services.data.sources import Source
from services.data.stock import select_stock
from services.data.store import Store
from tests.shopping import Books, Goods

CALLERS: Final = 64
SELECT_NUMBERS: Final = """
    select n.number, m.multiple from unnest($1::int[]) as n (number)
    cross join lateral (select n.number * f as multiple from generate_series(1, n.number) f) m
"""


@pytest_asyncio.fixture
async def many(books: Books) -> list[Goods]:
    return [await books.goods(title=f"number {number}", variants=2) for number in range(8)]


def statements(source: Source) -> Callable[[], int]:
    """How many statements have been sent by reads by key since now."""
    batchers = source.by_key._batchers  # what is counted has no other name
    before = {sql: batcher.counts.batches for sql, batcher in batchers.items()}
    return lambda: sum(
        batcher.counts.batches - before.get(sql, 0) for sql, batcher in batchers.items()
    )


async def test_many_callers_share_few_statements_and_each_has_its_own_rows(store: Store) -> None:
    primary = store.database.primary
    sent = statements(primary)
    found = await asyncio.gather(
        *(primary.find(SELECT_NUMBERS, number % 5) for number in range(CALLERS))
    )
    for number, rows in enumerate(found):
        wanted = number % 5
        assert [row["multiple"] for row in rows] == [wanted * f for f in range(1, wanted + 1)]
    assert sent() <= LANES


async def test_the_parts_of_a_product_are_those_of_the_product(
    store: Store, many: list[Goods]
) -> None:
    reader = store.database.primary
    products, offers, stocks = await asyncio.gather(
        asyncio.gather(*(select_product(reader, goods.slug) for goods in many)),
        asyncio.gather(*(select_offers(reader, goods.slug) for goods in many)),
        asyncio.gather(*(select_stock(reader, goods.slug) for goods in many)),
    )
    for number, goods in enumerate(many):
        product = products[number]
        assert product is not None
        assert (product.product_id, product.title) == (goods.product_id, f"number {number}")
        assert [offer.variant_id for offer in offers[number]] == goods.variants
        assert [row.variant_id for row in stocks[number]] == goods.variants
    assert await select_product(reader, "there-is-none") is None


async def test_a_read_never_joins_a_statement_that_has_begun() -> None:
    """Else it could be given what was true before its caller wrote."""
    value, begun, go_on = 1, asyncio.Event(), asyncio.Event()

    async def fetch(_: str, keys: list[str]) -> list[tuple[str, int]]:
        seen = value
        begun.set()
        await go_on.wait()
        return [(key, seen) for key in keys]

    by_key = ByKey(fetch)  # type: ignore[arg-type]  # tuples are rows enough
    before = asyncio.create_task(by_key.find("sql", "k"))
    await begun.wait()
    value = 2
    after = asyncio.create_task(by_key.find("sql", "k"))
    await asyncio.sleep(0)
    go_on.set()
    assert [tuple(row) for row in [*await before, *await after]] == [("k", 1), ("k", 2)]


async def test_a_key_that_can_not_be_read_fails_alone(store: Store) -> None:
    primary = store.database.primary
    keys = ["one", "t\0wo", "three"]  # PostgreSQL has no text with a zero byte
    sql = "select w, upper(w) from unnest($1::text[]) as w"
    found = await asyncio.gather(*(primary.find(sql, key) for key in keys), return_exceptions=True)
    assert isinstance(found[1], asyncpg.DataError)
    assert [rows[0][1] for rows in (found[0], found[2]) if isinstance(rows, list)] == [
        "ONE",
        "THREE",
    ]


async def test_in_a_transaction_a_key_is_read_by_itself(store: Store) -> None:
    async with store.database.primary.transaction() as tx:
        assert [row["multiple"] for row in await tx.find(SELECT_NUMBERS, 3)] == [3, 6, 9]


async def test_who_leaves_takes_nobodys_rows_away(store: Store) -> None:
    primary = store.database.primary
    sql = "select w, pg_sleep(0.05)::text from unnest($1::text[]) as w"
    leaving = [asyncio.create_task(primary.find(sql, "a")) for _ in range(2)]
    staying = asyncio.create_task(primary.find(sql, "a"))
    await asyncio.sleep(0.01)
    for task in leaving:
        task.cancel()
    assert len(await staying) == 1
