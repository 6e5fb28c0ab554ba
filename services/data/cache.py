"""The cache: process memory, then Valkey, then the database, by the position rule.

A value remembers the WAL position that the node it was read from had replayed. A purge carries the
position at which the change is visible. A value behind a purge of one of its tags is never used
and never stored, so that neither a slow reader nor a lagging standby puts an old page back.

One load a key runs at a time: in a process all its readers wait for it, among processes there is a
lease in Valkey. A value that is only past its time is shown while it is loaded anew.

What Valkey has is taken in as its answer arrives, and goes to the readers at once. Only what has to
wait for more than that one answer is a task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Generic, Protocol, TypeVar

from services.data.counts import Counts
from services.data.db import Database
from services.data.filling import Filling, Load
from services.data.joined import JoinedValkey, Values
from services.data.loading import Loading
from services.data.loads import Loads
from services.data.memory import STALE_S, Entry, Memory
from services.data.session import current_session
from services.data.shared import UNVERIFIED_TTL_S, Shared
from services.tags import TagSubscriber

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Found(Protocol[T_co]):
    """A value, and the position in bytes of WAL that it is not behind."""

    @property
    def value(self) -> T_co: ...

    @property
    def position(self) -> int: ...


def _always(_: object) -> bool:
    return True


class Cache(Generic[T]):
    """Values of one kind under `name:key`; version is raised when the shape of T changes.

    size_of tells about how many bytes a value takes: values are held up to MEMORY_BYTES. loads is
    shared by all caches of a process.
    """

    def __init__(
        self,
        name: str,
        kind: type[T],
        *,
        version: int,
        ttl_s: float,
        size_of: Callable[[T], int],
        database: Database,
        valkey: JoinedValkey,
        stream: TagSubscriber,
        loads: Loads,
        memory_bytes: int | None = None,
    ) -> None:
        self.name = name
        self.counts = Counts()
        self.memory = Memory[T](size_of, memory_bytes)
        self._entries = self.memory.entries
        self.shared = Shared[T](
            f"{name}:{version}:", kind, valkey=valkey, stream=stream, memory=self.memory
        )
        self._filling = Filling[T](
            self.memory,
            self.shared,
            database=database,
            loads=loads,
            counts=self.counts,
            ttl_s=ttl_s,
        )
        self._database = database
        self._stream = stream
        self._loading: dict[str, Loading[T]] = {}
        stream.on_purge(self.purge)

    async def get(
        self, key: str, load: Load[T], *, needed: int = 0, keep: Callable[[T], bool] = _always
    ) -> Found[T] | None:
        """The value under key, or what `load` returns: a value and its tags, None if there is none.

        load is given something to read from that has replayed the purges of those tags. One load a
        key runs at a time and serves all who wait. A value for which keep() is false is not held.
        What is returned is not behind `needed`, a purge that the caller may have heard of first,
        nor behind what the client of the request has seen.
        Raises Unavailable where the database has as many loads to do as it may.
        """
        if current_session.get() is not None:
            needed = max(needed, self._database.seen_position())
        found = self.held(key, needed)
        if found is not None:
            return found
        while True:
            entry, now = self._entries.get(key), monotonic()
            if entry is None or entry.position < needed or not self._shown(entry, now):
                entry = await self._begun(key, load, keep, needed).end()
            else:
                self._entries.move_to_end(key)
                self.counts.memory += 1
                if now >= entry.expires_at:
                    self.counts.stale += 1
                    self._begun(key, load, keep, needed)
            # A load may have been too far on to heed who joined it: then it is that one's turn.
            if entry.position >= needed:
                return entry if entry.value is not None else None  # type: ignore[return-value]  # its value is there

    def held(self, key: str, needed: int = 0) -> Found[T] | None:
        """The value under key, where `get` would give it from memory and load nothing."""
        entry = self._entries.get(key)
        if entry is None or entry.value is None or entry.position < needed:
            return None
        now, stream = monotonic(), self._stream
        if now >= entry.expires_at:
            return None
        # What _shown asks of what is in its time, said again: a call costs as much as all of it.
        unsure = now >= stream.silent_at or entry.read_at <= stream.sure_since
        if unsure and now - entry.read_at >= UNVERIFIED_TTL_S:
            return None
        self._entries.move_to_end(key)
        self.counts.memory += 1
        return entry  # type: ignore[return-value]  # its value is there

    async def settled(self) -> None:
        """Wait until nothing is being loaded or stored."""
        while self._loading or self._filling.storing:
            ends = [loading.end() for loading in self._loading.values()]
            await asyncio.gather(*ends, return_exceptions=True)
            if self._filling.storing:
                await asyncio.wait(self._filling.storing)
            await asyncio.sleep(0)  # in which they are put away

    def purge(self, tags: list[str], position: int) -> None:
        """Drop what carries one of the tags, and remember up to where it is old."""
        self.memory.purge(tags, position)

    def _shown(self, entry: Entry[T | None], now: float) -> bool:
        """Whether it may be shown: also a while past its time, but never behind a purge."""
        if now >= entry.expires_at and (entry.value is None or now >= entry.expires_at + STALE_S):
            return False
        stream = self._stream
        if now < stream.silent_at and entry.read_at > stream.sure_since:
            return True
        # Else a purge may have gone unheard.
        return now - entry.read_at < UNVERIFIED_TTL_S

    def _begun(self, key: str, load: Load[T], keep: Callable[[T], bool], needed: int) -> Loading[T]:
        """The load of this key that is under way, or a new one: Valkey is asked first."""
        loading = self._loading.get(key)
        # One that has ended may be behind a purge that came in the same turn of the loop.
        if loading is None or (loading.task is not None and loading.task.done()):
            loading = self._loading[key] = Loading(needed)
            self.shared.ask(key, partial(self._answered, key, load, keep, loading))
        elif loading.needed < needed:
            loading.needed = needed
        return loading

    def _answered(
        self,
        key: str,
        load: Load[T],
        keep: Callable[[T], bool],
        loading: Loading[T],
        values: Values | None,
    ) -> None:
        """Valkey's answer has come: it will do as it is, or a task goes on from it.

        The task is no reader's: one that gives up must not take it away from the others.
        """
        loading.alone = values is None
        stored = None if values is None else values[0]
        try:
            entry = None if stored is None else self.shared.sure(stored)
            taken = self._filling.taken(key, entry, loading)
        except Exception as error:  # a bug: whoever waits is told
            self._put_away(key, loading)
            self.counts.failures += 1
            loading.tell(error)
            return
        if taken is not None:
            self._put_away(key, loading)
            loading.tell(taken)
            return
        loading.task = asyncio.create_task(
            self._filling.fill(key, load, keep, loading, stored), context=loading.context
        )
        loading.task.add_done_callback(partial(self._ended, key, loading))

    def _ended(self, key: str, loading: Loading[T], task: asyncio.Task[Entry[T | None]]) -> None:
        self._put_away(key, loading)
        if task.cancelled():
            loading.tell(None)
        elif (error := task.exception()) is not None:
            self.counts.failures += 1  # whoever waited has it raised, and maybe nobody waited
            loading.tell(error)
        else:
            loading.tell(task.result())

    def _put_away(self, key: str, loading: Loading[T]) -> None:
        if self._loading.get(key) is loading:
            del self._loading[key]
