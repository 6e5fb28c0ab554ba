"""services/access/timers.py: many time limits by one timer."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator

import pytest

from services.access.timers import NO_SLOT, TICK_S, Wheel
from tests.faults.waiting import until


class Limit:
    """Something with a time limit, which says when it was over."""

    def __init__(self, seconds: float = math.inf) -> None:
        self.due = time.monotonic() + seconds
        self.slot = NO_SLOT
        self.over_at: list[float] = []

    def on_due(self) -> None:
        self.over_at.append(time.monotonic())


@pytest.fixture
async def wheel() -> AsyncIterator[Wheel]:
    wheel = Wheel()
    yield wheel
    wheel.stop()


async def over(limit: Limit) -> None:
    await until(lambda: bool(limit.over_at), within_s=5, what="the limit is over")


async def test_each_is_called_once_and_never_before_its_time(wheel: Wheel) -> None:
    limits = [Limit(tenths / 20) for tenths in range(8)]
    for limit in limits:
        wheel.watch(limit)
    for limit in limits:
        await over(limit)
    assert all(limit.over_at[0] >= limit.due for limit in limits)
    await asyncio.sleep(2 * TICK_S)  # time in which nothing is to happen any more
    assert [len(limit.over_at) for limit in limits] == [1] * 8


async def test_a_limit_that_moves_away_is_an_assignment(wheel: Wheel) -> None:
    limit = Limit(0.05)
    wheel.watch(limit)
    limit.due += 0.4
    await over(limit)
    assert limit.over_at[0] >= limit.due


async def test_a_limit_that_comes_nearer_is_watched_again(wheel: Wheel) -> None:
    limit = Limit(60)
    wheel.watch(limit)
    limit.due = time.monotonic() + 0.05
    wheel.watch(limit)
    await over(limit)


async def test_what_is_forgotten_or_has_no_limit_is_not_called(wheel: Wheel) -> None:
    forgotten, endless, last = Limit(0.05), Limit(0.05), Limit(0.3)
    for limit in (forgotten, endless, last):
        wheel.watch(limit)
    wheel.forget(forgotten)
    endless.due = math.inf
    await over(last)
    assert (forgotten.over_at, endless.over_at) == ([], [])
    assert (forgotten.slot, endless.slot) == (NO_SLOT, NO_SLOT)


async def test_a_wheel_without_limits_does_not_turn(wheel: Wheel) -> None:
    limit = Limit(0.05)
    wheel.watch(limit)
    await over(limit)
    await until(lambda: wheel._handle is None, within_s=5, what="it stands")
    again = Limit(0.05)
    wheel.watch(again)
    await over(again)


async def test_a_limit_may_end_another_one_of_the_same_moment(wheel: Wheel) -> None:
    class Killer(Limit):
        def on_due(self) -> None:
            super().on_due()
            wheel.forget(other)
            other.due = math.inf

    killer, other = Killer(0.05), Limit(0.05)
    for limit in (killer, other):
        wheel.watch(limit)
    await over(killer)
    await asyncio.sleep(2 * TICK_S)  # time in which nothing is to happen any more
    assert len(killer.over_at) == 1


async def test_one_that_fails_keeps_no_other_from_its_limit(
    wheel: Wheel,
) -> None:
    class Broken(Limit):
        def on_due(self) -> None:
            raise RuntimeError("broken")

    limits = [Broken(0.0), Limit(0.0), Limit(0.3)]
    for limit in limits:
        wheel.watch(limit)
    await over(limits[1])
    await over(limits[2])
