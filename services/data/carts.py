"""Carts: what somebody means to buy, shown at the prices of now; nothing is held by them.

Every change locks the cart's row first, and so does the order that is made of it: what is read
under that lock stays as it is until the transaction ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from services.data.batch import Locked
from services.data.own_reads import OwnReads
from services.data.sources import Transaction
from services.data.stock import Quantity


class CartKey(NamedTuple):
    customer_id: UUID
    cart_id: UUID


class CartLine(NamedTuple):
    """A line as it is sold now; price in minor units of currency, band as a page shows it."""

    variant_id: UUID
    quantity: int
    title: str
    currency: str
    price_minor: int
    for_sale: bool
    band: str


class Cart(NamedTuple):
    """state: open, or ordered for good. order_id: of the order that was made of it.

    revision counts every change of the lines.
    """

    customer_id: UUID
    cart_id: UUID
    state: str
    revision: int
    created_at: datetime
    updated_at: datetime
    order_id: UUID | None
    lines: list[CartLine]

    @property
    def key(self) -> CartKey:
        return CartKey(self.customer_id, self.cart_id)


# Lines and prices in one statement, so in one snapshot. Lines stand in the order in which they
# came.
SHOWN = """
    c.customer_id, c.cart_id, c.state, c.revision, c.created_at, c.updated_at,
    (select o.order_id from orders o where o.customer_id = c.customer_id and o.cart_id = c.cart_id),
    array(
        select row(l.variant_id, l.quantity,
            case when v.title = '' then p.title else p.title || ' / ' || v.title end,
            v.currency, v.price_minor, v.retired_at is null and p.published,
            coalesce(s.band, 'sold_out'))
        from cart_lines l join variants v using (variant_id) join products p using (product_id)
        left join stock s using (variant_id)
        where l.customer_id = c.customer_id and l.cart_id = c.cart_id
        order by l.added_at, l.variant_id
    ) as lines
"""  # fmt: skip

SELECT_CARTS = f"""
    select {SHOWN} from unnest($1::uuid[], $2::uuid[]) as k (customer_id, cart_id)
    join carts c using (customer_id, cart_id)
"""  # noqa: S608  # nosec B608 - columns of ours

# position: as in own_orders.py.
SELECT_OWN_CART = f"""
    select {SHOWN},
        (case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
            else pg_current_wal_flush_lsn() end - '0/0'::pg_lsn)::bigint as position
    from carts c where c.customer_id = $1 and c.cart_id = $2
"""  # noqa: S608  # nosec B608 - columns of ours

INSERT_CART = """
    insert into carts (customer_id, cart_id) values ($1, uuidv7()) returning cart_id
"""

# One after another, by a microsecond, so that lines keep the order in which they were given.
INSERT_LINES = """
    insert into cart_lines (customer_id, cart_id, variant_id, quantity, added_at)
    select $1, $2, variant_id, quantity, now() + place * interval '1 microsecond'
    from unnest($3::uuid[], $4::int[]) with ordinality as l (variant_id, quantity, place)
"""

LOCK_CART = """
    select state from carts where customer_id = $1 and cart_id = $2 for update
"""

COUNT_OTHERS = """
    select count(*) from cart_lines
    where customer_id = $1 and cart_id = $2 and variant_id <> $3
"""

# The same quantity again changes nothing, so whoever repeats a request keeps his version.
PUT_LINE = """
    with put as (
        insert into cart_lines (customer_id, cart_id, variant_id, quantity)
        values ($1, $2, $3, $4)
        on conflict (customer_id, cart_id, variant_id) do update set quantity = excluded.quantity
            where cart_lines.quantity <> excluded.quantity
        returning 1
    )
    update carts set revision = revision + 1, updated_at = now()
    where customer_id = $1 and cart_id = $2 and exists (select from put)
"""

DELETE_LINE = """
    with gone as (
        delete from cart_lines where customer_id = $1 and cart_id = $2 and variant_id = $3
        returning 1
    )
    update carts set revision = revision + 1, updated_at = now()
    where customer_id = $1 and cart_id = $2 and exists (select from gone)
