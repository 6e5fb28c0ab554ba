"""What became of the requests to access, counted in plain ints that a scrape reads later."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from services.access.routes import Route

# Upper ends in seconds. A page from business takes 1 to 5 ms, a payment up to its 5 s.
LATENCY_BOUNDS_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
LOCAL: Final = "local"  # /live, /ready, OPTIONS *
UNKNOWN: Final = "none"  # a path that leads nowhere
CLASSES: Final = (*(route.value for route in Route), LOCAL, UNKNOWN)


class Tally:
    """One class of requests: how many by hundreds of the status, and how long business took."""

    __slots__ = ("answered", "late", "slots", "sum_s")

    def __init__(self) -> None:
        self.answered = [0] * 6  # [4] is the number of answers with 4xx; [0] stays 0
        self.slots = [0] * (len(LATENCY_BOUNDS_S) + 1)  # the last: longer than every bound
        self.sum_s = 0.0
        self.late = 0  # requests whose client had left before the answer

    def add(self, status: int) -> None:
        """An answer that nobody was asked for."""
        self.answered[status // 100] += 1

    def forwarded(self, status: int, latency_s: float) -> None:
        """An answer to a request that was passed on, its time from its last byte."""
        self.answered[status // 100] += 1
        self.slots[bisect_left(LATENCY_BOUNDS_S, latency_s)] += 1
        self.sum_s += latency_s


class Counts:
    """The tallies of a process. Pages answered from memory are counted by Pages, not here."""

    def __init__(self) -> None:
        self.by_route = {route: Tally() for route in Route}
        self.local = Tally()
        self.unknown = Tally()
        # Requests (or what was sent in place of one) refused before they had a class: 400, 408, …
        self.refused: dict[int, int] = {}
        self.out_of_memory_total = 0  # requests refused because the process was near its limit

    def refuse(self, status: int) -> None:
        self.refused[status] = self.refused.get(status, 0) + 1

    def tallies(self) -> dict[str, Tally]:
        """Every tally by the name of its class."""
        named = {route.value: tally for route, tally in self.by_route.items()}
        return {**named, LOCAL: self.local, UNKNOWN: self.unknown}
