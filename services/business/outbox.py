"""The outbox relay: publishes what transactions have left to be told, tags first of all.

It is woken after commits and looks by itself besides, so that a lost wake-up costs a moment only.
The position that it sends with tags is read after their rows were seen, hence behind their commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final
from uuid import uuid4

from services.business.shop import Shop
from services.data import outbox
from services.data.outbox import OutboxRow
from services.data.tags import TagPublisher
from services.data.wake import Wake
from services.problems import Problem
from services.tags import HEARTBEAT_S
from services.telemetry import logger, mark_ready

log = logger(__name__)

ROWS: Final = 500  # a message of 500 tags is 25 KB
POLL_S: Final = 0.1
TRIM_S: Final = 60.0


async def run_once(shop: Shop, publisher: TagPublisher) -> int:
    """Publish the oldest rows that no other relay has; returns how many there were.

    Claim, publish, mark: a relay that dies in between leaves its claim to run out, and the rows
    are published again. At least once; never not at all.
    """
    primary = shop.database.primary
    async with primary.transaction() as tx:
        rows = await outbox.claim_unpublished(tx, ROWS)
    if not rows:
        return 0
    outbox_ids = [row.outbox_id for row in rows]
    try:
        await _publish(shop, publisher, rows)
    except outbox.LOST:
        async with primary.transaction() as tx:
            await outbox.release_claims(tx, outbox_ids)
        raise
    async with primary.transaction() as tx:
        await outbox.mark_published(tx, outbox_ids)
    return len(rows)


async def _publish(shop: Shop, publisher: TagPublisher, rows: list[OutboxRow]) -> None:
    tags = list(dict.fromkeys(row.name for row in rows if row.kind == "tag"))
    if tags:
        await publisher.publish(tags, await outbox.position_after(shop.database.primary))
    events = [row for row in rows if row.kind == "event"]
    if events:
        await outbox.publish_events(shop.store.valkey, events)


async def beat(shop: Shop, publisher: TagPublisher) -> None:
    """Say that nothing was missed, if there was no tag to tell for a while.

    Not while a tag waits that another relay claimed and has not told: it may have died with it,
    and a heartbeat would vouch for the pages that the tag makes old.
    """
    if time.monotonic() - publisher.spoke_at < HEARTBEAT_S:
        return
    if not await outbox.tags_are_late(shop.database.primary):
        await publisher.publish([], 0)


async def run(shop: Shop) -> None:
    """Relay for ever, and be heard while there is nothing to tell."""
    publisher = TagPublisher(shop.store.valkey, uuid4().hex)
    wake = Wake(shop.settings)
    ready, trimmed_at = False, time.monotonic()
    rounds = shop.rounds_of("outbox")
    async with wake.listening():
        while True:
            began_at = time.monotonic()
            try:
                published = await run_once(shop, publisher)
                await beat(shop, publisher)
                rounds.worked(published, began_at)
                if not ready:
                    ready = True
                    mark_ready()
                if time.monotonic() - trimmed_at >= TRIM_S:
                    trimmed_at = time.monotonic()
                    if await outbox.trim_published(shop.database.primary):
                        trimmed_at -= TRIM_S  # goes on after what is to be told meanwhile
            except (Problem, *outbox.LOST) as error:
                log.warning("outbox waits", error=repr(error))
                rounds.errors_total += 1
                await asyncio.sleep(POLL_S)
                continue
            if published < ROWS:
                with contextlib.suppress(TimeoutError):
                    await wake.wait(POLL_S)
