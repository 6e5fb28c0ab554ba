"""Stock: one row a variant is the one truth, and these are the ways in which it moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from services.data.sources import Reader, Transaction


class StockRow(NamedTuple):
    """Units of a variant; available + held + sold is all that ever came in."""

    variant_id: UUID
    title: str
    sku: str
    available: int
    band: str


class Quantity(NamedTuple):
    variant_id: UUID
    quantity: int


class Shortage(NamedTuple):
    """A line that asks for more than there is."""

    variant_id: UUID
    asked: int
    available: int


SELECT_STOCK = """
    select v.variant_id, v.title, v.sku, coalesce(s.available, 0), coalesce(s.band, 'sold_out')
    from products p join variants v using (product_id) left join stock s using (variant_id)
    where p.slug = $1 and p.published and v.retired_at is null
    order by v.position, v.variant_id
"""

LOCK_STOCK = """
    select variant_id, available from stock
    where variant_id = any($1) order by variant_id for update
"""

# available -> held, or back where the quantity is negative. Only a change of band, never of a
# count, makes the product's pages be fetched again.
HOLD = """
    with moved as (
        update stock s set available = s.available - l.quantity, held = s.held + l.quantity
        from unnest($1::uuid[], $2::bigint[]) as l (variant_id, quantity)
        where s.variant_id = l.variant_id
        returning s.variant_id, old.band as was, new.band as becomes
    )
    insert into outbox (kind, name, aggregate_id)
    select distinct 'tag', 'product-' || v.product_id, v.product_id::text
    from moved m join variants v using (variant_id) where m.was <> m.becomes
"""

# held -> sold: what is available does not change, so neither does any page.
SELL = """
    update stock s set held = s.held - l.quantity, sold = s.sold + l.quantity
    from unnest($1::uuid[], $2::bigint[]) as l (variant_id, quantity)
    where s.variant_id = l.variant_id
"""


async def select_stock(reader: Reader, slug: str) -> list[StockRow]:
    """Exact stock of the variants of a product; empty when there is no such product."""
    return [StockRow(*row) for row in await reader.fetch(SELECT_STOCK, slug)]


async def hold_stock(tx: Transaction, lines: Sequence[Quantity]) -> list[Shortage]:
    """Move every line from available to held, or none; returns the lines that are short.

    Rows are locked in one order, so that two baskets never wait for each other.
    """
    rows = await tx.fetch(LOCK_STOCK, [line.variant_id for line in lines])
    available = {row["variant_id"]: int(row["available"]) for row in rows}
    shortages = [
        Shortage(line.variant_id, line.quantity, available.get(line.variant_id, 0))
        for line in lines
        if line.quantity > available.get(line.variant_id, 0)
    ]
    if not shortages:
        await tx.execute(HOLD, *_columns(lines))
    return shortages


async def release_stock(tx: Transaction, lines: Sequence[Quantity]) -> None:
    """Move units that are no longer held back to available."""
    await _lock(tx, lines)
    variant_ids, quantities = _columns(lines)
    await tx.execute(HOLD, variant_ids, [-quantity for quantity in quantities])


async def sell_stock(tx: Transaction, lines: Sequence[Quantity]) -> None:
    """Move units from held to sold, for good."""
    await _lock(tx, lines)
    await tx.execute(SELL, *_columns(lines))


async def _lock(tx: Transaction, lines: Sequence[Quantity]) -> None:
    await tx.fetch(LOCK_STOCK, [line.variant_id for line in lines])


def _columns(lines: Sequence[Quantity]) -> tuple[list[UUID], list[int]]:
    return [line.variant_id for line in lines], [line.quantity for line in lines]