"""

# Never waited for; what is locked elsewhere is not returned.
LOCK_FREE_CARTS = """
    select o.* from unnest($1::uuid[], $2::uuid[]) as k (customer_id, cart_id)
    cross join lateral (
        select customer_id, cart_id from carts
        where carts.customer_id = k.customer_id and carts.cart_id = k.cart_id
        for update skip locked
    ) o
"""

SELECT_EXISTING_CARTS = """
    select customer_id, cart_id from carts
    join unnest($1::uuid[], $2::uuid[]) as k (customer_id, cart_id) using (customer_id, cart_id)
"""

MARK_ORDERED = """
    update carts c set state = 'ordered', updated_at = now()
    from unnest($1::uuid[], $2::uuid[]) as k (customer_id, cart_id)
    where c.customer_id = k.customer_id and c.cart_id = k.cart_id
"""


async def select_own_cart(own: OwnReads, key: CartKey) -> Cart | None:
    """A cart as its customer reads it, never older than what he has seen."""
    row = await own.fetchrow(SELECT_OWN_CART, *key)
    return _cart(tuple(row)[:-1]) if row is not None else None


async def select_carts(tx: Transaction, keys: Sequence[CartKey]) -> dict[CartKey, Cart]:
    """Carts as they are now, with the prices of now."""
    rows = await tx.fetch(SELECT_CARTS, *_columns(keys))
    return {CartKey(*row[:2]): _cart(tuple(row)) for row in rows}


async def insert_cart(tx: Transaction, customer_id: UUID, lines: Sequence[Quantity]) -> CartKey:
    """A new cart of variants that exist, each once."""
    key = CartKey(customer_id, await tx.fetchval(INSERT_CART, customer_id))
    if lines:
        columns = [list(column) for column in zip(*lines, strict=True)]
        await tx.execute(INSERT_LINES, *key, *columns)
    return key


async def lock_cart(tx: Transaction, key: CartKey) -> str | None:
    """The state of a cart, which is kept from changing until the transaction ends."""
    state: str | None = await tx.fetchval(LOCK_CART, *key)
    return state


async def count_other_lines(tx: Transaction, key: CartKey, variant_id: UUID) -> int:
    """How many lines a locked cart has of other variants."""
    return int(await tx.fetchval(COUNT_OTHERS, *key, variant_id))


async def put_line(tx: Transaction, key: CartKey, line: Quantity) -> None:
    """Set how many of a variant that exists are in a locked cart."""
    await tx.execute(PUT_LINE, *key, *line)


async def delete_line(tx: Transaction, key: CartKey, variant_id: UUID) -> None:
    """Take a variant out of a locked cart, if it is there."""
    await tx.execute(DELETE_LINE, *key, variant_id)


async def lock_carts(tx: Transaction, keys: Sequence[CartKey]) -> dict[CartKey, Cart]:
    """The carts that exist, read after nobody else can change them any more.

    Raises Locked with the places of those that somebody else is working on, and of those that
    came twice: who comes second has to see what became of it.
    """
    unique = list(dict.fromkeys(keys))
    if len(unique) < len(keys):
        firsts = {keys.index(key) for key in unique}
        raise Locked(place for place in range(len(keys)) if place not in firsts)
    locked = {CartKey(*row) for row in await tx.fetch(LOCK_FREE_CARTS, *_columns(keys))}
    missing = [key for key in keys if key not in locked]
    if missing:
        existing = await tx.fetch(SELECT_EXISTING_CARTS, *_columns(missing))
        elsewhere = {CartKey(*row) for row in existing}
        if elsewhere:
            raise Locked(place for place, key in enumerate(keys) if key in elsewhere)
    # A statement of its own: its snapshot is younger than the locks.
    return await select_carts(tx, list(locked))


async def mark_ordered(tx: Transaction, keys: Sequence[CartKey]) -> None:
    """Note that an order was made of each of these locked carts."""
    if keys:
        await tx.execute(MARK_ORDERED, *_columns(keys))


def _cart(row: Sequence[Any]) -> Cart:
    return Cart(*row)._replace(lines=[CartLine(*line) for line in row[-1]])


def _columns(keys: Sequence[CartKey]) -> tuple[list[UUID], list[UUID]]:
    return [key.customer_id for key in keys], [key.cart_id for key in keys]
