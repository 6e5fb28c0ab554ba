"""Who may go on to business now, who waits a moment, and who is refused at once.

Each class of traffic has a gate. A gate lets as many through as its limit says; a few wait when
it is reached, as long as they can still be served in time; everybody else hears 503 and when to
come again. When a class waits or is refused, the classes below it get less.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from services.access.limiter import Limiter
from services.access.routes import Route
from services.deadline import Deadline
from services.problems import Overloaded

Kind = Route
Outcome = Literal["ok", "dropped", "ignored"]

# A queue that has stood this long is no burst (CoDel's interval, RFC 8289).
STANDING_S: Final = 0.1
# While it stands, waits are this short and the newest goes first: "Fail at Scale" (Facebook,
# ACM Queue 2015), with CoDel's target. Refusals have to be out in 10 ms.
OVERLOADED_WAIT_S: Final = 0.005
CALM_AFTER_S: Final = 1.0  # without a refusal
DEADLINE_SHARE: Final = 0.1  # of the time that is left, at most, goes into waiting here
UNKNOWN_LATENCY_S: Final = 0.02  # until the first have come back
RETRY_SPREAD: Final = 3  # seconds over which those who are refused are told to come again
# While most of what is passed on is dropped, this share is refused here, and the rest probes.
MOSTLY: Final = 0.5
LARGEST_REFUSED_SHARE: Final = 0.98
SMALLEST_REFUSED_SHARE: Final = 0.05
PACE_S: Final = 0.1  # between two steps of a share
YIELD_FACTOR: Final = 0.7
YIELD_FLOOR: Final = 0.125
YIELD_BACK: Final = 0.1


class Caller(Protocol):
    """Who waits: an asyncio.Future is one."""

    def set_result(self, result: None, /) -> object: ...
    def set_exception(self, exception: Exception, /) -> object: ...
    def done(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Terms:
    """How a class is treated. Lower levels yield to higher ones; 0 is the highest."""

    level: int
    patience_s: float  # longest wait while there is no overload
    adaptive: bool = True


TERMS: Final = {
    "payment": Terms(0, 1.0, adaptive=False),  # a slow provider is not overload
    "login": Terms(1, 0.25),
    "checkout": Terms(1, 0.25),
    "other": Terms(2, 0.1),
    "page": Terms(2, 0.1),
    "beacon": Terms(3, 0.0),
}


@dataclass(slots=True)
class _Waiter:
    caller: Caller
    since: float
    until: float


class Gate:
    """The way to business for one class. The counters are for metrics."""

    def __init__(
        self,
        name: str,
        terms: Terms,
        size: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.terms = terms
        self.in_flight = 0
        self.entered_total = self.waited_total = 0
        # full: no room to wait; late: waited in vain; failing: business drops most of what comes;
        # yielded: a class above waits.
        self.shed = {"full": 0, "late": 0, "failing": 0, "yielded": 0}
        self.above: tuple[Gate, ...] = ()
        self.limiter = Limiter(size) if terms.adaptive else None
        self.share = 1.0  # of the limit, while classes above wait
        self.refused_share = 0.0  # while business drops what it gets
        self.pressed_until = 0.0
        self._size = size
        self._clock = clock
        self._waiters: deque[_Waiter] = deque()
        self._standing_since = 0.0
        self._overloaded_until = 0.0
        self._paced_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._open = 0  # what try_enter looks at: the limit, or 0 when there is more to look at
        self._set_limit()

    @property
    def waiting(self) -> int:
        return len(self._waiters)

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
            if not future.cancelled() and future.done() and future.exception() is None:
                self.leave(0.0, "ignored")  # it was let in in the turn in which it left
            raise

    def join(self, deadline: Deadline, caller: Caller) -> None:
        """The same for a caller that is called: set_result once it is in, or set_exception.

        Raises Overloaded when it need not even wait. One that is done by then is passed over.
        """
        now = self._clock()
        self._pace(now)
        if self.refused_share and random.random() < self.refused_share:  # noqa: S311 - no secret
            raise self._refusal("failing")
        if self.in_flight < self.limit and not self._waiters:
            self.in_flight += 1
            self.entered_total += 1
            caller.set_result(None)
            return
        if self.limiter is not None:
            self.limiter.missed()
        self.pressed_until = max(self.pressed_until, now + STANDING_S)
        self._queue(now, deadline, caller)

    def leave(self, latency_s: float, outcome: Outcome) -> None:
        """One is over; latency_s is counted from when it entered."""
        now = self._clock()
        limiter = self.limiter
        if (
            limiter is not None
            and outcome != "ignored"
            and limiter.sample(now, latency_s, self.in_flight, dropped=outcome == "dropped")
        ):
            self._learn(limiter)
            self._pace(now)
        self.in_flight -= 1
        if self._waiters:
            self._let_in(now)

    # The queue

    def _queue(self, now: float, deadline: Deadline, caller: Caller) -> None:
        left_s = deadline.at - now
        latency_s = self._latency_s()
        overloaded = self._overloaded(now)
        patience_s = OVERLOADED_WAIT_S if overloaded else self.terms.patience_s
        patience_s = min(patience_s, left_s * DEADLINE_SHARE, left_s - latency_s)
        if self._yields(now):
            raise self._refusal("yielded", now)
        room = self._room(overloaded)
        if overloaded and room and len(self._waiters) >= room:
            self._refuse(self._waiters.popleft(), "full", now)
        ahead = 0 if overloaded else len(self._waiters) + 1
        expected_s = latency_s * ahead / max(1, self.limit)
        if patience_s <= 0 or len(self._waiters) >= room or expected_s > patience_s:
            raise self._refusal("full", now)
        if not self._waiters:
            self._standing_since = now
        self._waiters.append(_Waiter(caller, now, now + patience_s))
        self.waited_total += 1
        if self._timer is None:
            self._set_timer(patience_s)

    def _room(self, overloaded: bool) -> int:
        if not self.terms.patience_s:
            return 0
        if not overloaded:
            return max(self._size * 8, 16)
        return max(2, self.limit // 2)

    def _overloaded(self, now: float) -> bool:
        if not self.terms.adaptive:
            return False  # payments are served in the order of their coming
        if self._waiters and now - self._standing_since > STANDING_S:
            self._overload(now)
        return now < self._overloaded_until

    def _overload(self, now: float) -> None:
        """Short waits from now on: who has waited longer than that already hears it now."""
        began = now >= self._overloaded_until
        self._overloaded_until = self.pressed_until = now + CALM_AFTER_S
        if began and self.terms.adaptive:
            room = self._room(True)
            while self._waiters and (
                len(self._waiters) > room or now - self._waiters[0].since > OVERLOADED_WAIT_S
            ):
                self._refuse(self._waiters.popleft(), "late", now)
            for waiter in self._waiters:
                waiter.until = min(waiter.until, waiter.since + OVERLOADED_WAIT_S)
            if self._waiters:
                self._set_timer(self._waiters[0].until - now)

    def _let_in(self, now: float) -> None:
        newest_first = self._overloaded(now)
        while self._waiters and self.in_flight < self.limit:
            waiter = self._waiters.pop() if newest_first else self._waiters.popleft()
            if waiter.caller.done():
                continue
            if waiter.until < now:
                self._refuse(waiter, "late", now)
                continue
            self.in_flight += 1
            self.entered_total += 1
            waiter.caller.set_result(None)

    def _expire(self) -> None:
        self._timer = None
        now = self._clock()
        while self._waiters and self._waiters[0].until <= now:
            self._refuse(self._waiters.popleft(), "late", now)
        if self._waiters:
            self._set_timer(self._waiters[0].until - now)

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(seconds, 0.0), self._expire)

    def _refuse(self, waiter: _Waiter, reason: str, now: float) -> None:
        if not waiter.caller.done():
            waiter.caller.set_exception(self._refusal(reason, now))

    def _refusal(self, reason: str, now: float | None = None) -> Overloaded:
        self.shed[reason] += 1
        if now is not None and reason != "yielded":
            self._overload(now)
        return Overloaded(
            "Nothing was done; try again.", retry_after_s=1 + self.shed[reason] % RETRY_SPREAD
        )

    # The limit

    def _latency_s(self) -> float:
        return (self.limiter.latency_s if self.limiter else 0.0) or UNKNOWN_LATENCY_S

    def _set_limit(self) -> None:
        whole = self._size if self.limiter is None else self.limiter.limit
        least = 0 if not self.terms.patience_s else 1
        self.limit = max(least, int(whole * self.share))
        self._open = 0 if self.refused_share else self.limit

    def _learn(self, limiter: Limiter) -> None:
        """While business drops most of it, the greater part is refused here and the rest probes."""
        share = self.refused_share
        if limiter.dropped_share > MOSTLY:
            share = min(LARGEST_REFUSED_SHARE, share + (1 - share) / 2)
        elif limiter.dropped_share < MOSTLY / 4:
            share /= 2
        self.refused_share = share if share >= SMALLEST_REFUSED_SHARE else 0.0
        self._set_limit()

    def _yields(self, now: float) -> bool:
        return any(now < gate.pressed_until for gate in self.above)

    def _pace(self, now: float) -> None:
        """Step by step less while a class above waits, and back."""
        if now - self._paced_at < PACE_S:
            return
        self._paced_at = now
        if self._yields(now):
            floor = YIELD_FLOOR if self.terms.patience_s else 0.0
            self.share = max(floor, self.share * YIELD_FACTOR)
        elif self.share < 1.0:
            self.share = min(1.0, self.share + YIELD_BACK)
        else:
            return
        self._set_limit()


class Admission:
    """The gates of one access process, by class of traffic."""

    def __init__(self, sizes: Mapping[Kind, int]) -> None:
        """sizes: connections to business of each class. Without a size, operators are OTHER."""
        self.gates = {
            kind: Gate(kind.value, TERMS[kind.value], size) for kind, size in sizes.items()
        }
        for gate in self.gates.values():
            gate.above = tuple(
                other for other in self.gates.values() if other.terms.level < gate.terms.level
            )
        self.gates.setdefault(Route.OPERATOR, self.gates[Route.OTHER])

    def try_enter(self, kind: Kind) -> bool:
        """Enter at once; False: `enter` waits, or says why not."""
        return self.gates[kind].try_enter()

    async def enter(self, kind: Kind, deadline: Deadline) -> None:
        """Enter, perhaps after a moment in the queue; raises Overloaded at once beyond it."""
        await self.gates[kind].enter(deadline)

    def join(self, kind: Kind, deadline: Deadline, caller: Caller) -> None:
        """The same for a caller without a task; see Gate.join."""
        self.gates[kind].join(deadline, caller)

    def leave(self, kind: Kind, latency_s: float, outcome: Outcome) -> None:
        """One that entered is over. latency_s counts from entering, a wait for a connection too.

        dropped: no answer in time, or business refused it; ignored: says nothing of business,
        its client left.
        """
        self.gates[kind].leave(latency_s, outcome)
