"""A lease on a key in Valkey: which process loads a value that none of them has.

Whoever holds it stores what it loaded, and nobody else does: a process that was too slow, or whose
lease was lost with everything else in Valkey, has no say any more (Nishtala et al., Scaling
Memcache at Facebook, NSDI 2013). Only GET, SET and DEL are used, so Redis 7 can do it too.
"""

from __future__ import annotations

from typing import Final
from uuid import uuid4

from redis.asyncio import Redis

from services.data.joined import JoinedValkey

# Longer than a page takes at its slowest (its optional parts are given up after 0.25 s), and the
# longest that readers in other processes wait for one that was killed.
LEASE_S: Final = 0.5

STORE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[1])
return 1
"""
RELEASE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""


class Lease:
    """The right to load one value and store it; once taken, it ends by itself LEASE_S later."""

    def __init__(self, valkey: JoinedValkey, key: str) -> None:
        self.key = key
        self._valkey = valkey
        self._token = uuid4().hex
        self._taken = False

    async def take(self) -> bool | None:
        """Whether it is ours now; False where another process has it, None where none can be had:
        Valkey is away or full."""

        async def run(valkey: Redis) -> bool:
            px = int(LEASE_S * 1000)
            return bool(await valkey.set(self.key, self._token, nx=True, px=px))

        taken = await self._valkey.call(run)
        self._taken = bool(taken)
        return taken

    async def store(self, key: str, value: bytes, *, ttl_ms: int) -> bool:
        """Set the value and give the lease back at once; False where it is not ours any more."""
        if not self._taken:
            return False

        async def run(valkey: Redis) -> bool:
            arguments = (self.key, key, self._token, value, ttl_ms)
            return bool(await valkey.eval(STORE, 2, *arguments))

        return bool(await self._valkey.call(run))

    async def release(self) -> None:
        """Give it back without a value: who waits for one loads it himself."""
        if not self._taken:
            return

        async def run(valkey: Redis) -> None:
            await valkey.eval(RELEASE, 1, self.key, self._token)

        await self._valkey.call(run)
