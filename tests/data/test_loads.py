"""How much the caches ask of the database at once, when neither memory nor Valkey has anything."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from services.data.loads import Loads
from services.data.store import Store
from services.problems import Unavailable
from services.tags import TagSubscriber
from tests.data.caching import Source, text_of, things
from tests.faults.waiting import until

WITHIN_S = 5.0


async def test_no_more_run_at_once_than_there_are_places_and_all_have_their_turn(
    store: Store, stream: TagSubscriber, valkey: Redis
) -> None:
    loads = Loads(3)
    caches = [things(store, stream, valkey, loads=loads) for _ in range(2)]
    sources, most = [Source() for _ in range(20)], 0

    async def read(number: int) -> str | None:
        nonlocal most
        text = await text_of(caches[number % 2], sources[number], key=str(number))
        most = max(most, loads.running)
        return text

    for source in sources:
        source.let_go.clear()
    reading = [asyncio.create_task(read(number)) for number in range(20)]
    await until(
        lambda: (loads.waiting, sum(source.loads for source in sources)) == (17, 3),
        within_s=WITHIN_S,
        what="three load, and the others wait",
    )
    assert loads.running == 3
    for source in sources:
        source.let_go.set()
    assert await asyncio.gather(*reading) == ["old"] * 20
    assert most <= 3
    assert (loads.running, loads.waiting, loads.refused) == (0, 0, 0)


async def test_who_waits_too_long_for_a_place_is_refused_and_the_others_are_served(
    store: Store, stream: TagSubscriber, valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.data.loads.WAIT_S", 0.05)
    loads = Loads(1)
    cache = things(store, stream, valkey, loads=loads)
    first, second = Source(), Source()
    first.let_go.clear()
    running = asyncio.create_task(text_of(cache, first, key="first"))
    await first.reading.wait()
    with pytest.raises(Unavailable) as refused:
        await text_of(cache, second, key="second")
    assert refused.value.headers()["retry-after"] == "1"
    assert (second.loads, loads.refused) == (0, 1)
    first.let_go.set()
    assert await running == "old"
    assert await text_of(cache, second, key="second") == "old"


async def test_a_load_that_is_given_up_gives_its_place_back() -> None:
    loads = Loads(1)

    async def load() -> None:
        async with loads.place():
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(load()) for _ in range(2)]
    await until(lambda: (loads.running, loads.waiting) == (1, 1), within_s=WITHIN_S, what="both")
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert (loads.running, loads.waiting) == (0, 0)
    async with loads.place():
        assert loads.running == 1
