"""Deadlines: moments that only come nearer, however they are passed on."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.deadline import Deadline, DeadlineExceeded, current_deadline, deadline_or


@pytest.mark.parametrize(
    ("value", "left_s"),
    [
        ("250", 0.25),
        ("0", 0.0),
        ("5000", 2.0),  # a caller may ask for less time, not more
        ("999999999", 2.0),
        (None, 2.0),
        ("", 2.0),
        ("-1", 2.0),
        ("1.5", 2.0),
        ("1e3", 2.0),
        ("+5", 2.0),
        (" 5", 2.0),
        ("٥", 2.0),  # a digit, and no ASCII
        ("1" * 400, 2.0),
    ],
)
def test_the_header_is_milliseconds_left_within_the_limit(value: str | None, left_s: float) -> None:
    deadline = Deadline.from_header(value, limit_s=2.0)
    assert left_s - 0.1 <= deadline.left_s() <= left_s


@given(st.text(max_size=12))
def test_no_header_makes_a_deadline_later_than_the_limit(value: str) -> None:
    assert 0.0 <= Deadline.from_header(value, limit_s=1.0).left_s() <= 1.0


def test_a_callee_gets_its_own_timeout_or_what_is_left() -> None:
    deadline = Deadline.after(1.0)
    assert deadline.within(5.0) == deadline
    assert deadline.within(0.1).left_s() <= 0.1
    assert deadline.within(-1.0).passed()


def test_past_is_past() -> None:
    over = Deadline.after(0.0)
    assert over.passed()
    assert (over.left_s(), over.left_ms()) == (0.0, 0)
    with pytest.raises(DeadlineExceeded):
        over.check()
    Deadline.after(1.0).check()


def test_it_does_not_move_with_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    deadline = Deadline.after(10.0)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 9.0 < deadline.left_s() <= 10.0


async def test_each_task_has_its_own_and_passes_it_on() -> None:
    async def left_s(own_s: float | None) -> float:
        if own_s is not None:
            current_deadline.set(Deadline.after(own_s))
        return await asyncio.create_task(inner())

    async def inner() -> float:
        return deadline_or(3.0).left_s()

    lefts = await asyncio.gather(*(asyncio.create_task(left_s(s)) for s in (0.5, None, 60.0)))
    assert [round(left, 1) for left in lefts] == [0.5, 3.0, 3.0]
    assert current_deadline.get() is None
