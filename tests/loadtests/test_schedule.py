"""Schedules of arrivals."""

from __future__ import annotations

import statistics
from itertools import pairwise

import pytest

from loadtests import schedule


def test_a_constant_schedule_is_evenly_spaced() -> None:
    arrivals = list(schedule.constant(200, 2.5))
    assert len(arrivals) == 500
    assert arrivals[0] == 0.0
    assert {round(late - early, 9) for early, late in pairwise(arrivals)} == {0.005}


def test_poisson_arrivals_have_the_rate_and_the_spread_of_random_visitors() -> None:
    arrivals = list(schedule.poisson(1000, 20, seed=3))
    gaps = [late - early for early, late in pairwise(arrivals)]
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] < 20
    # 20,000 arrivals on average, with a standard deviation of 141: five of those either way.
    assert abs(len(arrivals) - 20_000) < 700
    # The gaps of a Poisson process spread as wide as they are long.
    assert 0.95 < statistics.stdev(gaps) / statistics.mean(gaps) < 1.05


def test_the_same_seed_gives_the_same_arrivals() -> None:
    def first(seed: int) -> list[float]:
        return list(schedule.poisson(100, 1, seed=seed))

    assert first(1) == first(1) != first(2)


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (-1, 1), (1, 0)])
def test_a_schedule_without_arrivals_is_refused(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        schedule.constant(rate, seconds)
    with pytest.raises(ValueError, match="above 0"):
        schedule.poisson(rate, seconds, seed=1)
