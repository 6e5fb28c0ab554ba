"""Those who wait at one gate: few, and never for long.

They are served in the order of their coming, and nobody joins who would wait too long. When more
come than can be served, waits are short and the newest goes first: the oldest is the one whose
client is the most likely to have given up, and to serve in order would make everybody wait as
long as can be borne ("Fail at Scale", ACM Queue 2015).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

MOMENT_S: Final = 0.02  # empty for no longer than this, a line has not ended


class Caller(Protocol):
    """Who waits: an asyncio.Future is one."""

    def set_result(self, result: None, /) -> object: ...
    def set_exception(self, exception: Exception, /) -> object: ...
    def done(self) -> bool: ...


@dataclass(slots=True)
class _Waiter:
    caller: Caller
    since: float
    until: float


class Line:
    """The line of one gate; give_up is called with each who has waited in vain."""

    def __init__(self, clock: Callable[[], float], give_up: Callable[[Caller], None]) -> None:
        self.newest_first = False
        self._clock = clock
        self._give_up = give_up
        self.waiters: deque[_Waiter] = deque()  # the oldest is on the left
        self._standing_since = self._emptied_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self.waiters)

    def stood_s(self, now: float) -> float:
        """For how long it has not been empty, but for moments."""
        return now - self._standing_since if self.waiters else 0.0

    def excuse(self, now: float) -> None:
        """Count from now how long it stands: a probe holds it back, not what comes."""
        self._standing_since = now

    def add(self, caller: Caller, now: float, until: float) -> None:
        if not self.waiters and now - self._emptied_at > MOMENT_S:
            self._standing_since = now
        self.waiters.append(_Waiter(caller, now, until))
        if self._timer is None:
            self._set_timer(now)

    def next(self, now: float) -> Caller | None:
        """Take out whose turn it is; None: nobody waits any more."""
        while self.waiters:
            waiter = self.waiters.pop() if self.newest_first else self.waiters.popleft()
            self._emptied_at = now  # if it was the last
            if waiter.until >= now and not waiter.caller.done():
                return waiter.caller
            self._drop(waiter)
        return None

    def displace_oldest(self) -> None:
        self._emptied_at = self._clock()
        self._drop(self.waiters.popleft())

    def shorten(self, now: float, *, room: int, wait_s: float) -> None:
        """Nobody waits longer than wait_s; who has done so already hears it now."""
        for waiter in self.waiters:
            waiter.until = min(waiter.until, waiter.since + wait_s)
        while self.waiters and (len(self.waiters) > room or self.waiters[0].until < now):
            self.displace_oldest()
        if self.waiters:
            self._set_timer(now)

    def _drop(self, waiter: _Waiter) -> None:
        if not waiter.caller.done():
            self._give_up(waiter.caller)

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wait_s = max(0.0, self.waiters[0].until - now)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._clock()
        while self.waiters and self.waiters[0].until <= now:
            self.displace_oldest()
        if self.waiters:
            self._set_timer(now)
