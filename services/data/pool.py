"""Connections to one server: handed out warm, waited for by deadline, let go of when broken.

An own pool over asyncpg: a connection keeps its prepared statements and is handed out as it is,
without the RESET that asyncpg's pool sends (31 against 82 microseconds of CPU a read). Those that
lie idle are looked at in the background, so that no request pays for a ping.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import asyncpg

from services.bulkhead import WAIT_S, Traffic
from services.data.hosts import Hosts
from services.data.link import ANSWERS, BUSY, LOST, Link, open_link
from services.data.statement_times import StatementTimes
from services.deadline import DeadlineExceeded, deadline_or
from services.problems import GatewayTimeout, Unavailable
from services.telemetry import logger
from services.upstream import BulkheadFull, CircuitBreakerError, Upstream

log = logger(__name__)

REOPEN_S: Final = 0.5  # with three looks of the watch and the wait of /ready, back within 2 s
# The watch asks each server ten times a second: one that has answered nobody for so long hangs.
SILENT_S: Final = 0.5
RECOVER_TIMEOUT_S: Final = 1.0  # a cancelled statement answers at once or the connection goes
IDLE_LOOK_S: Final = 2.0  # a connection unused for this long is looked at: writes resume within it
ANSWERS_WITHIN_S: Final = 1.0  # a look is one round trip; a server that is frozen never answers

IN_RECOVERY: Final = "select pg_is_in_recovery()"


@dataclass
class Counts:
    """What a pool has done since it was made; the metrics read it."""

    opened: int = 0
    lost: int = 0  # found broken, in use or idle
    retired: int = 0  # given up for their age
    takes: int = 0
    waited_s: float = 0.0  # of all takes together, from asking until a connection was there


class Pool:
    """Connections to one server, at most `size` in use, of which classes of traffic have shares.

    Waiting for one is bounded by wait_s and by the deadline. The DSN may name several hosts: the
    first that fits is taken. writable: only one that takes writes does, and a connection to one
    that has become a standby is let go of.
    """

    def __init__(
        self,
        name: str,
        dsn: str,
        *,
        password: str,
        size: int,
        statement_timeout_ms: int,
        shares: Mapping[Traffic, int] | None = None,
        wait_s: float = WAIT_S,
        writable: bool = False,
    ) -> None:
        self.name = name
        self.size = size
        self.counts = Counts()
        self.times = StatementTimes()
        self.in_flight = 0  # in use or waited for
        self.busy = 0  # connections that a caller has
        self._hosts = Hosts(dsn)
        self._password = password
        self._statement_timeout_ms = statement_timeout_ms
        self._writable = writable
        self._idle: list[Link] = []
        self._recovering: set[asyncio.Task[None]] = set()
        self._closed = False
        self.upstream = Upstream(
            name,
            timeout_s=statement_timeout_ms / 1000,
            max_concurrent=size,
            shares=shares,
            wait_s=wait_s,
            answers=ANSWERS,
            silent_s=SILENT_S,
            reopen_s=REOPEN_S,
            # A transaction is left by the Problem that refuses it: no word about the database.
            failures=(*LOST, TimeoutError, asyncpg.PostgresError),
        )

    @property
    def idle(self) -> int:
        """Connections that nobody uses now."""
        return len(self._idle)

    @asynccontextmanager
    async def link(self) -> AsyncIterator[Link]:
        """A connection for one block, within the deadline of the request being served.

        Raises Unavailable when nothing was done or nothing is lost by trying again, and
        GatewayTimeout when the time was over; other errors of PostgreSQL come as they are.
        """
        self.in_flight += 1
        try:
            async with self._guarded_link() as link:
                yield link
        except (DeadlineExceeded, TimeoutError, asyncpg.QueryCanceledError) as error:
            raise GatewayTimeout from error
        except (BulkheadFull, CircuitBreakerError, *BUSY) as error:
            raise Unavailable(retry_after_s=1) from error
        except LOST as error:
            log.warning("connection lost", source=self.name, error=repr(error))
            raise Unavailable(retry_after_s=1) from error
        finally:
            self.in_flight -= 1

    @asynccontextmanager
    async def _guarded_link(self) -> AsyncIterator[Link]:
        asked_at = time.monotonic()
        async with self.upstream.guard(deadline_or(self.upstream.timeout_s)):
            link = await self._take()
            self.busy += 1
            self.counts.takes += 1
            self.counts.waited_s += time.monotonic() - asked_at
            try:
                yield link
            except asyncio.CancelledError:
                self._recover(link)
                raise
            except asyncpg.QueryCanceledError:
                self._put(link)
                raise
            except LOST:
                self._lost(link)
                raise
            except BaseException:
                self._put(link)
                raise
            else:
                self._put(link)
            finally:
                self.busy -= 1

    async def open_link(self) -> Link:
        """A new connection that is not of the pool: whoever takes it ends it."""
        self.counts.opened += 1
        return await self._hosts.first(self._open)

    async def look_at_idle(self) -> None:
        """Ask the connections that lie idle whether they still serve; replace those that do not."""
        before = time.monotonic() - IDLE_LOOK_S
        for link in [link for link in self._idle if link.used_at < before]:
            if link not in self._idle:  # taken meanwhile, or gone
                continue
            self._idle.remove(link)
            if not link.usable():
                self._retire(link)
            elif await self._serves(link):
                self._put(link)
                continue
            else:
                self._lost(link)
            await self._replace()

    async def close(self) -> None:
        self._closed = True
        self._drop_idle()
        if self._recovering:
            await asyncio.wait(self._recovering, timeout=RECOVER_TIMEOUT_S)

    async def _take(self) -> Link:
        while self._idle:
            link = self._idle.pop()  # the last one used: its server process is warm
            if link.usable():
                return link
            self._retire(link)
        return await self.open_link()

    async def _serves(self, link: Link) -> bool:
        served = False
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                in_recovery = await (await link.statement(IN_RECOVERY)).fetchval()
            served = True
        except (TimeoutError, *LOST, asyncpg.PostgresError) as error:
            log.warning("idle connection lost", source=self.name, error=repr(error))
            return False
        finally:
            if not served:
                link.connection.terminate()
        return not (self._writable and in_recovery)

    async def _replace(self) -> None:
        """A new connection for one that is gone, so that no request waits for its login."""
        try:
            self._put(await self.open_link())
        except (TimeoutError, *LOST, asyncpg.PostgresError) as error:
            log.debug("connection not replaced", source=self.name, error=repr(error))

    async def _open(self, dsn: str) -> Link:
        return await open_link(
            dsn,
            password=self._password,
            application=f"tercet {self.name}",
            statement_timeout_ms=self._statement_timeout_ms,
            writable=self._writable,
            times=self.times,
        )

    def _put(self, link: Link) -> None:
        usable = not (link.connection.is_closed() or link.connection.is_in_transaction())
        # A connection that recovered came back after another had taken its place.
        if self._closed or not usable or len(self._idle) >= self.size:
            link.connection.terminate()
        else:
            link.used_at = time.monotonic()
            self._idle.append(link)

    def _retire(self, link: Link) -> None:
        if link.connection.is_closed():
            self.counts.lost += 1
        else:
            self.counts.retired += 1
            link.connection.terminate()

    def _lost(self, link: Link) -> None:
        """What broke one connection has broken its idle neighbours too."""
        self.counts.lost += 1 + len(self._idle)
        self._drop_idle()
        link.connection.terminate()

    def _recover(self, link: Link) -> None:
        """Keep a connection whose statement was cancelled: asyncpg has asked the server to stop."""
        task = asyncio.create_task(self._reset(link))
        self._recovering.add(task)
        task.add_done_callback(self._recovering.discard)

    async def _reset(self, link: Link) -> None:
        try:
            async with asyncio.timeout(RECOVER_TIMEOUT_S):
                await link.connection.execute("rollback")
        except (TimeoutError, *LOST, asyncpg.PostgresError):
            link.connection.terminate()
        else:
            self._put(link)

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().connection.terminate()
