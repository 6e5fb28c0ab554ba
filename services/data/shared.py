"""The values of a cache in Valkey, where all processes share them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final, Generic, TypeVar

import msgspec

from services.data.joined import Answered, JoinedValkey
from services.data.lease import LEASE_S, Lease
from services.data.memory import JITTER, Entry, Memory
from services.data.tags import POSITION_KEY
from services.tags import TagSubscriber

T = TypeVar("T")

UNVERIFIED_TTL_S: Final = 1.0  # how long a value is used while the tag stream is not to be trusted
# What was filled so long after this process began to hear purges can not be behind one that was
# told before: its node may have been 1 s behind, as it was seen 0.6 s before, and clocks differ.
SETTLED_S: Final = 3.0
# Who waits for another process looks again when a fifth more of the time is over, so his value is
# late by a fifth of what it took at the most. The first time is when a quick load may be over: to
# look sooner finds nothing, and takes CPU time from who loads. A whole lease is some 25 looks.
LOOK_FIRST_S: Final = 0.004
LOOK_AGAIN: Final = 0.2


class Away(Exception):
    """Valkey can not be asked now."""


class Shared(Generic[T]):
    """Entries under prefix and key. An entry that is, or may be, behind a purge is as none."""

    def __init__(
        self,
        prefix: str,
        kind: type[T],
        *,
        valkey: JoinedValkey,
        stream: TagSubscriber,
        memory: Memory[T],
    ) -> None:
        self.prefix = f"tercet:{prefix}"
        self._lease_prefix = f"tercet:lease:{prefix}"
        self._valkey = valkey
        self._stream = stream
        self._memory = memory
        self._decode = msgspec.msgpack.Decoder(Entry[kind | None]).decode  # type: ignore[valid-type]
        self._encode = msgspec.msgpack.Encoder().encode

    async def get(self, key: str) -> Entry[T | None] | None:
        """The entry, if it will do; raises Away."""
        (stored,) = await self._read([self.prefix + key])
        return None if stored is None else await self.checked(stored)

    def ask(self, key: str, answered: Answered) -> None:
        """Have `answered` called with what is stored: `sure` and `checked` tell if it will do."""
        self._valkey.ask([self.prefix + key], answered)

    def sure(self, stored: bytes) -> Entry[T | None] | None:
        """The entry, if what this process has heard is enough to know that it will do."""
        entry, now = self._decoded(stored), time.time()
        if entry is None or not self._has_heard_all_since(entry, now):
            return None
        return self._current(entry, now)

    def lease(self, key: str) -> Lease:
        return Lease(self._valkey, self._lease_key(key))

    async def wait(self, key: str, needed: int) -> Entry[T | None] | None:
        """What the process that has the lease stores; raises Away.

        None once it has given the lease back, or lost it, without an entry that will do.
        """
        keys = [self._lease_key(key), self.prefix + key]
        began_at = time.monotonic()
        seen: bytes | None = None
        while True:
            held, stored = await self._read(keys)
            if stored is not None and stored != seen:
                seen = stored
                entry = await self.checked(stored)
                if entry is not None and entry.position >= needed:
                    return entry
            waited_s = time.monotonic() - began_at
            if held is None or waited_s >= LEASE_S:
                return None
            await asyncio.sleep(max(LOOK_FIRST_S - waited_s, LOOK_AGAIN * waited_s))

    async def put(self, key: str, entry: Entry[T | None], lease: Lease, ttl_s: float) -> bool:
        """Store what the holder of the lease has loaded; False where it has lost the lease."""
        ttl_ms = int(ttl_s * 1000 * random.uniform(1 - JITTER, 1))  # noqa: S311 - jitter
        return await lease.store(self.prefix + key, self._encode(entry), ttl_ms=ttl_ms)

    async def purged(self, tags: Sequence[str]) -> int:
        """The newest purge of the tags that Valkey knows of, in bytes of WAL; raises Away."""
        if not tags:
            return 0
        positions = await self._read([POSITION_KEY + tag for tag in tags])
        return max((int(position) for position in positions if position), default=0)

    async def checked(self, stored: bytes) -> Entry[T | None] | None:
        """The entry, if it will do: Valkey is asked for purges where they may be unheard.

        Raises Away.
        """
        entry = self._decoded(stored)
        if entry is None:
            return None
        checked_at = time.time()
        all_heard = self._has_heard_all_since(entry, checked_at)
        if not all_heard and entry.position < await self.purged(entry.tags):
            return None
        return self._current(entry, checked_at)

    def _decoded(self, stored: bytes) -> Entry[T | None] | None:
        try:
            entry: Entry[T | None] = self._decode(stored)
        except msgspec.DecodeError:
            return None
        return entry

    def _current(self, entry: Entry[T | None], checked_at: float) -> Entry[T | None] | None:
        """The entry, unless this process knows of a purge; nothing is waited for after that.

        checked_at: before it was asked for purges, wall clock.
        """
        if entry.position < self._memory.purged(entry.tags):
            return None
        if self._stream.verified_since() is not None:
            # Valkey knows every purge that was relayed: as of now it is as good as just filled.
            if entry.value is not None:
                entry.filled_at = checked_at
            return entry
        # While no relay is heard, only youth will do.
        return entry if time.time() - entry.filled_at < UNVERIFIED_TTL_S else None

    def _has_heard_all_since(self, entry: Entry[T | None], now: float) -> bool:
        """Whether every purge that could make it old was told to this process; now: wall clock.

        Then Valkey need not be asked for them: half of the reads.
        """
        stream = self._stream
        monotonic_now = time.monotonic()
        heard_s = monotonic_now - stream.sure_since
        if heard_s < SETTLED_S or monotonic_now >= stream.silent_at:
            return False
        if entry.position < self._memory.forgotten_position:
            return False
        return now - entry.filled_at < heard_s - SETTLED_S

    async def _read(self, keys: list[str]) -> list[bytes | None]:
        values = await self._valkey.get(keys)
        if values is None:
            raise Away
        return values

    def _lease_key(self, key: str) -> str:
        return self._lease_prefix + key
