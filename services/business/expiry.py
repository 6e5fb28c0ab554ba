"""Expiry: gives back the stock of orders that were not paid in time.

That is when nobody began to pay, and when a payment was under way for as long as it may be. Such a
payment is still settled: what it brings for an order that has ended is given back.
"""

from __future__ import annotations

import asyncio
from typing import Final

from services.business import account_purging, purging
from services.business.order_states import end_orders
from services.business.rounds import run_rounds
from services.business.shop import Shop
from services.data import orders
from services.data.batch import Locked
from services.telemetry import logger

log = logger(__name__)

ROWS: Final = 100


async def run_once(shop: Shop) -> int:
    """Expire the oldest orders that no other worker has; returns how many there were."""
    try:
        async with shop.database.primary.transaction() as tx:
            found = await orders.lock_expired_orders(tx, ROWS)
            given_back = await orders.expire_holds(tx, found)
            await end_orders(tx, given_back, "expired", "not_paid_in_time")
    except Locked:  # a hot row of stock was never free: the next round waits again
        shop.rounds_of("expiry").errors_total += 1
        return 0
    if given_back:
        shop.changed()
        log.info("orders expired", orders=len(given_back))
    return len(given_back)


async def run(shop: Shop) -> None:
    async with asyncio.TaskGroup() as loops:
        loops.create_task(run_rounds(shop.rounds_of("expiry"), lambda: run_once(shop), full=ROWS))
        loops.create_task(
            run_rounds(
                shop.rounds_of("purging"),
                lambda: purging.run_once(shop),
                full=purging.ROWS,
                pause_s=purging.PAUSE_S,
            )
        )
        loops.create_task(
            run_rounds(
                shop.rounds_of("account purging"),
                lambda: account_purging.run_once(shop),
                full=account_purging.ROWS,
                pause_s=account_purging.PAUSE_S,
            )
        )
