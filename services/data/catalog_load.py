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

STAGING: Final = """
create temporary table staged_products (
    row_no integer primary key,
    product_id uuid,
    source text, source_id text, slug text, title text, description_html text, vendor text,
    category_slug text, category_title text, tags text[], option_names text[],
    published boolean, content_sha256 bytea, currency text, price_from_minor bigint,
    popularity double precision, search_text text, created_at timestamptz,
    rating_count integer, rating_sum integer,
    state text
) on commit drop;
create temporary table staged_variants (
    row_no integer, position integer,
    variant_key text, title text, sku text, barcode text, option_values text[],
    price_minor bigint, compare_at_minor bigint, image_url text, weight_grams integer,
    quantity bigint, variant_id uuid
) on commit drop;
create temporary table staged_images (
    row_no integer, position integer, url text, alt text
) on commit drop;
create temporary table staged_related (
    row_no integer, position integer, related_product_id uuid
) on commit drop
"""

EMPTY_STAGING: Final = "truncate staged_products, staged_variants, staged_images, staged_related"

RESOLVE: Final = """
update staged_products s
set product_id = p.product_id,
    state = case when p.content_sha256 = s.content_sha256 then 'unchanged' else 'changed' end
from products p
where (p.source, p.source_id) = (s.source, s.source_id)
"""

# A slug is made once, with the product: an address that is known outside does not move.
CLASHES: Final = """
select s.row_no, p.source, p.source_id
from staged_products s join products p using (slug)
where s.state is null
union all
select row_no, source, first_source_id
from (
    select row_no, source, slug,
        first_value(source_id) over w as first_source_id,
        row_number() over w as place
    from staged_products where state is null
    window w as (partition by slug order by row_no)
) same_slug
where place > 1 and not exists (select from products p where p.slug = same_slug.slug)
order by row_no
"""

DROP_CLASHES: Final = "delete from staged_products where row_no = any($1::integer[])"

NAME_NEW: Final = """
update staged_products set product_id = coalesce(product_id, uuidv7()), state = 'new'
where state is null
"""

COUNTS: Final = "select state, count(*) as products from staged_products group by state"

INSERT_CATEGORIES: Final = """
insert into categories (category_slug, title)
select category_slug, min(category_title) from staged_products
where category_slug is not null and state <> 'unchanged'
group by category_slug
on conflict do nothing
"""

# Both the lists a product was in and those it is in now.
TOUCHED_CATEGORIES: Final = """
select category_slug from staged_products
where state <> 'unchanged' and category_slug is not null
union
select p.category_slug from products p join staged_products s using (product_id)
where s.state = 'changed' and p.category_slug is not null
"""

INSERT_PRODUCTS: Final = """
insert into products (
    product_id, slug, title, description_html, vendor, category_slug, tags, option_names,
    published, source, source_id, content_sha256, currency, price_from_minor, popularity,
    search_text, created_at, updated_at
)
select
    product_id, slug, title, description_html, vendor, category_slug, tags, option_names,
    published, source, source_id, content_sha256, currency, price_from_minor, popularity,
    search_text, coalesce(created_at, now()), coalesce(created_at, now())
from staged_products where state = 'new'
order by row_no
"""

UPDATE_PRODUCTS: Final = """
update products p
set title = s.title, description_html = s.description_html, vendor = s.vendor,
    category_slug = s.category_slug, tags = s.tags, option_names = s.option_names,
    published = s.published, content_sha256 = s.content_sha256, currency = s.currency,
    price_from_minor = s.price_from_minor, search_text = s.search_text, updated_at = now()
from staged_products s
where s.state = 'changed' and p.product_id = s.product_id
"""

