"""Orders: their lines, the stock they hold, and their states."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from services.data.batch import Locked
from services.data.link import Record
from services.data.sources import Reader, Transaction
from services.data.stock import Quantity

# As long as an unpaid order keeps its stock. A success that comes later is refunded.
PAYING_FOR: Final = timedelta(minutes=15)


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
    """state: services/business/order_states.py; total in minor units of currency."""

    customer_id: UUID
    order_id: UUID
    state: str
    currency: str
    total_minor: int
    hold_expires_at: datetime
    created_at: datetime
    hold_is_over: bool

    @property
    def placing(self) -> OrderEvent:
        """The first line of its history."""
        return OrderEvent(None, "placed", "placed", self.created_at)


class OrderEvent(NamedTuple):
    """A move of an order; was: None when it was placed."""

    was: str | None
    becomes: str
    cause: str
    created_at: datetime


class NewOrder(NamedTuple):
    """An order to be inserted; it has at least one line, and each variant once."""

    customer_id: UUID
    currency: str
    lines: Sequence[OrderLine]
    cart_id: UUID | None = None

    @property
    def total_minor(self) -> int:
        return sum(line.quantity * line.unit_price_minor for line in self.lines)


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

# place is that of an order among those inserted together, from 1 on.
INSERT_ORDERS = """
    with fresh as materialized (
        select n.customer_id, uuidv7() as order_id, n.currency, n.total_minor, n.cart_id, n.place
        from unnest($1::uuid[], $2::text[], $3::bigint[], $11::uuid[])
            with ordinality as n (customer_id, currency, total_minor, cart_id, place)
    ), placed as (
        insert into orders
            (customer_id, order_id, state, currency, total_minor, hold_expires_at, cart_id)
        select customer_id, order_id, 'placed', currency, total_minor, now() + $4::interval,
            cart_id
        from fresh order by place
        returning customer_id, order_id, state, currency, total_minor, hold_expires_at, created_at
    ), noted as (
        insert into order_events (customer_id, order_id, from_state, to_state, cause)
        select customer_id, order_id, null, state, 'placed' from placed
    ), wanted as materialized (
        select f.customer_id, f.order_id, l.position, l.variant_id, l.title, l.quantity,
            l.unit_price_minor
        from unnest($5::bigint[], $6::int[], $7::uuid[], $8::text[], $9::int[], $10::bigint[])
            as l (place, position, variant_id, title, quantity, unit_price_minor)
        join fresh f using (place)
    ), lines as (
        insert into order_lines
            (customer_id, order_id, position, variant_id, title, quantity, unit_price_minor)
        select * from wanted
    ), holds as (
        insert into stock_holds (customer_id, order_id, variant_id, quantity, state, expires_at)
        select customer_id, order_id, variant_id, quantity, 'held', now() + $4::interval
        from wanted
    )
    select p.*, false as hold_is_over
    from fresh f join placed p using (customer_id, order_id) order by f.place
"""

# Looked up one by one and never waited for; what is locked elsewhere is not returned.
LOCK_FREE_ORDERS = """
    select o.* from unnest($1::uuid[], $2::uuid[]) as k (customer_id, order_id)
    cross join lateral (
        select customer_id, order_id, state, currency, total_minor, hold_expires_at, created_at,
            hold_expires_at <= now() as hold_is_over
        from orders
        where orders.customer_id = k.customer_id and orders.order_id = k.order_id
        for update skip locked
    ) o
"""

SELECT_EXISTING = """
    select customer_id, order_id from orders
    join unnest($1::uuid[], $2::uuid[]) as k (customer_id, order_id) using (customer_id, order_id)
"""

# Every move is in the order's history, and told to others.
UPDATE_STATES = """
    with moved as (
        update orders o set state = $4, updated_at = now()
        from unnest($1::uuid[], $2::uuid[]) as k (customer_id, order_id)
        where o.customer_id = k.customer_id and o.order_id = k.order_id and o.state = any($3)
        returning o.customer_id, o.order_id, old.state as was
    ), noted as (
        insert into order_events (customer_id, order_id, from_state, to_state, cause)
        select customer_id, order_id, was, $4, $5 from moved
    ), told as (
        insert into outbox (kind, name, aggregate_id, payload)
        select 'event', 'order_' || $4, order_id::text,
            jsonb_build_object('from', was, 'cause', $5::text)
        from moved
    )
    select customer_id, order_id from moved
"""

MOVE_HOLDS = """
    update stock_holds h set state = $4,
        paying_until = case when $4 = 'paying' then now() + $5::interval end,
        resolved_at = case when $4 not in ('held', 'paying') then now() end
    from unnest($1::uuid[], $2::uuid[]) as k (customer_id, order_id)
    where h.customer_id = k.customer_id and h.order_id = k.order_id and h.state = $3
    returning h.customer_id, h.order_id, h.variant_id, h.quantity
