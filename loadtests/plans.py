"""How PostgreSQL finds what the shop reads, in a database of loadtests/grown.py: plans, not times.

What reads a whole table is quick as long as the table is small. tests/data/test_plans.py looks at
50,000 products, `make growth` at a million.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, TypeAlias, get_args
from uuid import UUID

import asyncpg

from loadtests.grown import BIG
from services import data
from services.data.search import After, Filters, Match, Sort, list_statement

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

STATEMENT: Final = re.compile(r"\s*(select|with|insert|update|delete)\b", re.IGNORECASE)
PAGE: Final = 25

# Modules whose statements are not part of a request, and those that read all there is by design.
OFFLINE: Final = {"catalog_statements", "catalog_load", "proofs", "booked"}
READS_ALL: Final = {
    "SELECT_ACCOUNTS": "`tercet account list`: a command of people's",
    "DELETE_OLD_KEYS": "a worker's; for no values in particular a third of all keys may be old",
    "SELECT_CATEGORIES": "counts the products of each category; held for 10 s, purged by tag",
}

# What the hot path reads, and the indexes by which it finds it.
EXPECTED: Final = {
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
AS_GOOD: Final = {
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

BY_SORT: Final[dict[Sort, str]] = {
    "popular": "products_popularity_idx",
    "price": "products_price_idx",
    "-price": "products_price_idx",
    "newest": "products_newest_idx",
}
BY_MATCH: Final[dict[Match, str]] = {
    "words": "products_search_vector_idx",
    "similar": "products_title_trgm_idx",
}
BY_CATEGORY: Final[dict[Sort, str]] = {
    "popular": "products_category_popularity_idx",
    "price": "products_category_price_idx",
}
SMALL: Final = {"categories_pkey"}  # of 50 rows


class Read(NamedTuple):
    """A statement that no plan may answer by a whole table. args: none where it is planned for no
    values in particular, as a prepared statement may be.

    only: its plan has one of these sets of indexes; by: an index that its plan has among others.
    """

    name: str
    sql: str
    args: tuple[object, ...] = ()
    only: tuple[set[str], ...] = ()
    by: str = ""


class Plan:
    """What a plan reads: by which indexes, and which big tables as a whole."""

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


def reads(products: int) -> list[Read]:
    """All reads of requests; products: how many there are, for a page far behind the first one."""
    return [*_by_key(), *_lists(products), *_searches(), *_categories()]


async def faults(connection: Connection, products: int) -> list[str]:
    """The names of the reads that are not found as they should be, with what is wrong."""
    found = [(read.name, await fault(connection, read)) for read in reads(products)]
    return [f"{name}: {wrong}" for name, wrong in found if wrong]


async def fault(connection: Connection, read: Read) -> str:
    """What is wrong with the plan of this read; empty if nothing is."""
    plan = await plan_of(connection, read.sql, *read.args)
    indexes = plan.indexes - SMALL
    if plan.whole:
        return f"reads {_named(plan.whole)} as a whole"
    if read.only and indexes not in read.only:
        return f"finds by {_named(indexes)}, and not by {_named(read.only[0])}"
    if read.by and read.by not in indexes:
        return f"finds by {_named(indexes)}, and not by {read.by}"
    return ""


async def plan_of(connection: Connection, sql: str, *args: object) -> Plan:
    """Planned for these values, or for none in particular."""
    if args:
        explained = await connection.fetchval(f"explain (format json) {sql}", *args)
    else:
        explained = await _generic(connection, sql)
    (found,) = json.loads(explained)
    return Plan(found["Plan"])


def statements() -> Iterator[tuple[str, str]]:
    """The name and text of every statement that services.data has as a constant."""
    for module in pkgutil.iter_modules(data.__path__):
        if module.name in OFFLINE:
            continue
        loaded = importlib.import_module(f"services.data.{module.name}")
        for name, value in vars(loaded).items():
            if name.isupper() and type(value) is str and STATEMENT.match(value):
                yield f"{module.name}.{name}", value


def _by_key() -> Iterator[Read]:
    """What has no index to be found by may not read a whole table either."""
    for name, sql in statements():
        if name.partition(".")[2] in READS_ALL:
            continue
        wanted = [names[name] for names in (EXPECTED, AS_GOOD) if name in names]
        yield Read(name, sql, only=tuple(wanted))


def _lists(products: int) -> Iterator[Read]:
    """In their order, a page far behind as the first one. Half of the products are before it."""
    halfway: dict[str, float | int | datetime] = {
        "popular": 0.5,
        "price": 25_000,
        "newest": datetime.now(UTC) - timedelta(minutes=products / 2),
    }
    for sort, index in BY_SORT.items():
        deep = After(halfway[sort.removeprefix("-")], UUID(int=0))
        for name, after in (("first page", None), ("a page far behind", deep)):
            statement = list_statement(Filters(), sort, "words", after, PAGE)
            yield _planned(f"list by {sort}, {name}", statement, index)


def _searches() -> Iterator[Read]:
    """Words that are in few products: what is in every seventh is found in the list's order."""
    for match in get_args(Match):
        for sort in get_args(Sort):
            statement = list_statement(Filters(query="jacket 4242"), sort, match, None, PAGE)
            yield _planned(f"search by {match}, {sort}", statement, BY_MATCH[match])


def _categories() -> Iterator[Read]:
    filters = Filters(category_slug="category-7")
    for sort, index in BY_CATEGORY.items():
        statement = list_statement(filters, sort, "words", None, PAGE)
        yield _planned(f"category by {sort}", statement, index)


def _planned(name: str, statement: tuple[str, list[object]], index: str) -> Read:
    sql, args = statement
    return Read(name, sql, tuple(args), by=index)


async def _generic(connection: Connection, sql: str) -> str:
    """By the simple protocol: the extended one would want values for the parameters."""
    await connection.execute(
        "create or replace function pg_temp.explained() returns json language plpgsql as $body$"
        " declare plan json; begin"
        f" execute $explain$ explain (format json, generic_plan) {sql} $explain$ into plan;"
        " return plan; end $body$"
    )
    return str(await connection.fetchval("select pg_temp.explained()"))


def _named(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "no index"
