"""Which server answers a read: the standby with less to do, and a primary that is not drowned."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import pytest_asyncio

from services.data.db import Database
from services.data.sources import Primary, Replica
from services.data.standbys import Watch
from services.problems import Unavailable
from tests.data.test_db import pool_of
from tests.faults.waiting import until
from tests.shopping import open_books


@pytest_asyncio.fixture
async def database(app_dsn: str, read_dsn: str) -> AsyncIterator[Database]:
    """Two pools to the standby, as if there were two of them, both fit to read from."""
    primary = Primary(pool_of(app_dsn), reads_at_most=2)
    replicas = [Replica(pool_of(read_dsn)) for _ in range(2)]
    made = Database(primary, replicas, lag_limit_ms=1000)
    watch = Watch(made)

    async def are_fit() -> bool:
        await watch.look_once()
        return len(made.readers()) == 3

    await until(are_fit, within_s=5.0, what="both are fit")
    yield made
    watch.close()
    await made.close()


@contextmanager
def busy(replica: Replica, requests: int) -> Iterator[None]:
    replica.pool.in_flight += requests
    yield
    replica.pool.in_flight -= requests


def test_the_standby_with_less_to_do_comes_first(database: Database) -> None:
    first, second = database.replicas
    with busy(first, 2), busy(second, 1):
        assert {database.readers()[0] for _ in range(20)} == {second}
    with busy(first, 1), busy(second, 2):
        assert {database.readers()[0] for _ in range(20)} == {first}


def test_standbys_that_have_as_much_to_do_take_turns(database: Database) -> None:
    chosen = Counter(database.readers()[0] for _ in range(400))
    assert set(chosen) == set(database.replicas)
    assert min(chosen.values()) > 100


async def test_reads_at_once_are_spread_over_the_standbys(database: Database) -> None:
    reads = [asyncio.create_task(database.reads.fetchval("select pg_sleep(0.1)")) for _ in range(8)]
    await asyncio.sleep(0.05)
    assert [replica.pool.in_flight for replica in database.replicas] == [4, 4]
    await asyncio.gather(*reads)


def lost(database: Database) -> None:
    """As the watch leaves them when they do not answer."""
    for replica in database.replicas:
        replica.lag_ms = None


async def test_without_standbys_the_primary_answers_so_many_reads_and_goes_on_writing(
    database: Database,
) -> None:
    lost(database)
    reads = [asyncio.create_task(database.reads.fetchval("select pg_sleep(0.5)")) for _ in range(6)]
    await asyncio.sleep(0.05)
    assert database.primary.pool.in_flight == 2
    async with asyncio.timeout(0.4), database.primary.transaction() as tx:
        assert await tx.fetchval("select 1") == 1
    answers = await asyncio.gather(*reads, return_exceptions=True)
    shed = [answer for answer in answers if isinstance(answer, Unavailable)]
    assert len(shed) == database.primary.reads_shed == 4
    assert {problem.retry_after_s for problem in shed} == {1}


async def test_what_is_shed_is_shed_soon_and_leaves_its_place(database: Database) -> None:
    lost(database)
    for _ in range(3):
        slow = [
            asyncio.create_task(database.reads.fetchval("select pg_sleep(0.3)")) for _ in range(2)
        ]
        await asyncio.sleep(0.05)
        with pytest.raises(Unavailable):
            async with asyncio.timeout(0.25):
                await database.reads.fetchval("select 1")
        await asyncio.gather(*slow)
        assert await database.reads.fetchval("select 1") == 1


async def test_a_table_that_is_locked_is_not_asked_for_everywhere(
    database: Database, owner_dsn: str
) -> None:
    """The lock is on every server: going on would hold places of the primary's for nothing."""
    async with (
        open_books(owner_dsn) as locker,
        open_books(owner_dsn) as other,
        locker.connection.transaction(),
    ):
        await locker.rows("lock table variants in access exclusive mode")

        async def is_locked() -> bool:
            await other.rows("select pg_logical_emit_message(true, 'test', 'flushes')")
            sql = "select count(*) from pg_locks where mode = 'AccessExclusiveLock'"
            return bool(await database.replicas[0].fetchval(sql))

        await until(is_locked, within_s=5.0, what="the standby has the lock")
        takes = database.primary.pool.counts.takes
        with pytest.raises(Unavailable):
            await database.reads.fetchval("select count(*) from variants")
        assert database.primary.pool.counts.takes == takes


def test_a_standby_that_fell_is_not_read_from_until_it_has_stood_again(database: Database) -> None:
    with ExitStack() as stack:
        stack.callback(database.replicas[0].standing.see, well=True)
        database.replicas[0].standing.see(well=False)
        assert database.replicas[0].lag_ms is not None
        assert database.readers() == [database.replicas[1], database.primary]
