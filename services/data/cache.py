"""The cache: process memory, then Valkey, then the database, by the position rule.

A value remembers the WAL position that the node it was read from had replayed. A purge carries the
position at which the change is visible. A value behind a purge of one of its tags is never used
and never stored, so that neither a slow reader nor a lagging standby puts an old page back.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

import msgspec
from redis.asyncio import Redis

from services.data.db import Database, Reads
from services.data.sources import Reader
from services.data.tags import POSITION_KEY
from services.deadline import Deadline, current_deadline, deadline_or
from services.tags import TagSubscriber
from services.upstream import Ok, Upstream

T = TypeVar("T")
Load = Callable[[Reader], Awaitable[tuple[T, Sequence[str]] | None]]

MEMORY_BYTES: Final = 32 * 2**20  # about 8,000 pages of 3 KB, or 1,300 lists of 24 KB
ENTRY_BYTES: Final = 1024  # key, etag, tags, and what finds them again: 986 were measured
MEMORY_TTL_S: Final = 10.0
UNVERIFIED_TTL_S: Final = 1.0  # how long a value is used while the tag stream is not to be trusted
MISSING_TTL_S: Final = 2.0  # "there is no such thing" is asked again soon
JITTER: Final = 0.1  # what was filled together does not expire together
PURGES_KEPT: Final = 10_000
LOAD_TIMEOUT_S: Final = 2.0
RELOADS: Final = 3  # where purges come faster than loads end, the value is given and not held


class Entry(msgspec.Struct, Generic[T]):
    """A value with where and when it was read: position in bytes of WAL, times in seconds.

    filled_at, when it was read or last found to be behind no purge, is the wall clock, because it
    crosses processes; expires_at is monotonic. size_bytes is what it takes of MEMORY_BYTES.
    """

    value: T
    tags: list[str]
    position: int
    filled_at: float
    expires_at: float = 0.0
    size_bytes: int = 0


class Found(NamedTuple, Generic[T]):
    """A value, and the position in bytes of WAL that it is not behind."""

    value: T
    position: int


class _Loading(Generic[T]):
    """A load under way: what it needs rises with those who join it."""

    def __init__(self, needed: int) -> None:
        self.needed = needed
        self.task: asyncio.Task[Entry[T | None]]


class Cache(Generic[T]):
    """Values of one kind under `name:key`; version is raised when the shape of T changes.

    size_of tells about how many bytes a value takes: values are held up to MEMORY_BYTES.
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
        valkey: Redis,
        upstream: Upstream,
        stream: TagSubscriber,
    ) -> None:
        self._prefix = f"tercet:{name}:{version}:"
        self._ttl_s = ttl_s
        self._size_of = size_of
        self._database = database
        self._valkey = valkey
        self._upstream = upstream
        self._memory: OrderedDict[str, Entry[T | None]] = OrderedDict()
        self._memory_bytes = 0
        self._expiries: list[tuple[float, str]] = []  # a heap; also of what is gone already
        self._keys_by_tag: dict[str, set[str]] = {}
        self._purged: OrderedDict[str, int] = OrderedDict()
        self._loading: dict[str, _Loading[T]] = {}
        self._decode = msgspec.msgpack.Decoder(Entry[kind]).decode  # type: ignore[valid-type]
        self._encode = msgspec.msgpack.Encoder().encode
        self._stream = stream
        stream.on_purge(self.purge)

    async def get(
        self,
        key: str,
        load: Load[T],
        *,
        needed: int = 0,
        keep: Callable[[T], bool] = lambda _: True,
    ) -> Found[T] | None:
        """The value under key, or what `load` returns: a value and its tags, None if there is none.

        load is given something to read from that has replayed the purges of those tags. One load a
        key runs at a time and serves all who wait. A value for which keep() is false is not held.
        What is returned is not behind `needed`, a purge that the caller may have heard of first.
        """
        while True:
            entry = self._memory.get(key)
            if entry is not None and entry.position >= needed and self._fresh(entry):
                self._memory.move_to_end(key)
            else:
                entry = await self._loaded(key, load, keep, needed)
            # A load may have been too far on to heed who joined it: then it is that one's turn.
            if entry.position >= needed:
                return None if entry.value is None else Found(entry.value, entry.position)

    def held(self, key: str, needed: int = 0) -> Found[T] | None:
        """The value under key, where `get` would give it from process memory."""
        entry = self._memory.get(key)
        if entry is None or entry.position < needed or not self._fresh(entry):
            return None
        self._memory.move_to_end(key)
        return None if entry.value is None else Found(entry.value, entry.position)

    def purge(self, tags: list[str], position: int) -> None:
        """Drop what carries one of the tags, and remember up to where it is old."""
        for tag in tags:
            self._purged[tag] = max(position, self._purged.pop(tag, 0))
            for key in self._keys_by_tag.pop(tag, ()):
                self._forget(key)
        while len(self._purged) > PURGES_KEPT:
            self._purged.popitem(last=False)

    async def _loaded(
        self, key: str, load: Load[T], keep: Callable[[T], bool], needed: int
    ) -> Entry[T | None]:
        """Join the load of this key that is under way, or begin one."""
        loading = self._loading.get(key)
        if loading is None:
            loading = self._loading[key] = _Loading(needed)
            loading.task = asyncio.create_task(self._fill(key, load, keep, loading))
            loading.task.add_done_callback(lambda task: self._ended(key, task))
        loading.needed = max(loading.needed, needed)
        # A reader that gives up must not take the load away from the others.
        return await asyncio.shield(loading.task)

    def _ended(self, key: str, task: asyncio.Task[Entry[T | None]]) -> None:
        del self._loading[key]
        if not task.cancelled():
            task.exception()  # seen: whoever waited has had it raised, and maybe nobody waited

    def _fresh(self, entry: Entry[Any]) -> bool:
        if time.monotonic() >= entry.expires_at:
            return False
        age_s = time.time() - entry.filled_at
        since = self._stream.verified_since()
        verified = since is not None and age_s < time.monotonic() - since
        return verified or age_s < UNVERIFIED_TTL_S

    async def _fill(
        self, key: str, load: Load[T], keep: Callable[[T], bool], loading: _Loading[T]
    ) -> Entry[T | None]:
        # The leader's deadline is its own; those who joined it may have more time.
        current_deadline.set(Deadline.after(LOAD_TIMEOUT_S))
        stored = await self._from_valkey(key)
        if stored is not None and stored.position >= loading.needed:
            self._remember(key, stored)
            return stored
        entry = await self._load(load, loading.needed)
        behind = max(await self._purges_of(entry.tags), loading.needed)
        for _ in range(RELOADS):
            if entry.position >= behind:
                break
            entry = await self._load(load, behind)
            # A purge may have come meanwhile, and after it readers who must not get the past.
            behind = self._purges_known(entry.tags)
        if entry.value is None:
            self._remember(key, entry, ttl_s=MISSING_TTL_S)
        elif keep(entry.value) and entry.position >= self._purges_known(entry.tags):
            self._remember(key, entry)
            await self._to_valkey(key, entry)
        return entry

    async def _load(self, load: Load[T], needed: int) -> Entry[T | None]:
        """Load from nodes that have replayed `needed`.

        Which ones, and where they stand, is decided once and before the first read: a standby that
        becomes fit between two statements must not answer under another one's position.
        """
        sources = self._database.readers(needed)
        position = min(max(source.position, needed) for source in sources)
        filled_at = time.time()
        found = await load(Reads(lambda: sources))
        value, tags = found if found is not None else (None, ())
        return Entry(value, list(tags), position, filled_at)

    def _purges_known(self, tags: Sequence[str]) -> int:
        return max((self._purged.get(tag, 0) for tag in tags), default=0)

    async def _purges_of(self, tags: Sequence[str]) -> int:
        """The newest purge of the tags that this process or Valkey knows of, in bytes of WAL."""
        return max(await self._purges_stored(tags) or 0, self._purges_known(tags))

    async def _purges_stored(self, tags: Sequence[str]) -> int | None:
        """The same of Valkey alone; None where it can not be asked."""
        if not tags:
            return 0

        async def read(_: Deadline) -> int:
            positions = await self._valkey.mget([POSITION_KEY + tag for tag in tags])
            return max((int(position) for position in positions if position), default=0)

        outcome = await self._upstream.call(read, deadline_or(LOAD_TIMEOUT_S))
        return outcome.value if isinstance(outcome, Ok) else None

    async def _from_valkey(self, key: str) -> Entry[T | None] | None:
        """The stored entry, unless it is, or may be, behind a purge of one of its tags."""

        async def read(_: Deadline) -> bytes | None:
            return cast("bytes | None", await self._valkey.get(self._prefix + key))

        outcome = await self._upstream.call(read, deadline_or(LOAD_TIMEOUT_S))
        if not isinstance(outcome, Ok) or outcome.value is None:
            return None
        try:
            entry: Entry[T | None] = self._decode(outcome.value)
        except msgspec.DecodeError:
            return None
        checked_at = time.time()
        stored = await self._purges_stored(entry.tags)
        if stored is None or entry.position < max(stored, self._purges_known(entry.tags)):
            return None
        if self._stream.verified_since() is not None:
            # Valkey knows every purge that was relayed: as of now it is as good as just filled.
            entry.filled_at = checked_at
            return entry
        # While no relay is heard, only youth will do.
        return entry if time.time() - entry.filled_at < UNVERIFIED_TTL_S else None

    async def _to_valkey(self, key: str, entry: Entry[T | None]) -> None:
        ttl_ms = int(self._ttl_s * 1000 * random.uniform(1 - JITTER, 1))  # noqa: S311 - jitter

        async def write(_: Deadline) -> None:
            await self._valkey.set(self._prefix + key, self._encode(entry), px=ttl_ms)

        await self._upstream.call(write, deadline_or(LOAD_TIMEOUT_S))

    def _remember(self, key: str, entry: Entry[T | None], *, ttl_s: float = MEMORY_TTL_S) -> None:
        self._forget(key)
        entry.expires_at = time.monotonic() + ttl_s * random.uniform(1 - JITTER, 1)  # noqa: S311
        entry.size_bytes = ENTRY_BYTES + (0 if entry.value is None else self._size_of(entry.value))
        if entry.size_bytes > MEMORY_BYTES:
            return
        self._make_room(entry.size_bytes)
        self._memory[key] = entry
        self._memory_bytes += entry.size_bytes
        heapq.heappush(self._expiries, (entry.expires_at, key))
        for tag in entry.tags:
            self._keys_by_tag.setdefault(tag, set()).add(key)

    def _make_room(self, size_bytes: int) -> None:
        """Let go of all that has expired, then of what has not been asked for the longest."""
        now = time.monotonic()
        while self._expiries and self._expiries[0][0] <= now:
            expires_at, key = heapq.heappop(self._expiries)
            entry = self._memory.get(key)
            if entry is not None and entry.expires_at == expires_at:
                self._forget(key)
        while self._memory and self._memory_bytes + size_bytes > MEMORY_BYTES:
            self._forget(next(iter(self._memory)))

    def _forget(self, key: str) -> None:
        entry = self._memory.pop(key, None)
        if entry is None:
            return
        self._memory_bytes -= entry.size_bytes
        for tag in entry.tags:
            keys = self._keys_by_tag.get(tag)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._keys_by_tag[tag]
