"""Fan-out: everybody, in order, in slices; and what is overtaken is left out when it is behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from services.access.live_fanout import BEHIND_WRITES, SLICE, FanOut
from services.access.live_history import History, Message, read_event_id
from services.live_stream import Entry, Position
from tests.faults.waiting import until


class Ear:
    """Somebody who listens; `since` as a stream has it."""

    def __init__(self, since: int = 0) -> None:
        self.since = (since, 0)
        self.heard: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.heard.append(data)


def message(number: int, key: str = "a", topic: str = "a") -> Message:
    return Message("e", Entry((number, 0), topic, key, "x", b"%d" % number))


async def done(fan_out: FanOut) -> None:
    await until(lambda: not fan_out._running, within_s=10, what="all is written")


async def test_everybody_hears_everything_in_order_once() -> None:
    ears = [Ear() for _ in range(3 * SLICE + 7)]
    fan_out = FanOut(lambda _: ears)
    sent = [message(1), message(2, "b")]
    for one in sent:
        fan_out.add(one)
    await done(fan_out)
    assert all(ear.heard == [one.data for one in sent] for ear in ears)
    assert ears[0].heard[0] is ears[1].heard[0]
    assert fan_out.writes_total == 2 * len(ears)


async def test_others_have_their_turn_between_slices() -> None:
    ears = [Ear() for _ in range(10 * SLICE)]
    fan_out, turns = FanOut(lambda _: ears), 0
    fan_out.add(message(1))
    while fan_out._running:
        before = fan_out.writes_total
        await asyncio.sleep(0)
        turns += 1
        assert fan_out.writes_total - before <= SLICE
    assert turns >= 10


async def test_who_was_given_a_state_is_not_told_it_again() -> None:
    old, new = Ear(), Ear(since=1)
    fan_out = FanOut(lambda _: [old, new])
    sent = [message(1), message(2)]
    for one in sent:
        fan_out.add(one)
    await done(fan_out)
    assert (len(old.heard), new.heard) == (2, [sent[1].data])


async def test_what_is_overtaken_is_left_out_once_too_much_waits() -> None:
    ears = [Ear() for _ in range(BEHIND_WRITES)]
    fan_out = FanOut(lambda _: ears)
    sent = [message(number) for number in range(1, 50)]
    other = message(50, "b")
    for one in (*sent, other):
        fan_out.add(one)
        assert fan_out.behind <= 2
    await done(fan_out)
    assert ears[0].heard == [sent[-1].data, other.data]
    assert fan_out.replaced_total == 48


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 400)), max_size=60),
    st.integers(1, 12),
    st.integers(50, 800),
)
def test_a_history_holds_all_after_its_floor_and_no_more_than_it_may(
    told: list[tuple[str, int]], limit: int, size_bytes: int
) -> None:
    history = History(messages=limit, size_bytes=size_bytes)
    history.begin("0" * 8, (0, 0))
    entries = [
        Entry((number, 0), topic, topic, "x", b"y" * size)
        for number, (topic, size) in enumerate(told, start=1)
    ]
    for entry in entries:
        history.add(entry)
    assert len(history) <= limit
    assert history.size_bytes <= size_bytes
    for seen in range(len(entries) + 2):
        position = (seen, 0)
        if history.reached_by("0" * 8, position):
            assert positions(history.since(position, "ab")) == [
                entry.position
                for entry in entries
                if entry.position > position and entry.topic != "c"
            ]
    assert not history.reached_by("1" * 8, (len(entries), 0))
    assert not history.reached_by("0" * 8, (len(entries) + 1, 0))
    if entries and len(history) < len(entries):
        assert not history.reached_by("0" * 8, (0, 0))


def positions(messages: Iterable[Message]) -> list[Position]:
    return [message.position for message in messages]


@given(st.binary(max_size=60))
def test_what_is_no_id_of_ours_is_none(text: bytes) -> None:
    found = read_event_id(text)
    assert found is None or found[0].encode() == text[:8]
