"""A shop whose events are counted by the test: with a database and a log of its own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from services.business.rollups import Worker
from services.business.shop import Shop, open_shop
from services.data.log_proofs import prove_log
from services.data.log_reader import ValkeyLogReader
from services.event_log import Entry, ValkeyEventLog
from services.events import Event, View, write_events
from tests.events_valkey import EventsValkey, events_valkey
from tests.laboratory import OwnDatabase, migrated_database
from tests.running_stack import RunningStack
from tests.shopping import Books, open_books
from tests.test_hyperloglog import named

TOTALS = """
    select coalesce(sum(taken), 0)::int as taken, coalesce(sum(counted), 0)::int as counted,
        coalesce(sum(late), 0)::int as late, coalesce(sum(future), 0)::int as future,
        coalesce(sum(duplicates), 0)::int as duplicates,
        coalesce(sum(unreadable), 0)::int as unreadable,
        coalesce(sum(transfers), 0)::int as transfers,
        coalesce(sum(unknown_products), 0)::int as unknown_products
    from event_totals
"""
TABLES = (
    "event_windows, product_hours, search_hours, trending_products, revenue_windows,"
    " viewed_products, event_totals, dropped_windows, rolled_up_entries, seen_events,"
    " unreadable_entries, counted_transfers"
)


@pytest.fixture(scope="session")
def own_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventsValkey]:
    with events_valkey(tmp_path_factory.mktemp("events")) as started:
        yield started


@pytest_asyncio.fixture(scope="session")
async def counting_database(stack: RunningStack) -> AsyncIterator[OwnDatabase]:
    async with migrated_database(stack) as made:
        yield made


@pytest_asyncio.fixture(scope="session")
async def counting(counting_database: OwnDatabase, own_log: EventsValkey) -> AsyncIterator[Shop]:
    async with open_shop(
        counting_database.settings(events_url=own_log.url, standby_dsns=[])
    ) as opened:
        yield opened


@pytest_asyncio.fixture(scope="session")
async def counted_books(counting_database: OwnDatabase) -> AsyncIterator[Books]:
    async with open_books(counting_database.superuser_dsn(), relayed=False) as opened:
        yield opened


@pytest_asyncio.fixture
async def counted(counted_books: Books) -> Books:
    """With nothing counted yet."""
    await counted_books.rows(f"truncate {TABLES}")
    return counted_books


@pytest_asyncio.fixture
async def log(own_log: EventsValkey) -> AsyncIterator[Redis]:
    """Empty."""
    async with Redis.from_url(own_log.url, protocol=3) as client:
        await client.flushall()
        yield client


def now_ms() -> int:
    return int(time.time() * 1000)


def view(product: str | None = None, *, age_s: float = 0.0, number: UUID | None = None) -> View:
    at = datetime.now(UTC) - timedelta(seconds=age_s)
    return View(number or uuid4(), at, product)


def entry(*events: Event, visitor: bytes = named(1), arrived_ms: int = 0) -> Entry:
    return Entry(arrived_ms or now_ms(), visitor, len(events), write_events(list(events)))


async def send(log: Redis, *entries: Entry) -> None:
    await ValkeyEventLog(log).append(entries)


def worker_of(counting: Shop, log: Redis, name: str = "") -> Worker:
    return Worker(counting, ValkeyLogReader(log, name))


async def count_all(worker: Worker) -> None:
    while await worker.run_once():
        pass


async def totals(counted: Books) -> dict[str, int]:
    (row,) = await counted.rows(TOTALS)
    return dict(row)


async def holds(counting: Shop, counted: Books, log: Redis) -> bool:
    """Whether nothing is wrong: neither in the tables nor between them and the log."""
    found = await prove_log(counting.database.primary, log)
    assert found.broken == []
    assert await counted.broken_rules() == []
    return True
