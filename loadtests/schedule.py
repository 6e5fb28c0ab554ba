"""Arrivals: when each request of an open loop is meant to start, in seconds from the beginning.

A schedule knows nothing of the server: that is what keeps a slow one from slowing the load.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a load: so many seconds in which the rate goes evenly from one value to another."""

    seconds: float
    begin: float
    end: float

    def __post_init__(self) -> None:
        if not (0 < self.seconds < math.inf and self.begin >= 0 and self.end >= 0):
            raise ValueError("a stage lasts longer than 0 s, and no rate is below 0")

    @property
    def arrivals(self) -> float:
        return self.seconds * (self.begin + self.end) / 2

    def moment_of(self, number: float) -> float:
        """When so many have arrived since the stage began: the area below the line, inverted."""
        if number <= 0:
            return 0.0
        slope = (self.end - self.begin) / self.seconds
        # number = begin * t + slope * t ** 2 / 2, in the form that divides by no small slope.
        root = math.sqrt(max(0.0, self.begin**2 + 2 * slope * number))
        return min(self.seconds, 2 * number / (self.begin + root))


def constant(rate: float, seconds: float) -> Iterator[float]:
    """`rate` arrivals a second, evenly spaced."""
    _check(rate, seconds)
    return (number / rate for number in range(round(rate * seconds)))


def poisson(rate: float, seconds: float, *, seed: int) -> Iterator[float]:
    """Arrivals of many independent visitors: `rate` a second on average, at random moments."""
    _check(rate, seconds)
    return staged([Stage(seconds, rate, rate)], seed=seed)


def ramp(begin: float, end: float, seconds: float) -> list[Stage]:
    """From one rate to another."""
    return [Stage(seconds, begin, end)]


def steps(rates: Sequence[float], seconds_each: float) -> list[Stage]:
    """One rate after the other."""
    return [Stage(seconds_each, rate, rate) for rate in rates]


def spike(
    rate: float, times: float, *, before_s: float, for_s: float, after_s: float
) -> list[Stage]:
    """A rate that is so many times as high for a while, at once."""
    return [
        Stage(before_s, rate, rate),
        Stage(for_s, rate * times, rate * times),
        Stage(after_s, rate, rate),
    ]


def staged(
    stages: Sequence[Stage], *, seed: int | None = None, first: float = 0.0
) -> Iterator[float]:
    """The arrivals of stages, one after the other; seed: at random moments, else evenly spaced.

    first: of evenly spaced ones, where the first is: 0.5 is in the middle between two.

    Random: a Poisson process whose rate changes is one of rate 1 on a clock that runs as fast as
    the rate (the time-rescaling theorem), so all that differs is how far apart the numbers are.
    """
    if not stages:
        raise ValueError("a schedule has a stage at least")
    return _moments(stages, _numbers(seed, first))


def _numbers(seed: int | None, first: float) -> Iterator[float]:
    if seed is None:
        return (first + number for number in count())
    return _random_numbers(random.Random(seed))


def _random_numbers(dice: random.Random) -> Iterator[float]:
    number = 0.0
    while True:
        number += dice.expovariate(1.0)
        yield number


def _moments(stages: Sequence[Stage], numbers: Iterator[float]) -> Iterator[float]:
    passed_s, passed = 0.0, 0.0
    number = next(numbers)
    for stage in stages:
        while number - passed < stage.arrivals:
            yield passed_s + stage.moment_of(number - passed)
            number = next(numbers)
        passed += stage.arrivals
        passed_s += stage.seconds


def trace(file: Path) -> list[float]:
    """Moments that were recorded elsewhere: seconds, one a line, none before the one above it.

    The first is the beginning; whatever follows a number on its line is left aside.
    """
    moments = [float(line.split()[0]) for line in file.read_text().splitlines() if line.strip()]
    if not moments or any(late < early for early, late in pairwise(moments)):
        raise ValueError(f"{file} is to have a moment a line, in order")
    return [moment - moments[0] for moment in moments]


def _check(rate: float, seconds: float) -> None:
    if rate <= 0 or seconds <= 0:
        raise ValueError("rate and seconds must be above 0")
