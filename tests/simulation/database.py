"""A database in memory: transactions one after another, whole or not at all, that fail anywhere.

That they are one after another is what it does not test: races inside PostgreSQL have tests of
their own. What it tests is everything between transactions, and that each may be refused, be rolled
back in favour of another, or be lost before or after its COMMIT.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from services.data import orders
from services.deadline import deadline_or
from services.problems import GatewayTimeout, OutcomeUnknown, Unavailable
from tests.simulation.loop import Process, SimulatedLoop, current_process
from tests.simulation.tables import Tables, execute

LOOK_S: Final = 0.001  # who waits for the transaction of another looks so often
IDLE_IN_TRANSACTION_S: Final = 5.0  # as the server is told: who stands still loses his transaction
TIMEOUT_S: Final = 2.0
FROZEN_S: Final = (30.0, 70.0)  # longer than reconcile waits for an arrival
LOCKED_ELSEWHERE: Final = 0.02  # of the looks at an order: another one has it
Watcher = Callable[[Tables, Tables], None]


class SimulatedTransaction:
    """What `services.data` is given; its tables are its own until it commits."""

    def __init__(self, database: SimulatedPrimary, process: Process | None) -> None:
        self.database = database
        self.process = process
        self.began_at = database.loop.time()
        self.tables = database.tables.copy(self.began_at)

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        database = self.database
        await asyncio.sleep(0)
        if database.holder is not self or database.fails("statement"):
            raise Unavailable(retry_after_s=1)
        if sql == orders.LOCK_FREE_ORDERS and database.fails("locked"):
            return []
        return execute(self.tables, sql, args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        return (await self.fetch(sql, *args))[0][0]

    async def execute(self, sql: str, *args: Any) -> None:
        await self.fetch(sql, *args)


class SimulatedPrimary:
    """watch: called with the tables before and after each COMMIT.

    faults: how likely each is, by name; none while it is empty.
    """

    def __init__(self, loop: SimulatedLoop, tables: Tables, watch: Watcher) -> None:
        self.loop = loop
        self.tables = tables
        self.watch = watch
        self.faults: dict[str, float] = {}
        self.happened: Counter[str] = Counter()
        self.holder: SimulatedTransaction | None = None

    def fails(self, fault: str) -> bool:
        chance = self.faults.get(fault, 0.0)
        if chance == 0.0 or self.loop.chance.random() >= chance:
            return False
        self.happened[fault] += 1
        return True

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """A read of what is committed."""
        await asyncio.sleep(0)
        if self.fails("statement"):
            raise Unavailable(retry_after_s=1)
        return execute(self.tables.copy(self.loop.time()), sql, args)

    @asynccontextmanager
    async def transaction(self, _: str = "") -> AsyncIterator[SimulatedTransaction]:
        tx = await self._begin()
        try:
            yield tx
        except GeneratorExit:
            raise
        except BaseException:
            self._end(tx)
            raise
        await self._commit(tx)

    async def _begin(self) -> SimulatedTransaction:
        deadline = deadline_or(TIMEOUT_S)
        if self.fails("connect"):
            raise Unavailable(retry_after_s=1)
        await asyncio.sleep(0)
        while self._is_taken() and not deadline.passed():  # noqa: ASYNC110 - the dead tell nobody
            await asyncio.sleep(LOOK_S)
        if deadline.passed():  # the guard of the pool lets nobody in then, who stood still neither
            raise GatewayTimeout
        self.holder = SimulatedTransaction(self, current_process.get())
        return self.holder

    def _is_taken(self) -> bool:
        """The server ends the transactions of the dead, and of those who do not go on."""
        if self.holder is None:
            return False
        process = self.holder.process
        if process is not None and process.dead:
            return False
        return self.loop.time() < self.holder.began_at + IDLE_IN_TRANSACTION_S

    async def _commit(self, tx: SimulatedTransaction) -> None:
        await asyncio.sleep(0)  # COMMIT is on its way
        if self.holder is not tx or self.fails("lost before commit"):
            self._end(tx)
            raise OutcomeUnknown
        if self.fails("rolled back"):
            self._end(tx)
            raise Unavailable(retry_after_s=1) from asyncpg.SerializationError("another one")
        before, self.tables = self.tables, tx.tables
        self._end(tx)
        self.watch(before, self.tables)
        # Where it matters most that nothing follows for a while.
        claimed = before.payments.keys() != self.tables.payments.keys()
        if tx.process and claimed and self.fails("frozen after a claim"):
            tx.process.still_until = self.loop.time() + self.loop.chance.uniform(*FROZEN_S)
        if self.fails("lost after commit"):
            raise OutcomeUnknown
        await asyncio.sleep(0)  # its answer is on its way: who dies here does not know

    def _end(self, tx: SimulatedTransaction) -> None:
        if self.holder is tx:
            self.holder = None
