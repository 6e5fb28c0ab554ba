"""Filling: how a value comes that is not in memory: from Valkey, another process, or the database.

What Valkey has is taken at once where it will do. Else one process has the lease and loads; the
others wait for what it stores, and load themselves where that does not come.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Generic, TypeVar

from services.data.counts import Counts
from services.data.db import Database, Reads
from services.data.lease import Lease
from services.data.loading import Loading
from services.data.loads import Loads
from services.data.memory import Entry, Memory
from services.data.shared import Away, Shared
from services.data.sources import Reader
from services.deadline import Deadline, current_deadline

T = TypeVar("T")
Load = Callable[[Reader], Awaitable[tuple[T, Sequence[str]] | None]]

MEMORY_TTL_S: Final = 10.0
MISSING_TTL_S: Final = 2.0  # "there is no such thing" is asked again soon
LOAD_TIMEOUT_S: Final = 2.0
RELOADS: Final = 3  # where purges come faster than loads end, the value is given and not held


class Filling(Generic[T]):
    """What fills the memory of one cache. ttl_s: how long Valkey keeps what is loaded."""

    def __init__(
        self,
        memory: Memory[T],
        shared: Shared[T],
        *,
        database: Database,
        loads: Loads,
        counts: Counts,
        ttl_s: float,
    ) -> None:
        self.storing: set[asyncio.Task[Any]] = set()
        self._memory = memory
        self._shared = shared
        self._database = database
        self._loads = loads
        self._counts = counts
        self._ttl_s = ttl_s

    def taken(
        self, key: str, entry: Entry[T | None] | None, loading: Loading[T]
    ) -> Entry[T | None] | None:
        """The entry, if it will do for all who wait for this load; it is in memory then."""
        if entry is None or entry.position < loading.needed:
            return None
        self._counts.valkey += 1
        self._remember(key, entry)
        return entry

    async def fill(
        self,
        key: str,
        load: Load[T],
        keep: Callable[[T], bool],
        loading: Loading[T],
        stored: bytes | None,
    ) -> Entry[T | None]:
        """What Valkey had, if it will do once its purges are asked for; else what is loaded."""
        # The leader's deadline is its own; those who joined it may have more time.
        current_deadline.set(Deadline.after(LOAD_TIMEOUT_S))
        if (
            stored is not None
            and (entry := await self._asked(key, loading, self._shared.checked(stored))) is not None
        ):
            return entry
        lease = self._shared.lease(key)
        for another_has_loaded in (False, True):
            # The place comes first: a lease is for who loads now, not for who waits to.
            async with self._loads.place() as waited:
                if waited and (entry := await self._stored(key, loading)) is not None:
                    return entry
                taken = None if loading.alone else await lease.take()
                if taken is not False or another_has_loaded:
                    entry = await self._loaded(load, loading, lease)
                    self._hold(key, entry, keep, lease)
                    return entry
            entry = await self._waited_for(key, loading)
            if entry is not None:
                return entry
            # It is too slow, or what it loaded is not for all: one load in each process then, and
            # whoever has the lease next stores.
        raise AssertionError("the second time it loads")

    async def _stored(self, key: str, loading: Loading[T]) -> Entry[T | None] | None:
        """What Valkey has, if it will do; it is in memory then."""
        return None if loading.alone else await self._asked(key, loading, self._shared.get(key))

    async def _asked(
        self, key: str, loading: Loading[T], asking: Awaitable[Entry[T | None] | None]
    ) -> Entry[T | None] | None:
        try:
            entry = await asking
        except Away:
            loading.alone = True
            return None
        return self.taken(key, entry, loading)

    async def _waited_for(self, key: str, loading: Loading[T]) -> Entry[T | None] | None:
        """What the process that has the lease stores, if it will do; it is in memory then."""
        self._counts.lease_waits += 1
        try:
            entry = await self._shared.wait(key, loading.needed)
        except Away:
            loading.alone = True
            return None
        self._counts.lease_hits += entry is not None
        return self.taken(key, entry, loading)

    async def _loaded(self, load: Load[T], loading: Loading[T], lease: Lease) -> Entry[T | None]:
        """Load until nothing is known that makes it old."""
        try:
            entry = await self._load(load, loading.needed)
            behind = 0 if loading.alone else await self._purged_elsewhere(entry.tags)
            behind = max(behind, self._memory.purged(entry.tags), loading.needed)
            for _ in range(RELOADS):
                if entry.position >= behind:
                    break
                entry = await self._load(load, behind)
                # A purge may have come meanwhile, and after it readers who must not get the past.
                behind = self._memory.purged(entry.tags)
        except Exception:
            self._behind(lease.release())
            raise
        return entry

    def _hold(
        self, key: str, entry: Entry[T | None], keep: Callable[[T], bool], lease: Lease
    ) -> None:
        """In memory now and in Valkey soon, if it may be; nothing is waited for since the check."""
        wanted = entry.value is None or keep(entry.value)
        if wanted and entry.position >= self._memory.purged(entry.tags):
            self._remember(key, entry)
            life_s = MISSING_TTL_S if entry.value is None else self._ttl_s
            self._behind(self._shared.put(key, entry, lease, life_s))
        else:
            self._behind(lease.release())

    async def _purged_elsewhere(self, tags: Sequence[str]) -> int:
        try:
            return await self._shared.purged(tags)
        except Away:
            return 0

    async def _load(self, load: Load[T], needed: int) -> Entry[T | None]:
        """Load from nodes that have replayed `needed`.

        Which ones, and where they stand, is decided once and before the first read: a standby that
        becomes fit between two statements must not answer under another one's position.
        """
        self._counts.loads += 1
        sources = self._database.readers(needed)
        position = min(max(source.position, needed) for source in sources)
        filled_at = time.time()
        found = await load(Reads(lambda: sources))
        value, tags = found if found is not None else (None, ())
        return Entry(value, list(tags), position, filled_at)

    def _remember(self, key: str, entry: Entry[T | None]) -> None:
        if entry.value is not None:
            self._memory.keep(key, entry, MEMORY_TTL_S)
            return
        # Nothing purges what is not there, so its time goes on where another process asked.
        age_s = min(max(0.0, time.time() - entry.filled_at), MISSING_TTL_S)
        self._memory.keep(key, entry, MISSING_TTL_S - age_s)

    def _behind(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let it be done while the readers have their answer already."""
        task = asyncio.create_task(work)
        self.storing.add(task)
        task.add_done_callback(self.storing.discard)
