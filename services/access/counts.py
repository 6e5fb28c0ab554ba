"""What became of the requests to access, counted in plain ints that a scrape reads later."""

from __future__ import annotations

from typing import Final

from services.access.routes import Route
from services.histogram import Histogram

LOCAL: Final = "local"  # /live, /ready, OPTIONS *
UNKNOWN: Final = "none"  # a path that leads nowhere
CLASSES: Final = (*(route.value for route in Route), LOCAL, UNKNOWN)


class Tally:
    """One class of requests: how many by hundreds of the status, and how long business took."""

    __slots__ = ("answered", "late", "took")

    def __init__(self) -> None:
        self.answered = [0] * 6  # [4] is the number of answers with 4xx; [0] stays 0
        self.took = Histogram()
        self.late = 0  # requests whose client had left before the answer

    def add(self, status: int) -> None:
        """An answer that nobody was asked for."""
        self.answered[status // 100] += 1

    def forwarded(self, status: int, latency_s: float) -> None:
        """An answer to a request that was passed on, its time from its last byte."""
        self.answered[status // 100] += 1
        self.took.add(latency_s)


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
