"""How many requests of one class may be at business at once: a limit that follows latency.

The gradient of Netflix's concurrency-limits (Gradient2) with another baseline. There the long
latency is an average, which a lasting overload pulls up until the limit is at its ceiling. Here it
is the lowest that was seen, and only a probe raises it: for a moment so few are let in that there
would be no queue, and latency that stays is how business is now. All processes probe at the same
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
LEAST_CUT_TO: Final = 2.0  # by latency; with fewer a probe could cut nothing
DEPTH: Final = 4.0  # the most that is cut before a probe has told that there is a queue
# A probe lets in this part of what would make no queue, if there is one: latency is at the baseline
# then, for a moment in which a quarter of the work is lost.
PROBED: Final = 0.75
# A class of no more than FIRST_LIMIT at once is cut to half, and by a probe to half of what is in
# flight: to one or two, ten answers one after the other would take longer than anybody waits for
# its end. So there are fewer of them, too.
PROBE_SAMPLES: Final = 4
# The moments of probes while latency is above the baseline by as much as it is in any overload:
# so all processes hold back together, where one alone would learn nothing.
MARK_S: Final = 4.0
NEAR: Final = 1.1
QUICK_MARK_S: Final = 0.5  # while it is far above: then every process sees it
FAR: Final = 2.0
REGULAR_S: Final = 30.0  # while somebody has to wait: the baseline itself may be wrong
GROWTH: Final = 0.5  # of the square root of the limit, a window in which it was too small
BASE_SAMPLES: Final = 200  # a baseline is the mean of so many: 10 % exact where half are 20x slower
EVENING: Final = 0.25  # added to what is cut
SPREADS: Final = 2.0  # standard errors by which two means have to differ to be different
RELAXATION: Final = 0.02  # of the way to what is measured with little in flight, a window
DROPS_ALLOWED: Final = 0.02  # share of a window; above it they are a sign, not an accident
MEMORY: Final = 0.1  # of the newest window in the spread of latencies
# At the start, until the slow ones are among those that come back. Later for those that began
# under another limit, unless that many latencies are more; for one in eight of them only that.
SETTLE_S: Final = 1.0
STRAGGLING: Final = 4.0
STRAGGLERS: Final = 8
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
        self._small = ceiling <= FIRST_LIMIT
        self._enough = WINDOW_SAMPLES  # answers of this window
        self._base = 0.0  # logarithm of the baseline
        self._base_count = 0  # from so many answers
        self._variance = 0.0  # of the logarithms of latencies
        self._cut_from = 0.0  # the limit when cutting began; 0.0: not cutting
        self._probing: tuple[float, float] | None = None  # in flight and latency before it
        self._probe_at = math.inf
        self._used_until = -math.inf
        self._mean = 0.0  # of the logarithms, in the last window
        self._measured_at = 0.0  # with so many in flight
        self._began_at = math.nan  # this window, and when it was opened
        self._opened_at = 0.0
        self._count = self._dropped = self._missed = self._peak = 0
        self._sum = self._squares = 0.0
        self._others = self._few = 0  # that began under another limit and are not over

    @property
    def limit(self) -> int:
        return int(self.estimate)

    @property
    def baseline_s(self) -> float:
        """Latency without a queue, as far as is known; 0.0 before the first window."""
        return math.exp(self._base) if self._base_count else 0.0

    @property
    def held_back(self) -> int:
        """As many as were in flight before the probe that lets in one or two now, or 0."""
        if self._probing is None or not self._small:
            return 0
        return max(self.limit, int(self._probing[0]))

    def missed(self) -> None:
        """Somebody found the limit reached."""
        self._missed += 1

    def sample(self, now: float, latency_s: float, in_flight: int, *, dropped: bool) -> bool:
        """Count one that is over, in_flight with itself; True when the limit may have changed."""
        if now >= self._probe_at:
            self._probe(now, in_flight)
            return True
        if (self._others > 0 or not now >= self._began_at) and not self._is_settled(
            now, now - latency_s
        ):
            return False
        if in_flight > self._peak:  # noqa: PLR1730  # max() is a call, for each answer
            self._peak = in_flight
        if dropped:
            self._dropped += 1
        else:
            logarithm = math.log(max(latency_s, 1e-6))
            self._count += 1
            self._sum += logarithm
            self._squares += logarithm * logarithm
        if now - self._began_at < WINDOW_S or self._count + self._dropped < self._enough:
            return False
        self._decide(now, in_flight)
        return True

    def left(self, now: float, latency_s: float) -> None:
        """One is over of which nothing can be learned."""
        self._is_settled(now, now - latency_s)

    def _decide(self, now: float, in_flight: int) -> None:
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
        self._next_window(now, in_flight if self.limit != before else 0)

    def _next_window(self, now: float, others: int) -> None:
        """others: how many began under another limit, with the one that is over now."""
        short = self._small and self._probing is not None
        self._enough = PROBE_SAMPLES if short else WINDOW_SAMPLES
        self._others = others - 1
        self._few = others // STRAGGLERS
        self._opened_at = self._began_at = now
        self._count = self._dropped = self._missed = self._peak = 0
        self._sum = self._squares = 0.0

    def _is_settled(self, now: float, began_at: float) -> bool:
        """Whether what began under another limit is over, and as much time again.

        Then the slow ones of those that began later come back at their rate, too: to leave out
        one by one what began before, and no more, would count the quick ones first.
        """
        if math.isnan(self._began_at):
            self._began_at = now + SETTLE_S
        if self._others > 0:
            self._others -= began_at < self._opened_at
            waited_s = now - self._opened_at
            enough_s = 0.0 if self._others <= self._few else SETTLE_S
            if self._others <= 0 or waited_s > max(enough_s, STRAGGLING * self.latency_s):
                self._others, self._began_at = 0, now + waited_s
            return False
        return now >= self._began_at

    def _follow(self, now: float) -> None:
        self._mean = mean = self._sum / self._count
        self.latency_s = math.exp(mean)
        self._measured_at = float(self._peak)
        margin = self._margin(mean)
        self._compare(now, mean, margin)
        queue = mean - margin - self._threshold()
        if self._probing is not None:
            still = self._is_as_before(mean, self._probing) if self._small else queue > 0
            self._learn(now, self._probing, still=still)
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
        self._probe_at = math.inf
        if not self._missed:
            return
        near = mean - self._base > math.log(NEAR)
        self._probe_at = self._mark(now, MARK_S if near else REGULAR_S)
        room = 1 - max(0.0, mean - self._base) / (self._threshold() - self._base)
        self.estimate += GROWTH * math.sqrt(self.estimate) * max(0.0, room)

    def _slower(self, now: float, queue: float) -> None:
        if not self._cut_from:
            self._cut_from = min(self.estimate, float(self._peak))
        least = max(self._cut_from / DEPTH, LEAST_CUT_TO)
        if self._small:
            least = min(self.estimate, self.ceiling / 2)
        self._shrink(max(math.exp(-queue), least / self.estimate))
        far = self._mean - self._base > math.log(FAR)
        self._probe_at = self._mark(now, QUICK_MARK_S if far else MARK_S)
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

    def _probe(self, now: float, in_flight: int) -> None:
        self.probes_total += 1
        self._probe_at = math.inf
        self._probing = (self._measured_at, self._mean)
        without_queue = self._measured_at * math.exp(self._base - self._mean)
        least = self._measured_at * LARGEST_CUT if self._small else 1.0
        self.estimate = max(1.0, min(self.estimate, max(least, without_queue * PROBED)))
        self._next_window(now, in_flight)

    def _is_as_before(self, mean: float, before: tuple[float, float]) -> bool:
        """Which of the two a few answers are more like: what a queue of ours would leave, or not.

        Half as many wait half as long.
        """
        without = max(self._base, before[1] + math.log(LARGEST_CUT))
        return mean > (without + before[1]) / 2

    def _learn(self, now: float, before: tuple[float, float], *, still: bool) -> None:
        """A probe is over; still: latency is above the baseline with fewer in flight, too."""
        in_flight, mean = before
        count = self._count
        rate = count / (now - self._began_at) + self._missed / (now - self._opened_at)
        self._settle()
        if not still:  # it was a queue: as many as make none
            without_queue = in_flight * math.exp(min(0.0, self._threshold() - mean))
            self.estimate = max(LEAST_CUT_TO, without_queue)
            return
        self._base, self._base_count = self._mean, count
        # Now as many as come in a second, times the seconds each takes (Little's law), and the
        # square root of that for chance; but no more than a few times as many as there were.
        needed = rate * math.exp(self._mean)
        self.estimate = min(needed + math.sqrt(needed), DEPTH * max(in_flight, self._peak))
