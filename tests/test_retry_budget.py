"""services/retry_budget.py: how many retries are granted."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.retry_budget import LEAST_A_SECOND, SHARE, WINDOW_S, RetryBudget

LEAST = int(LEAST_A_SECOND * WINDOW_S)


class Traffic:
    """A budget with its requests."""

    def __init__(self) -> None:
        self.budget = RetryBudget()
        self.requests_total = 0
        self.granted: list[float] = []
        self.asked: list[float] = []

    def requests(self, count: int, now: float) -> None:
        if now >= self.budget.turn_at:
            self.budget.turn(now, self.requests_total)
        self.requests_total += count
        self.asked += [now] * count

    def retries(self, count: int, now: float) -> int:
        granted = sum(self.budget.take(now, self.requests_total) for _ in range(count))
        self.granted += [now] * granted
        return granted


def test_a_tenth_of_the_requests_may_be_retried() -> None:
    traffic = Traffic()
    for second in range(5):
        traffic.requests(1000, float(second))
    assert traffic.retries(5000, 4.5) == 500
    assert (traffic.budget.taken_total, traffic.budget.refused_total) == (500, 4500)


def test_a_quiet_system_may_retry_too() -> None:
    assert Traffic().retries(1000, 7.0) == LEAST


def test_what_was_granted_counts_for_the_window_and_not_longer() -> None:
    traffic = Traffic()
    assert traffic.retries(1000, 0.0) == LEAST
    for second in range(1, int(WINDOW_S) + 2):
        traffic.requests(1, second - 0.5)
        assert traffic.retries(1, second - 0.5) == (second - 0.5 >= WINDOW_S)


def test_requests_of_long_ago_do_not_count() -> None:
    traffic = Traffic()
    traffic.requests(1_000_000, 0.0)
    traffic.requests(1, 3600.0)
    assert traffic.retries(1000, 3600.0) == LEAST


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(min_value=0, max_value=3),
            st.integers(min_value=0, max_value=300),
            st.integers(min_value=0, max_value=300),
        ),
        max_size=40,
    )
)
def test_retries_are_granted_within_the_share_only(steps: list[tuple[float, int, int]]) -> None:
    traffic, now = Traffic(), 0.0
    for pause_s, requests, retries in steps:
        now += pause_s
        traffic.requests(requests, now)
        if traffic.retries(retries, now):
            # Noted once a second: what is counted begins up to a second early or late.
            granted = sum(at > now - WINDOW_S + 1 for at in traffic.granted)
            asked = sum(at > now - WINDOW_S - 1 for at in traffic.asked)
            assert granted <= max(SHARE * asked, LEAST)
