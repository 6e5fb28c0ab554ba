"""Counting how long things take, in slots that a scrape reads later."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

# Upper ends in seconds. A page from business takes 1 to 5 ms, a payment up to its 5 s.
LATENCY_BOUNDS_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)


class Histogram:
    """How many values were at most each of the bounds, and their sum; the last slot: above all."""

    __slots__ = ("bounds_s", "slots", "sum_s")

    def __init__(self, bounds_s: tuple[float, ...] = LATENCY_BOUNDS_S) -> None:
        self.bounds_s = bounds_s
        self.slots = [0] * (len(bounds_s) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        self.slots[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds

    @property
    def count(self) -> int:
        return sum(self.slots)

    def numbers(self) -> list[float]:
        """As a family of metrics reads it: the slots, then the sum."""
        return [*map(float, self.slots), self.sum_s]
