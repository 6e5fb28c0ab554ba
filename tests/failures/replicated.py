"""A history of writes and reads on a cluster that is being broken, and what must be true of it.

The history is the client's: what was acknowledged, what was refused, what nobody knows. The checker
compares it with the rows that are there in the end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any, Final
from uuid import uuid4

import asyncpg

from infra.local.promote import Answer, ask
from services.data.db import Database
from services.data.sources import Primary
from services.data.store import Store, open_store
from services.problems import OutcomeUnknown, Problem
from services.settings import DatabaseSettings
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.shopping import settings_of

WHOLE_WITHIN_S: Final = 40.0  # a new copy of the primary, on a machine that has other work
AFTER_REFUSAL_S: Final = 0.01


@dataclass
class Verdict:
    """lost: acknowledged and not there. lied: reported as not done, and there."""

    acknowledged: int
    unknown: int
    refused: int
    lost: set[int]
    lied: set[int]
    longest_gap_s: float

    @property
    def honest(self) -> bool:
        return not (self.lost or self.lied)

    def figures(self) -> dict[str, Any]:
        return {
            "acknowledged": self.acknowledged,
            "unknown": self.unknown,
            "refused": self.refused,
            "lost": len(self.lost),
            "lied": len(self.lied),
            "longest_gap_ms": round(self.longest_gap_s * 1000),
        }


@dataclass
class History:
    """Numbers that were written, each by one transaction, and what its caller was told."""

    primary: Primary
    table: str
    acknowledged: dict[int, float] = field(default_factory=dict)
    unknown: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    began_at: float = field(default_factory=time.monotonic)
    stopped: bool = False

    def __post_init__(self) -> None:
        self._numbers = count(1)

    async def write(self) -> None:
        """One writer, until all are to stop: to cancel it would make what it writes unknown."""
        while not self.stopped:
            number = next(self._numbers)
            try:
                async with self.primary.transaction() as tx:
                    await tx.execute(f"insert into {self.table} values ($1)", number)  # noqa: S608
            except OutcomeUnknown:
                self.unknown.add(number)
            except Problem:
                self.refused.add(number)
                await asyncio.sleep(AFTER_REFUSAL_S)
            else:
                self.acknowledged[number] = time.monotonic()

    async def written_since(self, moment: float, *, within_s: float) -> float:
        """Wait until a write that was acknowledged after the moment; the seconds it took."""
        await until(
            lambda: any(at > moment for at in self.acknowledged.values()),
            within_s=within_s,
            what="writes go on",
        )
        return min(at for at in self.acknowledged.values() if at > moment) - moment

    async def verdict(self, connection: asyncpg.Connection[asyncpg.Record]) -> Verdict:
        rows = await connection.fetch(f"select n from {self.table}")  # noqa: S608 - the test's own
        there = {row["n"] for row in rows}
        times = sorted([self.began_at, *self.acknowledged.values()])
        return Verdict(
            acknowledged=len(self.acknowledged),
            unknown=len(self.unknown),
            refused=len(self.refused),
            lost=self.acknowledged.keys() - there,
            lied=self.refused & there,
            longest_gap_s=max(b - a for a, b in pairwise(times)),
        )


@dataclass
class Cluster:
    """Servers of a stack with two standbys."""

    stack: RunningStack

    def names(self, role: str) -> list[str]:
        return [part["name"] for part in self.stack.state["parts"] if part.get("role") == role]

    @property
    def leader(self) -> str:
        (name,) = self.names("primary")
        return name

    async def promote(self, *, force: bool = False) -> Answer:
        return await asyncio.to_thread(ask, self.stack.folder, force=force)

    @asynccontextmanager
    async def superuser(self, server: str | None = None) -> AsyncIterator[Any]:
        connection = await asyncpg.connect(self.stack.dsn("postgres", server or self.leader))
        try:
            yield connection
        finally:
            await connection.close()

    async def streaming(self) -> set[str]:
        """The standbys that the primary sends to now."""
        try:
            async with self.superuser() as connection:
                rows = await connection.fetch(
                    "select application_name as name from pg_stat_replication"
                    " where state = 'streaming' and sync_state = 'quorum'"
                )
        except (OSError, asyncpg.PostgresError):
            return set()
        return {row["name"] for row in rows}

    async def whole(self) -> float:
        """Wait until both standbys follow; the seconds it took."""

        async def is_whole() -> bool:
            followers = set(self.names("standby"))
            if len(followers) != 2 or await self.streaming() != followers:
                return False
            # The supervisor knows it too: by what it saw last it judges who may be promoted.
            return bool(self.stack.part(self.leader)["standbys_streaming"] == sorted(followers))

        return await until(is_whole, within_s=WHOLE_WITHIN_S, what="both standbys follow")

    @asynccontextmanager
    async def opened(self, **changes: object) -> AsyncIterator[Store]:
        """The data tier on these servers, as a process of business opens it."""
        async with open_store(settings_of(self.stack, DatabaseSettings, **changes)) as store:
            yield store

    @asynccontextmanager
    async def history(self, primary: Primary, *, writers: int = 4) -> AsyncIterator[History]:
        """Writers at work inside the block, in a table of their own."""
        table = f"history_{uuid4().hex}"
        owner = await asyncpg.connect(self.stack.dsn("tercet_owner", self.leader))
        await owner.execute(f"create table {table} (n bigint)")
        await owner.execute(f"grant select, insert on {table} to tercet_app")
        await owner.close()
        made = History(primary, table)
        running = [asyncio.create_task(made.write()) for _ in range(writers)]
        try:
            await made.written_since(made.began_at, within_s=5.0)
            yield made
        finally:
            made.stopped = True
            await asyncio.gather(*running)

    async def judged(self, history: History) -> Verdict:
        """After the writers have stopped: what is there, as the primary of now has it."""
        async with self.superuser() as connection:
            return await history.verdict(connection)


async def are_fit(database: Database, standbys: int) -> None:
    await until(
        lambda: len(database.readers()) == standbys + 1,
        within_s=WHOLE_WITHIN_S,
        what=f"{standbys} standbys are read from",
    )
