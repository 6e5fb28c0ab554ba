"""Rollups: counts the events of the log, each exactly once, whatever dies in between.

A round reads entries, and in one transaction writes down which they are, which of their events are
new, and what those add to each window; only after its commit they are dropped from the log. Who
dies before the commit has counted nothing, and who dies after it has left entries that are known to
be counted. Several workers share the log: each entry is given to one of them, and what a dead one
has left is taken over after two seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from services import hyperloglog
from services.business import analytics
from services.business.related import pairs_of, refresh_related
from services.business.rounds import Rounds
from services.business.shop import Shop
from services.business.trending import forgotten_at, log_score, log_sum
from services.business.windows import (
    Arrived,
    Tally,
    day_of,
    ms_of,
    seen_day,
    unknown_among,
)
from services.data import related, rollups
from services.data.log_reader import LogAway, LogEntry, LogReader, ValkeyLogReader
from services.data.rollups import WindowKey
from services.data.sources import Transaction
from services.events import Booked, read_events
from services.problems import GatewayTimeout, OutcomeUnknown, Problem
from services.telemetry import logger, mark_ready
from services.valkey import close, connect_events

log = logger(__name__)

ENTRIES: Final = 100  # 5,000 events in batches of 50: some 0.2 s
WAIT_MS: Final = 200  # for the first entry
PAUSE_S: Final = 0.3  # between two rounds that are not full: what they count is told once a second
TIMEOUT_S: Final = 2.0
AWAY_PAUSE_S: Final = 0.5
CLAIM_EVERY_S: Final = 1.0
CHORES_EVERY_S: Final = 60.0
TELL_EVERY_S: Final = 1.0
LEDGER_AGE: Final = timedelta(minutes=1)  # what the log has not told by then, it will not tell
LEDGER_ROWS: Final = 1000
HOUR_MS: Final = 3_600_000
QUERIES_AN_HOUR: Final = 10_000  # told apart; anybody can make up more
SALE_WEIGHT: Final = 10.0  # in the trend of a product, where a view is 1
VIEWED_A_ROUND: Final = 2000  # of visitors and products: enough to see what goes together


class Worker:
    """One consumer of the log."""

    def __init__(self, shop: Shop, reader: LogReader) -> None:
        self._shop = shop
        self._reader = reader
        self._log_id = ""
        self._unsure = True  # whether entries may be ours that were not dropped
        self._claimed_at = float("-inf")
        self._made_days: set[date] = set()
        self._made_hours: set[int] = set()

    async def run_once(self) -> int:
        """Count what can be had now; returns how many entries. Raises LogAway, or a Problem."""
        if not self._log_id:
            self._log_id = await self._reader.open()
        try:
            entries = await self._entries()
            if entries:
                self._unsure = True
                await self._count(entries)
                self._shop.counts.events_counted_total += sum(one.number for one in entries)
                await self._reader.drop(entries)
            self._unsure = False
        except LogAway:
            self._log_id = ""  # it may have come back as another one
            raise
        return len(entries)

    async def _entries(self) -> list[LogEntry]:
        """Our own that were left, then those of who died, then new ones."""
        if self._unsure and (left := await self._reader.own(ENTRIES)):
            return left
        if time.monotonic() - self._claimed_at >= CLAIM_EVERY_S:
            if stuck := await self._reader.claim_stuck(ENTRIES):
                return stuck
            self._claimed_at = time.monotonic()
        return await self._reader.read(ENTRIES, WAIT_MS)

    async def _count(self, entries: Sequence[LogEntry]) -> None:
        """In one transaction; where one entry of many can not be counted, each by itself."""
        await self._make_partitions(entries)
        try:
            await count_entries(self._shop, self._log_id, entries)
        except GatewayTimeout:
            if len(entries) == 1:
                raise
            half = len(entries) // 2  # a statement took too long: it gets less to do
            await self._count(entries[:half])
            await self._count(entries[half:])
        except (Problem, asyncio.CancelledError):
            raise
        except Exception as error:
            if len(entries) > 1:
                for entry in entries:
                    await self._count([entry])
                return
            log.exception("bug", entry=entries[0].entry_id)
            await set_aside(self._shop, self._log_id, entries[0], repr(error))

    async def _make_partitions(self, entries: Sequence[LogEntry]) -> None:
        days = {day_of(entry.arrived_ms) for entry in entries}
        near = {day + timedelta(days=step) for day in days for step in (-1, 0, 1)}
        for day in sorted(near - self._made_days):
            async with self._shop.database.primary.transaction() as tx:
                await rollups.make_partitions(tx, day)
            self._made_days.add(day)
        hours = {entry.entry_ms - entry.entry_ms % HOUR_MS for entry in entries}
        for hour in sorted(hours - self._made_hours):
            async with self._shop.database.primary.transaction() as tx:
                await rollups.make_hour(tx, hour)
            self._made_hours.add(hour)

    def forget_partitions(self) -> None:
        """Some were dropped."""
        self._made_days.clear()
        self._made_hours.clear()


async def count_entries(shop: Shop, log_id: str, entries: Sequence[LogEntry]) -> None:
    """Count the entries that are not counted, in one transaction."""
    async with shop.database.primary.transaction() as tx:
        new = await rollups.insert_entries(tx, entries)
        tally, unreadable = Tally(), dict[LogEntry, str]()
        arrived: list[Arrived] = []
        for entry in entries:
            if (entry.entry_ms, entry.entry_seq) not in new:
                continue
            try:
                events = read_events(entry.events)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                unreadable[entry] = str(error)
            else:
                arrived += [Arrived(entry.arrived_ms, entry.visitor, event) for event in events]
        await rollups.insert_unreadable(tx, unreadable)
        for entry in unreadable:
            tally.days[day_of(entry.arrived_ms)].unreadable += entry.number
        fresh = await _fresh(tx, arrived, tally)
        for one in fresh:
            tally.add(one)
        await _write(tx, log_id, tally, fresh)


async def set_aside(shop: Shop, log_id: str, entry: LogEntry, reason: str) -> None:
    """Keep an entry that can not be counted where somebody can look at it."""
    async with shop.database.primary.transaction() as tx:
        if await rollups.insert_entries(tx, [entry]):
            tally = Tally()
            tally.days[day_of(entry.arrived_ms)].unreadable += entry.number
            await rollups.insert_unreadable(tx, {entry: reason})
            await _write(tx, log_id, tally, [])


async def _fresh(tx: Transaction, arrived: list[Arrived], tally: Tally) -> list[Arrived]:
    """Those that were not counted before; the others are counted as duplicates."""
    seen: dict[UUID, date] = {}
    transfers: set[tuple[UUID, str]] = set()
    for one in arrived:
        event = one.event
        if isinstance(event, Booked):
            transfers.add((event.cause_id, event.cause))
        else:
            seen.setdefault(event.id, seen_day(ms_of(event.at), one.arrived_ms))
    new_ids = await rollups.insert_seen(tx, seen)
    new_transfers = await rollups.insert_transfers(tx, sorted(transfers))
    fresh = []
    for one in arrived:
        event = one.event
        if isinstance(event, Booked):
            key = (event.cause_id, event.cause)
            is_new = key in new_transfers
            new_transfers.discard(key)
        else:
            is_new = event.id in new_ids
            new_ids.discard(event.id)
        if is_new:
            fresh.append(one)
        else:
            tally.days[day_of(one.arrived_ms)].duplicates += 1
    return fresh


async def _write(tx: Transaction, log_id: str, tally: Tally, fresh: Sequence[Arrived]) -> None:
    await rollups.add_revenue(tx, tally.booked())
    sketches = await rollups.add_events(tx, tally.added())
    await rollups.set_sketches(tx, _with_visitors(tally, sketches))
    product_ids = await rollups.select_product_ids(tx, tally.slugs()) if tally.slugs() else {}
    await rollups.add_products(tx, tally.product_hours(product_ids))
    await rollups.add_searches(tx, await _searches(tx, tally))
    trends = {product_ids[slug]: s for slug, s in tally.trends().items() if slug in product_ids}
    await _add_bought(tx, tally, trends)
    viewed = [
        (day, visitor, product_ids[slug])
        for day, visitor, slug in tally.viewed
        if slug in product_ids
    ]
    await rollups.insert_viewed(tx, sorted(viewed)[:VIEWED_A_ROUND])
    for day, unknown in unknown_among(fresh, product_ids).items():
        tally.days[day].unknown_products += unknown
    await rollups.add_totals(tx, log_id, {day: one.totals() for day, one in tally.days.items()})


async def _add_bought(tx: Transaction, tally: Tally, trends: dict[UUID, float]) -> None:
    """Trends, with what was sold; and what was bought with what, by the orders paid for."""
    baskets = await related.select_baskets(tx, tally.sales) if tally.sales else []
    sold = log_score(tally.sold_at_ms, SALE_WEIGHT)
    for product_id in (each for basket in baskets for each in basket):
        before = trends.get(product_id)
        trends[product_id] = sold if before is None else log_sum(before, sold)
    await rollups.add_trends(tx, trends)
    await related.add_pairs(tx, pairs_of(baskets))


def _with_visitors(
    tally: Tally, sketches: dict[WindowKey, bytes]
) -> dict[WindowKey, tuple[int, bytes]]:
    """By window, where there are visitors that it has not seen: how many it has now."""
    changed = {}
    for key, visitors in tally.visitors().items():
        sketch = hyperloglog.added(sketches[key], visitors)
        if sketch != sketches[key]:
            changed[key] = (hyperloglog.estimate(sketch), sketch)
    return changed


async def _searches(tx: Transaction, tally: Tally) -> dict[tuple[datetime, str], tuple[int, int]]:
    """By hour and query; those that would be one too many for an hour are joined."""
    if not tally.searches:
        return {}
    hours = {hour for hour, _ in tally.searches}
    held = await rollups.select_queries(tx, hours, {query for _, query in tally.searches})
    room = {hour: QUERIES_AN_HOUR - held.get(hour, (0, set()))[0] for hour in hours}
    joined: dict[tuple[datetime, str], tuple[int, int]] = {}
    for (hour, query), (searches, without) in tally.searches.items():
        known = held.get(hour, (0, set[str]()))[1]
        if query not in known:
            room[hour] -= 1
        name = query if query in known or room[hour] >= 0 else ""
        before = joined.get((hour, name), (0, 0))
        joined[hour, name] = (before[0] + searches, before[1] + without)
    return joined


async def catch_up(shop: Shop, age: timedelta = LEDGER_AGE) -> int:
    """Count transfers that the log has not told of: it was lost, or there is none."""
    async with shop.database.primary.transaction() as tx:
        rows = await tx.fetch(rollups.SELECT_UNCOUNTED, age, LEDGER_ROWS)
        events = [Arrived(ms_of(row[6]), b"", Booked(*row)) for row in rows]
        tally = Tally()
        for one in await _fresh(tx, events, Tally()):
            tally.add(one)
        await rollups.add_revenue(tx, tally.booked())
        await _add_bought(tx, tally, {})
    return len(rows)


async def run(shop: Shop) -> None:
    """Count for ever."""
    valkey = connect_events(shop.settings, timeout_s=TIMEOUT_S)
    rounds, chores = shop.rounds_of("rollups"), Chores(shop)
    if valkey is None:  # revenue is counted by the ledger itself
        mark_ready()
        while True:
            await chores.do(None, None)
            await asyncio.sleep(CHORES_EVERY_S)
    reader = ValkeyLogReader(valkey)
    worker = Worker(shop, reader)
    try:
        while True:
            if not await _round(worker, rounds):
                await asyncio.sleep(AWAY_PAUSE_S)
            await chores.do(worker, reader)
            await chores.tell(rounds.items_total)
            await chores.measure(reader)
    finally:
        await close(valkey)


async def _round(worker: Worker, rounds: Rounds) -> bool:
    """One round; whether it could be done."""
    began_at = time.monotonic()
    try:
        found = await worker.run_once()
    except (Problem, LogAway) as error:
        log.warning("rollups wait", error=repr(error))
        rounds.errors_total += 1
        return isinstance(error, OutcomeUnknown)  # the next round looks whether it is counted
    rounds.worked(found, began_at)
    mark_ready()
    if found < ENTRIES:
        await asyncio.sleep(PAUSE_S)
    return True


class Chores:
    """What a worker does now and then, between two rounds."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._done_at = self._told_at = self._measured_at = float("-inf")
        self._told = 0  # entries that were counted by then

    async def measure(self, reader: ValkeyLogReader) -> None:
        """Once a second: how far the log is ahead of what is counted, for the metrics."""
        if time.monotonic() - self._measured_at < TELL_EVERY_S:
            return
        self._measured_at = time.monotonic()
        with contextlib.suppress(LogAway):
            self._shop.counts.events_lag = await reader.lag()

    async def tell(self, counted: int) -> None:
        """Once a second, if something was counted since: how it is now, to who listens."""
        if counted == self._told or time.monotonic() - self._told_at < TELL_EVERY_S:
            return
        self._told_at, self._told = time.monotonic(), counted
        try:
            await analytics.tell_now(self._shop)
        except Problem as error:
            log.warning("analytics are not told", error=repr(error))

    async def do(self, worker: Worker | None, reader: ValkeyLogReader | None) -> None:
        if time.monotonic() - self._done_at < CHORES_EVERY_S:
            return
        self._done_at = time.monotonic()
        try:
            while await catch_up(self._shop) == LEDGER_ROWS:
                pass
            await refresh_related(self._shop)
            if reader is not None and worker is not None:
                await self._forget(worker, reader)
        except (Problem, LogAway) as error:
            log.warning("rollups' chores wait", error=repr(error))

    async def _forget(self, worker: Worker, reader: ValkeyLogReader) -> None:
        """Drop what is too old to be kept."""
        now_ms = int(time.time() * 1000)
        oldest_ms = await reader.oldest_ms()
        await reader.forget_workers()
        async with self._shop.database.primary.transaction() as tx:
            await rollups.drop_trends(tx, forgotten_at(now_ms))
            dropped = await rollups.drop_partitions(
                tx,
                self._shop.settings.events_kept_days,
                now_ms if oldest_ms is None else oldest_ms,
            )
        if dropped:
            worker.forget_partitions()
