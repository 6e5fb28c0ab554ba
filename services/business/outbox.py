"""The outbox relay: publishes what transactions have left to be told, tags first of all.

It is woken after commits and looks by itself besides, so that a lost wake-up costs a moment only.
Several may run: each row is claimed by one of them, and the events of one aggregate keep their
order. The position sent with tags is read after their rows were seen, hence behind their commit.
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
from services.data.publisher import NotPublished, Publisher, ValkeyPublisher
from services.data.wake import Wake
from services.problems import Problem
from services.tags import HEARTBEAT_S
from services.telemetry import logger, mark_ready
from services.valkey import connect_events

log = logger(__name__)

ROWS: Final = 500  # a message of 500 tags is 25 KB
POLL_S: Final = 0.1
# From one round that told something to the next: a round costs the same for one row and for fifty.
ROUND_S: Final = 0.05
TRIM_S: Final = 60.0
MEASURE_S: Final = 1.0
EVENTS_TIMEOUT_S: Final = 0.5  # an append takes an fsync; tags wait for it meanwhile
EVENTS_PAUSE_S: Final = 1.0  # after one that failed


class EventsNotPublished(NotPublished):
    """The tags that there were are told, the events are not."""


async def run_once(shop: Shop, publisher: Publisher, *, with_events: bool = True) -> int:
    """Publish the oldest rows that no other relay has; returns how many there were.

    Claim, publish, mark: a relay that dies in between leaves its claim to run out, and the rows
    are published again. At least once; never not at all. Tags and events go to different places,
    and neither waits for the other's.
    """
    primary = shop.database.primary
    async with primary.transaction() as tx:
        rows = await outbox.claim_unpublished(tx, ROWS, with_events=with_events)
    if not rows:
        return 0
    tags = [row for row in rows if row.kind == "tag"]
    events = [row for row in rows if row.kind == "event"]
    told, failures = list[OutboxRow](), list[NotPublished]()
    for part, publish in ((tags, _publish_tags), (events, _publish_events)):
        try:
            if part:
                await publish(shop, publisher, part)
                told += part
        except NotPublished as error:
            failures.append(error)
    async with primary.transaction() as tx:
        await outbox.mark_published(tx, [row.outbox_id for row in told])
        if failures:
            waiting = {row.outbox_id for row in rows} - {row.outbox_id for row in told}
            await outbox.release_claims(tx, sorted(waiting))
    for failure in failures:
        raise failure
    return len(rows)


async def _publish_tags(shop: Shop, publisher: Publisher, rows: list[OutboxRow]) -> None:
    tags = list(dict.fromkeys(row.name for row in rows))
    await publisher.publish_tags(tags, await outbox.position_after(shop.database.primary))


async def _publish_events(_: Shop, publisher: Publisher, rows: list[OutboxRow]) -> None:
    try:
        await publisher.publish_events(rows)
    except NotPublished as error:
        raise EventsNotPublished(str(error)) from error


async def beat(shop: Shop, publisher: Publisher) -> None:
    """Say that nothing was missed, if there was no tag to tell for a while.

    Not while a tag waits that another relay claimed and has not told: it may have died with it,
    and a heartbeat would vouch for the pages that the tag makes old.
    """
    if time.monotonic() - publisher.spoke_at < HEARTBEAT_S:
        return
    if not await outbox.tags_are_late(shop.database.primary):
        await publisher.publish_tags([], 0)


async def run(shop: Shop) -> None:
    """Relay for ever, and be heard while there is nothing to tell."""
    events = connect_events(shop.settings, timeout_s=EVENTS_TIMEOUT_S)
    publisher = ValkeyPublisher(shop.store.valkey, uuid4().hex, events)
    try:
        await _relay(shop, publisher)
    finally:
        if events is not None:
            await events.aclose()


async def _relay(shop: Shop, publisher: Publisher) -> None:
    wake, chores, ready = Wake(shop.settings), Chores(shop), False
    rounds = shop.rounds_of("outbox")
    events_from = 0.0  # when events are tried again
    async with wake.listening():
        while True:
            began_at = time.monotonic()
            try:
                await chores.measure()
                try:
                    with_events = began_at >= events_from
                    published = await run_once(shop, publisher, with_events=with_events)
                except EventsNotPublished as error:
                    log.warning("events wait", error=repr(error))
                    rounds.errors_total += 1
                    published, events_from = 0, time.monotonic() + EVENTS_PAUSE_S
                await beat(shop, publisher)
                rounds.worked(published, began_at)
                if not ready:
                    ready = True
                    mark_ready()
                await chores.trim()
            except (Problem, NotPublished) as error:
                log.warning("outbox waits", error=repr(error))
                rounds.errors_total += 1
                await asyncio.sleep(POLL_S)
                continue
            if published < ROWS:
                await _until_more(wake, began_at if published else None)


async def _until_more(wake: Wake, told_from: float | None) -> None:
    """Return when there may be more to tell; told_from: when a round began that told something.

    What changes by itself is told at once; in a stream of changes there are rounds every ROUND_S.
    """
    if told_from is not None:
        await asyncio.sleep(told_from + ROUND_S - time.monotonic())
    with contextlib.suppress(TimeoutError):
        await wake.wait(POLL_S)


class Chores:
    """What a relay does now and then, between two rounds."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._measured_at = float("-inf")
        self._trimmed_at = time.monotonic()

    async def measure(self) -> None:
        """How far the relays are behind, for the metrics: also while nothing can be published."""
        if time.monotonic() - self._measured_at >= MEASURE_S:
            self._measured_at = time.monotonic()
            self._shop.counts.outbox_lag = await outbox.lag(self._shop.database.primary)

    async def trim(self) -> None:
        """Drop a portion of what was published long ago; the next one soon, if there is more."""
        if time.monotonic() - self._trimmed_at >= TRIM_S:
            self._trimmed_at = time.monotonic()
            if await outbox.trim_published(self._shop.database.primary):
                self._trimmed_at -= TRIM_S
