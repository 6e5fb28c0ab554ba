"""Connections to PostgreSQL: one pool for the primary, one for each standby, and who reads where.

Own pools over asyncpg: a connection keeps its prepared statements and is handed out as it is,
without the RESET that asyncpg's pool sends (31 against 82 microseconds of CPU a read). Writing
needs a Transaction, and only a Primary makes one: a write on a standby does not type-check.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, TypeVar

import asyncpg

from services.deadline import DeadlineExceeded, deadline_or
from services.problems import GatewayTimeout, OutcomeUnknown, Unavailable
from services.telemetry import logger
from services.upstream import BulkheadFull, CircuitBreakerError, Upstream

T = TypeVar("T")
Record = asyncpg.Record
log = logger(__name__)

CONNECT_TIMEOUT_S: Final = 2.0  # a loopback or LAN connection takes milliseconds; a dead host never
LOCK_TIMEOUT_MS: Final = 1000  # a row locked longer is somebody's fault: fail, do not queue
IDLE_IN_TRANSACTION_MS: Final = 5000  # a transaction never waits for anything but PostgreSQL
CONNECTION_AGE_S: Final = 1800.0  # recycled, so that memory and plans of a session do not grow old
REOPEN_S: Final = 0.5  # with three looks of the watch and the wait of /ready, back within 2 s
RECOVER_TIMEOUT_S: Final = 1.0  # a cancelled statement answers at once or the connection goes

# By these the server says no while it is healthy: wrong values, broken constraints, our own SQL.
ANSWERS: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.SyntaxOrAccessError,
    asyncpg.TransactionRollbackError,
    asyncpg.RaiseError,
    asyncpg.LockNotAvailableError,
    asyncpg.DiskFullError,  # it can not write, and reads as well as ever
)
# Somebody else had the rows: nothing was done.
BUSY: Final = (
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionRollbackError,
    asyncpg.InsufficientResourcesError,  # a full disk, no memory: nothing was done either
)
# After these the connection, or the server behind it, can not be used.
LOST: Final = (
    OSError,
    EOFError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.InvalidCachedStatementError,  # a migration changed what a prepared statement returns
    asyncpg.ReadOnlySQLTransactionError,  # a primary that became a standby: let go of it
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
)


class PlannedAnew(str):
    """SQL that is planned for the values of each execution, and not kept prepared.

    From its sixth execution on PostgreSQL may plan a prepared statement for no values at all.
    """

    __slots__ = ()


class Reader(Protocol):
    """Something to read from: the standbys, one of them, the primary, or a transaction."""

    async def fetch(self, sql: str, *args: object) -> list[Record]: ...

    async def fetchrow(self, sql: str, *args: object) -> Record | None: ...

    async def fetchval(self, sql: str, *args: object) -> Any: ...


class Link:
    """One connection and the statements prepared on it."""

    __slots__ = ("_statements", "connection", "retire_at")

    def __init__(self, connection: asyncpg.Connection[Record]) -> None:
        self.connection = connection
        # Jitter, so that the connections of a pool are not all replaced at once.
        self.retire_at = time.monotonic() + CONNECTION_AGE_S * random.uniform(0.9, 1.1)  # noqa: S311
        self._statements: dict[str, asyncpg.prepared_stmt.PreparedStatement[Record]] = {}

    async def statement(self, sql: str) -> asyncpg.prepared_stmt.PreparedStatement[Record]:
        prepared = self._statements.get(sql)
        if prepared is None and isinstance(sql, PlannedAnew):
            # One without a name lasts until the next one.
            return await self.connection.prepare(str(sql), name="")
        if prepared is None:
            prepared = self._statements[sql] = await self.connection.prepare(sql)
        return prepared

    def usable(self) -> bool:
        return not self.connection.is_closed() and time.monotonic() < self.retire_at


class Pool:
    """Connections to one server, at most `size` in use; waiting for one is bounded by deadline."""

    def __init__(
        self, name: str, dsn: str, *, password: str, size: int, statement_timeout_ms: int
    ) -> None:
        self.name = name
        self._dsn = dsn
        self._password = password
        self._statement_timeout_ms = statement_timeout_ms
        self._size = size
        self._idle: list[Link] = []
        self._recovering: set[asyncio.Task[None]] = set()
        self._closed = False
        self.upstream = Upstream(
            name,
            timeout_s=statement_timeout_ms / 1000,
            max_concurrent=size,
            answers=ANSWERS,
            reopen_s=REOPEN_S,
            # A transaction is left by the Problem that refuses it: no word about the database.
            failures=(*LOST, TimeoutError, asyncpg.PostgresError),
        )

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
        return Link(await self._connect())

    async def _connect(self) -> asyncpg.Connection[Record]:
        return await asyncpg.connect(
            self._dsn,
            password=self._password,
            timeout=CONNECT_TIMEOUT_S,
            server_settings={
                "application_name": f"tercet {self.name}",
                "statement_timeout": str(self._statement_timeout_ms),
                "lock_timeout": str(LOCK_TIMEOUT_MS),
                "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
                "jit": "off",  # compiling costs more than any statement of a request
                # "shrit" is 0.33 like "shirt"; the default of 0.6 finds no transposed letters.
                "pg_trgm.word_similarity_threshold": "0.3",
            },
        )

    def _put(self, link: Link) -> None:
        usable = not (link.connection.is_closed() or link.connection.is_in_transaction())
        # A connection that recovered came back after another had taken its place.
        if self._closed or not usable or len(self._idle) >= self._size:
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


class Source:
    """A server to read from. position: the last WAL position known to be visible there."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.name = pool.name
        self.position = 0

    async def fetch(self, sql: str, *args: object) -> list[Record]:
        async with self.pool.link() as link:
            return await (await link.statement(sql)).fetch(*args)

    async def fetchrow(self, sql: str, *args: object) -> Record | None:
        async with self.pool.link() as link:
            return await (await link.statement(sql)).fetchrow(*args)

    async def fetchval(self, sql: str, *args: object) -> Any:
        async with self.pool.link() as link:
            return await (await link.statement(sql)).fetchval(*args)


