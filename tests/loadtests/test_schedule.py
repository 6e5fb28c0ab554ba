"""Schedules of arrivals."""

from __future__ import annotations

import statistics
from itertools import pairwise
from pathlib import Path

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


def per_second(stages: list[schedule.Stage], seed: int | None = None) -> list[int]:
    seconds = [0] * round(sum(stage.seconds for stage in stages))
    for moment in schedule.staged(stages, seed=seed):
        seconds[int(moment)] += 1
    return seconds


def test_a_ramp_has_in_each_second_what_its_line_has_above_it() -> None:
    up, down = schedule.ramp(0, 100, 10), schedule.ramp(100, 0, 10)
    assert per_second(up) == [5 + 10 * second for second in range(10)]
    assert sum(per_second(down)) == 500
    assert all(abs(n - (95 - 10 * at)) <= 1 for at, n in enumerate(per_second(down)))


def test_steps_and_a_spike_change_at_once() -> None:
    assert per_second(schedule.steps([10, 50, 30], 1)) == [10, 50, 30]
    spiked = schedule.spike(10, 20, before_s=2, for_s=1, after_s=1)
    assert per_second(spiked) == [10, 10, 200, 10]


def test_a_random_ramp_has_the_rate_of_its_line() -> None:
    counts = per_second(schedule.ramp(0, 2000, 10), seed=5)
    # Each second is a Poisson count: five standard deviations either way.
    expected = [100 + 200 * second for second in range(10)]
    assert all(
        abs(n - wanted) < 5 * wanted**0.5 for n, wanted in zip(counts, expected, strict=True)
    )


def test_a_trace_is_kept_as_it_was_recorded(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    file.write_text("100.5 GET /\n100.75 GET /a\n\n103\n")
    assert schedule.trace(file) == [0.0, 0.25, 2.5]
    file.write_text("2\n1\n")
    with pytest.raises(ValueError, match="in order"):
        schedule.trace(file)


def test_a_stage_that_can_not_be_is_refused() -> None:
    for stage in ((0, 1, 1), (1, -1, 1), (1, 1, float("nan"))):
        with pytest.raises(ValueError, match="a stage lasts"):
            schedule.Stage(*stage)
