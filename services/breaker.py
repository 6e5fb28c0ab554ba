"""A circuit breaker that counts failures over a window, on aiobreaker's interface.

aiobreaker 1.2.0 counts consecutive failures only, lets every call through while half open, mixes
local and UTC wall clocks, and raises CircuitBreakerError for the call that trips it although that
call did reach the other side. WindowBreaker keeps the interface (CircuitBreaker, listeners,
storage, CircuitBreakerError) and replaces what decides. CircuitBreakerError now has one meaning:
the call was refused and nothing was sent.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, Literal, TypeVar

from aiobreaker import CircuitBreaker, CircuitBreakerError, CircuitBreakerListener
from aiobreaker.state import CircuitBreakerState
from aiobreaker.storage.base import CircuitBreakerStorage

T = TypeVar("T")

# Resilience4j's defaults, cut to what a window of 10 s holds at the rates of one process.
WINDOW_CALLS: Final = 100
WINDOW_S: Final = 10.0
MIN_CALLS: Final = 10
OPEN_SHARE: Final = 0.5
PROBE_PERMITS: Final = 3
REOPEN_JITTER: Final = 0.2  # processes that opened together do not probe together
SILENT_CALLS: Final = 3  # that hang at once: one or two may just be long ones

Forced = Literal["open", "closed"]

CLOSED, OPEN, HALF_OPEN = (
    CircuitBreakerState.CLOSED,
    CircuitBreakerState.OPEN,
    CircuitBreakerState.HALF_OPEN,
)


class WindowBreaker(CircuitBreaker):  # type: ignore[misc]  # aiobreaker ships no types
    """Opens when half of the calls in the window failed or were slow, with at least MIN_CALLS.

    slow_s: a call that takes longer counts as slow. timeout_s: how long it stays open before
    three probes are let through; all three must succeed to close it, one failure opens it again.
    silent_s: it opens as well when so long no call has been answered, though several run. That
    finds a dependency that hangs before its calls time out, and however many went well before.
    """

    def __init__(
        self,
        name: str,
        *,
        slow_s: float,
        timeout_s: float = 5.0,
        silent_s: float = math.inf,
        exclude: Iterable[type[Exception] | Callable[[Exception], bool]] = (),
        listeners: Iterable[CircuitBreakerListener] = (),
        state_storage: CircuitBreakerStorage | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._slow_s = slow_s
        self._calls: deque[tuple[float, bool, bool]] = deque()  # (ended at, failed, slow)
        self._failed = 0
        self._slow = 0
        self._reopens_at = 0.0
        self._round = 0  # of probing: a probe of an earlier one says nothing about this one
        self._probes_running = 0
        self._probes_succeeded = 0
        self._silent_s = silent_s
        self._running = 0
        self._heard_at = 0.0  # the last answer, or when calls began to run
        self._asked_at = 0.0  # the last time that somebody wanted to call
        self.forced: Forced | None = None
        super().__init__(
            timeout_duration=timedelta(seconds=timeout_s),
            exclude=list(exclude),
            listeners=list(listeners),
            state_storage=state_storage,
            name=name,
        )

    async def call_async(self, func: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """Call `func`, or raise CircuitBreakerError without calling it.

        The caller always sees func's own error, also from the call that trips the breaker.
        """
        if getattr(func, "_ignore_on_call", False):  # decorated by a breaker: it asks itself
            return await func(*args, **kwargs)
        with self.permit():
            self._tell_before(func, args, kwargs)
            return await func(*args, **kwargs)

    def call(self, func: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """The same for a function that does not wait."""
        if getattr(func, "_ignore_on_call", False):
            return func(*args, **kwargs)
        with self.permit():
            self._tell_before(func, args, kwargs)
            return func(*args, **kwargs)

    def is_system_error(self, exception: Exception) -> bool:
        """Whether it tells of a broken dependency: nothing in `exclude` knows it.

        aiobreaker calls every class whose metaclass is not type itself, which asyncpg's errors
        have: each error would then count as excluded, and a database's breaker never open.
        """
        return not any(
            isinstance(exception, known) if isinstance(known, type) else known(exception)
            for known in self.excluded_exceptions
        )

    def check(self) -> None:
        """Raise CircuitBreakerError where permit() would now; takes no permit."""
        refusal = self._refusal()
        if refusal is not None:
            raise refusal

    def permit(self) -> Permit:
        """Leave for one call, taken as a context manager round it; raises CircuitBreakerError."""
        return Permit(self)

    def open(self) -> None:
        """Refuse calls from now on, for timeout_duration and a little jitter."""
        wait_s = self.timeout_duration.total_seconds()
        self._reopens_at = self._clock() + wait_s * random.uniform(1, 1 + REOPEN_JITTER)  # noqa: S311 - jitter
        self._state_storage.opened_at = datetime.now()
        self._move(OPEN)

    def half_open(self) -> None:
        self._round += 1
        self._probes_running = self._probes_succeeded = 0
        self._move(HALF_OPEN)

    def close(self) -> None:
        self._calls.clear()
        self._failed = self._slow = 0
        self._move(CLOSED)

    def heard(self) -> None:
        """It has answered somebody who asks past this breaker: it does not hang."""
        self._heard_at = self._clock()

    def unheard(self) -> None:
        """Somebody who asks past this breaker got no answer: open if nobody else has had one."""
        silent = self._running > 0 and self._clock() - self._heard_at >= self._silent_s
        if silent and self.current_state is CLOSED and self.forced is None:
            self.open()

    def force(self, state: Forced | None) -> None:
        """Hold it open or closed, whatever becomes of calls; None: from now on it decides again.

        One that was open is probed before it is believed to be well.
        """
        self.forced = None
        if state == "open":
            self.open()
        elif state == "closed":
            self.close()
        elif self.current_state is not CLOSED:
            self.half_open()
        self.forced = state

    @property
    def opens_at(self) -> datetime | None:
        """When probes are let through (local wall clock, as CircuitBreakerError counts)."""
        left_s = self._reopens_at - self._clock()
        return datetime.now() + timedelta(seconds=left_s) if left_s > 0 else None

    @property
    def fail_counter(self) -> int:
        """Failed calls in the window."""
        return self._failed

    def _move(self, state: CircuitBreakerState) -> None:
        if self._state_storage.state is not state:
            self._state_storage.state = state
            self.state = state  # notifies the listeners

    def _refusal(self) -> CircuitBreakerError | None:
        """Why no call is let through now, if none is."""
        if self.forced is not None:
            held = CircuitBreakerError(f"{self.name} is held open", datetime.now())
            return held if self.forced == "open" else None
        if self._is_silent():
            self.open()
        state = self.current_state
        if state is OPEN and self._clock() < self._reopens_at:
            return CircuitBreakerError(f"{self.name} is open", self.opens_at or datetime.now())
        if state is HALF_OPEN and self._probes_running + self._probes_succeeded >= PROBE_PERMITS:
            return CircuitBreakerError(f"{self.name} is being probed", datetime.now())
        return None

    def _is_silent(self) -> bool:
        """Whether several calls run and none was answered for silent_s, though callers came.

        Where nobody came for a while, this process may have stood still itself, with the answers
        in its sockets: then it begins to count anew.
        """
        now = self._clock()
        if now - self._asked_at > self._silent_s / 2:
            self._heard_at = now
        self._asked_at = now
        silent = self._running >= SILENT_CALLS and now - self._heard_at >= self._silent_s
        return silent and self.current_state is CLOSED

    def _enter(self) -> int:
        """Of which round of probing the call is; 0: of none. CircuitBreakerError: refused."""
        self.check()
        if self._running == 0:
            self._heard_at = self._clock()
        self._running += 1
        if self.current_state is CLOSED:
            return 0
        if self.current_state is OPEN:
            self.half_open()
        self._probes_running += 1
        return self._round

    def _leave(self, *, probe: int, took_s: float, error: BaseException | None) -> None:
        self._running -= 1
        if not isinstance(error, (asyncio.CancelledError, TimeoutError)):
            self.heard()
        if probe and probe == self._round:
            self._probes_running -= 1
        slow = took_s >= self._slow_s
        if isinstance(error, asyncio.CancelledError):
            # Cancelled by our own deadline means slow; by a client that went away, nothing.
            failed, counts = slow, slow
        elif isinstance(error, Exception):
            failed = counts = self.is_system_error(error)
        else:
            failed, counts = False, error is None
        if not counts:
            return
        self._tell_listeners(error if failed else None)
        if self.forced is not None:
            return
        if probe:
            if probe == self._round and self.current_state is HALF_OPEN:
                self._count_probe(failed=failed or slow)
        elif self.current_state is CLOSED:
            self._count(failed=failed, slow=slow)

    def _count_probe(self, *, failed: bool) -> None:
        if failed:
            self.open()
            return
        self._probes_succeeded += 1
        if self._probes_succeeded >= PROBE_PERMITS:
            self.close()

    def _count(self, *, failed: bool, slow: bool) -> None:
        now = self._clock()
        self._calls.append((now, failed, slow))
        self._failed += failed
        self._slow += slow
        while len(self._calls) > WINDOW_CALLS or self._calls[0][0] < now - WINDOW_S:
            _, old_failed, old_slow = self._calls.popleft()
            self._failed -= old_failed
            self._slow -= old_slow
        seen = len(self._calls)
        if seen >= MIN_CALLS and max(self._failed, self._slow) >= OPEN_SHARE * seen:
            self.open()

    def _tell_before(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        for listener in self._listeners:
            listener.before_call(self, func, *args, **kwargs)

    def _tell_listeners(self, error: BaseException | None) -> None:
        for listener in self._listeners:
            if error is None:
                listener.success(self)
            else:
                listener.failure(self, error)


class Permit:
    """One call that the breaker let through; leaving it records how the call ended."""

    __slots__ = ("_breaker", "_probe", "_started")

    def __init__(self, breaker: WindowBreaker) -> None:
        self._breaker = breaker

    def __enter__(self) -> None:
        self._probe = self._breaker._enter()
        self._started = self._breaker._clock()

    def __exit__(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        __: TracebackType | None,
    ) -> None:
        took_s = self._breaker._clock() - self._started
        self._breaker._leave(probe=self._probe, took_s=took_s, error=error)
