"""How quick the cache is: a page from process memory, and pages from Valkey against plain GETs.

For `make bench-data`. The pages are of the size of the sample catalog's, and real otherwise: the
same classes, limits and position rule as in a request, on a running stack.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final
from uuid import uuid4

from redis.asyncio import Redis

from services.business.shop import Shop
from services.data.cache import Cache
from services.data.pages import Page, page
from services.data.sources import Reader

BODY_BYTES: Final = 3000
CALLERS: Final = 64  # as many as the point reads of the other rows
HITS: Final = 200_000
ROUNDS: Final = 100


async def load(_: Reader) -> tuple[Page, Sequence[str]] | None:
    tag = f"product-{uuid4()}"
    return page(b"x" * BODY_BYTES, [tag]), [tag]


async def memory_hit_us(cache: Cache[Page]) -> float:
    """Microseconds that a load from process memory takes, by `get`, awaited as a handler does."""
    key = uuid4().hex
    await cache.get(key, load)
    began_at = time.perf_counter()
    for _ in range(HITS):
        await cache.get(key, load)
    return 1e6 * (time.perf_counter() - began_at) / HITS


async def valkey_loads_per_s(cache: Cache[Page]) -> float:
    """Loads a second from Valkey, by CALLERS at the same time; memory is emptied each time."""
    keys = [uuid4().hex for _ in range(CALLERS)]
    await asyncio.gather(*(cache.get(key, load) for key in keys))
    await cache.settled()
    loads, took_s = cache.counts.loads, 0.0
    for _ in range(ROUNDS):
        cache.memory.clear()
        began_at = time.perf_counter()
        await asyncio.gather(*(cache.get(key, load) for key in keys))
        took_s += time.perf_counter() - began_at
    if cache.counts.loads != loads:
        raise RuntimeError("some of it came from the database: Valkey was too slow")
    return CALLERS * ROUNDS / took_s


async def plain_gets_per_s(valkey: Redis) -> float:
    """The yardstick: one redis-py GET a call, of as many bytes, by as many callers."""
    keys = [f"bench:{uuid4().hex}" for _ in range(CALLERS)]
    for key in keys:
        await valkey.set(key, b"x" * BODY_BYTES, px=60_000)
    took_s = 0.0
    for _ in range(ROUNDS):
        began_at = time.perf_counter()
        await asyncio.gather(*(valkey.get(key) for key in keys))
        took_s += time.perf_counter() - began_at
    return CALLERS * ROUNDS / took_s


async def ready(shop: Shop) -> None:
    """Until changes are heard of: before that a page is asked for again each second."""
    while shop.store.tags.verified_since() is None:  # noqa: ASYNC110 - it has no event for it
        await asyncio.sleep(0.01)
