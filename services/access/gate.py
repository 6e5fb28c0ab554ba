"""The way to business for one class of traffic: its limit, its line, and its refusals."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from services.access.limiter import Limiter
from services.access.line import Caller, Line
from services.deadline import Deadline
from services.problems import Overloaded

Outcome = Literal["ok", "dropped", "ignored"]

# A line that has stood this long is no burst: CoDel's interval (RFC 8289), which is to be some
# round trips at least.
STANDING_S: Final = 0.1
STANDING_LATENCIES: Final = 4
PATIENCE_LATENCIES: Final = 2  # where answers take long, nobody could wait for less
DEADLINE_SHARE: Final = 0.2  # of the time that is left, at most, goes into waiting here
# In an overload: half of what an answer takes, within these bounds. Refusals are out in 10 ms.
SHORTEST_WAIT_S: Final = 0.002
OVERLOADED_WAIT_S: Final = 0.008
# It is over when fewer than these find the gate full: about 40 % do at a load of 0.8, 65 % at 1
# and nearly all at 2, with eight let in at once and random arrivals.
CALM_BELOW: Final = 0.5
NEWEST_WEIGHT: Final = 0.3  # of the last tenth of a second in that share
LINE_LIMIT: Final = 8  # times as many as are let in at once: a bound on memory, not on waits
FIRST_LATENCY_S: Final = 0.02  # until the first are back
LATENCY_WEIGHT: Final = 0.05
RETRY_SPREAD_S: Final = 3  # over which those who are refused are told to come again
PACE_S: Final = 0.1  # between two steps of what follows
# While business drops most of what it gets, all but a few are refused here.
MOSTLY: Final = 0.5
LARGEST_REFUSED_SHARE: Final = 0.98
SMALLEST_REFUSED_SHARE: Final = 0.05
# While a class above waits. An eighth keeps pages alive, and its cost is small.
YIELD_FACTOR: Final = 0.7
YIELD_FLOOR: Final = 0.125
YIELD_BACK: Final = 0.1
PRESSED_S: Final = 1.0  # after a refusal the classes below give way for so long


@dataclass(frozen=True, slots=True)
class Terms:
    """How a class is treated. Lower levels yield to higher ones; 0 is the highest."""

    level: int
    patience_s: float  # longest wait while there is no overload; 0.0: none, and none at all below
    adaptive: bool = True


class Gate:
    """Lets in as many as the limit says. The counters are for metrics."""

    def __init__(
        self,
        name: str,
        terms: Terms,
        size: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        epoch_s: float = 0.0,
    ) -> None:
        """size: the limit of a class that is not adaptive, the highest one of a class that is."""
        self.name = name
        self.terms = terms
        self.limit = 0
        self.in_flight = 0
        self.entered_total = self.waited_total = 0
        # full: no room to wait; late: waited in vain; failing: business drops most of what comes;
        # yielded: a class above waits.
        self.shed = {"full": 0, "late": 0, "failing": 0, "yielded": 0}
        self.above: tuple[Gate, ...] = ()
        self.limiter = Limiter(size, epoch_s=epoch_s) if terms.adaptive else None
        self.overloaded = False
        self.share = 1.0  # of the limit, while classes above wait
        self.refused_share = 0.0  # while business drops what it gets
        self.pressed_until = 0.0
        self._size = size
        self._clock = clock
        self._line = Line(clock, self._give_up)
        self._latency_s = FIRST_LATENCY_S
        self._found_full = self._let_in_total = 0
        self._full_share = 0.0
        self._seen = (0, 0)
        self._paced_at = clock()
        self._open = 0  # what try_enter looks at: the limit, or 0 when there is more to look at
        self._set_limit()

    @property
    def waiting(self) -> int:
        return len(self._line)

    @property
    def shed_total(self) -> int:
        return sum(self.shed.values())

    def try_enter(self) -> bool:
        """Enter at once, or not."""
        if self.in_flight < self._open and not self._line:
            self.in_flight += 1
            self.entered_total += 1
            return True
        return False

    async def enter(self, deadline: Deadline) -> None:
        """Enter, perhaps after a moment; raises Overloaded."""
        if self.try_enter():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.join(deadline, future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.leave(0.0, "ignored")  # it was let in in the turn in which it left
            raise

    def join(self, deadline: Deadline, caller: Caller) -> None:
        """The same for a caller that is called: set_result once it is in, or set_exception.

        Raises Overloaded when it need not even wait. One that is done by its turn is passed over.
        """
        now = self._clock()
        self._pace(now)
        if self.refused_share and random.random() < self.refused_share:  # noqa: S311 - no secret
            raise self._refusal("failing")
        if self.in_flight < self.limit and not self._line:
            self.in_flight += 1
            self.entered_total += 1
            caller.set_result(None)
            return
        self._found_full += 1
        if self.limiter is not None:
            self.limiter.missed()
        self._press(now, STANDING_S)
        if self._yields(now):
            raise self._refusal("yielded")
        until = self._until(now, deadline)
        if until is None:
            self._overload(now)
            raise self._refusal("full")
        self.waited_total += 1
        self._line.add(caller, now, until)

    def leave(self, latency_s: float, outcome: Outcome) -> None:
        """One is over; latency_s is counted from when it entered."""
        now = self._clock()
        if outcome != "ignored":
            self._learn(now, latency_s, dropped=outcome == "dropped")
        self.in_flight -= 1
        if self._line:
            self._let_in(now)

    # The line

    def _until(self, now: float, deadline: Deadline) -> float | None:
        """How long one who comes now may wait; None: it would be too long, or for nothing."""
        left_s = deadline.at - now
        bearable_s = min(left_s * DEADLINE_SHARE, left_s - self._latency_s)
        if self.overloaded:
            room = self._short_line()
            if len(self._line) >= room:
                self._line.displace_oldest()
            wait_s = self._short_wait_s()
        else:
            room = self._size * LINE_LIMIT
            wait_s = self._patience_s()
            bearable_s -= self._latency_s * len(self._line) / max(1, self.limit)
        if min(wait_s, bearable_s) <= 0 or len(self._line) >= room:
            return None
        ahead_s = self._latency_s * (len(self._line) + 1) / max(1, self.limit)
        if not self.overloaded and ahead_s > wait_s:
            return None
        return now + min(wait_s, bearable_s)

    def _let_in(self, now: float) -> None:
        if self._line.stood_s(now) > max(STANDING_S, self._latency_s * STANDING_LATENCIES):
            self._overload(now)
        while self.in_flight < self.limit:
            caller = self._line.next(now)
            if caller is None:
                return
            self.in_flight += 1
            self.entered_total += 1
            self._let_in_total += 1
            caller.set_result(None)

    def _give_up(self, caller: Caller) -> None:
        self._overload(self._clock())
        caller.set_exception(self._refusal("late"))

    def _refusal(self, reason: str) -> Overloaded:
        self.shed[reason] += 1
        return Overloaded(
            "Nothing was done; try again.", retry_after_s=1 + self.shed[reason] % RETRY_SPREAD_S
        )

    # Overload

    def _overload(self, now: float) -> None:
        self._press(now, PRESSED_S)
        if self.overloaded or not self.terms.adaptive:
            return  # payments are served in the order of their coming
        self.overloaded = self._line.newest_first = True
        self._full_share = 1.0
        self._line.shorten(now, room=self._short_line(), wait_s=self._short_wait_s())

    def _weigh(self) -> None:
        """See whether the overload is over."""
        full, direct = self._found_full, self.entered_total - self._let_in_total
        found_full, went_in = full - self._seen[0], direct - self._seen[1]
        self._seen = full, direct
        if found_full or went_in:
            share = found_full / (found_full + went_in)
            self._full_share += NEWEST_WEIGHT * (share - self._full_share)
            if self._full_share < CALM_BELOW:
                self.overloaded = self._line.newest_first = False

    def _short_line(self) -> int:
        return max(2, self.limit // 2) if self.terms.patience_s else 0

    def _patience_s(self) -> float:
        patience_s = self.terms.patience_s
        return max(patience_s, self._latency_s * PATIENCE_LATENCIES) if patience_s else 0.0

    def _short_wait_s(self) -> float:
        return min(max(self._latency_s / 2, SHORTEST_WAIT_S), OVERLOADED_WAIT_S)

    def _press(self, now: float, seconds: float) -> None:
        self.pressed_until = max(self.pressed_until, now + seconds)

    def _yields(self, now: float) -> bool:
        return any(now < gate.pressed_until for gate in self.above)

    # The limit

    def _pace(self, now: float) -> None:
        """What is done step by step: less while a class above waits, and back."""
        if now - self._paced_at < PACE_S:
            return
        self._paced_at = now
        self._weigh()
        if self._yields(now):
            floor = YIELD_FLOOR if self.terms.patience_s else 0.0
            self.share = max(floor, self.share * YIELD_FACTOR)
        else:
            self.share = min(1.0, self.share + YIELD_BACK)
        self._set_limit()

    def _learn(self, now: float, latency_s: float, *, dropped: bool) -> None:
        self._latency_s += LATENCY_WEIGHT * (latency_s - self._latency_s)
        limiter = self.limiter
        if limiter is None:
            return
        if limiter.sample(now, latency_s, self.in_flight, dropped=dropped):
            self._probe(limiter.dropped_share)
            self._set_limit()
        self._pace(now)

    def _probe(self, dropped_share: float) -> None:
        """While business drops most of it, the greater part is refused here and the rest probes."""
        if dropped_share > MOSTLY:
            share = min(LARGEST_REFUSED_SHARE, (1 + self.refused_share) / 2)
        else:
            share = self.refused_share / 4
        self.refused_share = share if share >= SMALLEST_REFUSED_SHARE else 0.0

    def _set_limit(self) -> None:
        whole = self._size if self.limiter is None else self.limiter.limit
        least = 1 if self.terms.patience_s else 0
        self.limit = max(least, int(whole * self.share))
        self._open = 0 if self.refused_share else self.limit
