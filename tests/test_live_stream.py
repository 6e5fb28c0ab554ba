"""services/live_stream.py: all is read, in order, and what was cut off unread is seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from services import live_stream
from services.live_stream import START, STREAM, Entry, Follower, Position
from services.tasks import end_tasks
from tests.faults.waiting import until
from tests.own_valkey import OwnValkey, own_valkey

WITHIN_S = 10.0


class Reader:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, Position]] = []
        self.entries: list[Entry] = []
        self.found_again = 0

    def began(self, epoch: str, floor: Position, entries: Sequence[Entry]) -> None:
        self.begun.append((epoch, floor))
        self.entries = list(entries)

    def arrived(self, entries: Sequence[Entry]) -> None:
        self.entries += entries

    def found(self) -> None:
        self.found_again += 1

    @property
    def data(self) -> list[bytes]:
        return [entry.data for entry in self.entries]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def one_valkey() -> AsyncIterator[OwnValkey]:
    async with own_valkey() as started:
        yield started


@pytest_asyncio.fixture
async def valkey(one_valkey: OwnValkey) -> OwnValkey:
    await one_valkey.client.flushall()
    return one_valkey


@asynccontextmanager
async def following(
    valkey: OwnValkey, *, protocol: int = 3
) -> AsyncIterator[tuple[Reader, Follower]]:
    client = Redis.from_url(valkey.url, protocol=protocol)
    reader = Reader()
    follower = Follower(client, reader)
    task = asyncio.create_task(follower.run())
    try:
        await until(lambda: follower.following, within_s=WITHIN_S, what="it follows")
        yield reader, follower
    finally:
        await end_tasks(task)
        await client.aclose()


async def has(reader: Reader, data: list[bytes]) -> None:
    await until(lambda: reader.data == data, within_s=WITHIN_S, what=f"{data} is read")


@pytest.mark.parametrize("protocol", [2, 3])
async def test_what_there_is_and_what_comes_is_read_in_order(
    valkey: OwnValkey, protocol: int
) -> None:
    before = [await valkey.tell("product:a") for _ in range(3)]
    oldest: Any = await valkey.client.xrange(STREAM, count=1)
    first = oldest[0][0].decode()
    async with following(valkey, protocol=protocol) as (reader, _):
        await has(reader, before)
        (begun,) = reader.begun
        assert "-".join(map(str, begun[1])) == first
        after = [await valkey.tell("product:a") for _ in range(3)]
        await has(reader, before + after)
    assert [entry.position for entry in reader.entries] == sorted(
        {entry.position for entry in reader.entries}
    )


async def test_a_stream_that_began_empty_has_no_floor(valkey: OwnValkey) -> None:
    async with following(valkey) as (reader, _):
        assert [floor for _, floor in reader.begun] == [START]


async def test_a_connection_that_was_cut_is_a_gap_only_where_something_was_cut_off(
    valkey: OwnValkey,
) -> None:
    async with following(valkey) as (reader, _):
        first = await valkey.tell("product:a")
        await has(reader, [first])
        await valkey.client.client_kill_filter(_type="normal", skipme=True)
        second = await valkey.tell("product:a")
        await has(reader, [first, second])
        assert (len(reader.begun), reader.found_again) == (1, 1)
        async with valkey.client.pipeline(transaction=True) as cut:
            cut.client_kill_filter(_type="normal", skipme=True)
            cut.xadd(STREAM, {"topic": "a", "key": "a", "event": "x", "data": "lost"})
            cut.xadd(STREAM, {"topic": "a", "key": "a", "event": "x", "data": "last"})
            cut.xtrim(STREAM, maxlen=1, approximate=False)
            await cut.execute()
        await has(reader, [b"last"])
        assert len(reader.begun) == 2


async def test_who_reads_too_slowly_knows_what_was_cut_off_before(
    valkey: OwnValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_stream, "READ_AT_ONCE", 5)
    async with following(valkey) as (reader, follower):
        first = await valkey.tell("product:a")
        await has(reader, [first])
        async with valkey.client.pipeline(transaction=True) as late:
            for number in range(20):
                late.xadd(STREAM, {"topic": "a", "key": "a", "event": "x", "data": str(number)})
            late.xtrim(STREAM, maxlen=6, approximate=False)
            await late.execute()
        await has(reader, [str(number).encode() for number in range(14, 20)])
        assert (len(reader.begun), follower.gaps_total) == (2, 1)


async def test_many_at_once_are_no_gap(valkey: OwnValkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_stream, "READ_AT_ONCE", 5)
    async with following(valkey) as (reader, follower):
        told = [await valkey.tell("product:a") for _ in range(23)]
        await has(reader, told)
        assert (len(reader.begun), follower.gaps_total) == (1, 0)


async def test_another_life_of_valkey_is_another_stream(valkey: OwnValkey) -> None:
    async with own_valkey() as mortal, following(mortal) as (reader, _):
        first = await mortal.tell("product:a")
        await has(reader, [first])
        mortal.kill()
        await mortal.start()
        await until(lambda: len(reader.begun) == 2, within_s=WITHIN_S, what="it begins anew")
        second = await mortal.tell("product:a")
        await has(reader, [second])
        assert reader.begun[0][0] != reader.begun[1][0]


async def test_another_life_of_an_empty_stream_is_another_one_too() -> None:
    """What was told in the first and not read went with it."""
    async with own_valkey() as mortal, following(mortal) as (reader, _):
        mortal.kill()
        await mortal.start()
        await until(lambda: len(reader.begun) == 2, within_s=WITHIN_S, what="it begins anew")
        assert [floor for _, floor in reader.begun] == [START, START]
        assert reader.begun[0][0] != reader.begun[1][0]
