"""How many requests may be sent once more: so few that trying again never becomes the load."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

SHARE: Final = 0.1  # of the requests; three tiers that each retried thrice would make 27 of one
LEAST_A_SECOND: Final = 3  # so that a quiet system may retry too
WINDOW_S: Final = 10.0


class _Mark(NamedTuple):
    at: float
    requests_total: int
    taken_total: int


class RetryBudget:
    """Grants a retry while those of the last WINDOW_S stay within their share of the requests."""

    def __init__(self) -> None:
        self.turn_at = 0.0  # when turn() is to be called next
        self.taken_total = self.refused_total = 0
        self._marks: deque[_Mark] = deque()

    def turn(self, now: float, requests_total: int) -> None:
        """Note once a second how many requests there have been, and forget what is old."""
        while self._marks and self._marks[0].at <= now - WINDOW_S:
            self._marks.popleft()
        self._marks.append(_Mark(now, requests_total, self.taken_total))
        self.turn_at = now + 1

    def take(self, now: float, requests_total: int) -> bool:
        """Whether one more retry is within the budget; then it counts."""
        if now >= self.turn_at:
            self.turn(now, requests_total)
        first = self._marks[0]
        requests = requests_total - first.requests_total
        taken = self.taken_total - first.taken_total
        granted = taken + 1 <= max(SHARE * requests, LEAST_A_SECOND * WINDOW_S)
        if granted:
            self.taken_total += 1
        else:
            self.refused_total += 1
        return granted
