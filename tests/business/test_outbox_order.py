"""Events of one aggregate keep their order, with several relays and with some that die.

At least once means that one may come again: what counts is when each came first.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from services.business import outbox as relay
from services.business.shop import Shop
from services.data import outbox
from services.data.outbox import OutboxRow
from services.data.publisher import EVENTS_STREAM, NotPublished, ValkeyPublisher
from tests.business.consumer import TABLES, consume
from tests.faults.waiting import until
from tests.laboratory import OwnDatabase
from tests.shopping import Books

WITHIN_S = 60.0  # two processes that start on a busy machine
WAITING = "select count(*) from outbox where published_at is null"
INSERT = """
    insert into outbox (kind, name, aggregate_id)
    select 'event', 'happened', $1 from generate_series(1, $2::int) returning outbox_id
"""


class Published:
    """What has come to the stream since the test began, of its own aggregates."""

    def __init__(self, valkey: Redis, since: str) -> None:
        self.since = since
        self.aggregates = [f"{uuid4().hex}-{number}" for number in range(4)]
        self._valkey = valkey

    async def ids(self, aggregate_id: str) -> list[int]:
        """In the order in which they came first."""
        entries: Any = await self._valkey.xrange(EVENTS_STREAM, min=f"({self.since}")
        ours = [event for _, event in entries if event[b"aggregate_id"].decode() == aggregate_id]
        return list(dict.fromkeys(int(event[b"event_id"]) for event in ours))

    async def count(self) -> int:
        entries: Any = await self._valkey.xrange(EVENTS_STREAM, min=f"({self.since}")
        return sum(event[b"aggregate_id"].decode() in self.aggregates for _, event in entries)


@pytest_asyncio.fixture
async def valkey(valkey_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(valkey_url)
    yield client
    await client.aclose()


@pytest_asyncio.fixture
async def published(valkey: Redis, lab_books: Books) -> Published:
    await lab_books.rows("delete from outbox")
    since: Any = await valkey.xadd(EVENTS_STREAM, {"event_id": "0", "aggregate_id": "begin"})
    return Published(valkey, since.decode())


async def happen(books: Books, aggregate_id: str, count: int = 1) -> list[int]:
    return [row["outbox_id"] for row in await books.rows(INSERT, aggregate_id, count)]


async def test_a_relay_does_not_overtake_another_that_has_an_earlier_event(
    published: Published, lab_shop: Shop, lab_books: Books, valkey: Redis
) -> None:
    one, other = published.aggregates[:2]
    ids = await happen(lab_books, one, 2)
    elsewhere = await happen(lab_books, other)
    quick = ValkeyPublisher(valkey, uuid4().hex)
    async with lab_shop.database.primary.transaction() as tx:
        (claimed,) = await outbox.claim_unpublished(tx, 1)
        # Its claim is not committed: the row is locked.
        assert await relay.run_once(lab_shop, quick) == 1
    assert await published.ids(other) == elsewhere
    assert await relay.run_once(lab_shop, quick) == 0  # it is committed, and not published
    async with lab_shop.database.primary.transaction() as tx:
        await outbox.release_claims(tx, [claimed.outbox_id])
        # Given back and locked while it is: the second event must wait for that too.
        assert await relay.run_once(lab_shop, quick) == 0
    assert await relay.run_once(lab_shop, quick) == 2
    assert await published.ids(one) == ids


async def test_tags_wait_for_nobody(
    published: Published, lab_shop: Shop, lab_books: Books, valkey: Redis
) -> None:
    tags = "insert into outbox (kind, name, aggregate_id) select 'tag', 'a', 'a' from"
    await lab_books.rows(f"{tags} generate_series(1, 2)")
    async with lab_shop.database.primary.transaction() as tx:
        assert len(await outbox.claim_unpublished(tx, 1)) == 1
        assert await relay.run_once(lab_shop, ValkeyPublisher(valkey, uuid4().hex)) == 1


async def test_tags_are_told_before_the_events_that_wait(
    published: Published, lab_shop: Shop, lab_books: Books
) -> None:
    """A session that has ended must not be believed for as long as a backlog takes."""
    one, other = published.aggregates[:2]
    ids = await happen(lab_books, one, 2 * relay.ROWS)
    tags = (
        "insert into outbox (kind, name, aggregate_id) values ('tag', 'a', 'a'), ('tag', 'b', 'b')"
    )
    await lab_books.rows(tags)
    await happen(lab_books, other)
    async with lab_shop.database.primary.transaction() as tx:
        claimed = await outbox.claim_unpublished(tx, 10)
    assert [row.outbox_id for row in claimed if row.kind == "event"] == ids[:10]
    assert [row.name for row in claimed if row.kind == "tag"] == ["a", "b"]


class Dies(Exception):
    """Stands for the end of the process."""


class Unreliable(ValkeyPublisher):
    """A relay that is slow, fails, or dies: before it publishes, in the middle, or after it."""

    def __init__(self, valkey: Redis, dice: random.Random) -> None:
        super().__init__(valkey, uuid4().hex)
        self._dice = dice

    async def publish_events(self, rows: Sequence[OutboxRow]) -> None:
        await asyncio.sleep(self._dice.uniform(0, 0.01))
        part = self._dice.choice([0, len(rows) // 2, len(rows)])
        await super().publish_events(rows[:part])
        fate = self._dice.random()
        if fate < 0.1:
            raise Dies
        if fate < 0.2 or part < len(rows):
            raise NotPublished


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.faults)])
async def test_events_come_in_order_whatever_becomes_of_three_relays(
    *,
    seed: int,
    published: Published,
    lab_shop: Shop,
    lab_books: Books,
    valkey: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "ROWS", 3)
    monkeypatch.setattr(outbox, "CLAIM_LEASE", timedelta(milliseconds=50))
    dice = random.Random(seed)
    wrote = asyncio.Event()

    async def relaying() -> None:
        while True:
            publisher = Unreliable(valkey, dice)
            try:
                found = await relay.run_once(lab_shop, publisher)
                done = not found and wrote.is_set()
                if done and not await lab_shop.database.primary.fetchval(WAITING):
                    return
            except (Dies, NotPublished):
                continue

    relays = [asyncio.create_task(relaying()) for _ in range(3)]
    ids: dict[str, list[int]] = {aggregate: [] for aggregate in published.aggregates}
    for _ in range(60):
        aggregate = dice.choice(published.aggregates)
        ids[aggregate] += await happen(lab_books, aggregate, dice.randint(1, 4))
    wrote.set()
    async with asyncio.timeout(WITHIN_S):
        await asyncio.gather(*relays)
    assert {aggregate: await published.ids(aggregate) for aggregate in ids} == ids
    assert await published.count() > sum(map(len, ids.values()))  # some of them more than once


@asynccontextmanager
async def relay_process(laboratory: OwnDatabase) -> AsyncIterator[asyncio.subprocess.Process]:
    password = laboratory.stack.secret("superuser_password")
    environment = {
        **os.environ,
        **laboratory.stack.environment,
        "TERCET_PRIMARY_DSN": laboratory.dsn("tercet_app"),
        "TERCET_STANDBY_DSNS": "",
        "TERCET_APP_PASSWORD": password,
        "TERCET_READ_PASSWORD": password,
        "TERCET_EVENTS_URL": "",  # without a log, events go to the Valkey that is looked at
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "infra.cli", "worker", "outbox"),
        env=environment,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.faults
async def test_a_relay_process_that_is_killed_loses_nothing_and_reorders_nothing(
    published: Published, laboratory: OwnDatabase, lab_books: Books
) -> None:
    ids: dict[str, list[int]] = {aggregate: [] for aggregate in published.aggregates}

    async def write(count: int) -> None:
        for number in range(count):
            aggregate = published.aggregates[number % len(published.aggregates)]
            ids[aggregate] += await happen(lab_books, aggregate, 3)

    async with relay_process(laboratory) as killed, relay_process(laboratory):
        await write(10)

        async def are_at_it() -> bool:
            return await published.count() > 0

        await until(are_at_it, within_s=WITHIN_S, what="the relays publish")
        writing = asyncio.create_task(write(150))
        await asyncio.sleep(0)
        killed.kill()
        await writing

        async def is_all_there() -> bool:
            return bool(await lab_books.value(WAITING) == 0)

        await until(is_all_there, within_s=WITHIN_S, what="all is published")
    assert {aggregate: await published.ids(aggregate) for aggregate in ids} == ids


async def test_a_consumer_that_knows_events_by_their_id_counts_each_once(
    published: Published, lab_shop: Shop, lab_books: Books, valkey: Redis
) -> None:
    one, other = published.aggregates[:2]
    await happen(lab_books, one, 3)
    await happen(lab_books, other, 2)
    connection = lab_books.connection
    await connection.execute(TABLES)
    try:
        publisher = ValkeyPublisher(valkey, uuid4().hex)
        assert await relay.run_once(lab_shop, publisher) == 5
        half = await consume(valkey, connection, published.since)
        await lab_books.rows("update outbox set published_at = null, claimed_until = null")
        assert await relay.run_once(lab_shop, publisher) == 5  # as after a relay that died
        await consume(valkey, connection, half)
        await consume(valkey, connection, published.since)  # a consumer that forgot where it was
        counts = await lab_books.rows("select * from event_counts where aggregate_id <> 'begin'")
        assert {row["aggregate_id"]: row["count"] for row in counts} == {one: 3, other: 2}
    finally:
        await connection.execute("drop table consumed_events, event_counts")
