"""One way to call anything: deadline, then bulkhead, then breaker, then the call.

Whatever happens has one of four names. They matter most to a payment: NotSent may be tried again
or given up, Unknown may have happened and has to be asked about.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, TypeVar

from aiobreaker import CircuitBreakerError, CircuitBreakerListener

from services.breaker import WindowBreaker
from services.bulkhead import WAIT_S, Bulkhead, BulkheadFull, Traffic
from services.deadline import Deadline, DeadlineExceeded
from services.tally import BREAKER, DEADLINE, FAILED, FULL, LEFT, NOT_SENT, OK, UNKNOWN, Tally
from services.telemetry import logger

__all__ = ["BulkheadFull", "CircuitBreakerError", "Failed", "NotSent", "Ok", "Unknown", "Upstream"]

T = TypeVar("T")
log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Ok(Generic[T]):
    """It answered."""

    value: T


@dataclass(frozen=True, slots=True)
class Failed:
    """It answered no: it is healthy, the request was not to its liking."""

    error: Exception


@dataclass(frozen=True, slots=True)
class NotSent:
    """It certainly did not happen: refused by us, or the connection was never made."""

    error: Exception
    retry_after_s: int = 1


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have happened: it was sent, and no answer came that can be believed."""

    error: BaseException


Outcome = Ok[T] | Failed | NotSent | Unknown

_NAMES: Final = {Failed: FAILED, NotSent: NOT_SENT, Unknown: UNKNOWN}
_REASONS: Final[dict[type, str]] = {
    DeadlineExceeded: DEADLINE,
    BulkheadFull: FULL,
    CircuitBreakerError: BREAKER,
}


class Upstream:
    """A dependency with its limits: how long, how many at once, and when to stop asking.

    timeout_s bounds each call within its caller's deadline. answers: exceptions by which it says
    no while healthy. never_sent: exceptions that prove that nothing was sent. failures: exceptions
    that may be its own; where a block of the caller's runs within `guard`, others are the caller's.
    max_concurrent, shares and wait_s are its bulkhead's; slow_s, silent_s and reopen_s (how long it
    is left alone) its breaker's. tally: what became of all calls.
    """

    def __init__(
        self,
        name: str,
        *,
        timeout_s: float,
        max_concurrent: int,
        shares: Mapping[Traffic, int] | None = None,
        wait_s: float = WAIT_S,
        answers: tuple[type[Exception], ...] = (),
        never_sent: tuple[type[Exception], ...] = (ConnectionRefusedError,),
        slow_s: float | None = None,
        silent_s: float = math.inf,
        reopen_s: float = 5.0,
        failures: tuple[type[Exception], ...] = (Exception,),
    ) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.tally = Tally()
        self.bulkhead = Bulkhead(name, max_concurrent, shares=shares, wait_s=wait_s)
        self.breaker = WindowBreaker(
            name,
            slow_s=timeout_s if slow_s is None else slow_s,
            timeout_s=reopen_s,
            silent_s=silent_s,
            exclude=[*answers, DeadlineExceeded, lambda error: not isinstance(error, failures)],
            listeners=[_LogStateChanges()],
        )
        self._answers = answers
        self._never_sent = never_sent
        self._failures = failures

    @property
    def in_use(self) -> int:
        return self.bulkhead.in_use

    @property
    def waiting(self) -> int:
        return self.bulkhead.waiting

    @property
    def limit(self) -> int:
        return self.bulkhead.places

    @property
    def counts(self) -> dict[str, int]:
        """Calls by outcome: ok, failed, not_sent, unknown."""
        return self.tally.counts

    async def call(
        self, work: Callable[[Deadline], Awaitable[T]], deadline: Deadline
    ) -> Outcome[T]:
        """Run `work` within every limit and name what became of it. Never raises for a failure."""
        begun = False
        try:
            async with self.guard(deadline) as cut:
                begun = True
                return Ok(await work(cut))
        except Exception as error:
            return self._outcome(error, begun=begun)

    @asynccontextmanager
    async def guard(self, deadline: Deadline) -> AsyncIterator[Deadline]:
        """The same limits round a block; what happens in it is raised as it is.

        DeadlineExceeded, BulkheadFull and CircuitBreakerError are raised only before the block
        begins; within it, a deadline that passes is TimeoutError.
        """
        began_at, error = None, None
        try:
            deadline.check()
            self.breaker.check()  # nobody waits for a place that is of no use
            cut = deadline.within(self.timeout_s)
            place = await self.bulkhead.take(cut)
            try:
                with self.breaker.permit():
                    async with asyncio.timeout(cut.left_s()):
                        began_at = time.monotonic()
                        yield cut
            finally:
                self.bulkhead.give_back(place)
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._count(began_at, error)

    def _outcome(self, error: Exception, *, begun: bool) -> Failed | NotSent | Unknown:
        """What an exception stands for. Until the call has begun, it is our own refusal."""
        if not begun:
            return NotSent(error, retry_after_s=self._retry_after_s(error))
        if isinstance(error, self._answers):
            return Failed(error)
        if isinstance(error, self._never_sent):
            return NotSent(error)
        return Unknown(error)

    def _count(self, began_at: float | None, error: BaseException | None) -> None:
        if began_at is None:
            self.tally.refuse(_REASONS.get(type(error), LEFT))
            return
        outcome = OK
        if isinstance(error, self._failures):
            outcome = _NAMES[type(self._outcome(error, begun=True))]
        elif error is not None and not isinstance(error, Exception):
            outcome = UNKNOWN  # whoever waited for it was cancelled
        self.tally.end(outcome, time.monotonic() - began_at)

    def _retry_after_s(self, refused: Exception) -> int:
        opens_at = self.breaker.opens_at
        if isinstance(refused, CircuitBreakerError) and opens_at is not None:
            return max(1, math.ceil((opens_at - datetime.now()).total_seconds()))
        return 1


class _LogStateChanges(CircuitBreakerListener):  # type: ignore[misc]  # aiobreaker has no types
    def state_change(self, breaker: WindowBreaker, old: object, new: object) -> None:
        state = breaker.current_state.name.lower().replace("_", " ")
        log.warning("breaker changed", upstream=breaker.name, state=state)
