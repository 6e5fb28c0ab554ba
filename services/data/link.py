"""One connection to PostgreSQL, the statements prepared on it, and what its errors mean."""

from __future__ import annotations

import random
import time
from typing import Final

import asyncpg

Record = asyncpg.Record

CONNECT_TIMEOUT_S: Final = 2.0  # a loopback or LAN connection takes milliseconds; a dead host never
LOCK_TIMEOUT_MS: Final = 1000  # a row locked longer is somebody's fault: fail, do not queue
IDLE_IN_TRANSACTION_MS: Final = 5000  # a transaction never waits for anything but PostgreSQL
CONNECTION_AGE_S: Final = 1800.0  # recycled, so that memory and plans of a session do not grow old

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


async def open_link(
    dsn: str, *, password: str, application: str, statement_timeout_ms: int
) -> Link:
    """A new connection, with the limits that the server itself holds."""
    connection = await asyncpg.connect(
        dsn,
        password=password,
        timeout=CONNECT_TIMEOUT_S,
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
    return Link(connection)
