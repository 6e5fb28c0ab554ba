"""What became of the calls of a dependency: how many ended in which way, and how long they took."""

from __future__ import annotations

from typing import Final

from services.histogram import Histogram

OK: Final = "ok"
FAILED: Final = "failed"
NOT_SENT: Final = "not_sent"
UNKNOWN: Final = "unknown"
OUTCOMES: Final = (OK, FAILED, NOT_SENT, UNKNOWN)
# Why a call was not let begin: no time, no place, an open breaker, or its caller left the line.
DEADLINE: Final = "deadline"
FULL: Final = "full"
BREAKER: Final = "breaker"
LEFT: Final = "left"
REASONS: Final = (DEADLINE, FULL, BREAKER, LEFT)

# Upper bounds in seconds, each at most 1.7 times the one before: so near is a percentile told.
BOUNDS_S: Final = (
    *(0.0005, 0.0007, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05),
    *(0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0),
)


class Tally:
    """counts: calls by outcome. refused: those that we did not let begin, by the reason.

    took: how long those took that began. Calls left by a caller that was cancelled are counted as
    unknown.
    """

    def __init__(self) -> None:
        self.counts = dict.fromkeys(OUTCOMES, 0)
        self.refused = dict.fromkeys(REASONS, 0)
        self.took = Histogram(BOUNDS_S)

    def refuse(self, reason: str) -> None:
        self.counts[NOT_SENT] += 1
        self.refused[reason] += 1

    def end(self, outcome: str, took_s: float) -> None:
        self.counts[outcome] += 1
        self.took.add(took_s)

    def percentile_s(self, part: float) -> float | None:
        """The bound below which that part of 1 of the calls stayed; None of no calls."""
        wanted, seen = part * self.took.count, 0
        for bound_s, count in zip((*BOUNDS_S, float("inf")), self.took.slots, strict=True):
            seen += count
            if count and seen >= wanted:
                return bound_s
        return None
