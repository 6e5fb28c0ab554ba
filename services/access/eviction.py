"""S3-FIFO, bounded in bytes: what is asked for once leaves before what is asked for again.

Yang and others, "FIFO queues are all you need for cache eviction", SOSP 2023. A hit only counts
up to 3 on the entry itself; nothing is moved until memory is needed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

SMALL_SHARE: Final = 0.1  # the paper's; between 5 and 20 % it makes little difference
GHOST_BYTES: Final = 160  # an int and its place in an OrderedDict, measured on CPython 3.11
SMALL, MAIN, OUT = 1, 2, 0


class Entry(Protocol):
    """What is evicted. hits is counted up to 3 by whoever uses the entry."""

    hits: int
    size_bytes: int
    queue: int  # SMALL, MAIN or OUT; written here only


E = TypeVar("E", bound=Entry)


class S3Fifo(Generic[E]):
    """Entries by key, up to memory_bytes in all, ghosts included; on_evict hears of each one."""

    def __init__(self, memory_bytes: int, on_evict: Callable[[bytes, E], None]) -> None:
        self.memory_bytes = memory_bytes
        self.evicted_total = 0
        self._on_evict = on_evict
        self._small: OrderedDict[bytes, E] = OrderedDict()
        self._main: OrderedDict[bytes, E] = OrderedDict()
        self._ghosts: OrderedDict[int, None] = OrderedDict()  # hashes of keys lately evicted
        self._small_bytes = self._main_bytes = 0
        self._small_share_bytes = int(memory_bytes * SMALL_SHARE)

    def __len__(self) -> int:
        return len(self._small) + len(self._main)

    @property
    def bytes_held(self) -> int:
        return self._small_bytes + self._main_bytes + GHOST_BYTES * len(self._ghosts)

    def add(self, key: bytes, entry: E) -> None:
        """Take a new entry in; it may be evicted at once where it does not fit."""
        entry.hits = 0
        ghost = hash(key)
        if ghost in self._ghosts:
            del self._ghosts[ghost]
            self._put_main(key, entry)
        else:
            entry.queue = SMALL
            self._small[key] = entry
            self._small_bytes += entry.size_bytes
        self._make_room()

    def resize(self, entry: E, delta_bytes: int) -> None:
        """An entry has grown or shrunk."""
        entry.size_bytes += delta_bytes
        if entry.queue == SMALL:
            self._small_bytes += delta_bytes
        elif entry.queue == MAIN:
            self._main_bytes += delta_bytes
        if delta_bytes > 0:
            self._make_room()

    def bound(self, memory_bytes: int) -> None:
        """Hold no more than that from now on."""
        self.memory_bytes = memory_bytes
        self._small_share_bytes = int(memory_bytes * SMALL_SHARE)
        self._make_room()

    def remove(self, key: bytes, entry: E) -> None:
        """Take an entry out without on_evict."""
        if entry.queue == SMALL:
            del self._small[key]
            self._small_bytes -= entry.size_bytes
        elif entry.queue == MAIN:
            del self._main[key]
            self._main_bytes -= entry.size_bytes
        entry.queue = OUT

    def _make_room(self) -> None:
        while self.bytes_held > self.memory_bytes and (self._small or self._main):
            if self._small and (self._small_bytes > self._small_share_bytes or not self._main):
                self._leave_small()
            else:
                self._leave_main()

    def _leave_small(self) -> None:
        key, entry = self._small.popitem(last=False)
        self._small_bytes -= entry.size_bytes
        if entry.hits > 1:
            entry.hits = 0
            self._put_main(key, entry)
            return
        self._ghosts[hash(key)] = None
        # As many as there are entries: what comes back later than that is no better than new.
        while len(self._ghosts) > len(self._small) + len(self._main):
            self._ghosts.popitem(last=False)
        self._evict(key, entry)

    def _leave_main(self) -> None:
        key, entry = self._main.popitem(last=False)
        if entry.hits > 0:
            entry.hits -= 1
            self._main[key] = entry
            return
        self._main_bytes -= entry.size_bytes
        self._evict(key, entry)

    def _put_main(self, key: bytes, entry: E) -> None:
        entry.queue = MAIN
        self._main[key] = entry
        self._main_bytes += entry.size_bytes

    def _evict(self, key: bytes, entry: E) -> None:
        entry.queue = OUT
        self.evicted_total += 1
        self._on_evict(key, entry)
