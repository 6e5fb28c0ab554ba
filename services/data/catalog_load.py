"""Loading a catalog: COPY into staging tables, then set-wise statements that write what differs.

A load is one transaction on one connection of the owner: all of it happens or nothing. It takes
the catalog in chunks, so that neither side ever holds more than one of them in memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import asyncpg

from services.data.catalog_rows import Product
from services.data.catalog_statements import (
    ANALYZE,
    CLASHES,
    COUNTS,
    DELETE_IMAGES,
    DROP_CLASHES,
    EMPTY_STAGING,
    INSERT_CATEGORIES,
    INSERT_IMAGES,
    INSERT_PRODUCTS,
    INSERT_RATINGS,
    INSERT_RELATED,
    NAME_NEW,
    REBUILDABLE,
    RESOLVE,
    RETIRE_VARIANTS,
    STAGING,
    TAG_LISTS,
    TAG_PRODUCTS,
    TOUCHED_CATEGORIES,
    UPDATE_PRODUCTS,
    WRITE_VARIANTS,
)
from services.data.pages import PRODUCTS_TAG, category_tag

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

LOAD_LOCK: Final = 7_203_114  # any number that nothing else locks: one load at a time
CONNECT_TIMEOUT_S: Final = 10

# From here on it is faster to build the indexes once at the end than to keep them up to date.
BULK_PRODUCTS: Final = 5000

LOST: Final = (
    ConnectionError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
)


class LoadFailed(Exception):
    """The load could not be done, for a reason outside of it that the message names."""


@dataclass(slots=True, frozen=True)
class Clash:
    """A new product of the chunk whose slug belongs to another product."""

    row_no: int
    owner_source: str
    owner_source_id: str


@dataclass(slots=True)
class Loaded:
    """What became of one chunk: numbers of products, and the products left out."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    clashes: list[Clash] = field(default_factory=list)
    categories: set[str] = field(default_factory=set)


@asynccontextmanager
async def connected(dsn: str, password: str) -> AsyncIterator[Connection]:
    """A connection for as long as the block runs; LoadFailed where it can not be had or is lost.

    Plans are not cached: the tables grow by orders of magnitude under the same statements.
    """
    address = dsn.rpartition("@")[2]
    try:
        connection = await asyncpg.connect(
            dsn, password=password, timeout=CONNECT_TIMEOUT_S, statement_cache_size=0
        )
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        reason = str(error) or type(error).__name__
        raise LoadFailed(f"the database at {address} can not be reached: {reason}") from None
    try:
        yield connection
    except LOST as error:
        raise LoadFailed(
            f"the connection to {address} was lost ({error}); run it again: what is in already "
            "is not loaded twice"
        ) from None
    except asyncpg.UndefinedTableError:
        raise LoadFailed(f"the database at {address} has no tables: tercet migrate") from None
    except asyncpg.LockNotAvailableError as error:
        raise LoadFailed(f"somebody else holds the catalog: {error}; nothing changed") from None
    finally:
        await connection.close()


@asynccontextmanager
async def loading(connection: Connection, *, products: int) -> AsyncIterator[None]:
    """One transaction around all chunks of a load of about so many products.

    On an empty catalog a bulk load drops indexes and foreign keys first and builds them at its
    end; all that is part of the transaction, so a crash leaves them as they were.
    """
    async with connection.transaction():
        if not await connection.fetchval("select pg_try_advisory_xact_lock($1)", LOAD_LOCK):
            raise LoadFailed("another import is running; wait until it is done")
        # A load takes minutes where a request takes milliseconds.
        await connection.execute(
            "set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0"
        )
        await connection.execute(STAGING)
        bulk = products >= BULK_PRODUCTS and await _is_empty(connection)
        rebuild = await _drop_rebuildable(connection) if bulk else []
        yield
        if rebuild:
            await connection.execute("set local maintenance_work_mem = '256MB'")
        for statement in rebuild:
            await connection.execute(statement)
    await connection.execute(ANALYZE)


