"""What is past its time: shown while it is loaded anew, for a while, and never behind a purge."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from services.data.cache import Cache
from services.data.memory import STALE_S
from services.data.shared import UNVERIFIED_TTL_S
from services.data.store import Store
from services.problems import Unavailable
from services.tags import TagSubscriber
from services.upstream import Upstream
from tests.data.caching import FAR, MakeCache, Source, Thing, expire, heard, text_of, things
from tests.faults.waiting import until

WITHIN_S = 5.0
READERS = 500


async def gone_from_valkey(valkey: Redis, cache: Cache[Thing], key: str = "key") -> None:
    await cache.settled()
    await valkey.delete(cache.shared.prefix + key)


async def expired(valkey: Redis, cache: Cache[Thing], source: Source) -> None:
    """The value is in memory, past its time, and nowhere else; its next load is held up."""
    assert await text_of(cache, source) == "old"
    await gone_from_valkey(valkey, cache)
    expire(cache)
    source.text = "new"
    source.let_go.clear()
    source.reading.clear()


async def is_new(cache: Cache[Thing], source: Source) -> None:
    async def is_shown() -> bool:
        return await text_of(cache, source) == "new"

    await until(is_shown, within_s=WITHIN_S, what="the new value is shown")


async def test_five_hundred_readers_of_an_expired_value_wait_for_nothing_and_cause_one_load(
    cache: Cache[Thing], valkey: Redis
) -> None:
    source = Source()
    await expired(valkey, cache, source)
    shown = await asyncio.gather(*(text_of(cache, source) for _ in range(READERS)))
    assert shown == ["old"] * READERS
    await source.reading.wait()
    assert source.loads == 2
    assert cache.counts.stale == READERS
    source.let_go.set()
    await is_new(cache, source)
    assert source.loads == 2


async def test_a_purge_while_it_is_loaded_anew_ends_that_it_is_shown(
    cache: Cache[Thing], valkey: Redis, stream: TagSubscriber
) -> None:
    source = Source()
    await expired(valkey, cache, source)
    assert await text_of(cache, source) == "old"
    await source.reading.wait()
    source.text = "newer"
    heard(stream, source.tag, position=FAR, sequence=2)
    after = asyncio.create_task(text_of(cache, source))
    await asyncio.sleep(0)
    assert not after.done()
    source.let_go.set()
    assert await after == "newer"


async def test_a_purge_in_the_turn_in_which_a_load_ends_is_heeded(
    store: Store, valkey: Redis, stream: TagSubscriber
) -> None:
    """Its task is done and not yet put away: it is nothing to join any more."""
    loop, source = asyncio.get_running_loop(), Source()
    upstream = Upstream("valkey", timeout_s=1.0, max_concurrent=64)
    upstream.breaker.open()  # so that nothing is waited for between the load and its end
    cache = things(store, stream, valkey, upstream=upstream)
    source.let_go.clear()
    first = asyncio.create_task(text_of(cache, source))
    await source.reading.wait()
    task = cache._loading["key"].task
    assert task is not None
    source.text = "new"
    source.let_go.set()  # in the next turn the load ends; and these come in the same one
    done: list[bool] = []
    loop.call_soon(lambda: done.append(task.done()))
    loop.call_soon(lambda: heard(stream, source.tag, position=FAR, sequence=2))
    late = asyncio.create_task(text_of(cache, source))
    assert await late == "new"
    assert done == [True]
    await first


async def test_what_a_reader_needs_newer_is_not_shown_old(
    cache: Cache[Thing], valkey: Redis
) -> None:
    source = Source()
    await expired(valkey, cache, source)
    reading = asyncio.create_task(text_of(cache, source, needed=FAR))
    await source.reading.wait()
    source.let_go.set()
    assert await reading == "new"


async def test_while_no_relay_is_heard_nothing_old_is_shown(store: Store, valkey: Redis) -> None:
    cache, source = things(store, TagSubscriber(valkey), valkey), Source()
    await expired(valkey, cache, source)
    assert await text_of(cache, source) == "old"  # it is young
    cache.memory.entries["key"].read_at -= UNVERIFIED_TTL_S
    source.let_go.set()
    assert await text_of(cache, source) == "new"


async def test_it_is_not_shown_for_ever(cache: Cache[Thing], valkey: Redis) -> None:
    source = Source()
    await expired(valkey, cache, source)
    expire(cache, by_s=STALE_S)
    source.let_go.set()
    assert await text_of(cache, source) == "new"


async def test_that_something_is_missing_is_not_shown_past_its_time(
    cache: Cache[Thing], valkey: Redis
) -> None:
    source = Source(text="")
    assert await text_of(cache, source) is None
    await gone_from_valkey(valkey, cache)
    expire(cache)
    source.text = "new"
    assert await text_of(cache, source) == "new"


async def test_it_is_shown_while_it_can_not_be_loaded(
    make_cache: MakeCache, valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, cache = Source(), make_cache()
    await expired(valkey, cache, source)

    async def fail(_: object) -> None:
        raise Unavailable

    monkeypatch.setattr(source, "load", fail)
    for count in range(1, 4):
        assert await text_of(cache, source) == "old"
        await until(
            lambda: cache.counts.failures == count,  # noqa: B023 - asked before the next round
            within_s=WITHIN_S,
            what="a load has failed",
        )
