"""One connection to PostgreSQL, the statements prepared on it, and what its errors mean."""

from __future__ import annotations

import random
import socket
import time
from typing import Any, Final, Literal

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from services.consistency import Seen
from services.data.statement_times import StatementTimes

Record = asyncpg.Record

CONNECT_TIMEOUT_S: Final = 2.0  # a loopback or LAN connection takes milliseconds; a dead host never
LOCK_TIMEOUT_MS: Final = 1000  # a row locked longer is somebody's fault: fail, do not queue
IDLE_IN_TRANSACTION_MS: Final = 5000  # a transaction never waits for anything but PostgreSQL
CONNECTION_AGE_S: Final = 1800.0  # recycled, so that memory and plans of a session do not grow old

# A peer that vanished without a word (a cut cable, a firewall that forgot) is noticed by the
# kernel: by bytes that nobody acknowledges, or by three probes after a silence.
UNACKNOWLEDGED_MS: Final = 3000
PROBE_AFTER_S: Final = 5
PROBE_EVERY_S: Final = 1
PROBES: Final = 3

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


# After COMMIT or ROLLBACK in the same message: where the WAL stands then. asyncpg gives no rows of
# such a message, but PostgreSQL tells the client of a changed application_name by itself. So the
# position costs no round trip of its own: 15 microseconds of CPU, where asking after it costs 50.
TELL_POSITION: Final = """;
    select set_config('application_name',
        split_part(current_setting('application_name'), ' at ', 1) || ' at '
        || case when pg_is_in_recovery() then '0/0' else
            left(pg_walfile_name(pg_current_wal_flush_lsn()), 8)
            || '/' || (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)
        end, false)
"""


class PlannedAnew(str):
    """SQL that is planned for the values of each execution, and not kept prepared.

    From its sixth execution on PostgreSQL may plan a prepared statement for no values at all.
    """

    __slots__ = ()


class Link:
    """One connection and the statements prepared on it."""

    __slots__ = ("_statements", "connection", "retire_at", "times", "used_at")

    def __init__(
        self, connection: asyncpg.Connection[Record], times: StatementTimes | None = None
    ) -> None:
        self.connection = connection
        self.times = StatementTimes() if times is None else times
        self.used_at = time.monotonic()
        # Jitter, so that the connections of a pool are not all replaced at once.
        self.retire_at = self.used_at + CONNECTION_AGE_S * random.uniform(0.9, 1.1)  # noqa: S311
        self._statements: dict[str, asyncpg.prepared_stmt.PreparedStatement[Record]] = {}

    async def statement(self, sql: str) -> asyncpg.prepared_stmt.PreparedStatement[Record]:
        prepared = self._statements.get(sql)
        if prepared is None and isinstance(sql, PlannedAnew):
            # One without a name lasts until the next one.
            return await self.connection.prepare(str(sql), name="")
        if prepared is None:
            prepared = self._statements[sql] = await self.connection.prepare(sql)
        return prepared

    async def fetch(self, sql: str, *args: object) -> list[Record]:
        began_at = time.monotonic()
        try:
            return await (await self.statement(sql)).fetch(*args)
        finally:
            self.times.add(sql, time.monotonic() - began_at)

    async def fetchrow(self, sql: str, *args: object) -> Record | None:
        began_at = time.monotonic()
        try:
            return await (await self.statement(sql)).fetchrow(*args)
        finally:
            self.times.add(sql, time.monotonic() - began_at)

    async def fetchval(self, sql: str, *args: object) -> Any:
        began_at = time.monotonic()
        try:
            return await (await self.statement(sql)).fetchval(*args)
        finally:
            self.times.add(sql, time.monotonic() - began_at)

    async def end(self, verb: Literal["commit", "rollback"]) -> Seen:
        """End the transaction; returns a place in the WAL that is behind all it wrote or saw."""
        await self.connection.execute(verb + TELL_POSITION)
        name: str = self.connection.get_settings().application_name
        timeline, _, position = name.rpartition(" at ")[2].partition("/")
        return Seen(int(timeline, 16), int(position))

    def usable(self) -> bool:
        return not self.connection.is_closed() and time.monotonic() < self.retire_at


async def open_link(
    dsn: str,
    *,
    password: str,
    application: str,
    statement_timeout_ms: int,
    writable: bool,
    times: StatementTimes | None = None,
) -> Link:
    """A new connection, with the limits that the server itself holds.

    writable: only to a server that takes writes, unless the DSN says itself what it wants. times:
    where it is counted how long its statements take.
    """
    connection = await asyncpg.connect(
        dsn,
        password=password,
        timeout=CONNECT_TIMEOUT_S,
        target_session_attrs=_wanted(dsn, writable=writable),
        server_settings={
            "application_name": application,
            "statement_timeout": str(statement_timeout_ms),
            "lock_timeout": str(LOCK_TIMEOUT_MS),
            "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
            "jit": "off",  # compiling costs more than any statement of a request
            # "shrit" is 0.33 like "shirt"; the default of 0.6 finds no transposed letters.
            "pg_trgm.word_similarity_threshold": "0.3",
        },
    )
    _watch_peer(connection)
    return Link(connection, times)


def _wanted(dsn: str, *, writable: bool) -> SessionAttribute | None:
    if not writable or "target_session_attrs=" in dsn:
        return None
    return SessionAttribute.read_write


def _watch_peer(connection: asyncpg.Connection[Record]) -> None:
    """Have the kernel notice a peer that is gone; where it can not, statements have deadlines."""
    peer = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]  # no public way
    if peer.family not in (socket.AF_INET, socket.AF_INET6):
        return
    options = (
        ("SO_KEEPALIVE", socket.SOL_SOCKET, 1),
        ("TCP_KEEPIDLE", socket.IPPROTO_TCP, PROBE_AFTER_S),
        ("TCP_KEEPINTVL", socket.IPPROTO_TCP, PROBE_EVERY_S),
        ("TCP_KEEPCNT", socket.IPPROTO_TCP, PROBES),
        ("TCP_USER_TIMEOUT", socket.IPPROTO_TCP, UNACKNOWLEDGED_MS),
    )
    for name, level, value in options:
        if hasattr(socket, name):  # Linux has all of them
            peer.setsockopt(level, getattr(socket, name), value)