async def load_chunk(connection: Connection, products: Sequence[Product], reason: str) -> Loaded:
    """Write what is new or changed of a chunk; `reason` goes into the journal of new stock.

    No two products of a chunk may have the same source and source_id.
    """
    await _stage(connection, products)
    await connection.execute(RESOLVE)
    clashes = [Clash(*row) for row in await connection.fetch(CLASHES)]
    if clashes:
        await connection.execute(DROP_CLASHES, [clash.row_no for clash in clashes])
    await connection.execute(NAME_NEW)
    loaded = Loaded(clashes=clashes)
    for row in await connection.fetch(COUNTS):
        setattr(loaded, row["state"], row["products"])
    if loaded.new or loaded.changed:
        loaded.categories = {row[0] for row in await connection.fetch(TOUCHED_CATEGORIES)}
        await _write(connection, reason, changed=bool(loaded.changed))
    await connection.execute(EMPTY_STAGING)
    return loaded


async def tag_lists(connection: Connection, categories: set[str]) -> None:
    """Mark every list as old that shows a product of these categories, once a load."""
    names = [PRODUCTS_TAG, *(category_tag(slug) for slug in sorted(categories))]
    await connection.execute(TAG_LISTS, names)


async def _write(connection: Connection, reason: str, *, changed: bool) -> None:
    await connection.execute(INSERT_CATEGORIES)
    await connection.execute(INSERT_PRODUCTS)
    if changed:
        for statement in (UPDATE_PRODUCTS, RETIRE_VARIANTS, DELETE_IMAGES, TAG_PRODUCTS):
            await connection.execute(statement)
    await connection.execute(WRITE_VARIANTS, reason)
    for statement in (INSERT_IMAGES, INSERT_RATINGS, INSERT_RELATED):
        await connection.execute(statement)


async def _stage(connection: Connection, products: Sequence[Product]) -> None:
    staged: dict[str, list[tuple[Any, ...]]] = {
        "staged_products": [],
        "staged_variants": [],
        "staged_images": [],
        "staged_related": [],
    }
    for row_no, product in enumerate(products):
        staged["staged_products"].append(_product_row(row_no, product))
        for table, parts in (
            ("staged_variants", product.variants),
            ("staged_images", product.images),
            ("staged_related", [(related,) for related in product.related_product_ids]),
        ):
            staged[table].extend((row_no, at, *part) for at, part in enumerate(parts, start=1))
    for table, records in staged.items():
        await connection.copy_records_to_table(table, records=records)


def _product_row(row_no: int, p: Product) -> tuple[Any, ...]:
    """In the order of the columns of staged_products; state is added by RESOLVE and NAME_NEW."""
    category_slug, category_title = p.category or (None, None)
    rating_count, rating_sum = p.rating or (None, None)
    return (
        row_no,
        p.product_id,
        p.source,
        p.source_id,
        p.slug,
        p.title,
        p.description_html,
        p.vendor,
        category_slug,
        category_title,
        p.tags,
        p.option_names,
        p.published,
        p.content_sha256(),
        p.currency,
        p.price_from_minor,
        p.popularity,
        p.search_text,
        p.created_at,
        rating_count,
        rating_sum,
        None,
    )


async def _is_empty(connection: Connection) -> bool:
    """Whether there are no products; if so, nobody reads or adds any until the load is done."""
    # Asked before it is locked: a shop that sells is read while it is loaded.
    if await connection.fetchval("select exists (select from products)"):
        return False
    await connection.execute("lock table products in access exclusive mode")
    return not await connection.fetchval("select exists (select from products)")


async def _drop_rebuildable(connection: Connection) -> list[str]:
    """Drop what slows a bulk load down; gives the statements that build it again."""
    rows = await connection.fetch(REBUILDABLE)
    for row in reversed(rows):
        await connection.execute(row["drop_it"])
    return [row["build_it"] for row in rows]
