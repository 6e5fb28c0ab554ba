"""Business, load and admission as a model in which time is a number: exact, and quick."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from services.access.limiter import Limiter


class Business:
    """Takes latency_s(now) for each request, in order where only `servers` run at once."""

    def __init__(self, latency_s: Callable[[float], float], servers: int | None = None) -> None:
        self.latency_s = latency_s
        self.resize(servers, 0.0)

    def resize(self, servers: int | None, now: float) -> None:
        self._free_at = None if servers is None else [now] * servers

    def answers_at(self, now: float) -> float:
        latency_s = self.latency_s(now)
        if self._free_at is None:
            return now + latency_s
        ends_at = max(now, self._free_at[0]) + latency_s
        heapq.heapreplace(self._free_at, ends_at)
        return ends_at


@dataclass
class Process:
    """An access process without a line: what finds the limit reached is refused."""

    limiter: Limiter
    in_flight: int = 0
    latencies_s: list[tuple[float, float]] = field(default_factory=list)  # when it began, how long
    refused_at: list[float] = field(default_factory=list)
    limits: list[tuple[float, int, int]] = field(default_factory=list)  # when, limit, in flight

    def latencies_since(self, moment: float) -> list[float]:
        return sorted(latency for began_at, latency in self.latencies_s if began_at >= moment)

    def refused_since(self, moment: float) -> int:
        return sum(at >= moment for at in self.refused_at)

    def limits_since(self, moment: float) -> list[int]:
        return [limit for at, limit, _ in self.limits if at >= moment]

    def in_flight_since(self, moment: float) -> float:
        counts = [in_flight for at, _, in_flight in self.limits if at >= moment]
        return sum(counts) / len(counts)


class Model:
    """Several processes before one business. Time goes on from one `load` to the next."""

    def __init__(self, business: Business, processes: Sequence[Process], *, seed: int = 1) -> None:
        self.business = business
        self.processes = processes
        self.now = 0.0
        self.dropping = False  # business answers at once that it can not
        self._dice = random.Random(seed)
        self._ends: list[tuple[float, int, float, bool]] = []  # when, whose, began, dropped

    def load(self, rate: float, seconds: float, *, even: bool = False) -> float:
        """`rate` requests a second, even or at random moments; returns when it began."""
        began_at = self.now
        for moment in self._arrivals(rate, seconds, even=even):
            self._end_until(moment)
            self.now = moment
            self._arrive(self._dice.randrange(len(self.processes)))
        self.now = began_at + seconds
        return began_at

    def _arrivals(self, rate: float, seconds: float, *, even: bool) -> Iterator[float]:
        moment, end = self.now, self.now + seconds
        while (moment := moment + (1 / rate if even else self._dice.expovariate(rate))) < end:
            yield moment

    def _arrive(self, number: int) -> None:
        process = self.processes[number]
        process.limits.append((self.now, process.limiter.limit, process.in_flight))
        if process.in_flight >= process.limiter.limit:
            process.limiter.missed()
            process.refused_at.append(self.now)
            return
        process.in_flight += 1
        ends_at = self.now + 0.001 if self.dropping else self.business.answers_at(self.now)
        heapq.heappush(self._ends, (ends_at, number, self.now, self.dropping))

    def _end_until(self, moment: float) -> None:
        while self._ends and self._ends[0][0] <= moment:
            ended_at, number, began_at, dropped = heapq.heappop(self._ends)
            process, latency_s = self.processes[number], ended_at - began_at
            process.limiter.sample(ended_at, latency_s, process.in_flight, dropped=dropped)
            process.in_flight -= 1
            if not dropped:
                process.latencies_s.append((began_at, latency_s))
