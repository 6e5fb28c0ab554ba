"""Expiry: gives back the stock of orders that were not paid in time."""

from __future__ import annotations

from typing import Final

from services.business.order_states import move_orders
from services.business.rounds import run_rounds
from services.business.shop import Shop
from services.data import orders
from services.data.flash_sales import return_claims
from services.data.stock import release_stock
from services.telemetry import logger

log = logger(__name__)

ROWS: Final = 100


async def run_once(shop: Shop) -> int:
    """Expire the oldest orders that no other worker has; returns how many there were."""
    async with shop.database.primary.transaction() as tx:
        found = await orders.lock_expired_orders(tx, ROWS)
        # Without those whose payment has begun since they were found and before they were locked.
        released = await orders.move_holds(tx, found, was="held", becomes="expired")
        expired = list(released)
        if released:
            await return_claims(tx, expired)
            await release_stock(tx, list(released.values()))
            await move_orders(tx, expired, "expired", "not_paid_in_time")
    if expired:
        shop.changed()
        log.info("orders expired", orders=len(expired))
    return len(expired)


async def run(shop: Shop) -> None:
    await run_rounds(shop.rounds_of("expiry"), lambda: run_once(shop), full=ROWS)