"""

# What is over by the clock: held and not paid, or paying for longer than a payment may take.
OVER = """
    (h.state = 'held' and h.expires_at <= now()
        or h.state = 'paying' and h.paying_until <= now())
"""

LOCK_EXPIRED = f"""
    select o.customer_id, o.order_id from orders o
    where o.state = 'placed' and exists (
        select from stock_holds h
        where h.customer_id = o.customer_id and h.order_id = o.order_id and {OVER}
    )
    order by o.hold_expires_at limit $1 for update skip locked
"""  # noqa: S608  # nosec B608 - a condition of ours

# Looks again: a payment may have begun or failed since the order was found and before it was
# locked. paying_until stays, as the proof that it had passed.
EXPIRE_HOLDS = f"""
    update stock_holds h set state = 'expired', resolved_at = now()
    from unnest($1::uuid[], $2::uuid[]) as k (customer_id, order_id)
    where h.customer_id = k.customer_id and h.order_id = k.order_id and {OVER}
    returning h.customer_id, h.order_id, h.variant_id, h.quantity
"""  # noqa: S608  # nosec B608 - a condition of ours


async def select_articles(reader: Reader, variant_ids: Sequence[UUID]) -> dict[UUID, Article]:
    """The variants that are for sale, with the prices that hold now."""
    rows = await reader.fetch(SELECT_ARTICLES, list(variant_ids))
    return {row["variant_id"]: Article(*row) for row in rows}


async def insert_orders(
    tx: Transaction, new: Sequence[NewOrder], *, hold_for: timedelta
) -> list[Order]:
    """Orders with their lines and holds; the stock itself is moved by hold_stock."""
    rows = await tx.fetch(
        INSERT_ORDERS,
        [order.customer_id for order in new],
        [order.currency for order in new],
        [order.total_minor for order in new],
        hold_for,
        *_line_columns(new),
        [order.cart_id for order in new],
    )
    return [Order(*row) for row in rows]


def _line_columns(new: Sequence[NewOrder]) -> list[list[object]]:
    """Place of the order, position in it, variant, title, quantity and price of every line."""
    rows = [
        (place, position, *line)
        for place, order in enumerate(new, start=1)
        for position, line in enumerate(order.lines, start=1)
    ]
    return [list(column) for column in zip(*rows, strict=True)]


async def lock_orders(tx: Transaction, keys: Sequence[OrderKey]) -> dict[OrderKey, Order]:
    """The orders that exist, kept from changing until the transaction ends: before any payment.

    Raises Locked with the places of those that somebody else is working on.
    """
    unique = list(dict.fromkeys(keys))
    rows = await tx.fetch(LOCK_FREE_ORDERS, *_columns(unique))
    found = {OrderKey(*row[:2]): Order(*row) for row in rows}
    missing = [key for key in unique if key not in found]
    if missing:
        existing = await tx.fetch(SELECT_EXISTING, *_columns(missing))
        locked = {OrderKey(*row) for row in existing}
        if locked:
            raise Locked(place for place, key in enumerate(keys) if key in locked)
    return found


async def update_states(
    tx: Transaction, keys: Sequence[OrderKey], was: Sequence[str], becomes: str, cause: str
) -> list[OrderKey]:
    """Move orders that are in one of these states; returns those that were."""
    if not keys:
        return []
    rows = await tx.fetch(UPDATE_STATES, *_columns(keys), list(was), becomes, cause)
    return [OrderKey(*row) for row in rows]


async def move_holds(
    tx: Transaction, keys: Sequence[OrderKey], *, was: str, becomes: str
) -> dict[OrderKey, list[Quantity]]:
    """Move the holds of orders from one state to another; returns what was moved of each."""
    if not keys:
        return {}
    return _by_order(await tx.fetch(MOVE_HOLDS, *_columns(keys), was, becomes, PAYING_FOR))


async def expire_holds(tx: Transaction, keys: Sequence[OrderKey]) -> dict[OrderKey, list[Quantity]]:
    """End those holds of locked orders whose time is over; returns what each order had."""
    return _by_order(await tx.fetch(EXPIRE_HOLDS, *_columns(keys))) if keys else {}


async def lock_expired_orders(tx: Transaction, limit: int) -> list[OrderKey]:
    """Orders whose holds are over, oldest first, that no other worker has."""
    return [OrderKey(*row) for row in await tx.fetch(LOCK_EXPIRED, limit)]


def _by_order(rows: Sequence[Record]) -> dict[OrderKey, list[Quantity]]:
    moved: dict[OrderKey, list[Quantity]] = {}
    for row in rows:
        moved.setdefault(OrderKey(*row[:2]), []).append(Quantity(*row[2:]))
    return moved


def _columns(keys: Sequence[OrderKey]) -> tuple[list[UUID], list[UUID]]:
    return [key.customer_id for key in keys], [key.order_id for key in keys]
