"""Arrivals: when each request of an open loop is meant to start, in seconds from the beginning.

A schedule knows nothing of the server: that is what keeps a slow one from slowing the load.
"""

from __future__ import annotations

import random
from collections.abc import Iterator


def constant(rate: float, seconds: float) -> Iterator[float]:
    """`rate` arrivals a second, evenly spaced."""
    _check(rate, seconds)
    return (number / rate for number in range(round(rate * seconds)))


def poisson(rate: float, seconds: float, *, seed: int) -> Iterator[float]:
    """Arrivals of many independent visitors: `rate` a second on average, at random moments."""
    _check(rate, seconds)
    return _exponential_gaps(rate, seconds, random.Random(seed))


def _exponential_gaps(rate: float, seconds: float, dice: random.Random) -> Iterator[float]:
    moment = dice.expovariate(rate)
    while moment < seconds:
        yield moment
        moment += dice.expovariate(rate)


def _check(rate: float, seconds: float) -> None:
    if rate <= 0 or seconds <= 0:
        raise ValueError("rate and seconds must be above 0")
