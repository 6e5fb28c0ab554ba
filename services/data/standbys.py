"""Watching the servers: how far each standby has replayed, and how late that is."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final

from services.data.db import Database, Replica
from services.problems import Problem
from services.telemetry import logger

log = logger(__name__)

WATCH_INTERVAL_S: Final = 0.1  # a tenth of the default lag limit: an ejection is never later
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
        while True:
            await self.look_once()
            await asyncio.sleep(WATCH_INTERVAL_S)

    async def look_once(self) -> None:
        """One look at every server; a server that does not answer is just not fit to read from."""
        await self._look_at_primary()
        await asyncio.gather(*(self._look_at(replica) for replica in self._database.replicas))

    async def _look_at_primary(self) -> None:
        primary = self._database.primary
        asked_at = time.monotonic()
        try:
            primary.position = int(await primary.fetchval(PRIMARY_POSITION))
        except Problem:
            return  # without a primary nothing moves: standbys stay as late as they were
        except Exception as error:  # one that was made a standby does not know where it writes
            log.warning("primary can not be asked", error=repr(error))
            return
        self._samples.append((asked_at, primary.position))

    async def _look_at(self, replica: Replica) -> None:
        try:
            position = await replica.fetchval(STANDBY_POSITION)
        except Exception as error:
            if not isinstance(error, Problem):  # a wrong password, a server that is no standby
                log.warning("standby can not be asked", standby=replica.name, error=repr(error))
            position = None
        if position is None:
            replica.lag_ms = None
        else:
            replica.position = int(position)
            replica.lag_ms = self._lag_ms(replica.position)
        self._say(replica)

    def _lag_ms(self, position: int) -> float:
        """How long ago the primary was first seen past this position; 0.0 when it never was."""
        passed = [at for at, seen in self._samples if seen > position]
        return (time.monotonic() - passed[0]) * 1000 if passed else 0.0

    def _say(self, replica: Replica) -> None:
        fit = replica in self._database.readers()
        if fit and replica.name not in self._healthy:
            self._healthy.add(replica.name)
            log.info("standby is read from", standby=replica.name, lag_ms=replica.lag_ms)
        elif not fit and replica.name in self._healthy:
            self._healthy.discard(replica.name)
            log.warning("standby is not read from", standby=replica.name, lag_ms=replica.lag_ms)
