"""Purging: idempotency keys are kept for a day, and not for ever."""

from __future__ import annotations

from typing import Final

from services.business.shop import Shop
from services.data import idempotency

ROWS: Final = 1000  # a few milliseconds' work
PAUSE_S: Final = 60.0  # nobody minds a key that is kept for a minute more


async def run_once(shop: Shop, rows: int = ROWS) -> int:
    """Delete the oldest keys whose time is over; returns how many there were.

    A key whose payment, or operation on one, is not settled stays: who repeats it has to find that.
    """
    async with shop.database.primary.transaction() as tx:
        return await idempotency.delete_old_keys(tx, rows)
