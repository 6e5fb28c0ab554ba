"""A relay that is heard and has nothing to tell, as in normal operation: what is held is sure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from redis.asyncio import Redis

from services.data.tags import TagPublisher
from services.tags import HEARTBEAT_S

RELAY: Final = "benchmark"
POSITION: Final = 1  # in bytes of WAL: behind nothing


@asynccontextmanager
async def beating(valkey: Redis) -> AsyncIterator[None]:
    """Beat until the end.

    valkey: connections that nobody else uses. Behind 64 callers who want 16 of them heartbeats came
    late, and from then on pages were checked as by a new process, by two reads each.
    """
    publisher = TagPublisher(valkey, RELAY)

    async def beat() -> None:
        while True:
            await publisher.publish([], POSITION)
            await asyncio.sleep(HEARTBEAT_S)

    heart = asyncio.create_task(beat())
    try:
        yield
    finally:
        heart.cancel()
        await asyncio.gather(heart, return_exceptions=True)
