"""How PostgreSQL finds what the shop reads, among 20,000 products: plans, not times.

What reads a whole table is quick as long as the table is small, and no other test would notice.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, get_args

import asyncpg
import pytest
import pytest_asyncio

from services import data
from services.data import search
from services.data.search import After, Filters, Match, Sort
from tests.data.grown import BIG, grow
from tests.laboratory import migrated_database
from tests.running_stack import RunningStack

PRODUCTS = 20_000
SLUG = "product-77"
STATEMENT = re.compile(r"\s*(select|with|insert|update|delete)\b", re.IGNORECASE)

# Modules whose statements are not part of a request, and those that read all there is by design.
OFFLINE = {"catalog_statements", "catalog_load", "proofs", "booked"}
READS_ALL = {
    "SELECT_ACCOUNTS": "`tercet account list`: a command of people's",
    "SELECT_CATEGORIES": "counts the products of each category; held for 10 s, purged by tag",
}

# What the hot path reads, and the indexes by which it finds it.
EXPECTED = {
    "products.SELECT_PRODUCT": {"products_slug_key", "product_images_pkey"},
    "products.SELECT_OFFERS": {"products_slug_key", "variants_key_key"},
    "products.SELECT_RATING": {"products_slug_key", "product_ratings_pkey"},
    "products.SELECT_RELATED": {
        "products_slug_key",
        "related_products_pkey",
        "products_pkey",
        "product_images_pkey",
    },
    "stock.SELECT_STOCK": {"products_slug_key", "variants_key_key", "stock_pkey"},
    "stock.LOCK_STOCK": {"stock_pkey"},
    "orders.SELECT_ARTICLES": {"variants_pkey", "products_pkey"},
    "own_orders.SELECT_OWN_ORDER": {
        "orders_pkey",
        "order_lines_pkey",
        "payments_pkey",
        "order_events_pkey",
    },
    "carts.SELECT_OWN_CART": {
        "carts_pkey",
        "cart_lines_pkey",
        "orders_one_per_cart",
        "products_pkey",
        "stock_pkey",
        "variants_pkey",
    },
    "carts.LOCK_FREE_CARTS": {"carts_pkey"},
    "own_orders.SELECT_OWN_PAYMENT": {"payments_id_key"},
    "customers.SELECT_IDENTITY": {
        "customer_tokens_pkey",
        "sessions_token_key",
        "customers_pkey",
        "guest_links_customer_idx",
    },
    "orders.LOCK_FREE_ORDERS": {"orders_pkey"},
    "orders.MOVE_HOLDS": {"stock_holds_pkey"},
    "payments.SELECT_PAYMENTS": {"payments_id_key"},
    "payments.LOCK_PAYMENTS": {"payments_id_key"},
    "payments.UPDATE_PAYMENTS": {"payments_id_key"},
    "idempotency.SELECT_KEYS": {"idempotency_keys_pkey"},
    "idempotency.ANSWER_KEYS": {"idempotency_keys_pkey"},
    "outbox.CLAIM_UNPUBLISHED": {
        "outbox_unpublished_idx",
        "outbox_unpublished_tags_idx",
        "outbox_pkey",
    },
    "outbox.TAGS_ARE_LATE": {"outbox_unpublished_tags_idx"},
    "outbox.SELECT_LAG": {"outbox_unpublished_idx"},
}
# Both begin with the key of the order, and the planner takes the one or the other.
AS_GOOD = {
    "outbox.CLAIM_UNPUBLISHED": {"outbox_unpublished_idx", "outbox_pkey"},
    "own_orders.SELECT_OWN_ORDER": {
        "orders_pkey",
        "order_lines_variant_key",
        "payments_pkey",
        "order_events_pkey",
    },
    "own_orders.SELECT_OWN_PAYMENT": {"payments_pkey"},
    "payments.SELECT_PAYMENTS": {"payments_pkey"},
    "payments.LOCK_PAYMENTS": {"payments_pkey"},
    "payments.UPDATE_PAYMENTS": {"payments_pkey"},
}
MEDIAN = """
    select md5('')::uuid as product_id, percentile_disc(0.5) within group (order by popularity)
            as popular,
        percentile_disc(0.5) within group (order by price_from_minor) as price,
        percentile_disc(0.5) within group (order by created_at) as newest
    from products
