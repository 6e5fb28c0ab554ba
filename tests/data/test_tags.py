"""The tag stream as it is told: what a publisher sends, and what it leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from services.data.tags import POSITION_KEY, POSITION_TTL_S, TagPublisher
from services.tags import CHANNEL, TagSubscriber
from services.tasks import end_tasks
from services.valkey import LOST
from tests.faults.waiting import until

PURGE_WITHIN_S = 2.0


@pytest_asyncio.fixture
async def valkey(valkey_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(valkey_url)
    yield client
    await client.aclose()


async def test_messages_travel_with_their_tags_positions_stored_before_them(
    valkey: Redis,
) -> None:
    subscriber, publisher = TagSubscriber(valkey), TagPublisher(valkey, uuid4().hex)
    tag, told = uuid4().hex, list[int]()
    subscriber.on_purge(lambda tags, position: told.append(position) if tag in tags else None)
    listening = asyncio.create_task(subscriber.run())

    async def is_listening() -> bool:
        await publisher.publish([], 0)
        return subscriber.verified_since() is not None

    await until(is_listening, within_s=PURGE_WITHIN_S, what="the subscriber listens")
    await publisher.publish([tag], 123)
    await until(lambda: told == [123], within_s=PURGE_WITHIN_S, what="the tag is heard")
    assert await valkey.get(POSITION_KEY + tag) == b"123"
    assert 0 < await valkey.ttl(POSITION_KEY + tag) <= POSITION_TTL_S
    # What nobody understands must not end the listening.
    await valkey.publish(CHANNEL, b"not a message")
    await publisher.publish([tag], 124)
    await until(lambda: told == [123, 124], within_s=PURGE_WITHIN_S, what="the next is heard")
    await end_tasks(listening)


async def test_a_purge_that_fails_makes_the_past_uncertain_and_does_not_end_the_listening(
    valkey: Redis,
) -> None:
    subscriber, publisher = TagSubscriber(valkey), TagPublisher(valkey, uuid4().hex)
    tag, tries = uuid4().hex, list[float | None]()

    def purge(tags: list[str], _: int) -> None:
        if tag in tags:
            tries.append(subscriber.verified_since())
            raise LookupError(tag)

    subscriber.on_purge(purge)
    listening = asyncio.create_task(subscriber.run())

    async def is_heard_twice() -> bool:
        await publisher.publish([tag], 1)
        return len(tries) > 1

    await until(is_heard_twice, within_s=PURGE_WITHIN_S, what="it goes on listening")
    first, second = tries[:2]
    assert first is not None
    assert second is not None
    assert second > first
    await end_tasks(listening)


async def test_a_publisher_that_failed_uses_the_same_number_again() -> None:
    """So that whoever heard it nevertheless sees the number twice, which counts as a gap."""
    nobody = Redis.from_url("redis://127.0.0.1:1")
    publisher = TagPublisher(nobody, "relay")
    with pytest.raises(LOST):
        await publisher.publish(["tag"], 1)
    assert publisher._sequence == 0
    await nobody.aclose()
