"""What a process holds of a cache by itself: bounded in bytes, found by key and by tag."""

from __future__ import annotations

import heapq
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

import msgspec

T = TypeVar("T")

MEMORY_BYTES: Final = 32 * 2**20  # about 8,000 pages of 3 KB, or 1,300 lists of 24 KB
ENTRY_BYTES: Final = 1024  # key, etag, tags, and what finds them again: 986 were measured
JITTER: Final = 0.1  # what was filled together does not expire together
STALE_S: Final = 10.0  # past its time a value is shown that much longer, while it is loaded anew
PURGES_KEPT: Final = 10_000


class Entry(msgspec.Struct, Generic[T]):
    """A value with where and when it was read: position in bytes of WAL, times in seconds.

    filled_at, when it was read or last found to be behind no purge, is the wall clock, because it
    crosses processes. What follows is this process' own: read_at is the same moment, and expires_at
    the end of its lifetime, both monotonic; size_bytes is what it takes of MEMORY_BYTES.
    """

    value: T
    tags: list[str]
    position: int
    filled_at: float
    read_at: float = 0.0
    expires_at: float = 0.0
    size_bytes: int = 0


class Memory(Generic[T]):
    """Entries by key, and the purges of their tags.

    size_of: about how many bytes a value takes; limit_bytes: of all, MEMORY_BYTES by default.
    """

    def __init__(self, size_of: Callable[[T], int], limit_bytes: int | None = None) -> None:
        self._limit_bytes = limit_bytes
        self.entries: OrderedDict[str, Entry[T | None]] = OrderedDict()
        self.size_bytes = 0
        self._size_of = size_of
        self._expiries: list[tuple[float, str]] = []  # a heap; also of what is gone already
        self._keys_by_tag: dict[str, set[str]] = {}
        self._purged: OrderedDict[str, int] = OrderedDict()
        self.forgotten_position = 0  # of purges up to this, some are not remembered any more

    def keep(self, key: str, entry: Entry[T | None], ttl_s: float) -> None:
        self.forget(key)
        now = time.monotonic()
        entry.read_at = now - max(0.0, time.time() - entry.filled_at)
        entry.expires_at = now + ttl_s * random.uniform(1 - JITTER, 1)  # noqa: S311 - jitter
        entry.size_bytes = ENTRY_BYTES + (0 if entry.value is None else self._size_of(entry.value))
        if entry.size_bytes > self._limit():
            return
        self._make_room(entry.size_bytes)
        self.entries[key] = entry
        self.size_bytes += entry.size_bytes
        heapq.heappush(self._expiries, (entry.expires_at, key))
        for tag in entry.tags:
            self._keys_by_tag.setdefault(tag, set()).add(key)

    def purge(self, tags: Sequence[str], position: int) -> None:
        """Drop what carries one of the tags, and remember up to where it is old."""
        for tag in tags:
            self._purged[tag] = max(position, self._purged.pop(tag, 0))
            for key in self._keys_by_tag.pop(tag, ()):
                self.forget(key)
        while len(self._purged) > PURGES_KEPT:
            _, forgotten = self._purged.popitem(last=False)
            self.forgotten_position = max(self.forgotten_position, forgotten)

    def purged(self, tags: Sequence[str]) -> int:
        """The newest purge of the tags that this process has heard of, in bytes of WAL."""
        return max((self._purged.get(tag, 0) for tag in tags), default=0)

    def forget(self, key: str) -> None:
        entry = self.entries.pop(key, None)
        if entry is None:
            return
        self.size_bytes -= entry.size_bytes
        for tag in entry.tags:
            keys = self._keys_by_tag.get(tag)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._keys_by_tag[tag]

    def clear(self) -> None:
        """Forget all values, and no purge: as a process that has just started, and has heard."""
        self.entries.clear()
        self._keys_by_tag.clear()
        self._expiries.clear()
        self.size_bytes = 0

    def _limit(self) -> int:
        return MEMORY_BYTES if self._limit_bytes is None else self._limit_bytes

    def _make_room(self, size_bytes: int) -> None:
        """Let go of all that can not be shown any more; where that is not enough, of what has
        expired, and then of what has not been asked for the longest."""
        now = time.monotonic()
        self._forget_expired(now - STALE_S)
        if self.size_bytes + size_bytes > self._limit():
            self._forget_expired(now)
        while self.entries and self.size_bytes + size_bytes > self._limit():
            self.forget(next(iter(self.entries)))

    def _forget_expired(self, by: float) -> None:
        while self._expiries and self._expiries[0][0] <= by:
            expires_at, key = heapq.heappop(self._expiries)
            entry = self.entries.get(key)
            if entry is not None and entry.expires_at == expires_at:
                self.forget(key)
