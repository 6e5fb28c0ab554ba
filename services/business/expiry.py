"""Expiry: gives back the stock of orders that were not paid in time."""

from __future__ import annotations

from typing import Final

from services.business.rounds import run_rounds
from services.business.shop import Shop
from services.data import orders
from services.data.outbox import insert_event
from services.data.stock import Quantity, release_stock
from services.telemetry import logger

log = logger(__name__)

ROWS: Final = 100


async def run_once(shop: Shop) -> int:
    """Expire the oldest orders that no other worker has; returns how many there were."""
    expired = 0
    async with shop.database.primary.transaction() as tx:
        released: dict[object, Quantity] = {}
        for key in await orders.lock_expired_orders(tx, ROWS):
            lines = await orders.move_holds(tx, key, was="held", becomes="expired")
            if not lines:  # a payment has begun since the order was found and before it was locked
                continue
            for line in lines:
                before = released.get(line.variant_id, Quantity(line.variant_id, 0))
                quantity = before.quantity + line.quantity
                released[line.variant_id] = Quantity(line.variant_id, quantity)
            await orders.update_state(tx, key, "expired")
            await insert_event(tx, "order_expired", str(key.order_id), {})
            expired += 1
        if released:
            await release_stock(tx, list(released.values()))
    if expired:
        shop.changed()
        log.info("orders expired", orders=expired)
    return expired


async def run(shop: Shop) -> None:
    await run_rounds(shop.rounds_of("expiry"), lambda: run_once(shop), full=ROWS)
