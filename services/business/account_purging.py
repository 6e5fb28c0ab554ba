"""Account purging: what is over of sessions, tokens and tries is not kept."""

from __future__ import annotations

from typing import Final

from services.business.shop import Shop
from services.data import accounts, login_tries, sessions

ROWS: Final = 1000  # of each; a few milliseconds' work
PAUSE_S: Final = 60.0


async def run_once(shop: Shop, rows: int = ROWS) -> int:
    """Delete a portion of each; returns the size of the largest."""
    deleted = []
    for trim in (sessions.trim_sessions, accounts.trim_tokens, login_tries.trim_tries):
        async with shop.database.primary.transaction() as tx:
            deleted.append(await trim(tx, rows))
    return max(deleted)
