"""The stock journal: how stock comes in and is corrected, each time with a reason."""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple
from uuid import UUID

import asyncpg

from services.data.sources import Reader, Transaction

Kind = Literal["receive", "adjust"]

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.IGNORECASE)


class Named(NamedTuple):
    """A variant that somebody may have meant by a SKU."""

    variant_id: UUID
    sku: str
    product_title: str
    title: str


class Moved(NamedTuple):
    """Stock of a variant after an entry, and whether its pages show another band now."""

    received: int
    available: int
    band: str
    band_changed: bool


class NotEnough(Exception):
    """A correction would take away more than is available."""


class NoSuchVariant(Exception):
    """There is no variant of that id."""


SELECT_BY_ID: Final = """
    select v.variant_id, v.sku, p.title, v.title
    from variants v join products p using (product_id) where v.variant_id = $1
"""

SELECT_BY_SKU: Final = """
    select v.variant_id, v.sku, p.title, v.title
    from variants v join products p using (product_id)
    where v.sku = $1 and v.sku <> '' and v.retired_at is null
    order by v.variant_id limit 10
"""

# A variant that no import gave a row: none received, none to sell.
ENSURE_STOCK: Final = """
    insert into stock (variant_id, received, available) values ($1, 0, 0)
    on conflict on constraint stock_pkey do nothing
"""

# The row, its journal entry and the tag of a page that now shows another band: one statement.
MOVE: Final = """
    with moved as (
        update stock set received = received + $2, available = available + $2
        where variant_id = $1
        returning variant_id, new.received, new.available, new.band,
            old.band <> new.band as band_changed
    ), journal as (
        insert into stock_journal (variant_id, kind, quantity, reason)
        select variant_id, $3, $2, $4 from moved
    ), page as (
        insert into outbox (kind, name, aggregate_id)
        select 'tag', 'product-' || v.product_id, v.product_id::text
        from moved join variants v using (variant_id) where band_changed
    )
    select received, available, band, band_changed from moved
"""


async def select_named(reader: Reader, sku_or_variant_id: str) -> list[Named]:
    """The variant of that id, or those on sale with that SKU (ten of them at most)."""
    if _UUID.match(sku_or_variant_id):
        rows = await reader.fetch(SELECT_BY_ID, UUID(sku_or_variant_id))
    else:
        rows = await reader.fetch(SELECT_BY_SKU, sku_or_variant_id)
    return [Named(*row) for row in rows]


async def move_stock(
    tx: Transaction, variant_id: UUID, quantity: int, kind: Kind, reason: str
) -> Moved:
    """Write a journal entry and move what is available by as much.

    Raises NotEnough where less than nothing would be left, and NoSuchVariant.
    """
    try:
        await tx.execute(ENSURE_STOCK, variant_id)
        row = await tx.fetchrow(MOVE, variant_id, quantity, kind, reason)
    except asyncpg.CheckViolationError as error:
        if error.constraint_name == "stock_available_range":
            raise NotEnough from None
        raise
    except asyncpg.ForeignKeyViolationError as error:
        if error.constraint_name == "stock_variant_fkey":
            raise NoSuchVariant from None
        raise
    if row is None:
        raise NoSuchVariant
    return Moved(*row)