class Replica(Source):
    """A streaming standby: it can be read from, never written to.

    lag_ms: how long ago the primary stood at its position; None while it does not answer.
    """

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self.lag_ms: float | None = None


class Transaction:
    """A transaction on the primary: what writes take as their first argument."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def fetch(self, sql: str, *args: object) -> list[Record]:
        return await (await self._link.statement(sql)).fetch(*args)

    async def fetchrow(self, sql: str, *args: object) -> Record | None:
        return await (await self._link.statement(sql)).fetchrow(*args)

    async def fetchval(self, sql: str, *args: object) -> Any:
        return await (await self._link.statement(sql)).fetchval(*args)

    async def execute(self, sql: str, *args: object) -> None:
        await (await self._link.statement(sql)).fetch(*args)


class Primary(Source):
    """The server that is written to."""

    @asynccontextmanager
    async def transaction(self, isolation: str = "read committed") -> AsyncIterator[Transaction]:
        """One transaction round the block: committed at its end, rolled back on any exception.

        Raises OutcomeUnknown when COMMIT was sent and its answer was lost: of 45 such calls that
        were followed up, 41 had committed. Never take it for a failure; ask by key.
        """
        committing = False
        try:
            async with self.pool.link() as link:
                await link.connection.execute(f"begin isolation level {isolation}")
                try:
                    yield Transaction(link)
                except asyncio.CancelledError:
                    raise  # the pool rolls back once the server has let go of the statement
                except BaseException:
                    if not link.connection.is_closed():
                        await link.connection.execute("rollback")
                    raise
                committing = True
                await link.connection.execute("commit")
        except (Unavailable, GatewayTimeout, asyncio.CancelledError) as error:
            if committing:
                raise OutcomeUnknown from error
            raise


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
