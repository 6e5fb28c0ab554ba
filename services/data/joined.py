"""Reads of Valkey that go together: what is asked for in one turn of the loop is one MGET."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar, cast

from redis.asyncio import Redis

from services.deadline import Deadline
from services.upstream import Ok, Upstream

T = TypeVar("T")
Values = list[bytes | None]

# Some 2 MB of pages: what Valkey answers within a millisecond, and nobody else waits for long.
KEYS_AT_ONCE: Final = 512


class _Batch:
    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self.waiters: list[asyncio.Future[Values | None]] = []


class JoinedValkey:
    """Valkey within its limits, for all caches of a process.

    Nothing here raises for a Valkey that is away, slow or full: the answer is None then, and the
    caller goes on without. A batch takes what is there and never waits for more.
    """

    def __init__(self, valkey: Redis, upstream: Upstream) -> None:
        self._valkey = valkey
        self._upstream = upstream
        self._batch: _Batch | None = None
        self._running: set[asyncio.Task[None]] = set()
        self.batches = 0
        self.reads = 0

    async def get(self, keys: Sequence[str]) -> Values | None:
        """The values in the order of their keys, None for one that is not there."""
        loop = asyncio.get_running_loop()
        batch = self._batch
        if batch is None:
            batch = self._batch = _Batch()
            loop.call_soon(self._send, batch)
        places = [batch.places.setdefault(key, len(batch.places)) for key in keys]
        waiter: asyncio.Future[Values | None] = loop.create_future()
        batch.waiters.append(waiter)
        self.reads += 1
        if len(batch.places) >= KEYS_AT_ONCE:
            self._batch = None  # the next one begins another
        values = await waiter
        return None if values is None else [values[place] for place in places]

    async def call(self, work: Callable[[Redis], Awaitable[T]]) -> T | None:
        """What `work` returns; None where Valkey is away or says no, as a full one does."""

        async def run(_: Deadline) -> T:
            return await work(self._valkey)

        outcome = await self._upstream.call(run, self._deadline())
        return outcome.value if isinstance(outcome, Ok) else None

    def _send(self, batch: _Batch) -> None:
        if self._batch is batch:
            self._batch = None
        task = asyncio.create_task(self._run(batch))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, batch: _Batch) -> None:
        self.batches += 1
        keys = list(batch.places)
        values: Values | None = None
        try:
            values = await self.call(partial(_mget, keys))
        finally:
            for waiter in batch.waiters:
                if not waiter.done():
                    waiter.set_result(values)

    def _deadline(self) -> Deadline:
        # Not that of the request that came first: the others may have more time.
        return Deadline.after(self._upstream.timeout_s)


async def _mget(keys: list[str], valkey: Redis) -> Values:
    return cast("Values", await valkey.mget(keys))
