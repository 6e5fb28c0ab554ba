"""Reads of Valkey that go together, and what becomes of them when it is not well."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from services.data.joined import JoinedValkey
from services.data.store import open_store
from services.upstream import Upstream
from tests.faults.proxy import FaultProxy
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.shopping import business_settings

PATIENT_MS = 1000
WITHIN_S = 5.0


@pytest.fixture
def upstream() -> Upstream:
    return Upstream("valkey", timeout_s=1.0, max_concurrent=64, answers=(ResponseError,))


@pytest.fixture
def joined(valkey: Redis, upstream: Upstream) -> JoinedValkey:
    return JoinedValkey(valkey, upstream)


async def test_what_is_asked_in_one_turn_is_one_read_and_each_has_its_own_answer(
    joined: JoinedValkey, valkey: Redis
) -> None:
    keys = [uuid4().hex for _ in range(100)]
    await valkey.mset({key: key.encode() for key in keys})
    pairs = [[keys[n], f"none-{keys[n]}", keys[(n + 1) % 100]] for n in range(100)]
    answers = await asyncio.gather(*(joined.get(pair) for pair in pairs))
    assert answers == [[first.encode(), None, last.encode()] for first, _, last in pairs]
    assert (joined.reads, joined.batches) == (100, 1)


async def test_a_batch_is_bounded(
    joined: JoinedValkey, valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.data.joined.KEYS_AT_ONCE", 10)
    keys = [uuid4().hex for _ in range(95)]
    await valkey.mset({key: key.encode() for key in keys})
    answers = await asyncio.gather(*(joined.get([key]) for key in keys))
    assert answers == [[key.encode()] for key in keys]
    assert joined.batches == 10


async def test_a_reader_that_gives_up_takes_no_answer_from_the_others(
    joined: JoinedValkey, valkey: Redis
) -> None:
    key = uuid4().hex
    await valkey.set(key, b"value")
    impatient, patient = [asyncio.create_task(joined.get([key])) for _ in range(2)]
    await asyncio.sleep(0)
    impatient.cancel()
    assert await patient == [b"value"]
    assert impatient.cancelled()


async def test_when_valkey_is_away_all_are_told_so_and_nothing_is_raised(
    upstream: Upstream,
) -> None:
    nobody = Redis.from_url("redis://127.0.0.1:1", retry=None)
    joined = JoinedValkey(nobody, upstream)
    assert await asyncio.gather(*(joined.get(["key"]) for _ in range(5))) == [None] * 5
    await nobody.aclose()


async def test_that_it_says_no_is_not_taken_for_that_it_is_away(
    joined: JoinedValkey, valkey: Redis, upstream: Upstream
) -> None:
    """A full Valkey refuses to store, and answers reads as well as ever."""
    key = uuid4().hex
    await valkey.lpush(key, "not a string")
    for _ in range(30):
        assert await joined.call(lambda valkey: valkey.incr(key)) is None
    assert await joined.get(["none"]) == [None]
    assert upstream.breaker.fail_counter == 0


async def test_one_that_falls_silent_is_given_up_whatever_went_well_before(
    stack: RunningStack,
) -> None:
    """By their share alone 50 calls would have to wait in vain, after 100 that were answered."""
    host, _, port = stack.part("valkey")["address"].rpartition(":")
    async with FaultProxy(host, int(port)) as proxy:
        url = f"redis://{proxy.host}:{proxy.port}/0"
        async with open_store(business_settings(stack, valkey_url=url)) as store:
            for _ in range(100):
                await store.cached.get(["key"])
            proxy.set(drop=True)
            before, breaker = store.cached.batches, store.valkey_upstream.breaker
            asked = list[asyncio.Task[object]]()
            while breaker.opens_at is None and len(asked) < 100:
                asked.append(asyncio.create_task(store.cached.get(["key"])))
                await asyncio.sleep(0.005)
            assert store.cached.batches - before < 45
            assert await asyncio.gather(*asked) == [None] * len(asked)


async def test_who_comes_while_it_is_silent_waits_for_nothing_until_it_answers(
    stack: RunningStack,
) -> None:
    host, _, port = stack.part("valkey")["address"].rpartition(":")
    async with FaultProxy(host, int(port)) as proxy:
        url = f"redis://{proxy.host}:{proxy.port}/0"
        settings = business_settings(stack, valkey_url=url, cache_timeout_ms=PATIENT_MS)
        async with open_store(settings) as store:
            joined, breaker = store.cached, store.valkey_upstream.breaker
            assert await joined.get(["none"]) == [None]
            proxy.set(drop=True)
            first = asyncio.create_task(joined.get(["none"]))
            await until(lambda: joined.silent, within_s=WITHIN_S, what="its silence is noticed")
            before = joined.batches
            assert await joined.get(["none"]) is None
            assert not first.done()
            # Asked all the same: the breaker counts on it.
            await until(lambda: joined.batches > before, within_s=WITHIN_S, what="it is asked")
            proxy.set()

            async def answers() -> bool:
                return await joined.get(["none"]) is not None

            await until(answers, within_s=WITHIN_S, what="it is believed again")
            assert not joined.silent
            assert breaker.opens_at is None
            first.cancel()


async def test_a_loop_that_stood_still_does_not_take_itself_for_a_silent_valkey(
    joined: JoinedValkey, upstream: Upstream
) -> None:
    """The answers are in its sockets, and it has not looked there yet."""
    upstream.timeout_s = 0.3
    await joined.get(["none"])
    asked = []
    for _ in range(3):
        await until(lambda: not joined._looking, within_s=WITHIN_S, what="nothing is under way")
        asked.append(asyncio.create_task(joined.get(["none"])))
        for _ in range(3):  # in which it is sent
            await asyncio.sleep(0)
        goes_on_at = time.monotonic() + upstream.timeout_s / 3
        while time.monotonic() < goes_on_at:
            pass
        for _ in range(20):
            asked.append(asyncio.create_task(joined.get(["none"])))
            await asyncio.sleep(0)
    assert await asyncio.gather(*asked) == [[None]] * len(asked)
