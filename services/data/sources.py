"""What is read from and written to: the primary and its standbys, held apart by types.

Writing needs a Transaction, and only a Primary makes one: a write on a standby does not type-check.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, Protocol

from services.data.by_key import ByKey, find_all
from services.data.link import Link, Record
from services.data.pool import Pool
from services.data.retries import rolled_back
from services.data.session import Session, current_session
from services.data.standing import Standing
from services.problems import GatewayTimeout, OutcomeUnknown, Unavailable

# A read of a page takes a millisecond: who has no place after this would wait in a growing line.
STAND_IN_WAIT_S: Final = 0.1

# An LSN as bytes from the start of the WAL, so that positions compare as integers; null of a server
# that is no standby.
STANDBY_POSITION = """
    select case when pg_is_in_recovery()
        then (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint
    end as position
"""


class Reader(Protocol):
    """Something to read from: the standbys, one of them, the primary, or a transaction."""

    async def fetch(self, sql: str, *args: object) -> list[Record]: ...

    async def fetchrow(self, sql: str, *args: object) -> Record | None: ...

    async def fetchval(self, sql: str, *args: object) -> Any: ...

    async def find(self, sql: str, *key: Hashable) -> list[Record]:
        """The rows of one key, by a statement for many keys (see ByKey)."""
        ...


class Source:
    """A server to read from. position: the last WAL position known to be visible there."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.name = pool.name
        self.position = 0
        self.by_key = ByKey(self.fetch)

    async def fetch(self, sql: str, *args: object) -> list[Record]:
        async with self.pool.link() as link:
            return await link.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: object) -> Record | None:
        async with self.pool.link() as link:
            return await link.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: object) -> Any:
        async with self.pool.link() as link:
            return await link.fetchval(sql, *args)

    async def find(self, sql: str, *key: Hashable) -> list[Record]:
        """The rows of one key, together with all that others ask for by the same statement."""
        return await self.by_key.find(sql, *key)


class Replica(Source):
    """A streaming standby: it can be read from, never written to.

    lag_ms: how long ago the primary stood at its position; None while it does not answer.
    lag_bytes: how much WAL the primary had written past its position when both were last asked.
    """

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self.lag_ms: float | None = None
        self.lag_bytes = 0
        self.standing = Standing()

    def keeps_up(self, lag_limit_ms: float) -> bool:
        return self.lag_ms is not None and self.lag_ms <= lag_limit_ms


class Transaction:
    """A transaction on the primary: what writes take as their first argument."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def fetch(self, sql: str, *args: object) -> list[Record]:
        return await self._link.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: object) -> Record | None:
        return await self._link.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: object) -> Any:
        return await self._link.fetchval(sql, *args)

    async def find(self, sql: str, *key: Hashable) -> list[Record]:
        (found,) = await find_all(self.fetch, sql, [key])
        return found

    async def execute(self, sql: str, *args: object) -> None:
        await self._link.fetch(sql, *args)


class Primary(Source):
    """The server that is written to.

    reads_at_most: of the reads that no standby could answer, so many run here at once.
    """

    def __init__(self, pool: Pool, *, reads_at_most: int | None = None) -> None:
        super().__init__(pool)
        self._places = None if reads_at_most is None else asyncio.Semaphore(reads_at_most)
        self.reads_shed = 0

    @asynccontextmanager
    async def stand_in(self) -> AsyncIterator[None]:
        """Round a read that standbys are for: writes keep the rest of the pool.

        Raises Unavailable when there is no place for it soon.
        """
        if self._places is None:
            yield
            return
        try:
            async with asyncio.timeout(STAND_IN_WAIT_S):
                await self._places.acquire()
        except TimeoutError:
            self.reads_shed += 1
            raise Unavailable(retry_after_s=1) from None
        try:
            yield
        finally:
            self._places.release()

    @asynccontextmanager
    async def transaction(self, isolation: str = "read committed") -> AsyncIterator[Transaction]:
        """One transaction round the block: committed at its end, rolled back on any exception.

        Raises OutcomeUnknown when COMMIT was sent and its answer was lost: of 45 such calls that
        were followed up, 41 had committed. Never take it for a failure; ask by key.
        """
        committing, session = False, current_session.get()
        try:
            async with self.pool.link() as link:
                await link.connection.execute(f"begin isolation level {isolation}")
                try:
                    yield Transaction(link)
                except asyncio.CancelledError:
                    raise  # the pool rolls back once the server has let go of the statement
                except BaseException:
                    if not link.connection.is_closed():
                        await _end(link, "rollback", session)
                    raise
                committing = True
                await _end(link, "commit", session)
        except (Unavailable, GatewayTimeout, asyncio.CancelledError) as error:
            # That it was rolled back is an answer, also to COMMIT.
            if committing and not rolled_back(error):
                if session is not None:
                    session.lost_sight()
                raise OutcomeUnknown from error
            raise


async def _end(link: Link, verb: Literal["commit", "rollback"], session: Session | None) -> None:
    """End the transaction; what was refused has shown the client something, too."""
    if session is None:
        await link.connection.execute(verb)
    else:
        session.saw(await link.end(verb))
