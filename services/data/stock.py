"""Stock: one row a variant is the one truth, and these are the ways in which it moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import asyncpg

from services.data.batch import Locked
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


Basket = Sequence[Quantity]  # each variant once


class Shortage(NamedTuple):
    """A line that asks for more than there is."""

    variant_id: UUID
    asked: int
    available: int


SELECT_STOCK = """
    select p.slug, v.variant_id, v.title, v.sku, coalesce(s.available, 0),
        coalesce(s.band, 'sold_out')
    from products p join variants v using (product_id) left join stock s using (variant_id)
    where p.slug = any($1::text[]) and p.published and v.retired_at is null
    order by v.position, v.variant_id
"""

# In one order, so that no two transactions wait for each other, and in a line: who came first is
# next. A hot row is had by waiting for it; who only looks whether it is free never gets it.
LOCK_STOCK = """
    select variant_id, available from stock
    where variant_id = any($1) order by variant_id for update
"""

LOCK_FREE_STOCK = f"{LOCK_STOCK.rstrip()} skip locked"

SELECT_STOCKED = "select variant_id from stock where variant_id = any($1)"

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

# sold -> available, as HOLD with negative quantities does for held.
RETURN = """
    with moved as (
        update stock s set available = s.available + l.quantity, sold = s.sold - l.quantity
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
    return [StockRow(*row[1:]) for row in await reader.find(SELECT_STOCK, slug)]


async def hold_stock(
    tx: Transaction, baskets: Sequence[Basket], *, patient: bool = True
) -> list[list[Shortage]]:
    """Move baskets from available to held, in their order: each whole, or not at all.

    Returns the lines that are short of each; empty where it is held. Every row is locked once,
    decided on in memory and updated once, however many want it. Raises Locked.
    """
    left = await lock_stock(tx, baskets, patient=patient)
    shortages = [take(left, basket) for basket in baskets]
    await move_to_held(
        tx, [basket for basket, short in zip(baskets, shortages, strict=True) if not short]
    )
    return shortages


async def move_to_held(tx: Transaction, baskets: Sequence[Basket]) -> None:
    """Move baskets that were taken from what is left of locked rows from available to held."""
    if baskets:
        await tx.execute(HOLD, *_sums(baskets))


async def release_stock(
    tx: Transaction, baskets: Sequence[Basket], *, patient: bool = True
) -> None:
    """Move units that are no longer held back to available. Raises Locked."""
    await lock_stock(tx, baskets, patient=patient)
    variant_ids, quantities = _sums(baskets)
    await tx.execute(HOLD, variant_ids, [-quantity for quantity in quantities])


async def sell_stock(tx: Transaction, baskets: Sequence[Basket], *, patient: bool = True) -> None:
    """Move units from held to sold, for good. Raises Locked."""
    await lock_stock(tx, baskets, patient=patient)
    await tx.execute(SELL, *_sums(baskets))


async def return_stock(tx: Transaction, baskets: Sequence[Basket], *, patient: bool = True) -> None:
    """Move units that were sold back to available. Raises Locked."""
    await lock_stock(tx, baskets, patient=patient)
    await tx.execute(RETURN, *_sums(baskets))


async def lock_stock(
    tx: Transaction, baskets: Sequence[Basket], *, patient: bool
) -> dict[UUID, int]:
    """Lock the rows of all baskets; returns what is available of each.

    Raises Locked when one stays locked elsewhere while the impatient wait, or is locked at all
    while they do not: then with the places of the baskets that need it.
    """
    asked = list({line.variant_id for basket in baskets for line in basket})
    if patient:
        try:
            rows = await tx.fetch(LOCK_STOCK, asked)
        except asyncpg.LockNotAvailableError:
            raise Locked from None
        return {row["variant_id"]: int(row["available"]) for row in rows}
    rows = await tx.fetch(LOCK_FREE_STOCK, asked)
    available = {row["variant_id"]: int(row["available"]) for row in rows}
    missing = [variant_id for variant_id in asked if variant_id not in available]
    locked = {row["variant_id"] for row in await tx.fetch(SELECT_STOCKED, missing)}
    if locked:
        needed = [{line.variant_id for line in basket} for basket in baskets]
        raise Locked(place for place, variants in enumerate(needed) if variants & locked)
    return available


def take(left: dict[UUID, int], basket: Basket) -> list[Shortage]:
    """Take a basket from what is left, unless lines are short: those are returned."""
    short = [
        Shortage(line.variant_id, line.quantity, left.get(line.variant_id, 0))
        for line in basket
        if line.quantity > left.get(line.variant_id, 0)
    ]
    if not short:
        for line in basket:
            left[line.variant_id] -= line.quantity
    return short


def _sums(baskets: Sequence[Basket]) -> tuple[list[UUID], list[int]]:
    """Variants and how many of each all baskets hold together."""
    sums: Counter[UUID] = Counter()
    for basket in baskets:
        for line in basket:
            sums[line.variant_id] += line.quantity
    return list(sums), list(sums.values())
