"""One load among several processes, and who may store: each interleaving with the lease by itself.

Two caches of one name are two processes here: they share Valkey and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import cast

import pytest
from redis.asyncio import Redis

from services.data.cache import Cache
from services.data.filling import MISSING_TTL_S
from services.data.lease import LEASE_S
from services.data.loads import Loads
from services.data.sources import Reader
from services.data.store import Store
from services.data.tags import POSITION_KEY
from services.problems import Unavailable
from services.tags import TagSubscriber
from services.upstream import Upstream
from tests.data.caching import FAR, MakeCache, Source, Thing, text_of, things
from tests.faults.waiting import until

WITHIN_S = 5.0
READERS = 1000  # of each process
LOOKS_MAX = 45  # at Valkey in the time of a lease, with the first read and what is read to load


def lease_key(cache: Cache[Thing], key: str = "key") -> str:
    return cache.shared.lease(key).key


def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lease runs out, and nobody gives up waiting: what ends is ended by something else."""
    monkeypatch.setattr("services.data.lease.LEASE_S", 600.0)
    monkeypatch.setattr("services.data.shared.LEASE_S", 600.0)


async def waits(cache: Cache[Thing], count: int = 1) -> None:
    """Until the cache waits for a load that another process is at."""
    await until(
        lambda: cache.counts.lease_waits >= count, within_s=WITHIN_S, what="it waits for the lease"
    )


async def stored(cache: Cache[Thing], valkey: Redis, key: str = "key") -> bytes | None:
    return cast("bytes | None", await valkey.get(cache.shared.prefix + key))


async def is_stored(cache: Cache[Thing], valkey: Redis) -> None:
    async def is_there() -> bool:
        return await stored(cache, valkey) is not None

    await until(is_there, within_s=WITHIN_S, what="the value is in Valkey")


async def is_free(cache: Cache[Thing], valkey: Redis) -> None:
    async def is_gone() -> bool:
        return not await valkey.exists(lease_key(cache))

    await until(is_gone, within_s=WITHIN_S, what="the lease was given back")


@pytest.mark.parametrize("text", ["old", ""])
async def test_two_thousand_readers_in_two_processes_cause_one_load(
    text: str, make_cache: MakeCache
) -> None:
    """Of what is there, and of what is not."""
    source, one, other = Source(text), make_cache(), make_cache()
    source.let_go.clear()
    readers = [
        asyncio.create_task(text_of(cache, source))
        for _ in range(READERS)
        for cache in (one, other)
    ]
    await source.reading.wait()
    loader, waiter = (one, other) if one.counts.loads else (other, one)
    await waits(waiter)
    source.let_go.set()
    assert await asyncio.gather(*readers) == [text or None] * 2 * READERS
    assert source.loads == 1
    assert (loader.counts.loads, waiter.counts.loads, waiter.counts.lease_hits) == (1, 0, 1)


async def test_the_lease_is_given_back_with_the_value(cache: Cache[Thing], valkey: Redis) -> None:
    await text_of(cache, Source())
    await is_stored(cache, valkey)
    assert not await valkey.exists(lease_key(cache))


async def test_what_another_process_found_missing_is_not_remembered_longer_for_it(
    make_cache: MakeCache,
) -> None:
    source, one, other = Source(text=""), make_cache(), make_cache()
    began_at = time.monotonic()
    assert await text_of(one, source) is None
    await asyncio.sleep(MISSING_TTL_S / 2)
    assert await text_of(other, source) is None
    source.text = "new"

    async def is_found() -> bool:
        return await text_of(other, source) == "new"

    await until(is_found, within_s=WITHIN_S, what="a new thing is found")
    assert time.monotonic() - began_at < 1.5 * MISSING_TTL_S
    assert source.loads == 2


async def test_who_waits_for_a_process_that_died_loads_when_the_lease_has_run_out(
    make_cache: MakeCache, valkey: Redis
) -> None:
    source, dead, other = Source(), make_cache(), make_cache()
    assert await dead.shared.lease("key").take()
    began_at = time.monotonic()
    assert await text_of(other, source) == "old"
    took_s = time.monotonic() - began_at
    assert 0.5 * LEASE_S < took_s < 3 * LEASE_S
    assert other.shared._valkey.reads < LOOKS_MAX
    await is_stored(other, valkey)  # by the lease that it took then


