"""What handlers and workers are given: the opened store, the caches, the provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from services.business.counts import Counts
from services.business.held import HeldPages
from services.business.operations import Operation
from services.business.passwords import Passwords
from services.business.provider import PaymentProvider
from services.business.providers.sandbox_adapter import open_sandbox
from services.business.rounds import Rounds
from services.data.batch import Batcher
from services.data.cache import Cache
from services.data.db import Database
from services.data.pages import Page
from services.data.store import Store, open_store
from services.settings import BusinessSettings, cores
from services.upstream import Upstream
from services.watchdog import Watchdog

T = TypeVar("T")
Row = TypeVar("Row")
Out = TypeVar("Out")

PAGE_TTL_S: Final = 60.0  # purged by tag long before; this is the backstop in Valkey
LIST_TTL_S: Final = 10.0  # lists carry coarse tags, so they are allowed to be a little old
# When the process stops; a payment that is not settled by then is left to reconcile.
HANDED_OVER_S: Final = 1.5


@dataclass(frozen=True)
class Shop:
    """Every function of business takes this first."""

    settings: BusinessSettings
    store: Store
    pages: Cache[Page]
    lists: Cache[Page]
    provider: PaymentProvider
    provider_upstream: Upstream
    held: HeldPages = field(default_factory=HeldPages)
    counts: Counts = field(default_factory=Counts)
    rounds: dict[str, Rounds] = field(default_factory=dict)  # of the workers, by their name
    watchdog: Watchdog = field(default_factory=Watchdog)
    passwords: Passwords = field(default_factory=Passwords)
    _handed_over: set[asyncio.Task[Any]] = field(default_factory=set)
    _batchers: dict[str, Batcher[Any, Any]] = field(default_factory=dict)

    @property
    def database(self) -> Database:
        return self.store.database

    @property
    def upstreams(self) -> list[Upstream]:
        """Every dependency that has limits of its own."""
        sources = (self.database.primary, *self.database.replicas)
        pools = [source.pool.upstream for source in sources]
        return [*pools, self.store.valkey_upstream, self.provider_upstream]

    def rounds_of(self, worker: str) -> Rounds:
        """Where a worker counts what it does."""
        return self.rounds.setdefault(worker, Rounds(worker))

    @property
    def batchers(self) -> list[Batcher[Any, Any]]:
        """Every operation that was asked for, with what it has counted."""
        return list(self._batchers.values())

    def batcher(self, operation: Operation[Row, Out]) -> Batcher[Row, Out]:
        """Where the calls of an operation are gathered."""
        batcher: Batcher[Row, Out] | None = self._batchers.get(operation.name)
        if batcher is None:
            batcher = self._batchers[operation.name] = operation.open(self)
        return batcher

    async def join(self, operation: Operation[Row, Out], row: Row) -> Out:
        """Do an operation for one row, together with all that wait for the same operation now."""
        return await self.batcher(operation).call(row)

    def hand_over(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run what must be finished even when the request it came from is not there any more."""
        task = asyncio.create_task(work)
        self.counts.handed_over_total += 1
        self._handed_over.add(task)
        task.add_done_callback(self._handed_over.discard)
        return task

    @property
    def handed_over(self) -> int:
        """How many of these run."""
        return len(self._handed_over)

    async def finish(self) -> None:
        """Wait for what was handed over: called when the process stops."""
        if self._handed_over:
            await asyncio.wait(self._handed_over, timeout=HANDED_OVER_S)
        await asyncio.gather(*(batcher.close() for batcher in self.batchers))
        await self.passwords.aclose()

    def changed(self) -> None:
        """Wake the outbox relay after a commit; if that fails, its polling finds the rows.

        Nobody waits for it: what is committed is answered, however late it is by then.
        """
        if self.store.wake_ups.ask():
            self.hand_over(self.store.wake_ups.send())


@asynccontextmanager
async def open_shop(settings: BusinessSettings) -> AsyncIterator[Shop]:
    async with open_store(settings) as store, open_sandbox(settings) as (provider, upstream):
        shop = Shop(
            settings,
            store,
            pages=_cache(settings, store, "page", version=1, ttl_s=PAGE_TTL_S),
            lists=_cache(settings, store, "list", version=1, ttl_s=LIST_TTL_S),
            provider=provider,
            provider_upstream=upstream,
            # Half of the cores for all processes of business together.
            passwords=Passwords(max(1, cores() // 2 // settings.business_workers)),
        )
        try:
            yield shop
        finally:
            await shop.finish()


def _cache(
    settings: BusinessSettings, store: Store, name: str, *, version: int, ttl_s: float
) -> Cache[Page]:
    return Cache(
        name,
        Page,
        version=version,
        ttl_s=ttl_s,
        size_of=lambda held: len(held.body),
        database=store.database,
        valkey=store.cached,
        stream=store.tags,
        loads=store.loads,
        memory_bytes=settings.cache_memory_bytes,
    )