# A new variant starts its stock with what the file says; from then on stock has a life of its
# own, and an import never touches it again.
WRITE_VARIANTS: Final = """
with written as (
    insert into variants as v (
        variant_id, product_id, variant_key, position, title, sku, barcode, option_values,
        currency, price_minor, compare_at_minor, image_url, weight_grams
    )
    select
        coalesce(sv.variant_id, uuidv7()), s.product_id, sv.variant_key, sv.position, sv.title,
        sv.sku, sv.barcode, sv.option_values, s.currency, sv.price_minor, sv.compare_at_minor,
        sv.image_url, sv.weight_grams
    from staged_variants sv join staged_products s using (row_no)
    where s.state <> 'unchanged'
    order by sv.row_no, sv.position
    on conflict on constraint variants_key_key do update
    set position = excluded.position, title = excluded.title, sku = excluded.sku,
        barcode = excluded.barcode, option_values = excluded.option_values,
        currency = excluded.currency, price_minor = excluded.price_minor,
        compare_at_minor = excluded.compare_at_minor, image_url = excluded.image_url,
        weight_grams = excluded.weight_grams, retired_at = null
    returning new.variant_id, new.product_id, new.variant_key, old.variant_id is null as is_new
), first_stock as (
    insert into stock (variant_id, received, available)
    select w.variant_id, sv.quantity, sv.quantity
    from written w
    join staged_products s using (product_id)
    join staged_variants sv on (sv.row_no, sv.variant_key) = (s.row_no, w.variant_key)
    where w.is_new
    returning variant_id, received
)
insert into stock_journal (variant_id, kind, quantity, reason)
select variant_id, 'receive', received, $1 from first_stock where received > 0
"""

RETIRE_VARIANTS: Final = """
update variants v
set retired_at = now()
from staged_products s
where s.state = 'changed' and v.product_id = s.product_id and v.retired_at is null
    and not exists (
        select from staged_variants sv
        where (sv.row_no, sv.variant_key) = (s.row_no, v.variant_key)
    )
"""

DELETE_IMAGES: Final = """
delete from product_images i using staged_products s
where s.state = 'changed' and i.product_id = s.product_id
"""

INSERT_IMAGES: Final = """
insert into product_images (product_id, position, url, alt)
select s.product_id, i.position, i.url, i.alt
from staged_images i join staged_products s using (row_no)
where s.state <> 'unchanged'
"""

INSERT_RATINGS: Final = """
insert into product_ratings (product_id, rating_count, rating_sum)
select product_id, rating_count, rating_sum from staged_products
where state = 'new' and rating_count is not null
"""

INSERT_RELATED: Final = """
insert into related_products (product_id, position, related_product_id)
select s.product_id, r.position, r.related_product_id
from staged_related r
join staged_products s using (row_no)
join products related on related.product_id = r.related_product_id
where s.state = 'new'
"""

# The page of a changed product, and the pages that show it as a related one.
TAG_PRODUCTS: Final = """
insert into outbox (kind, name, aggregate_id)
select 'tag', 'product-' || product_id, product_id::text
from (
    select product_id from staged_products where state = 'changed'
    union
    select r.product_id from related_products r
    join staged_products s on s.product_id = r.related_product_id
    where s.state = 'changed'
) pages
"""

TAG_LISTS: Final = """
insert into outbox (kind, name, aggregate_id)
select 'tag', name, name from unnest($1::text[]) as name
"""

# What can be dropped and built again around a bulk load: foreign keys on the catalog's tables,
# and indexes that hold no constraint. The database itself writes both statements.
REBUILDABLE: Final = """
with tables as (
    select unnest(array[
        'products', 'product_images', 'variants', 'product_ratings', 'related_products',
        'stock', 'stock_journal'
    ]::regclass[]) as relid
)
select format('alter table %s drop constraint %I', conrelid::regclass, conname) as drop_it,
    format('alter table %s add constraint %I %s',
        conrelid::regclass, conname, pg_get_constraintdef(c.oid)) as build_it,
    2 as step
from pg_constraint c join tables on c.conrelid = relid where c.contype = 'f'
union all
select format('drop index %s', indexrelid::regclass), pg_get_indexdef(indexrelid), 1
from pg_index i join tables on i.indrelid = relid
where not exists (select from pg_constraint c where c.conindid = i.indexrelid)
order by step, build_it
"""

ANALYZE: Final = """
analyze products, product_images, variants, product_ratings, related_products, stock, categories
"""


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
    await connection.execute("lock table products in access exclusive mode")
    return not await connection.fetchval("select exists (select from products)")


async def _drop_rebuildable(connection: Connection) -> list[str]:
    """Drop what slows a bulk load down; gives the statements that build it again."""
    rows = await connection.fetch(REBUILDABLE)
    for row in reversed(rows):
        await connection.execute(row["drop_it"])
    return [row["build_it"] for row in rows]
