"""The database: the primary with its standbys, and which of them answers a read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from services.data.link import Record
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
        self.reads: Reader = Reads(self.readers)
        self._lag_limit_ms = lag_limit_ms

    def readers(self, position: int = 0) -> list[Source]:
        """Where to read, best first: standbys that keep up and have replayed `position`."""
        fit = [
            replica
            for replica in self.replicas
            if replica.lag_ms is not None
            and replica.lag_ms <= self._lag_limit_ms
            and replica.position >= position
        ]
        return [*sorted(fit, key=lambda replica: replica.lag_ms or 0), self.primary]

    async def close(self) -> None:
        for source in (self.primary, *self.replicas):
            await source.pool.close()


class Reads:
    """The standbys, then the primary: a read goes on to the next when a server fails it."""

    def __init__(self, choose: Callable[[], list[Source]]) -> None:
        self._choose = choose

    async def fetch(self, sql: str, *args: object) -> list[Record]:
        return await self._first(lambda source: source.fetch(sql, *args))

    async def fetchrow(self, sql: str, *args: object) -> Record | None:
        return await self._first(lambda source: source.fetchrow(sql, *args))

    async def fetchval(self, sql: str, *args: object) -> Any:
        return await self._first(lambda source: source.fetchval(sql, *args))

    async def _first(self, read: Callable[[Source], Awaitable[T]]) -> T:
        *standbys, primary = self._choose()
        for standby in standbys:
            try:
                return await read(standby)
            except (Unavailable, GatewayTimeout) as error:
                log.warning("read failed over", source=standby.name, error=repr(error))
        return await read(primary)
