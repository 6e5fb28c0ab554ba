"""The database: the primary with its standbys, and which of them answers a read."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

import asyncpg

from services.data.link import Record
from services.data.own_reads import OwnReads
from services.data.session import current_session
from services.data.sources import Primary, Reader, Replica, Source
from services.problems import GatewayTimeout, Unavailable
from services.telemetry import logger

T = TypeVar("T")
log = logger(__name__)


class Database:
    """The primary and its standbys, watched, with the rule of which one answers a read."""

    def __init__(self, primary: Primary, replicas: list[Replica], *, lag_limit_ms: int) -> None:
        self.primary = primary
        self.replicas = replicas
        self.lag_limit_ms = lag_limit_ms
        self.reads: Reader = Reads(self.readers)
        self.own = OwnReads(self)
        self.timeline = 0  # of the primary's WAL, when it was last asked; 0: never

    def readers(self, position: int = 0) -> list[Source]:
        """Where to read, best first: standbys that keep up and have replayed `position`, then the
        primary.

        Of two standbys chosen by chance the one with less to do comes first: nearly as even as
        asking all, and processes that all saw the same one idle do not all turn to it
        (Mitzenmacher, The Power of Two Choices, 2001).
        """
        fit = [
            replica
            for replica in self.replicas
            if replica.standing.stands
            and replica.keeps_up(self.lag_limit_ms)
            and replica.position >= position
        ]
        if len(fit) > 1:
            random.shuffle(fit)
            if fit[1].pool.in_flight < fit[0].pool.in_flight:
                fit[0], fit[1] = fit[1], fit[0]
        return [*fit, self.primary]

    def seen_position(self) -> int:
        """What the client of the request being served has seen, where it compares; else 0."""
        session = current_session.get()
        if session is None or session.needed.timeline != self.timeline:
            return 0
        return session.needed.position

    async def close(self) -> None:
        for source in (self.primary, *self.replicas):
            await source.by_key.close()
            await source.pool.close()


class Reads:
    """The standbys, then the primary: a read goes on to the next when a server fails it.

    Read from a primary that stands in for standbys it has a limit of its own, and is then refused
    with Unavailable: orders and payments must not wait behind the pages of lost standbys.
    """

    def __init__(self, choose: Callable[[], list[Source]]) -> None:
        self._choose = choose

    async def fetch(self, sql: str, *args: object) -> list[Record]:
        return await self._first(lambda source: source.fetch(sql, *args))

    async def fetchrow(self, sql: str, *args: object) -> Record | None:
        return await self._first(lambda source: source.fetchrow(sql, *args))

    async def fetchval(self, sql: str, *args: object) -> Any:
        return await self._first(lambda source: source.fetchval(sql, *args))

    async def find(self, sql: str, *key: Hashable) -> list[Record]:
        return await self._first(lambda source: source.find(sql, *key))

    async def _first(self, read: Callable[[Source], Awaitable[T]]) -> T:
        *standbys, last = self._choose()
        for standby in standbys:
            try:
                return await read(standby)
            except (Unavailable, GatewayTimeout) as error:
                if isinstance(error.__cause__, asyncpg.LockNotAvailableError):
                    raise  # who locked the table has locked it everywhere
                log.warning("read failed over", source=standby.name, error=repr(error))
        if not isinstance(last, Primary):
            return await read(last)
        async with last.stand_in():
            return await read(last)
