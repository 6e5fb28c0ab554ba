"""Guests that have logged in since: their carts and orders are their account's, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from services.data.sources import Reader, Transaction

# Its token is over with the link: the guest is known by the account's sessions from then on.
LINK_GUEST = """
    with guest as (
        delete from customer_tokens where customer_id = (
            select customer_id from customer_tokens join customers using (customer_id)
            where token_sha256 = $1 and kind = 'guest' and expires_at > now()
        )
        returning customer_id
    )
    insert into guest_links (guest_id, customer_id) select distinct customer_id, $2::uuid from guest
    on conflict (guest_id) do nothing
    returning guest_id
"""

# Those of the account, of the guest ($1, or null) and of the guests that it was before: of guests
# only what is in them counts.
LOCK_OPEN_CARTS = """
    select customer_id, cart_id, exists (
        select from cart_lines l where l.customer_id = c.customer_id and l.cart_id = c.cart_id
    ) as has_lines
    from carts c
    where state = 'open' and customer_id = any(
        array(select guest_id from guest_links where customer_id = $2) || array[$1, $2]::uuid[]
    )
    order by customer_id, cart_id for update
"""

MERGE_CARTS = """
    with guests as (
        delete from cart_lines where customer_id = $1 and cart_id = $2
        returning variant_id, quantity, added_at
    ), there as (
        select count(*) as lines from cart_lines where customer_id = $3 and cart_id = $4
    ), fresh as (
        select variant_id, row_number() over (order by added_at, variant_id) as place from guests g
        where not exists (
            select from cart_lines l
            where l.customer_id = $3 and l.cart_id = $4 and l.variant_id = g.variant_id
        )
    )
    insert into cart_lines as l (customer_id, cart_id, variant_id, quantity, added_at)
    select $3, $4, g.variant_id, g.quantity, g.added_at
    from guests g cross join there left join fresh f using (variant_id)
    where f.place is null or there.lines + f.place <= $5
    on conflict (customer_id, cart_id, variant_id)
        do update set quantity = least(l.quantity + excluded.quantity, $6)
"""

CHANGED = """
    update carts set revision = revision + 1, updated_at = now()
    from unnest($1::uuid[], $2::uuid[]) as k (customer_id, cart_id)
    where carts.customer_id = k.customer_id and carts.cart_id = k.cart_id
"""

SELECT_ORDERS_OWNER = """
    select customer_id from orders where customer_id = any($1::uuid[]) and order_id = $2
"""

SELECT_CARTS_OWNER = """
    select customer_id from carts where customer_id = any($1::uuid[]) and cart_id = $2
"""

SELECT_PAYMENTS_OWNER = """
    select customer_id from payments where customer_id = any($1::uuid[]) and payment_id = $2
"""

SELECT_KEYS_OWNER = """
    select customer_id from idempotency_keys
    where customer_id = any($1::uuid[]) and operation = $2 and idempotency_key = $3
"""


class OpenCart(NamedTuple):
    customer_id: UUID
    cart_id: UUID
    has_lines: bool

    @property
    def rank(self) -> tuple[bool, bytes]:
        """The newest one with lines comes first: an id is a UUIDv7."""
        return self.has_lines, self.cart_id.bytes


async def link_guest(tx: Transaction, token_sha256: bytes, customer_id: UUID) -> UUID | None:
    """Let an account have what the guest of this token has; None where there is no such guest."""
    row = await tx.fetchrow(LINK_GUEST, token_sha256, customer_id)
    return row["guest_id"] if row is not None else None


async def merge_carts(
    tx: Transaction, guest_id: UUID | None, customer_id: UUID, *, lines_max: int, quantity_max: int
) -> UUID | None:
    """Put what is in the guest's newest open cart into the account's; the id of the open cart.

    Where the account has none, the guest's is its cart. Quantities add up to quantity_max; lines
    beyond lines_max are left out, the newest ones.
    """
    rows = await tx.fetch(LOCK_OPEN_CARTS, guest_id, customer_id)
    ranked = sorted([OpenCart(*row) for row in rows], key=lambda cart: cart.rank, reverse=True)
    carts = [cart for cart in ranked if cart.has_lines or cart.customer_id == customer_id]
    guests = next((cart for cart in carts if cart.customer_id == guest_id), None)
    own = next((cart for cart in carts if cart.customer_id != guest_id), None)
    if guests is None or own is None:
        only = guests or own
        return only.cart_id if only is not None else None
    await tx.execute(MERGE_CARTS, *guests[:2], *own[:2], lines_max, quantity_max)
    columns = [list(column) for column in zip(guests[:2], own[:2], strict=True)]
    await tx.execute(CHANGED, *columns)
    return own.cart_id


async def owner_of_order(reader: Reader, owners: Sequence[UUID], order_id: UUID) -> UUID | None:
    """Which of them has this order."""
    found: UUID | None = await reader.fetchval(SELECT_ORDERS_OWNER, list(owners), order_id)
    return found


async def owner_of_cart(reader: Reader, owners: Sequence[UUID], cart_id: UUID) -> UUID | None:
    """Which of them has this cart."""
    found: UUID | None = await reader.fetchval(SELECT_CARTS_OWNER, list(owners), cart_id)
    return found


async def owner_of_payment(reader: Reader, owners: Sequence[UUID], payment_id: UUID) -> UUID | None:
    """Which of them has this payment."""
    found: UUID | None = await reader.fetchval(SELECT_PAYMENTS_OWNER, list(owners), payment_id)
    return found


async def owner_of_key(
    reader: Reader, owners: Sequence[UUID], operation: str, key: str
) -> UUID | None:
    """Which of them has used this Idempotency-Key for such an operation."""
    found: UUID | None = await reader.fetchval(SELECT_KEYS_OWNER, list(owners), operation, key)
    return found
