"""Watching the servers: how far each standby has replayed, and how late that is."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from services.data.db import Database
from services.data.link import Link, Record
from services.data.pool import IDLE_LOOK_S
from services.data.sources import STANDBY_POSITION, Replica, Source
from services.telemetry import logger

log = logger(__name__)

WATCH_INTERVAL_S: Final = 0.1  # a tenth of the default lag limit
LOOK_S: Final = 0.5  # a server that is frozen is not read from after this and an interval
SAMPLES: Final = 600  # one minute of the primary's positions, to date a standby's position by

# The timeline is the first eight digits of a WAL file's name, in hex.
PRIMARY_POSITION = """
    select case when not pg_is_in_recovery()
            then (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint
        end as position,
        case when not pg_is_in_recovery()
            then left(pg_walfile_name(pg_current_wal_lsn()), 8)
        end as timeline
"""


class Watch:
    """Keeps position, lag and standing of every replica up to date, off the path of requests.

    It asks by a connection of its own at each server: a pool whose connections are all in use
    says nothing about the server, and asking must not take a place of a request's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES)
        self._links: dict[Source, Link] = {}
        self._silent: set[Source] = set()

    async def run(self) -> None:
        """Look for ever, at each server on its own: one that is frozen delays no other."""
        primary, replicas = self._database.primary, self._database.replicas
        try:
            async with asyncio.TaskGroup() as looks:
                looks.create_task(_keep(self._look_at_primary, WATCH_INTERVAL_S))
                for replica in replicas:
                    looks.create_task(_keep(partial(self._look_at, replica), WATCH_INTERVAL_S))
                for source in (primary, *replicas):
                    looks.create_task(_keep(source.pool.look_at_idle, IDLE_LOOK_S))
        finally:
            self.close()

    async def look_once(self) -> None:
        """One look at every server; a server that does not answer is just not fit to read from."""
        await self._look_at_primary()
        await asyncio.gather(*(self._look_at(replica) for replica in self._database.replicas))

    def close(self) -> None:
        """End the watch's own connections."""
        for source in list(self._links):
            self._let_go(source)

    async def _look_at_primary(self) -> None:
        asked_at = time.monotonic()
        answer = await self._ask(self._database.primary, PRIMARY_POSITION)
        if answer is not None:  # without a primary standbys stay as late as they were
            self._database.primary.position = answer["position"]
            self._database.timeline = int(answer["timeline"], 16)
            self._samples.append((asked_at, answer["position"]))

    async def _look_at(self, replica: Replica) -> None:
        answer = await self._ask(replica, STANDBY_POSITION)
        if answer is None:
            replica.lag_ms = None
        else:
            replica.position = position = answer["position"]
            replica.lag_ms = self._lag_ms(position)
            replica.lag_bytes = max(0, self._database.primary.position - position)
        self._judge(replica)

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

    def _judge(self, replica: Replica) -> None:
        stood = replica.standing.stands
        replica.standing.see(well=replica.keeps_up(self._database.lag_limit_ms))
        if replica.standing.stands and not stood:
            log.info("standby is read from", standby=replica.name, lag_ms=replica.lag_ms)
        elif stood and not replica.standing.stands:
            log.warning("standby is not read from", standby=replica.name, lag_ms=replica.lag_ms)

    async def _ask(self, source: Source, sql: str) -> Record | None:
        """Where a server is; None while it does not answer, or not as what it was.

        A server that is now something else answers null: the next look is at a new connection,
        maybe to another host.
        """
        answer = None
        try:
            async with asyncio.timeout(LOOK_S):
                link = self._links.get(source)
                if link is None:
                    link = self._links[source] = await source.pool.open_link()
                answer = await (await link.statement(sql)).fetchrow()
            self._silent.discard(source)
            source.pool.upstream.breaker.heard()
        except Exception as error:  # not there, frozen, a wrong password
            source.pool.upstream.breaker.unheard()
            if source not in self._silent:
                self._silent.add(source)
                log.warning("server can not be asked", source=source.name, error=repr(error))
        finally:
            if answer is not None and answer["position"] is None:
                answer = None
            if answer is None:
                self._let_go(source)
        return answer

    def _let_go(self, source: Source) -> None:
        link = self._links.pop(source, None)
        if link is not None:
            link.connection.terminate()


async def _keep(look: Callable[[], Awaitable[None]], every_s: float) -> None:
    while True:
        await look()
        await asyncio.sleep(every_s)