async def test_who_waits_for_a_load_that_fails_loads_at_once(
    make_cache: MakeCache, valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless(monkeypatch)
    source, one, other = Source(), make_cache(), make_cache()
    failing = asyncio.Event()

    async def fail(_: Reader) -> tuple[Thing, Sequence[str]] | None:
        await failing.wait()
        raise Unavailable

    first = asyncio.create_task(one.get("key", fail))
    await until(lambda: one.counts.loads == 1, within_s=WITHIN_S, what="the first one loads")
    second = asyncio.create_task(text_of(other, source))
    await waits(other)
    failing.set()
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(Unavailable):
            await first
        assert await second == "old"
    assert (one.counts.failures, other.counts.loads) == (1, 1)


async def test_who_waits_for_what_is_not_to_be_kept_loads_by_itself(
    make_cache: MakeCache, valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless(monkeypatch)
    source, one, other = Source(), make_cache(), make_cache()
    source.let_go.clear()
    first = asyncio.create_task(one.get("key", source.load, keep=lambda _: False))
    await source.reading.wait()
    second = asyncio.create_task(other.get("key", source.load, keep=lambda _: False))
    await waits(other)
    source.let_go.set()
    async with asyncio.timeout(WITHIN_S):
        found = [await first, await second]
    assert [one and one.value for one in found] == [Thing("old")] * 2
    assert source.loads == 2
    assert await stored(one, valkey) is None
    await is_free(other, valkey)


async def test_who_was_too_slow_can_not_put_its_old_value_over_a_new_one(
    make_cache: MakeCache, valkey: Redis
) -> None:
    slow_source, source, slow, other = Source(), Source(), make_cache(), make_cache()
    slow_source.let_go.clear()
    late = asyncio.create_task(text_of(slow, slow_source))
    await slow_source.reading.wait()  # it has read "old", and holds the lease
    await valkey.delete(lease_key(slow))  # which runs out
    source.text = "new"
    assert await text_of(other, source) == "new"
    await is_stored(other, valkey)
    before = await stored(other, valkey)
    slow_source.let_go.set()
    await late
    await slow.settled()
    assert await stored(other, valkey) == before


async def test_who_read_before_valkey_was_emptied_stores_nothing_after_it(
    make_cache: MakeCache, valkey: Redis, stream: TagSubscriber
) -> None:
    """With the lease the positions of purges are gone too: nobody could tell that it is old."""
    source, slow, later = Source(), make_cache(), make_cache()
    source.let_go.clear()
    late = asyncio.create_task(text_of(slow, source))
    await source.reading.wait()
    source.text = "new"
    await valkey.set(POSITION_KEY + source.tag, FAR)  # which the slow one does not hear of
    await valkey.delete(lease_key(slow), POSITION_KEY + source.tag)  # as FLUSHALL does
    source.let_go.set()
    await late
    await slow.settled()
    assert await text_of(later, source) == "new"


async def test_a_lease_of_another_is_neither_given_back_nor_stored_under(
    make_cache: MakeCache, valkey: Redis
) -> None:
    cache = make_cache()
    first, second = cache.shared.lease("key"), cache.shared.lease("key")
    assert await first.take() is True
    assert await second.take() is False
    await second.release()
    assert await second.store("elsewhere", b"x", ttl_ms=1000) is False
    await valkey.delete(lease_key(cache))
    assert await second.take() is True
    await first.release()
    assert await first.store("elsewhere", b"x", ttl_ms=1000) is False
    assert await valkey.exists(lease_key(cache))
    assert not await valkey.exists("elsewhere")


async def test_who_comes_after_a_purge_does_not_take_what_another_process_read_before_it(
    make_cache: MakeCache, store: Store, stream: TagSubscriber, valkey: Redis
) -> None:
    """The purge comes while one process loads and the other waits for it."""
    source, one, other = Source(), make_cache(), make_cache()
    source.let_go.clear()
    first = asyncio.create_task(text_of(one, source))
    await source.reading.wait()
    second = asyncio.create_task(text_of(other, source))
    await waits(other)
    source.text = "new"
    await valkey.set(POSITION_KEY + source.tag, FAR)  # stored, and told to nobody yet
    source.let_go.set()
    assert await second == "new"
    assert await first == "new"
    assert source.loads == 2  # the one that loads has found out, and gives the new one to both


async def test_who_needs_more_than_the_other_process_stores_loads_by_itself(
    make_cache: MakeCache,
) -> None:
    source, one, other = Source(), make_cache(), make_cache()
    source.let_go.clear()
    first = asyncio.create_task(text_of(one, source))
    await source.reading.wait()
    source.text = "new"
    second = asyncio.create_task(text_of(other, source, needed=FAR))
    await waits(other)
    source.let_go.set()
    assert await first == "old"
    assert await second == "new"
    assert source.loads == 2


async def test_without_valkey_there_is_no_lease_and_each_process_loads(
    store: Store, stream: TagSubscriber
) -> None:
    nobody = Redis.from_url("redis://127.0.0.1:1", socket_connect_timeout=0.05)
    source, caches = Source(), list[Cache[Thing]]()
    for _ in range(2):
        upstream = Upstream("valkey", timeout_s=0.05, max_concurrent=64)
        caches.append(things(store, stream, nobody, upstream=upstream))
    texts = await asyncio.gather(*(text_of(cache, source) for cache in caches * 100))
    assert texts == ["old"] * 200
    assert source.loads == 2
    await nobody.aclose()


async def test_a_valkey_that_is_lost_while_waiting_is_waited_for_no_longer(
    make_cache: MakeCache,
    store: Store,
    stream: TagSubscriber,
    valkey: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, one = Source(), make_cache()
    upstream = Upstream("valkey", timeout_s=0.2, max_concurrent=64)
    other = things(store, stream, valkey, name=one.name, upstream=upstream)
    endless(monkeypatch)
    assert await one.shared.lease("key").take()
    second = asyncio.create_task(text_of(other, source))
    await waits(other)
    upstream.breaker.open()
    async with asyncio.timeout(WITHIN_S):
        assert await second == "old"


async def test_a_lease_is_taken_by_who_loads_and_not_by_who_waits_for_a_place(
    make_cache: MakeCache, store: Store, stream: TagSubscriber, valkey: Redis
) -> None:
    """Else it would run out in the line, and keep other processes from loading meanwhile."""
    loads, other = Loads(1), make_cache()
    crowded = things(store, stream, valkey, name=other.name, loads=loads)
    first, second = Source(), Source()
    first.let_go.clear()
    running = asyncio.create_task(text_of(crowded, first, key="first"))
    await first.reading.wait()
    waiting = asyncio.create_task(text_of(crowded, second, key="second"))
    await until(lambda: loads.waiting == 1, within_s=WITHIN_S, what="the second one waits")
    assert await text_of(other, second, key="second") == "old"
    await other.settled()
    first.let_go.set()
    assert [await running, await waiting] == ["old", "old"]
    assert second.loads == 1  # while it waited, another process has loaded it
