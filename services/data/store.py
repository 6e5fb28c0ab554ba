"""The data tier opened: the database with its watch, Valkey, and the tag stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from services import valkey as valkey_connection
from services.data.db import Database
from services.data.joined import JoinedValkey
from services.data.loads import Loads
from services.data.pool import Pool
from services.data.sources import Primary, Reader, Replica
from services.data.standbys import Watch
from services.data.wake import WakeUps
from services.settings import DatabaseSettings
from services.tags import TagSubscriber
from services.tasks import end_tasks
from services.upstream import Upstream

# The part of the wait for a connection that a read spends at a standby: then it goes on to the
# next server, and both together are to stay within pool_wait_ms.
STANDBY_WAIT: Final = 0.25

# So many timeouts without one answer, and Valkey is given up: 0.1 s. By share it would take 50
# loads that wait for nothing, after 100 calls that went well.
SILENT_TIMEOUTS: Final = 2.5


@dataclass(frozen=True)
class Store:
    """What the data tier's functions take as their first argument is one of these."""

    database: Database
    valkey: Redis
    valkey_upstream: Upstream
    cached: JoinedValkey
    loads: Loads
    wake_ups: WakeUps
    tags: TagSubscriber


@asynccontextmanager
async def open_store(settings: DatabaseSettings) -> AsyncIterator[Store]:
    """Open everything, waiting for nothing: a process starts while a dependency is down."""
    database = _database(settings)
    timeout_s = settings.cache_timeout_ms / 1000
    valkey = valkey_connection.connect(settings, timeout_s=timeout_s)
    # A subscriber waits in silence by design; its reads are bounded by get_message's own timeout.
    listening = valkey_connection.connect(settings, timeout_s=5.0)
    upstream = _valkey_upstream(settings)
    tags = TagSubscriber(listening)
    tasks = [asyncio.create_task(Watch(database).run()), asyncio.create_task(tags.run())]
    try:
        cached, loads = JoinedValkey(valkey, upstream), Loads(settings.cache_loads)
        yield Store(database, valkey, upstream, cached, loads, WakeUps(cached), tags)
    finally:
        await end_tasks(*tasks)
        await database.close()
        await valkey_connection.close(valkey)
        await valkey_connection.close(listening)


@asynccontextmanager
async def open_primary(settings: DatabaseSettings) -> AsyncIterator[Primary]:
    """Only the primary, for a command that needs nothing else."""
    database = _database(settings)
    try:
        yield database.primary
    finally:
        await database.close()


def _database(settings: DatabaseSettings) -> Database:
    primary = Pool(
        "primary",
        settings.primary_dsn,
        password=settings.app_password.get_secret_value(),
        size=settings.primary_pool_size,
        statement_timeout_ms=settings.statement_timeout_ms,
        shares={"page": settings.primary_page_share, "order": settings.primary_order_share},
        wait_s=settings.pool_wait_ms / 1000 * (1 - STANDBY_WAIT),
        writable=True,
    )
    standbys = [
        Pool(
            f"standby-{number}",
            dsn,
            password=settings.read_password.get_secret_value(),
            size=settings.standby_pool_size,
            statement_timeout_ms=settings.statement_timeout_ms,
            shares={"page": settings.standby_page_share},
            wait_s=settings.pool_wait_ms / 1000 * STANDBY_WAIT,
        )
        for number, dsn in enumerate(settings.standby_dsns, start=1)
    ]
    # Without standbys the primary is there for the reads too.
    reads_at_most = settings.primary_read_limit if standbys else None
    return Database(
        Primary(primary, reads_at_most=reads_at_most),
        [Replica(pool) for pool in standbys],
        lag_limit_ms=settings.standby_lag_limit_ms,
    )


def _valkey_upstream(settings: DatabaseSettings) -> Upstream:
    """The limits round each call of the cache: late is as bad as away, the database answers.

    One that is full says no to what is to be stored, and is asked as before.
    """
    timeout_s = settings.cache_timeout_ms / 1000
    return Upstream(
        "valkey",
        timeout_s=timeout_s,
        max_concurrent=4 * valkey_connection.CONNECTIONS,
        answers=(ResponseError,),
        silent_s=SILENT_TIMEOUTS * timeout_s,
    )


async def schema_version(reader: Reader) -> str:
    """The migration the database stands at; raises a Problem while it can not be read."""
    version: str = await reader.fetchval("select version_num from alembic_version")
    return version
