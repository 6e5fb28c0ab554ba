"""services/members.py: who is left out, for how long, and how it returns."""

from __future__ import annotations

import pytest

from services.members import (
    EJECTED_LONGEST_S,
    EJECTED_S,
    FAILURES,
    FORGIVEN_S,
    RAMP_FROM,
    RAMP_S,
    Member,
    Members,
)


def members(count: int) -> Members:
    return Members(Member("business", 80, tls=None, ip=f"10.0.0.{n}") for n in range(count))


def fail(group: Members, member: Member, now: float) -> bool:
    return [group.failed(member, now) for _ in range(FAILURES)][-1]


def test_failures_in_a_row_eject_and_an_answer_between_them_does_not() -> None:
    group = members(2)
    bad, good = group.all
    for _ in range(10):
        assert not group.failed(bad, 0.0)
        assert not group.failed(bad, 0.0)
        bad.failures = 0  # as an answer leaves it
    assert set(group.used) == {bad, good}
    assert fail(group, bad, 0.0)
    assert set(group.used) == {good}
    assert (bad.ejected, bad.ejected_total, bad.failed_total) == (True, 1, 20 + FAILURES)


@pytest.mark.parametrize(("count", "out"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_half_of_them_stay_whatever_fails(count: int, out: int) -> None:
    group = members(count)
    for member in group.all:
        fail(group, member, 0.0)
    assert count - len(group.used) == out
    assert sum(member.ejected for member in group.all) == out


def test_one_that_could_not_be_left_out_is_when_another_has_returned() -> None:
    group = members(2)
    first, second = group.all
    assert fail(group, first, 0.0)
    assert not fail(group, second, 0.0)
    group.readmit(first, 1.0)
    assert group.failed(second, 1.0)
    assert group.used == (first,)


def test_all_are_used_when_none_is_left() -> None:
    group = members(2)
    first, _ = group.all
    fail(group, first, 0.0)
    group.replace((first,))  # the other one is gone
    assert group.used == (first,)


def test_each_time_it_is_out_for_longer_until_it_has_done_well() -> None:
    group = members(2)
    member, now, times = group.all[0], 1000.0, []
    for _ in range(8):
        assert fail(group, member, now)
        out_s = next(n / 2 for n in range(1, 1000) if member.is_due(now + n / 2))
        times.append(out_s)
        now += out_s
        group.readmit(member, now)
    assert times == [min(EJECTED_S * 2**n, EJECTED_LONGEST_S) for n in range(8)]
    now += FORGIVEN_S
    assert fail(group, member, now)
    assert member.is_due(now + EJECTED_S)


def test_one_that_returns_is_given_little_at_first() -> None:
    group = members(2)
    member = group.all[0]
    assert (member.share(0.0), member.is_ramping(0.0)) == (1.0, False)
    fail(group, member, 0.0)
    group.readmit(member, 10.0)
    shares = [member.share(10.0 + RAMP_S * part) for part in (0, 0.5, 1, 2)]
    assert shares == [RAMP_FROM, 0.5, 1.0, 1.0]
    assert member.is_ramping(10.0) and not member.is_ramping(10.0 + RAMP_S)


def test_silence_is_something_in_flight_and_no_answer() -> None:
    member = members(1).all[0]
    member.heard(0.0)
    assert member.silent_s(1.0, in_flight=0) == 0
    assert member.silent_s(2.0, in_flight=3) == 1
    assert member.silent_s(3.0, in_flight=2) == 2
    member.answered_total += 1
    assert member.silent_s(4.0, in_flight=2) == 0
    assert member.silent_s(5.0, in_flight=2) == 1
    assert member.silent_s(6.0, in_flight=0) == 0
