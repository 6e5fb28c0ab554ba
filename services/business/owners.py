"""Whose a thing is: the customer's own, or of a guest that it was before it logged in.

Guests are linked, and nothing of theirs is moved: whoever is found here is the customer for all
that follows, its keys included. What is nobody's of them stays the customer's own question, and is
answered as unknown as anything of somebody else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from starlette.requests import Request

from services.business.requests import find_guests, read_customer
from services.business.shop import Shop
from services.data import guest_links, idempotency
from services.data.sources import Reader

Find = Callable[[Reader, Sequence[UUID], UUID], Awaitable[UUID | None]]


async def owner_of_order(shop: Shop, request: Request, order_id: UUID) -> UUID:
    return await _owner(shop, request, guest_links.owner_of_order, order_id)


async def owner_of_cart(shop: Shop, request: Request, cart_id: UUID) -> UUID:
    return await _owner(shop, request, guest_links.owner_of_cart, cart_id)


async def owner_of_payment(shop: Shop, request: Request, payment_id: UUID) -> UUID:
    return await _owner(shop, request, guest_links.owner_of_payment, payment_id)


async def owner_of_key(
    shop: Shop, request: Request, operation: idempotency.Operation, key: str
) -> UUID:
    """Who sent this key first: a guest that repeats after its login is answered as before."""
    customer_id, guests = read_customer(request), find_guests(request)
    if not guests:
        return customer_id
    owners = [customer_id, *guests]
    found = await guest_links.owner_of_key(shop.database.primary, owners, operation, key)
    return found or customer_id


async def _owner(shop: Shop, request: Request, find: Find, thing_id: UUID) -> UUID:
    """Asked of the primary, and only for who has been a guest."""
    customer_id, guests = read_customer(request), find_guests(request)
    if not guests:
        return customer_id
    return await find(shop.database.primary, [customer_id, *guests], thing_id) or customer_id
