"""Flash sales: their windows and prices, the units claimed of them, and the units given back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from services.data.batch import Locked
from services.data.orders import OrderKey
from services.data.sources import Reader, Transaction


class NewSale(NamedTuple):
    """A sale to be made; price in minor units of currency, limit in units a customer."""

    variant_id: UUID
    opens_at: datetime
    closes_at: datetime
    quantity: int
    customer_limit: int
    unit_price_minor: int
    currency: str


class Sale(NamedTuple):
    """A sale as it was at `seen_at` by the database's clock.

    title: of the variant, None when it is not for sale any more.
    """

    flash_sale_id: UUID
    variant_id: UUID
    opens_at: datetime
    closes_at: datetime
    quantity: int
    claimed: int
    customer_limit: int
    unit_price_minor: int
    currency: str
    created_at: datetime
    seen_at: datetime
    title: str | None

    @property
    def left(self) -> int:
        return self.quantity - self.claimed


class Turn(NamedTuple):
    """A sale's row while it is ours: units claimed so far, and when it became ours."""

    claimed: int
    since: datetime


class Claim(NamedTuple):
    """Units of a sale that an order was placed for. since: the Turn in which it was admitted."""

    order_key: OrderKey
    flash_sale_id: UUID
    quantity: int
    since: datetime


INSERT_SALES = """
    with fresh as materialized (
        select n.*, uuidv7() as flash_sale_id
        from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::bigint[], $5::int[],
            $6::bigint[], $7::text[]) with ordinality as n (variant_id, opens_at, closes_at,
            quantity, customer_limit, unit_price_minor, currency, place)
    ), made as (
        insert into flash_sales (flash_sale_id, variant_id, opens_at, closes_at, quantity,
            customer_limit, unit_price_minor, currency)
        select flash_sale_id, variant_id, opens_at, closes_at, quantity, customer_limit,
            unit_price_minor, currency
        from fresh
        returning flash_sale_id, claimed, created_at
    )
    select f.flash_sale_id, f.variant_id, f.opens_at, f.closes_at, f.quantity, m.claimed,
        f.customer_limit, f.unit_price_minor, f.currency, m.created_at, m.created_at as seen_at,
        '' as title
    from fresh f join made m using (flash_sale_id) order by f.place
"""

SELECT_SALES = """
    select f.flash_sale_id, f.variant_id, f.opens_at, f.closes_at, f.quantity, f.claimed,
        f.customer_limit, f.unit_price_minor, f.currency, f.created_at,
        clock_timestamp() as seen_at,
        case when v.retired_at is not null or not p.published then null
            when v.title = '' then p.title else p.title || ' / ' || v.title end as title
    from flash_sales f join variants v using (variant_id) join products p using (product_id)
    where f.flash_sale_id = any($1::uuid[])
"""

# In one order, as stock is locked. The clock is read when a row is locked and not before: whoever
# waited for it is judged by the time at which it is his turn.
LOCK_SALES = """
    with turn as materialized (
        select flash_sale_id, claimed from flash_sales
        where flash_sale_id = any($1::uuid[]) order by flash_sale_id for update
    )
    select flash_sale_id, claimed, clock_timestamp() as since from turn
"""

LOCK_FREE_SALES = LOCK_SALES.replace("for update", "for update skip locked")

# Asked once the sales are locked, so that it sees every claim that was made before.
# An account has what the guests have that it was before it logged in, and a guest that has logged
# in since what its account has: who claims under two names has one limit. Claims are looked up by
# sale and customer, one after another, which leaves no plan a way to read all claims of a sale.
SELECT_CLAIMED = """
    with asked as (
        select distinct n.flash_sale_id, n.customer_id,
            coalesce(l.customer_id, n.customer_id) as account_id
        from unnest($1::uuid[], $2::uuid[]) as n (flash_sale_id, customer_id)
        left join guest_links l on l.guest_id = n.customer_id
    ), who as (
        select flash_sale_id, account_id, account_id as customer_id from asked
        union
        select a.flash_sale_id, a.account_id, g.guest_id
        from asked a join guest_links g on g.customer_id = a.account_id
    ), has as (
        select w.flash_sale_id, w.account_id, sum(c.quantity) as quantity
        from who w cross join lateral (
            select sum(quantity) as quantity from flash_sale_claims f
            where f.flash_sale_id = w.flash_sale_id and f.customer_id = w.customer_id
                and f.returned_at is null
        ) c
        group by w.flash_sale_id, w.account_id
    )
    select a.flash_sale_id, a.customer_id, a.account_id, coalesce(h.quantity, 0) as quantity
    from asked a left join has h using (flash_sale_id, account_id)
"""

