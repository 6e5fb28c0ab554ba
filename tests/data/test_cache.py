"""The cache's rules, one interleaving at a time: loads that wait, purges that come in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest
from redis.asyncio import Redis

from services.consistency import Seen
from services.data.cache import Cache
from services.data.filling import RELOADS
from services.data.memory import Entry
from services.data.session import Session, current_session
from services.data.shared import SETTLED_S, UNVERIFIED_TTL_S
from services.data.sources import Reader
from services.data.store import Store
from services.data.tags import POSITION_KEY
from services.deadline import Deadline, current_deadline
from services.problems import GatewayTimeout, Unavailable
from services.tags import TagSubscriber
from services.upstream import Upstream
from tests.data.caching import FAR, MakeCache, Source, Thing, heard, text_of, things
from tests.faults.waiting import until

READERS = 200
LOADED_WITHIN_S = 15.0  # a heartbeat of the standby and a watch, on a machine that is busy


async def settle_positions(store: Store) -> int:
    """A position that every server has passed, as the watch has seen it."""
    position = store.database.primary.position

    def passed() -> bool:
        servers = (store.database.primary, *store.database.replicas)
        return min(server.position for server in servers) >= position > 0

    await until(passed, within_s=LOADED_WITHIN_S, what="the servers' positions are known")
    return position


async def test_two_hundred_readers_of_a_cold_key_cause_one_load(cache: Cache[Thing]) -> None:
    source = Source()
    source.let_go.clear()
    readers = [asyncio.create_task(text_of(cache, source)) for _ in range(READERS)]
    await source.reading.wait()
    source.let_go.set()
    assert await asyncio.gather(*readers) == ["old"] * READERS
    assert source.loads == 1


async def test_a_reader_that_gives_up_does_not_take_the_load_away(cache: Cache[Thing]) -> None:
    source = Source()
    source.let_go.clear()
    impatient = asyncio.create_task(text_of(cache, source))
    patient = asyncio.create_task(text_of(cache, source))
    await source.reading.wait()
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    source.let_go.set()
    assert await patient == "old"
    assert source.loads == 1


async def test_the_deadline_of_who_comes_first_is_not_that_of_all(cache: Cache[Thing]) -> None:
    source = Source()
    source.let_go.clear()

    async def hurried() -> str | None:
        current_deadline.set(Deadline.after(0.0))
        return await text_of(cache, source)

    first = asyncio.create_task(hurried())
    await source.reading.wait()
    second = asyncio.create_task(text_of(cache, source))
    source.let_go.set()
    assert list(await asyncio.gather(first, second)) == ["old", "old"]


async def test_a_held_value_is_loaded_once_and_shared_by_valkey(make_cache: MakeCache) -> None:
    source, one, other = Source(), make_cache(), make_cache()
    assert await text_of(one, source) == "old"
    assert await text_of(one, source) == "old"
    assert await text_of(other, source) == "old"
    assert source.loads == 1


async def test_a_purge_makes_the_next_reader_load_again(
    make_cache: MakeCache, store: Store, stream: TagSubscriber, valkey: Redis
) -> None:
    source, one, other = Source(), make_cache(), make_cache()
    for cache in (one, other):
        await text_of(cache, source)
    source.text = "new"
    position = await settle_positions(store) + 1
    await valkey.set(POSITION_KEY + source.tag, position)
    heard(stream, source.tag, position=position, sequence=2)
    for cache in (one, other):
        assert await text_of(cache, source) == "new"


async def test_a_slow_reader_can_not_put_back_an_old_value(
    make_cache: MakeCache, store: Store, stream: TagSubscriber
) -> None:
    source, one, other = Source(), make_cache(), make_cache()
    source.let_go.clear()
    slow = asyncio.create_task(text_of(one, source))
    await source.reading.wait()  # it has read "old" and has not stored it
    source.text = "new"
    heard(stream, source.tag, position=FAR, sequence=2)
    source.let_go.set()
    await slow
    assert await text_of(one, source) == "new"
    assert await text_of(other, source) == "new"


async def test_who_comes_after_a_purge_does_not_get_what_was_read_before_it(
    cache: Cache[Thing], stream: TagSubscriber
) -> None:
    """Joining a load that is under way must not mean joining the past."""
    source = Source()
    source.let_go.clear()
    before = asyncio.create_task(text_of(cache, source))
    await source.reading.wait()
    source.text = "new"
    heard(stream, source.tag, position=FAR, sequence=2)
    after = asyncio.create_task(text_of(cache, source))
    await asyncio.sleep(0)  # it has joined
    source.let_go.set()
    assert await after == "new"
    await before


async def test_nor_what_was_read_before_a_second_purge(
    cache: Cache[Thing], stream: TagSubscriber
) -> None:
    """A load begun for the first purge is as late as the one before it, should another come."""
    source = Source()

    async def load(reader: Reader) -> tuple[Thing, Sequence[str]] | None:
        found = await source.load(reader)
        if source.loads <= 2:  # the change, and its purge, between reading and returning
            source.text = f"after purge {source.loads}"
            heard(stream, source.tag, position=FAR + source.loads, sequence=1 + source.loads)
        return found

    found = await cache.get("key", load)
    assert found is not None
    assert (found.value, found.position) == (Thing("after purge 2"), FAR + 2)
    assert source.loads == 3


async def test_purges_without_end_do_not_hold_up_a_reader(
    cache: Cache[Thing], stream: TagSubscriber
) -> None:
    source = Source()

    async def load(reader: Reader) -> tuple[Thing, Sequence[str]] | None:
        found = await source.load(reader)
        heard(stream, source.tag, position=FAR + source.loads, sequence=1 + source.loads)
        return found

    found = await cache.get("key", load)
    assert found is not None
    assert (found.value, found.position) == (
        Thing("old"),
        FAR + RELOADS,
    )  # and it says that it is behind the last purge
    assert source.loads == 1 + RELOADS
    assert not cache.memory.entries


async def test_a_process_that_starts_later_knows_of_purges_before_its_time(
    make_cache: MakeCache, valkey: Redis
) -> None:
    source = Source()
    await text_of(make_cache(), source)
    source.text = "new"
    await valkey.set(POSITION_KEY + source.tag, FAR)
    assert await text_of(make_cache(), source) == "new"


def listening_for(stream: TagSubscriber, seconds: float) -> None:
    """As if every message had been heard for so long, and the next one was never late."""
    stream.sure_since = stream._verified_since = time.monotonic() - seconds
    stream.silent_at = float("inf")


async def test_only_a_process_that_heard_every_purge_since_a_fill_does_not_ask_for_them(
    make_cache: MakeCache, valkey: Redis, stream: TagSubscriber
) -> None:
    """The purge is in Valkey and was told to nobody: who asks gets the new value, who need not, the
    old one, as every reader of a memory does until a purge has been told."""
    source, filler = Source(), make_cache()
    heard(stream)
    await text_of(filler, source)
    await filler.settled()
    source.text = "new"
    await valkey.set(POSITION_KEY + source.tag, FAR)
    listening_for(stream, 2 * SETTLED_S)
    assert await text_of(make_cache(), source) == "old"
    listening_for(stream, SETTLED_S - 0.1)
    assert await text_of(make_cache(), source) == "new"


async def asked_of_valkey(make_cache: MakeCache, stream: TagSubscriber, source: Source) -> Any:
    """A cache with nothing in memory, whose process has heard all, and what fills Valkey for it."""
    heard(stream)
    filler = make_cache()
    await text_of(filler, source)
    await filler.settled()
    source.text = "new"
    listening_for(stream, 2 * SETTLED_S)
    return make_cache()


async def test_a_purge_while_valkey_is_asked_is_heeded_though_nothing_more_is_asked_of_it(
    make_cache: MakeCache, valkey: Redis, stream: TagSubscriber
) -> None:
    source = Source()
    cache = await asked_of_valkey(make_cache, stream, source)
    reading = asyncio.create_task(text_of(cache, source))
    await asyncio.sleep(0)
    cache.purge([source.tag], FAR)
    assert await reading == "new"


async def test_who_joins_while_valkey_is_asked_gets_what_it_needs(
    make_cache: MakeCache, valkey: Redis, stream: TagSubscriber
) -> None:
    source = Source()
    cache = await asked_of_valkey(make_cache, stream, source)
    needs = asyncio.gather(*(text_of(cache, source, needed=needed) for needed in (0, FAR)))
    assert await needs == ["new", "new"]
    assert source.loads == 2


async def test_a_reader_that_gives_up_does_not_take_valkeys_answer_away(
    make_cache: MakeCache, valkey: Redis, stream: TagSubscriber
) -> None:
    source = Source()
    cache = await asked_of_valkey(make_cache, stream, source)
    readers = [asyncio.create_task(text_of(cache, source)) for _ in range(3)]
    await asyncio.sleep(0)
    readers[0].cancel()
    assert await asyncio.gather(*readers[1:]) == ["old", "old"]
    assert (readers[0].cancelled(), source.loads, cache.counts.valkey) == (True, 1, 1)


async def test_a_bug_in_taking_an_answer_in_fails_who_asked_for_it_and_nobody_else(
    make_cache: MakeCache, valkey: Redis, stream: TagSubscriber
) -> None:
    source = Source()
    cache = await asked_of_valkey(make_cache, stream, source)
    cache.memory._size_of = lambda thing: len(thing.no_such_field)
    others = asyncio.create_task(cache.shared._valkey.get(["none"]))
    with pytest.raises(AttributeError):
        await text_of(cache, source)
    assert await others == [None]
    assert cache.counts.failures == 1
    await cache.settled()


async def test_who_has_forgotten_purges_asks_for_them(
    make_cache: MakeCache, valkey: Redis, stream: TagSubscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.data.memory.PURGES_KEPT", 1)
    source, filler, reader = Source(), make_cache(), make_cache()
    heard(stream)
    await text_of(filler, source)
    await filler.settled()
    source.text = "new"
    listening_for(stream, 2 * SETTLED_S)
    await valkey.set(POSITION_KEY + source.tag, FAR)
    reader.purge([source.tag], FAR)
    reader.purge(["another"], FAR + 1)  # and the first is not remembered any more
    assert reader.memory.purged([source.tag]) == 0
    assert await text_of(reader, source) == "new"


async def test_a_value_behind_its_purge_is_read_from_a_node_that_has_replayed_it(
    cache: Cache[Thing], store: Store, valkey: Redis
) -> None:
    source = Source()
    await settle_positions(store)
    await valkey.set(POSITION_KEY + source.tag, FAR)
    assert await text_of(cache, source) == "old"
    assert source.loads == 2  # once from where it is nearest, then from the primary
    assert await text_of(cache, source) == "old"
    assert source.loads == 2  # which is believed to be as new as asked for


async def test_a_value_that_is_behind_what_a_reader_needs_is_not_used(
    make_cache: MakeCache, store: Store
) -> None:
    """Access may hear of a purge before this process does; whoever needs less is not disturbed."""
    source, one, other = Source(), make_cache(), make_cache()
    for cache in (one, other):
        assert await text_of(cache, source) == "old"
    source.text = "new"
    needed = await settle_positions(store) + 2**40
    assert await text_of(other, source) == "old"
    started_at = time.monotonic()
    assert await text_of(one, source, needed=needed) == "new"  # not from memory, nor from Valkey
    assert time.monotonic() - started_at < UNVERIFIED_TTL_S / 2  # nor when they have expired
    assert source.loads == 2
    assert await text_of(one, source, needed=needed) == "new"
    assert await text_of(other, source, needed=needed) == "new"  # which the other has stored
    assert source.loads == 2


async def test_a_value_that_is_behind_what_its_client_has_seen_is_not_used(
    make_cache: MakeCache, store: Store
) -> None:
    source, cache = Source(), make_cache()
    assert await text_of(cache, source) == "old"
    source.text = "new"
    await until(lambda: store.database.timeline > 0, within_s=10, what="timeline is known")
    far, timeline = await settle_positions(store) + 2**40, store.database.timeline

    async def text_for(seen: Seen) -> str | None:
        current_session.set(Session(seen))
        return await text_of(cache, source)

    # Of another timeline a position says nothing about values.
    assert await asyncio.create_task(text_for(Seen(timeline + 1, far))) == "old"
    assert await asyncio.create_task(text_for(Seen(timeline, 1))) == "old"
    assert await asyncio.create_task(text_for(Seen(timeline, far))) == "new"
    assert source.loads == 2


async def test_a_value_that_is_new_enough_is_used_as_before(
    cache: Cache[Thing], store: Store
) -> None:
    needed = await settle_positions(store)
    source = Source()
    for _ in range(3):
        assert await text_of(cache, source, needed=needed) == "old"
    assert source.loads == 1


async def test_that_something_is_missing_is_asked_again_by_who_needs_a_newer_word(
    cache: Cache[Thing],
) -> None:
    source = Source(text="")
    assert await text_of(cache, source) is None
    source.text = "new"
    assert await text_of(cache, source) is None
    assert await text_of(cache, source, needed=FAR) == "new"


async def test_who_needs_more_than_a_load_that_is_under_way_gets_what_it_needs(
    cache: Cache[Thing],
) -> None:
    source = Source()
    source.let_go.clear()
    before = asyncio.create_task(text_of(cache, source))
    await source.reading.wait()  # "old", from where it is nearest
    source.text = "new"
    after = [asyncio.create_task(text_of(cache, source, needed=FAR + n)) for n in range(20)]
    await asyncio.sleep(0)  # they have joined
    source.let_go.set()
    assert await asyncio.gather(*after) == ["new"] * 20
    await before
    assert source.loads == 2


async def test_and_so_does_who_comes_when_that_load_has_made_its_last_check(
    cache: Cache[Thing],
) -> None:
    source, late = Source(), list[asyncio.Task[str | None]]()

    def keep(_: Thing) -> bool:  # asked when no purge was found, just before the value is held
        if not late:
            source.text = "new"
            late.append(asyncio.create_task(text_of(cache, source, needed=FAR)))
        return True

    found = await cache.get("key", source.load, keep=keep)
    assert found is not None
    assert found.value == Thing("old")
    assert await late[0] == "new"
    assert source.loads == 2


async def test_what_is_not_there_is_remembered_shortly(cache: Cache[Thing], valkey: Redis) -> None:
    source = Source(text="")
    assert await text_of(cache, source) is None
    assert await text_of(cache, source) is None
    assert source.loads == 1
    source.text = "new"

    async def is_found() -> bool:
        return await text_of(cache, source) == "new"

    took_s = await until(is_found, within_s=3.0, what="a new thing is found")
    assert took_s > 1.0


async def test_a_value_that_is_not_to_be_kept_is_loaded_each_time(cache: Cache[Thing]) -> None:
    source = Source()
    for _ in range(2):
        found = await cache.get("key", source.load, keep=lambda _: False)
        assert found is not None
        assert found.value == Thing("old")
    assert source.loads == 2


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\xc1 not msgpack",
        msgspec.msgpack.encode({"value": 1}),
        msgspec.msgpack.encode({"value": {"text": 5}, "tags": [], "position": 0, "filled_at": 0}),
        msgspec.msgpack.encode(["a", "list"]),
    ],
)
async def test_what_is_corrupt_in_valkey_is_not_used(
    stored: bytes, cache: Cache[Thing], valkey: Redis
) -> None:
    source = Source()
    assert await text_of(cache, source) == "old"
    key = await only_key(valkey, cache)
    await valkey.set(key, stored)
    cache.purge([source.tag], 0)  # out of process memory
    source.text = "new"
    assert await text_of(cache, source) == "new"
    assert (await stored_at(valkey, key))["value"] == {"text": "new"}


async def only_key(valkey: Redis, cache: Cache[Thing]) -> str:
    prefix: str = cache.shared.prefix
    (key,) = [key async for key in valkey.scan_iter(match=prefix + "*", count=1000)]
    return str(key.decode())


async def stored_at(valkey: Redis, key: str) -> Any:
    return msgspec.msgpack.decode(cast("bytes", await valkey.get(key)))


async def test_a_value_in_valkey_has_an_end(cache: Cache[Thing], valkey: Redis) -> None:
    await text_of(cache, Source())
    ttl_ms = await valkey.pttl(await only_key(valkey, cache))
    assert 26_000 < ttl_ms <= 30_000


async def test_silence_on_the_tag_stream_makes_entries_unverified_and_drops_none(
    store: Store, valkey: Redis
) -> None:
    silent = TagSubscriber(valkey)  # it has never heard anything
    source = Source()
    cache = things(store, silent, valkey)
    await text_of(cache, source)
    await text_of(cache, source)
    assert source.loads == 1  # for a second it is still used

    async def is_loaded_again() -> bool:
        await text_of(cache, source)
        return source.loads > 1

    took_s = await until(is_loaded_again, within_s=3.0, what="an unverified value is asked again")
    assert took_s > 0.5


async def test_a_purge_that_was_missed_is_made_up_for_after_the_gap(
    cache: Cache[Thing], stream: TagSubscriber, valkey: Redis
) -> None:
    source = Source()
    await text_of(cache, source)
    source.text = "new"
    await valkey.set(POSITION_KEY + source.tag, FAR)  # message 2, which never arrives
    assert await text_of(cache, source) == "old"
    heard(stream, sequence=3)
    assert list(cache.memory.entries) == ["key"]  # nothing is thrown away

    async def is_new() -> bool:
        heard(stream, sequence=stream._relays["relay"][0])
        return await text_of(cache, source) == "new"

    took_s = await until(is_new, within_s=3.0, what="an unverified value is asked again")
    assert took_s > 0.5  # nor asked for at once: no stampede


async def test_a_value_of_another_process_is_held_in_memory_once_it_is_checked(
    make_cache: MakeCache, valkey: Redis
) -> None:
    """Else a process that starts would ask Valkey for every page, until each is written anew."""
    source, other = Source(), make_cache()
    await text_of(make_cache(), source)
    key = await only_key(valkey, other)
    stored = await stored_at(valkey, key)
    stored["filled_at"] -= 3600
    await valkey.set(key, msgspec.msgpack.encode(stored))
    assert await text_of(other, source) == "old"
    await valkey.delete(key)
    assert await text_of(other, source) == "old"
    assert source.loads == 1


async def test_without_valkey_values_come_from_the_database_and_stay_in_memory(
    store: Store, stream: TagSubscriber
) -> None:
    nobody = Redis.from_url("redis://127.0.0.1:1", socket_connect_timeout=0.05)
    upstream = Upstream("valkey", timeout_s=0.05, max_concurrent=64)
    cache = things(store, stream, nobody, upstream=upstream)
    source = Source()
    started_at = time.monotonic()
    assert await text_of(cache, source) == "old"
    assert time.monotonic() - started_at < 0.5
    assert await text_of(cache, source) == "old"
    assert source.loads == 1
    await nobody.aclose()


async def test_a_load_that_fails_fails_its_readers_and_is_tried_again(
    cache: Cache[Thing],
) -> None:
    source = Source()

    async def fail(_: Reader) -> tuple[Thing, Sequence[str]] | None:
        source.loads += 1
        await asyncio.sleep(0)
        raise Unavailable

    answers = await asyncio.gather(
        *(cache.get("key", fail) for _ in range(3)), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [Unavailable] * 3
    assert source.loads == 1
    assert await text_of(cache, source) == "old"


async def test_a_deadline_that_is_over_in_the_load_is_told_as_such(cache: Cache[Thing]) -> None:
    async def late(reader: Reader) -> tuple[Thing, Sequence[str]] | None:
        current_deadline.set(Deadline.after(0.05))
        await reader.fetchval("select pg_sleep(1)")
        return None

    with pytest.raises(GatewayTimeout):
        await cache.get("late", late)


def test_an_entry_is_written_with_its_position() -> None:
    entry = Entry(Thing("a"), ["tag"], 42, 1.0)
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(entry), type=Entry[Thing])
    assert (decoded.position, decoded.value) == (42, Thing("a"))
