"""How many clients can make a line: those who have asked lately for what is not held.

Of a shop's connections most only rest, or listen to a stream. To reckon with them would take any
line for one that never ends, and refuse who could be served.
"""

from __future__ import annotations

from typing import Final

PERIOD_S: Final = 5.0  # a request's whole time: who is still waiting has asked in the last two


class Askers:
    """Counts a connection once a period, at its first request that no held page answers."""

    def __init__(self) -> None:
        self.period = 0  # what a connection keeps to know whether it has been counted
        self._now = self._before = 0
        self._turns_at = 0.0

    @property
    def count(self) -> int:
        """In the period that runs or in the one before, whichever had more."""
        return max(self._now, self._before)

    def asked(self) -> int:
        """Count a connection; returns the period in which it need not be counted again."""
        self._now += 1
        return self.period

    def look(self, now: float) -> None:
        """Begin another period when it is time; called some times a second."""
        if now >= self._turns_at:
            self.period += 1
            self._before, self._now = self._now, 0
            self._turns_at = now + PERIOD_S
