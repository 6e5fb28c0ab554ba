"""How many requests of one class may be at business at once: a limit that follows latency.

The gradient of Netflix's concurrency-limits (Gradient2) with another baseline. There the long
latency is an average, which a lasting overload pulls up until the limit is at its ceiling. Here it
is the lowest that was seen, and it is raised by evidence only: latency that stays when the limit
is cut to a quarter does not come from the number of requests, so it is how business is now.
docs/decisions/0010-admission.md has the argument and the measurements.
"""

from __future__ import annotations

import math
from typing import Final

# A decision needs this many answers, and this much time (Netflix's windows: 10 answers, 1 s).
WINDOW_S: Final = 0.1
WINDOW_SAMPLES: Final = 10
# Latency above the baseline by more than this is a queue: 25 % as Envoy's buffer, and never less
# than the 5 ms that CoDel (RFC 8289) lets a queue stand.
TOLERANCE: Final = 1.25
SLACK_S: Final = 0.005
LARGEST_CUT: Final = 0.5  # in one window, as in Gradient2
PROBE_DEPTH: Final = 4.0  # cut by so much without help, and the latency is the new baseline
HELPED: Final = 0.75  # of the latency before the cuts: they helped, so there is a queue
GROWTH: Final = 0.5  # of the square root of the limit, a window in which it was too small
SPREADS: Final = 2.0  # standard errors by which two means have to differ to be different
RELAXATION: Final = 0.02  # of the way to what is measured with little in flight, a window
DROPS_ALLOWED: Final = 0.02  # share of a window; above it they are a sign, not an accident
MEMORY: Final = 0.1  # of the newest window in the spread of latencies


class Limiter:
    """A limit between 1 and a ceiling. All times are seconds on the caller's clock."""

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        # A quarter: what is learned first is how business answers when it is not busy.
        self.estimate = max(1.0, ceiling / 4)
        self.latency_s = 0.0  # geometric mean of the last window, 0.0 before the first
        self.dropped_share = 0.0  # of the last window
        self._base = math.nan  # logarithm of the baseline
        self._variance = 0.0  # of the logarithms of latencies
        self._reference: tuple[float, float] | None = None  # limit and latency before the cuts
        self._used_until = -math.inf
        self._changed_at = -math.inf
        self._began_at = -math.inf  # this window: when its first answer came
        self._count = self._dropped = self._missed = self._peak = 0
        self._sum = self._squares = 0.0

    @property
    def limit(self) -> int:
        return int(self.estimate)

    @property
    def baseline_s(self) -> float:
        """Latency without a queue, as far as is known; 0.0 before the first window."""
        return 0.0 if math.isnan(self._base) else math.exp(self._base)

    def missed(self) -> None:
        """Somebody found the limit reached."""
        self._missed += 1

    def sample(self, now: float, latency_s: float, in_flight: int, *, dropped: bool) -> bool:
        """Count one that is over, in_flight with itself; True when a window ended with it."""
        if now - latency_s < self._changed_at:
            return False  # it began under another limit
        if self._began_at == -math.inf:
            self._began_at = now
        self._peak = max(self._peak, in_flight)
        if dropped:
            self._dropped += 1
        else:
            logarithm = math.log(max(latency_s, 1e-6))
            self._count += 1
            self._sum += logarithm
            self._squares += logarithm * logarithm
        if now - self._began_at < WINDOW_S or self._count + self._dropped < WINDOW_SAMPLES:
            return False
        self._decide(now)
        return True

    def _begin(self, now: float) -> None:
        self._began_at = now
        self._count = self._dropped = self._missed = self._peak = 0
        self._sum = self._squares = 0.0

    def _decide(self, now: float) -> None:
        before = self.estimate
        if self._peak * 2 >= self.estimate:
            self._used_until = now + 1.0
        self.dropped_share = self._dropped / (self._count + self._dropped)
        if self.dropped_share > DROPS_ALLOWED:
            self._shrink(1 - self.dropped_share)
        elif self._count:
            self._follow(now)
        self.estimate = min(max(self.estimate, 1.0), float(self.ceiling))
        if int(before) != int(self.estimate):
            self._changed_at = now
        self._begin(now)

    def _follow(self, now: float) -> None:
        mean = self._sum / self._count
        margin = self._margin(mean)
        self.latency_s = math.exp(mean)
        if math.isnan(self._base):
            self._base = mean
        elif mean + margin < self._base:
            self._faster(now, mean)
        queue = mean - margin - self._threshold()
        if self._peak * 2 < self.estimate:  # too little in flight to learn from
            self._reference = None
            self._base += RELAXATION * (mean - self._base)
        elif queue > 0:
            self._slower(now, mean, queue)
        else:
            self._reference = None
            if self._missed:
                room = 1 - max(0.0, mean - self._base) / (self._threshold() - self._base)
                self.estimate += GROWTH * math.sqrt(self.estimate) * max(0.0, room)

    def _threshold(self) -> float:
        base_s = self.baseline_s
        return math.log(max(base_s * TOLERANCE, base_s + SLACK_S))

    def _margin(self, mean: float) -> float:
        variance = max(0.0, self._squares / self._count - mean * mean)
        self._variance += MEMORY * (variance - self._variance) if self._variance else variance
        return SPREADS * math.sqrt(max(variance, self._variance) / self._count)

    def _faster(self, now: float, mean: float) -> None:
        """Business answers sooner: as many a second are fewer at once."""
        base = max(mean, self._base + math.log(LARGEST_CUT))
        if now < self._used_until:
            self.estimate *= math.exp(base - self._base)
        self._base = base

    def _slower(self, now: float, mean: float, queue: float) -> None:
        if self._reference is None or mean < self._reference[1] + math.log(HELPED):
            self._reference = (min(self.estimate, float(self._peak)), mean)
        reference = self._reference[0]
        if self.estimate <= max(1.0, reference / PROBE_DEPTH):
            self._accept(now, mean)
        else:
            self._shrink(math.exp(-queue))

    def _accept(self, now: float, mean: float) -> None:
        """Fewer at once were not answered sooner, so it is no queue: make room for all that come.

        As many are in flight as come in a second, times the seconds each takes (Little's law),
        and the square root of that for chance.
        """
        rate = (self._count + self._missed) / (now - self._began_at)
        needed = rate * math.exp(mean)
        self._base, self._reference = mean, None
        self.estimate = max(self.estimate, needed + math.sqrt(needed))

    def _shrink(self, factor: float) -> None:
        used = min(self.estimate, float(self._peak))
        self.estimate = max(1.0, used * max(LARGEST_CUT, factor))
