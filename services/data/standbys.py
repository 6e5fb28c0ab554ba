"""Watching the servers: how far each standby has replayed, and how late that is."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from services.data.db import Database
from services.data.sources import Replica, Source
from services.problems import Problem
from services.telemetry import logger

log = logger(__name__)

WATCH_INTERVAL_S: Final = 0.1  # a tenth of the default lag limit
LOOK_S: Final = 0.5  # a server that is frozen is not read from after this and an interval
SAMPLES: Final = 600  # one minute of the primary's positions, to date a standby's position by

# An LSN as bytes from the start of the WAL, so that positions compare as integers.
PRIMARY_POSITION = "select (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint"
STANDBY_POSITION = """
    select case when pg_is_in_recovery()
        then (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint
    end
"""


class Watch:
    """Keeps position and lag_ms of every replica up to date, off the path of requests."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES)
        self._healthy: set[str] = set()

    async def run(self) -> None:
        """Look for ever, at each server on its own: one that is frozen delays no other."""
        async with asyncio.TaskGroup() as looks:
            looks.create_task(self._keep(self._look_at_primary))
            for replica in self._database.replicas:
                looks.create_task(self._keep(partial(self._look_at, replica)))

    async def look_once(self) -> None:
        """One look at every server; a server that does not answer is just not fit to read from."""
        await self._look_at_primary()
        await asyncio.gather(*(self._look_at(replica) for replica in self._database.replicas))

    async def _keep(self, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            await look()
            await asyncio.sleep(WATCH_INTERVAL_S)

    async def _look_at_primary(self) -> None:
        asked_at = time.monotonic()
        position = await _ask(self._database.primary, PRIMARY_POSITION)
        if position is not None:  # without a primary standbys stay as late as they were
            self._database.primary.position = position
            self._samples.append((asked_at, position))

    async def _look_at(self, replica: Replica) -> None:
        position = await _ask(replica, STANDBY_POSITION)
        if position is None:
            replica.lag_ms = None
        else:
            replica.position = position
            replica.lag_ms = self._lag_ms(position)
        self._say(replica)

    def _lag_ms(self, position: int) -> float | None:
        """How long the primary had been past this position when it was last asked.

        0.0 when it never was, None when it was so before anybody looked: then nobody knows.
        """
        if not self._samples or position >= self._samples[-1][1]:
            return 0.0
        if position < self._samples[0][1]:
            return None
        passed_at = next(at for at, seen in self._samples if seen > position)
        return (self._samples[-1][0] - passed_at) * 1000

    def _say(self, replica: Replica) -> None:
        fit = replica in self._database.readers()
        if fit and replica.name not in self._healthy:
            self._healthy.add(replica.name)
            log.info("standby is read from", standby=replica.name, lag_ms=replica.lag_ms)
        elif not fit and replica.name in self._healthy:
            self._healthy.discard(replica.name)
            log.warning("standby is not read from", standby=replica.name, lag_ms=replica.lag_ms)


async def _ask(source: Source, sql: str) -> int | None:
    """A position in bytes of WAL; None while the server does not answer, or not as what it was."""
    try:
        async with asyncio.timeout(LOOK_S):
            position = await source.fetchval(sql)
    except (Problem, TimeoutError):
        return None
    except Exception as error:  # a wrong password, a server that is now something else
        log.warning("server can not be asked", source=source.name, error=repr(error))
        return None
    return None if position is None else int(position)
