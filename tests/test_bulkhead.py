"""The bulkhead: places by class of traffic, who waits and for how long, and no place ever lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.bulkhead import TRAFFIC, Bulkhead, BulkheadFull, Traffic, current_traffic
from services.deadline import Deadline

SHARES: dict[Traffic, int] = {"page": 50, "order": 75}


def eight(wait_s: float = 5.0) -> Bulkhead:
    return Bulkhead("test", 8, shares=SHARES, wait_s=wait_s)


@asynccontextmanager
async def place(
    bulkhead: Bulkhead, traffic: Traffic, *, left_s: float = 5.0
) -> AsyncIterator[None]:
    current_traffic.set(traffic)
    taken = await bulkhead.take(Deadline.after(left_s))
    try:
        yield
    finally:
        bulkhead.give_back(taken)


class Callers:
    """Calls that hold their place until they are told to leave."""

    def __init__(self, bulkhead: Bulkhead) -> None:
        self.bulkhead = bulkhead
        self.began: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, traffic: Traffic, *names: str, left_s: float = 5.0) -> None:
        for name in names:
            self._leave[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._call(traffic, name, left_s))
        await asyncio.sleep(0)

    async def leave(self, *names: str) -> None:
        for name in names:
            self._leave[name].set()
        for _ in range(3):  # it leaves, its place is handed on, and is taken
            await asyncio.sleep(0)

    async def end(self) -> None:
        for event in self._leave.values():
            event.set()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        assert (self.bulkhead.in_use, self.bulkhead.waiting) == (0, 0)

    async def _call(self, traffic: Traffic, name: str, left_s: float) -> None:
        async with place(self.bulkhead, traffic, left_s=left_s):
            self.began.append(name)
            await self._leave[name].wait()


async def test_pages_leave_room_for_orders_and_both_for_payments() -> None:
    callers = Callers(eight())
    await callers.come("page", *"abcdef")
    assert callers.began == list("abcd")
    await callers.come("order", *"ABC")
    assert callers.began == list("abcdAB")
    await callers.come("payment", *"123")
    assert callers.began == list("abcdAB12")
    assert (callers.bulkhead.in_use, callers.bulkhead.waiting) == (8, 4)
    await callers.end()


async def test_a_class_may_use_what_those_above_it_do_not() -> None:
    callers = Callers(eight())
    await callers.come("order", *"ABCDEFG")
    assert callers.began == list("ABCDEF")  # also the places of pages, of which there are none
    await callers.come("page", "a")
    assert callers.began == list("ABCDEF")
    await callers.come("payment", *"12345")
    assert callers.began == list("ABCDEF12")
    await callers.end()


async def test_a_free_place_goes_to_the_first_class_and_there_to_the_first_in_line() -> None:
    callers = Callers(eight())
    await callers.come("page", *"abcd")
    await callers.come("payment", *"1234")
    await callers.come("page", *"ef")
    await callers.come("order", *"AB")
    await callers.come("payment", *"56")
    await callers.leave("a")
    assert callers.began[8:] == ["5"]
    await callers.leave("1")
    assert callers.began[8:] == ["5", "6"]
    await callers.leave("b", "2")
    assert callers.began[8:] == ["5", "6", "A", "B"]
    await callers.leave("c")
    assert callers.began[8:] == ["5", "6", "A", "B", "e"]
    await callers.end()


@pytest.mark.parametrize(("wait_s", "left_s"), [(0.05, 5.0), (5.0, 0.05)])
async def test_waiting_ends_with_the_patience_or_the_deadline(wait_s: float, left_s: float) -> None:
    callers = Callers(Bulkhead("test", 1, wait_s=wait_s))
    await callers.come("page", "a")
    started_at = time.monotonic()
    with pytest.raises(BulkheadFull):
        async with place(callers.bulkhead, "page", left_s=left_s):
            pytest.fail("there is no place")
    assert 0.04 <= time.monotonic() - started_at < 0.5
    assert callers.bulkhead.waiting == 0
    await callers.end()


async def test_who_is_cancelled_in_the_moment_a_place_comes_hands_it_on() -> None:
    bulkhead = Bulkhead("test", 1, wait_s=5.0)
    callers = Callers(bulkhead)
    mine = await bulkhead.take(Deadline.after(5))
    await callers.come("page", "a", "b")
    bulkhead.give_back(mine)  # it is a's now, who has not run yet
    callers.tasks["a"].cancel()
    await callers.leave()
    assert callers.began == ["b"]
    await callers.end()


async def test_a_place_that_comes_while_its_first_waiter_leaves_goes_to_the_next() -> None:
    bulkhead = Bulkhead("test", 1, wait_s=5.0)
    callers = Callers(bulkhead)
    mine = await bulkhead.take(Deadline.after(5))
    await callers.come("page", "a", "b")
    callers.tasks["a"].cancel()  # and has not run since
    bulkhead.give_back(mine)
    await callers.leave()
    assert callers.began == ["b"]
    await callers.end()


def test_everybody_has_a_place_however_few_there_are() -> None:
    bulkhead = Bulkhead("test", 1, shares={"page": 10, "order": 20})
    assert [bulkhead.limit(traffic) for traffic in TRAFFIC] == [1, 1, 1]
    assert [eight().limit(traffic) for traffic in TRAFFIC] == [8, 6, 4]


Step = tuple[str, int]  # what happens, and to which class or which call


@given(
    st.integers(1, 9),
    st.lists(
        st.tuples(st.sampled_from(["come", "come", "leave", "cancel"]), st.integers(0, 50)),
        max_size=60,
    ),
)
async def test_in_any_order_of_events_shares_hold_and_no_place_is_lost(
    places: int, steps: list[Step]
) -> None:
    callers = Callers(Bulkhead("test", places, shares=SHARES, wait_s=60.0))
    classes: dict[str, Traffic] = {}
    gone: set[str] = set()
    for number, (what, chosen) in enumerate(steps):
        holding = [each for each in callers.began if not callers.tasks[each].done()]
        here = [each for each in classes if each not in gone]
        if what == "come":
            classes[str(number)] = TRAFFIC[chosen % 3]
            await callers.come(classes[str(number)], str(number), left_s=60.0)
        elif what == "leave" and holding:
            await callers.leave(holding[chosen % len(holding)])
            gone.add(holding[chosen % len(holding)])
        elif what == "cancel" and here:
            callers.tasks[here[chosen % len(here)]].cancel()
            gone.add(here[chosen % len(here)])
            await callers.leave()
        holding = [each for each in callers.began if not callers.tasks[each].done()]
        waiting = [each for each in classes if each not in holding and each not in gone]
        for rank, traffic in enumerate(TRAFFIC):
            below = [each for each in holding if TRAFFIC.index(classes[each]) >= rank]
            assert len(below) <= callers.bulkhead.limit(traffic)
        for each in waiting:  # nobody waits for a place that is free
            rank = TRAFFIC.index(classes[each])
            assert any(
                len([h for h in holding if TRAFFIC.index(classes[h]) >= n])
                >= callers.bulkhead.limit(TRAFFIC[n])
                for n in range(rank + 1)
            )
    await callers.end()
