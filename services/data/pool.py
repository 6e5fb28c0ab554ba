"""Connections to one server: handed out warm, waited for by deadline, let go of when broken.

An own pool over asyncpg: a connection keeps its prepared statements and is handed out as it is,
without the RESET that asyncpg's pool sends (31 against 82 microseconds of CPU a read).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from services.bulkhead import WAIT_S, Traffic
from services.data.link import ANSWERS, BUSY, LOST, Link, open_link
from services.deadline import DeadlineExceeded, deadline_or
from services.problems import GatewayTimeout, Unavailable
from services.telemetry import logger
from services.upstream import BulkheadFull, CircuitBreakerError, Upstream

log = logger(__name__)

REOPEN_S: Final = 0.5  # with three looks of the watch and the wait of /ready, back within 2 s
RECOVER_TIMEOUT_S: Final = 1.0  # a cancelled statement answers at once or the connection goes


class Pool:
    """Connections to one server, at most `size` in use, of which classes of traffic have shares.

    Waiting for one is bounded by wait_s and by the deadline.
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
    ) -> None:
        self.name = name
        self._dsn = dsn
        self._password = password
        self._statement_timeout_ms = statement_timeout_ms
        self.size = size
        self.busy = 0  # connections that a caller has
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
            reopen_s=REOPEN_S,
            # A transaction is left by the Problem that refuses it: no word about the database.
            failures=(*LOST, TimeoutError, asyncpg.PostgresError),
        )

    @property
    def idle(self) -> int:
        return len(self._idle)

    @asynccontextmanager
    async def link(self) -> AsyncIterator[Link]:
        """A connection for one block, within the deadline of the request being served.

        Raises Unavailable when nothing was done or nothing is lost by trying again, and
        GatewayTimeout when the time was over; other errors of PostgreSQL come as they are.
        """
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

    @asynccontextmanager
    async def _guarded_link(self) -> AsyncIterator[Link]:
        async with self.upstream.guard(deadline_or(self.upstream.timeout_s)):
            link = await self._take()
            self.busy += 1
            try:
                yield link
            except asyncio.CancelledError:
                self._recover(link)
                raise
            except asyncpg.QueryCanceledError:
                self._put(link)
                raise
            except LOST:
                # What broke one connection has broken its idle neighbours too.
                self._drop_idle()
                link.connection.terminate()
                raise
            except BaseException:
                self._put(link)
                raise
            else:
                self._put(link)
            finally:
                self.busy -= 1

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
            link.connection.terminate()
        return await open_link(
            self._dsn,
            password=self._password,
            application=f"tercet {self.name}",
            statement_timeout_ms=self._statement_timeout_ms,
        )

    def _put(self, link: Link) -> None:
        usable = not (link.connection.is_closed() or link.connection.is_in_transaction())
        # A connection that recovered came back after another had taken its place.
        if self._closed or not usable or len(self._idle) >= self.size:
            link.connection.terminate()
        else:
            self._idle.append(link)

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
