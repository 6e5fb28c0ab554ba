"""How many requests of one class may be at business at once: a limit that follows latency.

The gradient of Netflix's concurrency-limits (Gradient2) with another baseline. There the long
latency is an average, which a lasting overload pulls up until the limit is at its ceiling. Here it
is the lowest that was seen, and only a probe raises it: for a moment the limit is a quarter, and
latency that stays does not come from the number of requests. All processes probe at the same
moments, since one that holds back alone learns nothing.
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
FIRST_LIMIT: Final = 8.0  # fewer keep clients waiting before anything is known
DEPTH: Final = 4.0  # how much less a probe lets in, and the most that is cut before one
# A limit cut to this part within this time asks for a probe: cutting does not seem to help.
HALVED: Final = 0.5
HALVED_WITHIN_S: Final = 2.0
# The moments of probes. A probe takes about a tenth of a second, so under a lasting overload the
# regular ones cost 0.3 % of what is done.
MARK_S: Final = 0.5
REGULAR_S: Final = 30.0
GROWTH: Final = 0.5  # of the square root of the limit, a window in which it was too small
BASE_SAMPLES: Final = 200  # a baseline is the mean of so many: 10 % exact where half are 20x slower
EVENING: Final = 0.25  # added to what is cut
SPREADS: Final = 2.0  # standard errors by which two means have to differ to be different
CLEARLY: Final = 0.1  # a probe that lowers the baseline by this part is followed by another
RELAXATION: Final = 0.02  # of the way to what is measured with little in flight, a window
DROPS_ALLOWED: Final = 0.02  # share of a window; above it they are a sign, not an accident
MEMORY: Final = 0.1  # of the newest window in the spread of latencies
# Until what began before is over: at the start, and at the most after the limit has changed.
SETTLE_S: Final = 1.0
USED_S: Final = 1.0  # a limit was in use when half of it was in flight within this time


class Limiter:
    """A limit between 1 and a ceiling. All times are seconds on the caller's clock."""

    def __init__(self, ceiling: int, *, epoch_s: float = 0.0) -> None:
        """epoch_s: what to add to the caller's clock to get the one that all processes share."""
        self.ceiling = ceiling
        # A quarter: what is learned first is how business answers when it is not busy.
        self.estimate = max(min(FIRST_LIMIT, float(ceiling)), ceiling / DEPTH)
        self.latency_s = 0.0  # geometric mean of the last window, 0.0 before the first
        self.dropped_share = 0.0  # of the last window
        self.probes_total = 0
        self._epoch_s = epoch_s
        self._base = 0.0  # logarithm of the baseline
        self._base_count = 0  # from so many answers
        self._variance = 0.0  # of the logarithms of latencies
        self._cut_from = 0.0  # the limit when cutting began; 0.0: not cutting
        self._cut_since = 0.0
        # In flight, latency and baseline before it.
        self._probing: tuple[float, float, float] | None = None
        self._probe_at = math.inf
        self._used_until = -math.inf
        self._mean = 0.0  # of the logarithms, in the last window
        self._measured_at = 0.0  # with so many in flight
        self._began_at = math.nan  # this window, and when it was opened
        self._opened_at = 0.0
        self._count = self._dropped = self._missed = self._peak = 0
        self._sum = self._squares = 0.0
        self._longest_s = self._settling_s = 0.0  # of this window, and of the last ones

    @property
    def limit(self) -> int:
        return int(self.estimate)

    @property
    def baseline_s(self) -> float:
        """Latency without a queue, as far as is known; 0.0 before the first window."""
        return math.exp(self._base) if self._base_count else 0.0

    def missed(self) -> None:
        """Somebody found the limit reached."""
        self._missed += 1

    def sample(self, now: float, latency_s: float, in_flight: int, *, dropped: bool) -> bool:
        """Count one that is over, in_flight with itself; True when the limit may have changed."""
        if now >= self._probe_at:
            self._probe(now)
            return True
        if math.isnan(self._began_at):
            self._began_at = now + SETTLE_S
        if in_flight > self.estimate:  # there are still more than are let in now
            self._began_at = self._settled_at(now)
        if now < self._began_at:
            return False
        self._peak = max(self._peak, in_flight)
        if dropped:
            self._dropped += 1
        else:
            logarithm = math.log(max(latency_s, 1e-6))
            self._count += 1
            self._sum += logarithm
            self._squares += logarithm * logarithm
            self._longest_s = max(self._longest_s, latency_s)
        if now - self._began_at < WINDOW_S or self._count + self._dropped < WINDOW_SAMPLES:
            return False
        self._decide(now)
        return True

    def _decide(self, now: float) -> None:
        before = self.limit
        if self._peak * 2 >= self.estimate:
            self._used_until = now + USED_S
        self.dropped_share = self._dropped / (self._count + self._dropped)
        if self.dropped_share > DROPS_ALLOWED:
            if self._probing is not None:
                self.estimate = self._probing[0]
            self._settle()
            self._shrink(1 - self.dropped_share)
        elif self._count:
            self._follow(now)
        self.estimate = min(max(self.estimate, 1.0), float(self.ceiling))
        self._next_window(now, changed=self.limit != before)

    def _next_window(self, now: float, *, changed: bool) -> None:
        self._settling_s, self._longest_s = max(self._settling_s / 2, self._longest_s), 0.0
        self._began_at = self._settled_at(now) if changed else now
        self._opened_at = now
        self._count = self._dropped = self._missed = self._peak = 0
        self._sum = self._squares = 0.0

    def _settled_at(self, now: float) -> float:
        """When all that began until now is over: it began under another limit.

        It is left out by time and not one by one: to count only what began later would count the
        quick ones first.
        """
        return now + min(self._settling_s, SETTLE_S)

    def _follow(self, now: float) -> None:
        self._mean = mean = self._sum / self._count
        self.latency_s = math.exp(mean)
        self._measured_at = float(self._peak)
        margin = self._margin(mean)
        self._compare(now, mean, margin)
        queue = mean - margin - self._threshold()
        if self._probing is not None:
            self._learn(now, self._probing, still=queue > 0)
        elif self._peak * 2 < self.estimate:  # too little in flight for a queue of our making
            self._settle()
            self._probe_at = math.inf
            self._base += RELAXATION * (mean - self._base)
        elif queue > 0:
            self._slower(now, queue)
        else:
            self._settle()
            self._grow(now, mean - margin)

    def _margin(self, mean: float) -> float:
        """How far this window's mean and the baseline may be apart by chance."""
        variance = max(0.0, self._squares / self._count - mean * mean)
        self._variance += MEMORY * (variance - self._variance) if self._variance else variance
        parts = 1 / self._count + (1 / self._base_count if self._base_count else 0.0)
        return SPREADS * math.sqrt(max(variance, self._variance) * parts)

    def _compare(self, now: float, mean: float, margin: float) -> None:
        """Take what is clearly lower for the baseline, and make a young one more exact."""
        if not self._base_count:
            self._base, self._base_count = mean, self._count
        elif mean + margin < self._base:
            self._faster(now, mean + margin)
        elif abs(mean - self._base) <= margin and self._is_young_and_free():
            self._base_count += self._count
            self._base += (mean - self._base) * self._count / self._base_count

    def _is_young_and_free(self) -> bool:
        """Whether the baseline may be refined by what comes back when nobody had to wait."""
        return self._base_count < BASE_SAMPLES and not self._missed

    def _threshold(self) -> float:
        base_s = self.baseline_s
        return math.log(max(base_s * TOLERANCE, base_s + SLACK_S))

    def _faster(self, now: float, mean: float) -> None:
        """Business answers sooner: as many a second are fewer at once."""
        base = mean
        if self._probing is None:
            base = max(mean, self._base + math.log(LARGEST_CUT))
            if now < self._used_until:
                self.estimate *= math.exp(base - self._base)
        self._base, self._base_count = base, self._count

    def _grow(self, now: float, mean: float) -> None:
        if not self._missed:
            return
        self._probe_at = min(self._probe_at, self._mark(now, REGULAR_S))
        room = 1 - max(0.0, mean - self._base) / (self._threshold() - self._base)
        self.estimate += GROWTH * math.sqrt(self.estimate) * max(0.0, room)

    def _slower(self, now: float, queue: float) -> None:
        if not self._cut_from or now - self._cut_since > HALVED_WITHIN_S:
            self._cut_from, self._cut_since = min(self.estimate, float(self._peak)), now
        self._shrink(max(math.exp(-queue), self._cut_from / DEPTH / self.estimate))
        if self.estimate <= max(1.0, self._cut_from * HALVED):
            self._probe_at = min(self._probe_at, self._mark(now, MARK_S))
        # Between those who share business: what is added alike and cut in proportion becomes even.
        self.estimate += EVENING

    def _settle(self) -> None:
        self._cut_from = 0.0
        self._probing = None

    def _shrink(self, factor: float) -> None:
        used = min(self.estimate, float(self._peak))
        self.estimate = max(1.0, used * max(LARGEST_CUT, factor))

    # Probes

    def _mark(self, now: float, every_s: float) -> float:
        """The next moment of the kind, the same in all processes."""
        shared = now + self._epoch_s
        return now + every_s - shared % every_s

    def _probe(self, now: float) -> None:
        self.probes_total += 1
        self._probe_at = math.inf
        self._probing = (self._measured_at, self._mean, self._base)
        self.estimate = max(1.0, self.estimate / DEPTH)
        self._next_window(now, changed=True)

    def _learn(self, now: float, before: tuple[float, float, float], *, still: bool) -> None:
        """A probe is over; still: latency is above the baseline with hardly any in flight."""
        in_flight, mean, base = before
        count = self._count
        rate = count / (now - self._began_at) + self._missed / (now - self._opened_at)
        self._settle()
        if not still:  # it was a queue: as many as make none
            self.estimate = in_flight * math.exp(min(0.0, self._threshold() - mean))
            if self._base < base - CLEARLY:  # perhaps a quarter was still too many to see it all
                self._probe_at = self._mark(now, MARK_S)
            return
        self._base, self._base_count = self._mean, count
        # Now as many as come in a second, times the seconds each takes (Little's law), and the
        # square root of that for chance; but not what made a queue before.
        needed = rate * math.exp(self._mean)
        without_queue = in_flight * math.exp(min(0.0, self._threshold() - mean))
        self.estimate = max(without_queue, needed + math.sqrt(needed))
