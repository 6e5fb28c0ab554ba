"""The way to business for one class of traffic: its limit, its line, and its refusals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Literal

from services.access.limiter import Limiter
from services.access.line import Caller, Line
from services.access.terms import Terms
from services.deadline import Deadline
from services.problems import Overloaded

Outcome = Literal["ok", "dropped", "ignored"]

PATIENCE_LATENCIES: Final = 2  # where answers take long, nobody could wait for less
# A line that has not been empty for so long is no burst. To wait in it only makes everybody late,
# so from then on nobody waits longer than half of what an answer takes.
STANDING_S: Final = 0.5
DEADLINE_SHARE: Final = 0.2  # of the time that is left, at most, goes into waiting here
# In an overload: half of what an answer takes, within these bounds. Refusals are out in 10 ms.
SHORTEST_WAIT_S: Final = 0.005  # what CoDel lets a queue stand
OVERLOADED_WAIT_S: Final = 0.008
# It is over when fewer than these are refused: about 5 % are at a load of 0.8, 12 % at 1 and half
# of all at 2, with eight let in at once, half as many waiting and random arrivals.
CALM_BELOW: Final = 0.1
BEARABLE: Final = 0.5  # of the longest wait, for all clients in one line
NEWEST_WEIGHT: Final = 0.3  # of the last tenth of a second in that share
LINE_LIMIT: Final = 1024  # a bound on memory, not on waits
LENIENCE: Final = 1.25  # whose turn comes a little later than was expected is let in all the same
PRESSING: Final = 0.25  # of the longest wait: to expect more than this presses the classes below
LATENCY_WEIGHT: Final = 0.05
RETRY_SPREAD_S: Final = 3  # over which those who are refused are told to come again
PACE_S: Final = 0.1  # between two steps of what follows
# While business drops most of what it gets, one is let in after each pause to see whether it still
# does, and everybody else is refused: 20 a second do not hurt it, and tell within half a second.
MOSTLY: Final = 0.5
FIRST_PAUSE_S: Final = 0.005
LONGEST_PAUSE_S: Final = 0.05
# While a class above waits. An eighth keeps pages alive, and its cost is small.
YIELD_FACTOR: Final = 0.7
YIELD_FLOOR: Final = 0.125
YIELD_BACK: Final = 0.1
PRESSED_S: Final = 1.0  # after a refusal the classes below give way for so long


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
        clients: Callable[[], int] = lambda: LINE_LIMIT,
    ) -> None:
        """size: the limit of a class that is not adaptive, the highest one of a class that is.

        clients: how many there are that could ask at once.
        """
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
        self.pause_s = 0.0  # between two that are let in, while business drops what it gets
        self.pressed_until = 0.0
        self._size = size
        self._clock = clock
        self._clients = clients
        self._line = Line(clock, self._give_up)
        self._waiters = self._line.waiters  # to see quickly whether there are any
        self._latency_s = 0.0  # until the first are back nobody is refused for how long it takes
        self._answers = 0
        self._tried_at = 0.0
        self._refused_lately = 0.0
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
        if self.in_flight < self._open and not self._waiters:
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
        if now - self._paced_at >= PACE_S:
            self._pace(now)
        if self.pause_s:
            if now < self._tried_at + self.pause_s:
                raise self._refusal("failing")
            self._tried_at = now
        if self.in_flight < self.limit and not self._waiters:
            self.in_flight += 1
            self.entered_total += 1
            caller.set_result(None)
            return
        if self.limiter is not None:
            self.limiter.missed()
        if self._yields(now):
            raise self._refusal("yielded")
        until = self._until(now, deadline)
        if until is None:
            self._press(now, PRESSED_S)
            raise self._refusal("full")
        self.waited_total += 1
        self._line.add(caller, now, until)

    def is_pressed(self) -> bool:
        """Whether there are too few places, so that who can do without leaves them to others."""
        now = self._clock()
        if now - self._paced_at >= PACE_S:
            self._pace(now)  # an overload ends also where nobody comes any more
        return self.overloaded or bool(self._waiters) or self._yields(now)

    def leave(self, latency_s: float, outcome: Outcome, now: float | None = None) -> None:
        """One is over; latency_s is counted from when it entered; now: for who has just asked."""
        if now is None:
            now = self._clock()
        if outcome != "ignored":
            self._learn(now, latency_s, dropped=outcome == "dropped")
        elif self.limiter is not None:
            self.limiter.left(now, latency_s)
        self.in_flight -= 1
        if self._waiters:
            self._let_in(now)

    # The line

    def _until(self, now: float, deadline: Deadline) -> float | None:
        """How long one who comes now may wait; None: it would be too long, or for nothing."""
        left_s = deadline.at - now
        wait_s = min(left_s * DEADLINE_SHARE, left_s - self._latency_s)
        if self.overloaded:
            room = self._short_line()
            if room and len(self._line) >= room:
                self._line.displace_oldest()
            wait_s = min(wait_s, self._short_wait_s())
        else:
            room = LINE_LIMIT
            patience_s = self._patience_s()
            if self._held_back():
                self._line.excuse(now)
            turn_s = self._served_in_s(1)
            stands = self._line.stood_s(now) > STANDING_S and self._clients() * turn_s > patience_s
            wait_s = min(wait_s, self._latency_s / 2 if stands else patience_s)
            expected_s = (len(self._waiters) + 1) * turn_s
            if expected_s > wait_s * PRESSING:
                self._press(now, PACE_S)
            if expected_s > patience_s:
                self._overload(now)
            if expected_s > wait_s:
                return None
            wait_s *= LENIENCE
        return now + wait_s if wait_s > 0 and len(self._waiters) < room else None

    def _served_in_s(self, waiting: int) -> float:
        """How long it takes to let in so many.

        A probe is over soon. To reckon with its limit would take the line that it has made itself
        for an overload, and refuse who could be served.
        """
        limit = self._held_back() or self.limit
        return waiting * self._latency_s / max(1, limit)

    def _held_back(self) -> int:
        return 0 if self.limiter is None else int(self.limiter.held_back * self.share)

    def _let_in(self, now: float) -> None:
        while self.in_flight < self.limit:
            caller = self._line.next(now)
            if caller is None:
                return
            self.in_flight += 1
            self.entered_total += 1
            caller.set_result(None)

    def _give_up(self, caller: Caller) -> None:
        now = self._clock()
        self._press(now, PRESSED_S)
        self._overload(now)
        caller.set_exception(self._refusal("late"))

    def _refusal(self, reason: str) -> Overloaded:
        self.shed[reason] += 1
        return Overloaded(
            "Nothing was done; try again.", retry_after_s=1 + self.shed[reason] % RETRY_SPREAD_S
        )

    # Overload

    def _overload(self, now: float) -> None:
        if self.overloaded or not self.terms.adaptive:
            return  # payments are served in the order of their coming
        self.overloaded = self._line.newest_first = True
        self._refused_lately = 1.0
        self._line.shorten(now, room=self._short_line(), wait_s=self._short_wait_s())

    def _weigh(self, steps: float) -> None:
        """See whether the overload is over."""
        seen = self.shed_total, self.entered_total
        refused, entered = seen[0] - self._seen[0], seen[1] - self._seen[1]
        self._seen = seen
        share = refused / (refused + entered) if refused else 0.0
        weight = 1 - (1 - NEWEST_WEIGHT) ** steps
        self._refused_lately += weight * (share - self._refused_lately)
        bearable = self._all_served_in_s() <= self._patience_s() * BEARABLE
        if bearable or self._refused_lately < CALM_BELOW:
            self.overloaded = self._line.newest_first = False

    def _all_served_in_s(self) -> float:
        """How long the last would wait if all clients stood in one line.

        Clients who ask again as soon as they are answered make a line that never ends, and those
        who do so when they are refused could keep an overload up for ever. Where all of them can
        be served in time, nobody need be refused.
        """
        return self._served_in_s(self._clients())

    def _short_line(self) -> int:
        """As many as can be let in within the short wait."""
        if not self.terms.patience_s:
            return 0
        turns = self._short_wait_s() / self._latency_s if self._latency_s else 1.0
        return min(max(2, int(self.limit * turns)), LINE_LIMIT)

    def _patience_s(self) -> float:
        patience_s = self.terms.patience_s
        return max(patience_s, self._latency_s * PATIENCE_LATENCIES) if patience_s else 0.0

    def _short_wait_s(self) -> float:
        return min(max(self._latency_s / 2, SHORTEST_WAIT_S), OVERLOADED_WAIT_S)

    def _press(self, now: float, seconds: float) -> None:
        if self.terms.presses:
            self.pressed_until = max(self.pressed_until, now + seconds)

    def _yields(self, now: float) -> bool:
        for gate in self.above:  # noqa: SIM110  # any() would make a generator for each who waits
            if now < gate.pressed_until:
                return True
        return False

    # The limit

    def _pace(self, now: float) -> None:
        """What is done step by step: less while a class above waits, and back."""
        steps = (now - self._paced_at) / PACE_S
        if steps < 1:
            return
        self._paced_at = now
        self._weigh(steps)
        if self._yields(now):
            floor = YIELD_FLOOR if self.terms.patience_s else 0.0
            self.share = max(floor, self.share * YIELD_FACTOR)
        else:
            self.share = min(1.0, self.share + YIELD_BACK)
        self._set_limit()

    def _learn(self, now: float, latency_s: float, *, dropped: bool) -> None:
        if not dropped:
            self._answers += 1
            weight = max(LATENCY_WEIGHT, 1 / self._answers)
            self._latency_s += weight * (latency_s - self._latency_s)
        limiter = self.limiter
        if limiter is None:
            return
        if limiter.sample(now, latency_s, self.in_flight, dropped=dropped):
            self._pause(limiter.dropped_share)
            self._set_limit()
        if now - self._paced_at >= PACE_S:
            self._pace(now)

    def _pause(self, dropped_share: float) -> None:
        if dropped_share > MOSTLY:
            self.pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, self.pause_s * 2))
        elif self.pause_s:
            self.pause_s = self.pause_s / 4 if self.pause_s > FIRST_PAUSE_S * 4 else 0.0

    def _set_limit(self) -> None:
        whole = self._size if self.limiter is None else self.limiter.limit
        least = 1 if self.terms.patience_s else 0
        self.limit = max(least, int(whole * self.share))
        self._open = 0 if self.pause_s else self.limit
