"""What was measured of one kind of work: latencies, errors by kind, and what was never sent."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from hdrh.histogram import HdrHistogram

PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
# Microseconds up to ten minutes, to 0.1 %: finer than any clock here, longer than any deadline.
HIGHEST_US: Final = 600_000_000
SIGNIFICANT_DIGITS: Final = 3


@dataclass
class Recorder:
    """Counts and latencies of one kind of work.

    Latency runs from the moment a request was meant to start. So a server that stands still for
    a second shows that second in every request that was due meanwhile (coordinated omission).
    """

    work: str
    due: int = 0  # arrivals that the schedule asked for
    unsent: int = 0  # arrivals that found no connection, or no time, to be sent
    answered: int = 0  # with the status that was hoped for
    errors: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)  # what a shop may well answer
    late_us: int = 0  # the most that the generator itself was behind its schedule
    _latency_us: HdrHistogram = field(
        default_factory=lambda: HdrHistogram(1, HIGHEST_US, SIGNIFICANT_DIGITS)
    )

    def answer(self, latency_s: float) -> None:
        self.answered += 1
        self._record(latency_s)

    def refuse(self, kind: str, latency_s: float) -> None:
        """A whole answer that says no, as it may: a product is sold out."""
        self.refusals[kind] += 1
        self._record(latency_s)

    def error(self, kind: str, waited_s: float | None = None) -> None:
        """A failure. waited_s: of one that was waited for in vain, which belongs to the latencies.

        The quick failures are left out of them: refusing is faster than working.
        """
        self.errors[kind] += 1
        if waited_s is not None:
            self._record(waited_s)

    def behind(self, late_s: float) -> None:
        self.late_us = max(self.late_us, int(late_s * 1e6))

    @property
    def sent(self) -> int:
        return self.answered + sum(self.errors.values()) + sum(self.refusals.values())

    @property
    def failed(self) -> bool:
        """Whether figures of this run may not be trusted, or the server failed."""
        return self.unsent > 0 or bool(self.errors)

    def percentile_ms(self, percentile: float) -> float:
        return float(self._latency_us.get_value_at_percentile(percentile)) / 1000

    def max_ms(self) -> float:
        return float(self._latency_us.get_max_value()) / 1000

    def mean_ms(self) -> float:
        return float(self._latency_us.get_mean_value()) / 1000

    def _record(self, latency_s: float) -> None:
        self._latency_us.record_value(min(max(1, int(latency_s * 1e6)), HIGHEST_US))
