"""Orders: their lines, the stock they hold, and their states."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from services.data.sources import Reader, Transaction
from services.data.stock import Quantity


class Article(NamedTuple):
    """A variant as it is sold now; price in minor units of currency."""

    variant_id: UUID
    title: str
    currency: str
    price_minor: int


class OrderLine(NamedTuple):
    variant_id: UUID
    title: str
    quantity: int
    unit_price_minor: int


class Order(NamedTuple):
    """state is placed, paid or expired; total in minor units of currency."""

    customer_id: UUID
    order_id: UUID
    state: str
    currency: str
    total_minor: int
    hold_expires_at: datetime
    created_at: datetime
    hold_is_over: bool


class OrderKey(NamedTuple):
    customer_id: UUID
    order_id: UUID


SELECT_ARTICLES = """
    select v.variant_id,
        case when v.title = '' then p.title else p.title || ' / ' || v.title end as title,
        v.currency, v.price_minor
    from variants v join products p using (product_id)
    where v.variant_id = any($1) and v.retired_at is null and p.published
"""

INSERT_ORDER = """
    insert into orders
        (customer_id, order_id, state, currency, total_minor, hold_expires_at)
    values ($1, $2, 'placed', $3, $4, now() + $5::interval)
    returning customer_id, order_id, state, currency, total_minor, hold_expires_at, created_at,
        false as hold_is_over
"""

INSERT_LINES = """
    insert into order_lines
        (customer_id, order_id, position, variant_id, title, quantity, unit_price_minor)
    select $1, $2, l.position, l.variant_id, l.title, l.quantity, l.unit_price_minor
    from unnest($3::uuid[], $4::text[], $5::int[], $6::bigint[])
        with ordinality as l (variant_id, title, quantity, unit_price_minor, position)
"""

INSERT_HOLDS = """
    insert into stock_holds (customer_id, order_id, variant_id, quantity, state, expires_at)
    select $1, $2, l.variant_id, l.quantity, 'held', $5
    from unnest($3::uuid[], $4::int[]) as l (variant_id, quantity)
"""

SELECT_ORDER = """
    select customer_id, order_id, state, currency, total_minor, hold_expires_at, created_at,
        hold_expires_at <= now() as hold_is_over
    from orders where customer_id = $1 and order_id = $2
"""

LOCK_ORDER = """
    select customer_id, order_id, state, currency, total_minor, hold_expires_at, created_at,
        hold_expires_at <= now() as hold_is_over
    from orders where customer_id = $1 and order_id = $2 for update
"""

SELECT_LINES = """
    select variant_id, title, quantity, unit_price_minor
    from order_lines where customer_id = $1 and order_id = $2 order by position
"""

UPDATE_STATE = """
    update orders set state = $3, updated_at = now() where customer_id = $1 and order_id = $2
"""

MOVE_HOLDS = """
    update stock_holds set state = $4,
        resolved_at = case when $4 in ('sold', 'expired') then now() end
    where customer_id = $1 and order_id = $2 and state = $3
    returning variant_id, quantity
"""

# An order whose payment is under way has holds that are paying, so it is not found here.
LOCK_EXPIRED = """
    select o.customer_id, o.order_id from orders o
    where o.state = 'placed' and exists (
        select from stock_holds h
        where h.customer_id = o.customer_id and h.order_id = o.order_id
            and h.state = 'held' and h.expires_at <= now()
    )
    order by o.hold_expires_at limit $1 for update skip locked
"""


async def select_articles(reader: Reader, variant_ids: Sequence[UUID]) -> dict[UUID, Article]:
    """The variants that are for sale, with the prices that hold now."""
    rows = await reader.fetch(SELECT_ARTICLES, list(variant_ids))
    return {row["variant_id"]: Article(*row) for row in rows}


async def insert_order(
    tx: Transaction,
    key: OrderKey,
    lines: Sequence[OrderLine],
    *,
    currency: str,
    hold_for: timedelta,
) -> Order:
    """An order with its lines and holds; the stock itself is moved by hold_stock."""
    total_minor = sum(line.quantity * line.unit_price_minor for line in lines)
    row = await tx.fetchrow(INSERT_ORDER, *key, currency, total_minor, hold_for)
    assert row is not None  # noqa: S101 - insert … returning without on conflict gives a row
    order = Order(*row)
    variant_ids, titles, quantities, prices = (list(column) for column in zip(*lines, strict=True))
    await tx.execute(INSERT_LINES, *key, variant_ids, titles, quantities, prices)
    await tx.execute(INSERT_HOLDS, *key, variant_ids, quantities, order.hold_expires_at)
    return order


async def select_order(reader: Reader, key: OrderKey) -> Order | None:
    row = await reader.fetchrow(SELECT_ORDER, *key)
    return Order(*row) if row is not None else None


async def lock_order(tx: Transaction, key: OrderKey) -> Order | None:
    """The order, kept from changing until the transaction ends: take it before any payment."""
    row = await tx.fetchrow(LOCK_ORDER, *key)
    return Order(*row) if row is not None else None


async def select_lines(reader: Reader, key: OrderKey) -> list[OrderLine]:
    return [OrderLine(*row) for row in await reader.fetch(SELECT_LINES, *key)]


async def update_state(tx: Transaction, key: OrderKey, state: str) -> None:
    await tx.execute(UPDATE_STATE, *key, state)


async def move_holds(tx: Transaction, key: OrderKey, *, was: str, becomes: str) -> list[Quantity]:
    """Move the holds of an order from one state to another; returns what was moved."""
    return [Quantity(*row) for row in await tx.fetch(MOVE_HOLDS, *key, was, becomes)]


async def lock_expired_orders(tx: Transaction, limit: int) -> list[OrderKey]:
    """Orders whose holds are over, oldest first, that no other worker has."""
    return [OrderKey(*row) for row in await tx.fetch(LOCK_EXPIRED, limit)]