"""
BY_SORT = {
    "popular": "products_popularity_idx",
    "price": "products_price_idx",
    "-price": "products_price_idx",
    "newest": "products_newest_idx",
}


def statements() -> Iterator[tuple[str, str]]:
    """The name and text of every statement that services.data has as a constant."""
    for module in pkgutil.iter_modules(data.__path__):
        if module.name in OFFLINE:
            continue
        loaded = importlib.import_module(f"services.data.{module.name}")
        for name, value in vars(loaded).items():
            if name.isupper() and type(value) is str and STATEMENT.match(value):
                yield f"{module.name}.{name}", value


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def grown(stack: RunningStack) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    async with migrated_database(stack) as database:
        await grow(database.superuser_dsn(), PRODUCTS)
        connection = await asyncpg.connect(database.superuser_dsn())
        yield connection
        await connection.close()


class Plan:
    """What a plan reads, and by which indexes."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.whole: set[str] = set()
        self.indexes: set[str] = set()
        self._walk(plan)

    def _walk(self, node: dict[str, Any]) -> None:
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in BIG:
            self.whole.add(node["Relation Name"])
        if "Index Name" in node:
            self.indexes.add(node["Index Name"])
        for inner in node.get("Plans", ()):
            self._walk(inner)


async def plan_of(connection: asyncpg.Connection[asyncpg.Record], sql: str, *args: object) -> Plan:
    """Planned for these values, or for none in particular, as a prepared statement may be."""
    options = "format json" if args else "format json, generic_plan"
    (found,) = json.loads(await connection.fetchval(f"explain ({options}) {sql}", *args))
    return Plan(found["Plan"])


async def test_no_statement_of_a_request_reads_a_whole_table(
    grown: asyncpg.Connection[asyncpg.Record],
) -> None:
    seen, whole = set(), {}
    for name, sql in statements():
        seen.add(name)
        # explain takes no parameters when it is asked for a plan for none, so as plain text
        (found,) = json.loads(await explained(grown, sql))
        tables = Plan(found["Plan"]).whole
        if tables and name.partition(".")[2] not in READS_ALL:
            whole[name] = tables
    assert whole == {}
    assert set(EXPECTED) <= seen


async def explained(connection: asyncpg.Connection[asyncpg.Record], sql: str) -> str:
    """By the simple protocol: the extended one would want values for the parameters."""
    name = "explained"
    await connection.execute(
        f"create or replace function pg_temp.{name}() returns json language plpgsql as $body$"
        " declare plan json; begin"
        f" execute $explain$ explain (format json, generic_plan) {sql} $explain$ into plan;"
        " return plan; end $body$"
    )
    return str(await connection.fetchval(f"select pg_temp.{name}()"))


@pytest.mark.parametrize("name", EXPECTED)
async def test_what_the_hot_path_reads_is_found_by_its_index(
    name: str, grown: asyncpg.Connection[asyncpg.Record]
) -> None:
    (found,) = json.loads(await explained(grown, dict(statements())[name]))
    indexes = Plan(found["Plan"]).indexes - {"categories_pkey"}  # of 50 rows
    assert indexes in (EXPECTED[name], AS_GOOD.get(name))


@pytest.mark.parametrize("sort", [sort for sort in get_args(Sort) if sort != "relevance"])
@pytest.mark.parametrize("deep", [False, True])
async def test_a_list_is_read_in_its_order(
    sort: Sort, deep: bool, grown: asyncpg.Connection[asyncpg.Record]
) -> None:
    """A page far behind is found as the first one is."""
    after = None
    if deep:
        row = await grown.fetchrow(MEDIAN)
        assert row is not None
        after = After(row[sort.removeprefix("-")], row["product_id"])
    sql, args = search._statement(Filters(), sort, "words", after, 25)
    plan = await plan_of(grown, sql, *args)
    assert plan.whole == set()
    assert BY_SORT[sort] in plan.indexes


@pytest.mark.parametrize("match", get_args(Match))
@pytest.mark.parametrize("sort", get_args(Sort))
async def test_a_search_finds_by_index(
    match: Match, sort: Sort, grown: asyncpg.Connection[asyncpg.Record]
) -> None:
    """Words that are in few products: what is in every seventh one is found in the list's order."""
    sql, args = search._statement(Filters(query="jacket 4242"), sort, match, None, 25)
    plan = await plan_of(grown, sql, *args)
    assert plan.whole == set()
    wanted = {"words": "products_search_vector_idx", "similar": "products_title_trgm_idx"}
    assert wanted[match] in plan.indexes


@pytest.mark.parametrize("sort", ["popular", "price"])
async def test_a_category_is_read_in_its_order(
    sort: Sort, grown: asyncpg.Connection[asyncpg.Record]
) -> None:
    filters = Filters(category_slug="category-7")
    sql, args = search._statement(filters, sort, "words", None, 25)
    plan = await plan_of(grown, sql, *args)
    assert plan.whole == set()
    index = {"popular": "products_category_popularity_idx", "price": "products_category_price_idx"}
    assert index[sort] in plan.indexes


async def test_a_table_that_is_read_as_a_whole_is_noticed(
    grown: asyncpg.Connection[asyncpg.Record],
) -> None:
    (found,) = json.loads(await explained(grown, "select * from variants where title = $1"))
    assert Plan(found["Plan"]).whole == {"variants"}
