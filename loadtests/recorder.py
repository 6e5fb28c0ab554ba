"""What was measured of one kind of work: latencies, errors by kind, and what was never sent."""

from __future__ import annotations

import base64
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from hdrh.histogram import HdrHistogram

PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
# Microseconds up to ten minutes, to 0.1 %: finer than any clock here, longer than any deadline.
HIGHEST_US: Final = 600_000_000
SIGNIFICANT_DIGITS: Final = 3
MICROSECONDS: Final = "I"  # of an array: four bytes each, up to 71 minutes


class Second(NamedTuple):
    """What became of the arrivals that were due in one second of a run."""

    due: int
    unsent: int
    answered: int
    refused: int
    errors: int
    p50_ms: float  # 0.0 where nothing was answered or waited for
    p99_ms: float


@dataclass
class Tally:
    """The arrivals of one second, as they are counted."""

    due: int = 0
    unsent: int = 0
    answered: int = 0
    refused: int = 0
    errors: int = 0
    latencies_us: array[int] = field(default_factory=lambda: array(MICROSECONDS))

    def add(self, other: Tally) -> None:
        self.due += other.due
        self.unsent += other.unsent
        self.answered += other.answered
        self.refused += other.refused
        self.errors += other.errors
        self.latencies_us.extend(other.latencies_us)

    def second(self) -> Second:
        taken = sorted(self.latencies_us)
        p50_us, p99_us = (
            (taken[len(taken) // 2], taken[min(len(taken) - 1, int(len(taken) * 0.99))])
            if taken
            else (0, 0)
        )
        counts = (self.due, self.unsent, self.answered, self.refused, self.errors)
        return Second(*counts, p50_us / 1000, p99_us / 1000)


@dataclass
class Recorder:
    """Counts and latencies of one kind of work.

    Latency runs from the moment a request was meant to start. So a server that stands still for
    a second shows that second in every request that was due meanwhile (coordinated omission).
    Everything counts in the second of the run in which its arrival was due.
    """

    work: str
    due: int = 0  # arrivals that the schedule asked for
    unsent: int = 0  # arrivals that found no connection, or no time, to be sent
    answered: int = 0  # with the status that was hoped for
    errors: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)  # what a shop may well answer
    late_us: int = 0  # the most that the generator itself was behind its schedule
    seconds: defaultdict[int, Tally] = field(default_factory=lambda: defaultdict(Tally))

    def arrive(self, second: int = 0) -> None:
        self.due += 1
        self.seconds[second].due += 1

    def leave_out(self, second: int = 0) -> None:
        """An arrival that was never sent."""
        self.unsent += 1
        self.seconds[second].unsent += 1

    def answer(self, latency_s: float, second: int = 0) -> None:
        self.answered += 1
        tally = self.seconds[second]
        tally.answered += 1
        tally.latencies_us.append(_us(latency_s))

    def refuse(self, kind: str, latency_s: float, second: int = 0) -> None:
        """A whole answer that says no, as it may: a product is sold out."""
        self.refusals[kind] += 1
        tally = self.seconds[second]
        tally.refused += 1
        tally.latencies_us.append(_us(latency_s))

    def error(self, kind: str, waited_s: float | None = None, second: int = 0) -> None:
        """A failure. waited_s: of one that was waited for in vain, which belongs to the latencies.

        The quick failures are left out of them: refusing is faster than working.
        """
        self.errors[kind] += 1
        tally = self.seconds[second]
        tally.errors += 1
        if waited_s is not None:
            tally.latencies_us.append(_us(waited_s))

    def behind(self, late_s: float) -> None:
        self.late_us = max(self.late_us, int(late_s * 1e6))

    @property
    def sent(self) -> int:
        return self.answered + sum(self.errors.values()) + sum(self.refusals.values())

    @property
    def failed(self) -> bool:
        """Whether figures of this run may not be trusted, or the server failed."""
        return self.unsent > 0 or bool(self.errors)

    @property
    def error_rate(self) -> float:
        """The share of what was sent that failed."""
        return sum(self.errors.values()) / self.sent if self.sent else 0.0

    def percentile_ms(self, percentile: float) -> float:
        return float(self.histogram().get_value_at_percentile(percentile)) / 1000

    def max_ms(self) -> float:
        return float(self.histogram().get_max_value()) / 1000

    def mean_ms(self) -> float:
        return float(self.histogram().get_mean_value()) / 1000

    def within(self, limit_ms: float) -> int:
        """How many waits, those of refusals too, were no longer than that."""
        limit_us = limit_ms * 1000
        return sum(
            sum(latency_us <= limit_us for latency_us in tally.latencies_us)
            for tally in self.seconds.values()
        )

    def histogram(self) -> HdrHistogram:
        """All latencies, in microseconds. Made anew where something was added since.

        Recording into it right away would cost the generator 5 us of CPU a request.
        """
        recorded = sum(len(tally.latencies_us) for tally in self.seconds.values())
        known: HdrHistogram | None = self.__dict__.get("_histogram")
        if known is None or known.get_total_count() != recorded:
            known = HdrHistogram(1, HIGHEST_US, SIGNIFICANT_DIGITS)
            counts: Counter[int] = Counter()
            for tally in self.seconds.values():
                counts.update(tally.latencies_us)
            for latency_us, count in counts.items():
                known.record_value(latency_us, count)
            self.__dict__["_histogram"] = known
        return known

    def timeline(self, seconds: int) -> list[Second]:
        """Second by second, those without arrivals too."""
        empty = Tally()
        return [self.seconds.get(number, empty).second() for number in range(seconds)]

    # Between processes

    def document(self) -> dict[str, Any]:
        """All of it as JSON can say it."""
        return {
            "work": self.work,
            "errors": self.errors,
            "refusals": self.refusals,
            "late_us": self.late_us,
            "seconds": {
                number: [*_counts(tally), base64.b64encode(tally.latencies_us.tobytes()).decode()]
                for number, tally in self.seconds.items()
            },
        }

    def merge(self, document: dict[str, Any]) -> None:
        """Add what another process has recorded of the same work."""
        self.errors.update(document["errors"])
        self.refusals.update(document["refusals"])
        self.late_us = max(self.late_us, int(document["late_us"]))
        for number, (*counts, latencies) in document["seconds"].items():
            tally = Tally(*counts)
            tally.latencies_us.frombytes(base64.b64decode(latencies))
            self.seconds[int(number)].add(tally)
            self.due += tally.due
            self.unsent += tally.unsent
            self.answered += tally.answered


def merged(work: str, documents: Iterable[dict[str, Any]]) -> Recorder:
    """One recorder of what several processes have recorded of one work."""
    recorder = Recorder(work)
    for document in documents:
        recorder.merge(document)
    return recorder


def _counts(tally: Tally) -> list[int]:
    return [tally.due, tally.unsent, tally.answered, tally.refused, tally.errors]


def _us(latency_s: float) -> int:
    return min(max(1, int(latency_s * 1e6)), HIGHEST_US)
