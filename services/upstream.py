"""One way to call anything: deadline, then bulkhead, then breaker, then the call.

Whatever happens has one of four names. They matter most to a payment: NotSent may be tried again
or given up, Unknown may have happened and has to be asked about.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from aiobreaker import CircuitBreakerError, CircuitBreakerListener

from services.breaker import WindowBreaker
from services.deadline import Deadline, DeadlineExceeded
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


class BulkheadFull(Exception):
    """As many calls as allowed were running, and none ended in time."""


class Upstream:
    """A dependency with its limits: how long, how many at once, and when to stop asking.

    timeout_s bounds each call within its caller's deadline. answers: exceptions by which it says
    no while healthy. never_sent: exceptions that prove that nothing was sent. reopen_s: how long
    it is left alone once its breaker is open. failures: exceptions that may be its own; where a
    block of the caller's runs within `guard`, others are the caller's.
    """

    def __init__(
        self,
        name: str,
        *,
        timeout_s: float,
        max_concurrent: int,
        answers: tuple[type[Exception], ...] = (),
        never_sent: tuple[type[Exception], ...] = (ConnectionRefusedError,),
        slow_s: float | None = None,
        reopen_s: float = 5.0,
        failures: tuple[type[Exception], ...] = (Exception,),
    ) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self._answers = answers
        self._never_sent = never_sent
        self._slots = asyncio.Semaphore(max_concurrent)
        self.breaker = WindowBreaker(
            name,
            slow_s=timeout_s if slow_s is None else slow_s,
            timeout_s=reopen_s,
            exclude=[*answers, DeadlineExceeded, lambda error: not isinstance(error, failures)],
            listeners=[_LogStateChanges()],
        )

    async def call(
        self, work: Callable[[Deadline], Awaitable[T]], deadline: Deadline
    ) -> Outcome[T]:
        """Run `work` within every limit and name what became of it. Never raises for a failure."""
        begun = False
        try:
            async with self.guard(deadline) as cut:
                begun = True
                return Ok(await work(cut))
        except (CircuitBreakerError, BulkheadFull, DeadlineExceeded) as refused:
            if begun:  # not our refusal: something within the work was refused
                return Unknown(refused)
            return NotSent(refused, retry_after_s=self._retry_after_s(refused))
        except self._answers as answer:
            return Failed(answer)
        except self._never_sent as error:
            return NotSent(error)
        except Exception as error:
            return Unknown(error)

    @asynccontextmanager
    async def guard(self, deadline: Deadline) -> AsyncIterator[Deadline]:
        """The same limits round a block; what happens in it is raised as it is.

        DeadlineExceeded, BulkheadFull and CircuitBreakerError are raised only before the block
        begins; within it, a deadline that passes is TimeoutError.
        """
        deadline.check()
        deadline = deadline.within(self.timeout_s)
        await self._take_slot(deadline)
        try:
            with self.breaker.permit():
                async with asyncio.timeout(deadline.left_s()):
                    yield deadline
        finally:
            self._slots.release()

    async def _take_slot(self, deadline: Deadline) -> None:
        try:
            async with asyncio.timeout(deadline.left_s()):
                await self._slots.acquire()
        except TimeoutError:
            raise BulkheadFull(f"{self.name} has no free place") from None

    def _retry_after_s(self, refused: Exception) -> int:
        opens_at = self.breaker.opens_at
        if isinstance(refused, CircuitBreakerError) and opens_at is not None:
            return max(1, math.ceil((opens_at - datetime.now()).total_seconds()))
        return 1


class _LogStateChanges(CircuitBreakerListener):  # type: ignore[misc]  # aiobreaker has no types
    def state_change(self, breaker: WindowBreaker, old: object, new: object) -> None:
        state = breaker.current_state.name.lower().replace("_", " ")
        log.warning("breaker changed", upstream=breaker.name, state=state)