INSERT_CLAIMS = """
    with claims as (
        insert into flash_sale_claims (customer_id, order_id, flash_sale_id, quantity, created_at)
        select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::int[], $5::timestamptz[])
        returning flash_sale_id, quantity
    )
    update flash_sales f set claimed = f.claimed + c.quantity
    from (select flash_sale_id, sum(quantity) as quantity from claims group by flash_sale_id) c
    where f.flash_sale_id = c.flash_sale_id
"""

SELECT_CLAIMED_SALES = """
    select distinct flash_sale_id from flash_sale_claims
    join unnest($1::uuid[], $2::uuid[]) as k (customer_id, order_id) using (customer_id, order_id)
    where returned_at is null
"""

RETURN_CLAIMS = """
    with returned as (
        update flash_sale_claims c set returned_at = now()
        from unnest($1::uuid[], $2::uuid[]) as k (customer_id, order_id)
        where c.customer_id = k.customer_id and c.order_id = k.order_id and c.returned_at is null
        returning c.flash_sale_id, c.quantity
    )
    update flash_sales f set claimed = f.claimed - r.quantity
    from (select flash_sale_id, sum(quantity) as quantity from returned group by flash_sale_id) r
    where f.flash_sale_id = r.flash_sale_id
"""


async def insert_sales(tx: Transaction, new: Sequence[NewSale]) -> list[Sale]:
    """New sales, in the order of the rows; their variants have to exist."""
    rows = await tx.fetch(INSERT_SALES, *map(list, zip(*new, strict=True)))
    return [Sale(*row) for row in rows]


async def select_sale(reader: Reader, flash_sale_id: UUID) -> Sale | None:
    rows = await reader.find(SELECT_SALES, flash_sale_id)
    return Sale(*rows[0]) if rows else None


async def select_sales(tx: Transaction, flash_sale_ids: Sequence[UUID]) -> dict[UUID, Sale]:
    """The sales as they are at this moment; nothing is locked."""
    rows = await tx.fetch(SELECT_SALES, list(flash_sale_ids))
    return {row["flash_sale_id"]: Sale(*row) for row in rows}


async def lock_sales(
    tx: Transaction, wanted: Sequence[UUID], *, patient: bool = True
) -> dict[UUID, Turn]:
    """Lock the rows of sales that exist, before any stock; from now on it is the caller's turn.

    Raises Locked as lock_stock does: the impatient with the places of the sales that are locked.
    """
    unique = list(dict.fromkeys(wanted))
    try:
        rows = await tx.fetch(LOCK_SALES if patient else LOCK_FREE_SALES, unique)
    except asyncpg.LockNotAvailableError:
        raise Locked from None
    turns = {row["flash_sale_id"]: Turn(*row[1:]) for row in rows}
    if len(turns) < len(unique):
        raise Locked(place for place, sale_id in enumerate(wanted) if sale_id not in turns)
    return turns


async def select_claimed(
    tx: Transaction, pairs: Sequence[tuple[UUID, UUID]]
) -> tuple[list[tuple[UUID, UUID]], dict[tuple[UUID, UUID], int]]:
    """Who each (flash_sale_id, customer_id) counts as, and how many units that one has.

    The first are (flash_sale_id, account_id) in the order of pairs; the units are by those.
    """
    rows = await tx.fetch(SELECT_CLAIMED, *map(list, zip(*pairs, strict=True)))
    counts_as = {
        (row["flash_sale_id"], row["customer_id"]): (row["flash_sale_id"], row["account_id"])
        for row in rows
    }
    units = {(row["flash_sale_id"], row["account_id"]): int(row["quantity"]) for row in rows}
    return [counts_as[pair] for pair in pairs], units


async def insert_claims(tx: Transaction, claims: Sequence[Claim]) -> None:
    """Note who has claimed what of sales that are locked."""
    if claims:
        columns = [(*claim.order_key, *claim[1:]) for claim in claims]
        await tx.execute(INSERT_CLAIMS, *map(list, zip(*columns, strict=True)))


async def return_claims(tx: Transaction, order_keys: Sequence[OrderKey]) -> None:
    """Give the units of orders that end unpaid back to their sales, once, however often called.

    Orders of no sale are passed over. The orders are locked by the caller, and their stock is not
    yet: sales are locked before stock. Raises Locked.
    """
    if not order_keys:
        return
    columns = list(map(list, zip(*order_keys, strict=True)))
    rows = await tx.fetch(SELECT_CLAIMED_SALES, *columns)
    if rows:
        await lock_sales(tx, [row["flash_sale_id"] for row in rows])
        await tx.execute(RETURN_CLAIMS, *columns)
