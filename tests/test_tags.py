"""The tag stream as it is heard: what a subscriber may be sure of."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from services import tags as tags_module
from services.tags import SILENCE_S, TagMessage, TagSubscriber


@pytest_asyncio.fixture
async def valkey(valkey_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(valkey_url)
    yield client
    await client.aclose()


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(tags_module, "time", made)
    return made


@pytest.fixture
def subscriber(valkey: Redis, clock: Clock) -> TagSubscriber:
    """One that is told its messages by hand."""
    return TagSubscriber(valkey)


def hear(
    subscriber: TagSubscriber, sequence: int, *tags: str, relay: str = "one", position: int = 7
) -> None:
    subscriber.receive(msgspec.json.encode(TagMessage(relay, sequence, position, list(tags))))


def test_nothing_is_certain_before_a_relay_is_heard(subscriber: TagSubscriber) -> None:
    assert subscriber.verified_since() is None


def test_what_was_filled_after_the_first_message_is_certain(
    subscriber: TagSubscriber, clock: Clock
) -> None:
    hear(subscriber, 17)
    began = clock.now
    for sequence in range(18, 40):
        clock.now += 0.5
        hear(subscriber, sequence)
        assert subscriber.verified_since() == began


@pytest.mark.parametrize("sequence", [3, 5, 1, 2])  # two lost, one lost, begun anew, doubled
def test_a_gap_makes_what_was_before_it_uncertain(
    sequence: int, subscriber: TagSubscriber, clock: Clock
) -> None:
    hear(subscriber, 1)
    hear(subscriber, 2)
    clock.now += 1
    hear(subscriber, 3 if sequence != 3 else 4)
    if sequence != 3:
        clock.now += 0.1
        hear(subscriber, sequence)
    assert subscriber.verified_since() == clock.now


def test_after_silence_nothing_is_certain_until_something_is_heard(
    subscriber: TagSubscriber, clock: Clock
) -> None:
    hear(subscriber, 1)
    clock.now += SILENCE_S + 0.01
    assert subscriber.verified_since() is None
    clock.now += 1
    hear(subscriber, 2)
    assert subscriber.verified_since() == clock.now


def test_two_relays_that_speak_in_turn_are_both_followed(
    subscriber: TagSubscriber, clock: Clock
) -> None:
    """Workers may run in several copies: that must not make everything uncertain for ever."""
    hear(subscriber, 1, relay="one")
    hear(subscriber, 50, relay="two")
    began = clock.now
    for step in range(1, 20):
        clock.now += 0.5
        hear(subscriber, 1 + step, relay="one")
        hear(subscriber, 50 + step, relay="two")
        assert subscriber.verified_since() == began
    hear(subscriber, 90, relay="two")
    assert subscriber.verified_since() == clock.now


def test_a_relay_that_falls_silent_beside_another_makes_the_past_uncertain_once(
    subscriber: TagSubscriber, clock: Clock
) -> None:
    hear(subscriber, 1, relay="one")
    hear(subscriber, 1, relay="two")
    began = clock.now
    for step in range(1, 10):
        clock.now += 0.5
        hear(subscriber, 1 + step, relay="two")
    since = subscriber.verified_since()
    assert since is not None
    assert began < since < clock.now


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b'{"relay": 1}', b'{"relay": "one"}'])
def test_a_message_that_is_not_understood_counts_as_missed(
    data: bytes, subscriber: TagSubscriber, clock: Clock
) -> None:
    hear(subscriber, 1)
    clock.now += 0.5
    subscriber.receive(data)
    assert subscriber.verified_since() == clock.now


async def test_every_holder_is_told_of_tags_and_their_position(subscriber: TagSubscriber) -> None:
    told: list[tuple[list[str], int]] = []
    for _ in range(2):
        subscriber.on_purge(lambda tags, position: told.append((tags, position)))
    hear(subscriber, 1)
    hear(subscriber, 2, "a", "b", position=9)
    assert told == [(["a", "b"], 9)] * 2
