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
Answered = Callable[[Values | None], None]

# Some 2 MB of pages: what Valkey answers within a millisecond, and nobody else waits for long.
KEYS_AT_ONCE: Final = 512
# Every eighth part of a call's longest time (40 ms: 5 ms) it is seen whether anything was answered.
# By the second look in vain an answer is ten times as late as it ever is on a machine with room.
LOOKS: Final = 8
LOOKS_IN_VAIN: Final = 2


class _Batch:
    """The keys that are asked for and their places; who asked, and which of them he gets."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self.asked: list[tuple[list[int], Answered]] = []

    def tell(self, values: Values | None) -> None:
        """Once: who has had his answer is not told again."""
        asked, self.asked = self.asked, []
        for places, answered in asked:
            answered(None if values is None else [values[place] for place in places])


class JoinedValkey:
    """Valkey within its limits, for all caches of a process.

    Nothing here raises for a Valkey that is away, slow or full: the answer is None then, and the
    caller goes on without. A batch takes what is there and never waits for more.

    silent: something was asked and nothing is answered, for longer than it ever takes. Then who
    comes goes on without at once. What he asks for is asked for all the same: that finds out when
    it is over, and has the breaker open. So only those wait who came before it was known.
    """

    def __init__(self, valkey: Redis, upstream: Upstream) -> None:
        self._valkey = valkey
        self._upstream = upstream
        self._batch: _Batch | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._looking = False
        self._heard = False  # since the last look
        self._in_vain = 0  # looks, one after the other
        self.silent = False
        self.batches = 0
        self.reads = 0

    async def get(self, keys: Sequence[str]) -> Values | None:
        """The values in the order of their keys, None for one that is not there."""
        waiter: asyncio.Future[Values | None] = asyncio.get_running_loop().create_future()
        self.ask(keys, partial(_tell, waiter))
        return await waiter

    def ask(self, keys: Sequence[str], answered: Answered) -> None:
        """The same for who has something to do with the answer at once, in the loop's same turn.

        answered must not raise. It is called in no context in particular.
        """
        batch = self._batch
        if batch is None:
            batch = self._batch = _Batch()
            asyncio.get_running_loop().call_soon(self._send, batch)
        places = batch.places
        batch.asked.append(([places.setdefault(key, len(places)) for key in keys], answered))
        self.reads += 1
        if len(places) >= KEYS_AT_ONCE:
            self._batch = None  # the next one begins another

    async def call(self, work: Callable[[Redis], Awaitable[T]]) -> T | None:
        """What `work` returns; None where Valkey is away or says no, as a full one does."""

        async def run(_: Deadline) -> T:
            return await work(self._valkey)

        outcome = await self._upstream.call(run, self._deadline())
        return outcome.value if isinstance(outcome, Ok) else None

    def _send(self, batch: _Batch) -> None:
        if self._batch is batch:
            self._batch = None
        if self.silent:
            batch.tell(None)
        if not self._looking:
            self._looking, self._heard, self._in_vain = True, False, 0
            self._look_later()
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
            if values is not None:
                self._heard, self.silent = True, False
            batch.tell(values)

    def _look(self) -> None:
        """See whether anything was answered since the last look, while anything is asked for.

        A loop that stood still itself finds what was answered meanwhile before the next look.
        """
        self._in_vain = 0 if self._heard else self._in_vain + 1
        self._heard = False
        self._looking = bool(self._running)
        if self._looking:
            self.silent = self.silent or self._in_vain >= LOOKS_IN_VAIN
            self._look_later()

    def _look_later(self) -> None:
        asyncio.get_running_loop().call_later(self._upstream.timeout_s / LOOKS, self._look)

    def _deadline(self) -> Deadline:
        # Not that of the request that came first: the others may have more time.
        return Deadline.after(self._upstream.timeout_s)


def _tell(waiter: asyncio.Future[Values | None], values: Values | None) -> None:
    if not waiter.done():
        waiter.set_result(values)


async def _mget(keys: list[str], valkey: Redis) -> Values:
    return cast("Values", await valkey.mget(keys))
