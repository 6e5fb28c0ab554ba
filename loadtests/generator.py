"""The open loop: starts each request when it is due, whatever became of those before it."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from loadtests.pace import Pace
from loadtests.recorder import Recorder
from services.deadline import Deadline
from services.keepalive import (
    AnswerTimedOut,
    BadAnswer,
    ConnectFailed,
    ConnectionLost,
    ConnectTimedOut,
    ExchangeError,
    Headers,
    Patience,
    Pool,
    PoolTimedOut,
    Repeatable,
    Response,
)

# A generator further behind than this has failed: what is left of the schedule counts as unsent.
BEHIND_LIMIT_S: Final = 1.0
# The share of its time that an arrival may wait for a free connection. One that gets it later
# could only be sent for form's sake, so it counts as unsent: there were too few connections.
SEND_SHARE: Final = 0.5
# Requests under way: far above what a healthy server lets gather, and some 100 MB of memory.
IN_FLIGHT_LIMIT: Final = 20_000
YIELD_EVERY: Final = 16  # requests started in a row while behind, before others get their turn

KINDS: Final[dict[type[ExchangeError], str]] = {
    ConnectFailed: "no connection",
    ConnectTimedOut: "no connection in time",
    AnswerTimedOut: "no answer in time",
    ConnectionLost: "connection lost",
    Repeatable: "connection lost",
    BadAnswer: "not HTTP",
}


@dataclass(slots=True)  # not frozen, which makes each one three times as dear
class Start:
    """One arrival: when it is meant to start, by when it is over, how long to wait for what.

    second: of the run, in which it was due.
    """

    at: float
    deadline: Deadline
    patience: Patience
    second: int = 0

    def waited_s(self) -> float:
        """Seconds since it was meant to start."""
        return time.monotonic() - self.at


class Refused(Exception):
    """A whole answer that says no and is allowed to; the message is its kind."""


class Failed(Exception):
    """An answer that is not the one hoped for; the message is its kind."""


Send = Callable[[Start], Awaitable[None]]


class Asked(NamedTuple):
    """A request as the pool takes it. own: header lines that need no look any more."""

    method: bytes
    target: bytes
    headers: Headers
    body: bytes
    own: bytes = b""


class OneRequest(ABC):
    """Work that is one request. On an idle connection it needs no task, which more than halves
    what it costs the generator; else it waits for a connection as any other work does."""

    pool: Pool

    @abstractmethod
    def ask(self) -> Asked:
        """The next request."""

    @abstractmethod
    def judge(self, answer: Response) -> None:
        """Refused or Failed, unless the answer is the one hoped for."""

    async def __call__(self, start: Start) -> None:
        await self.send(self.ask(), start)

    async def send(self, asked: Asked, start: Start) -> None:
        answer = await self.pool.request(
            asked.method,
            asked.target,
            asked.headers,
            asked.body,
            own=asked.own,
            deadline=start.deadline,
            patience=start.patience,
        )
        self.judge(answer)


async def open_loop(
    arrivals: Iterable[float],
    send: Send,
    recorder: Recorder,
    *,
    timeout_s: float,
    began_at: float | None = None,
) -> None:
    """Call `send` for each arrival at its time and record how it went; returns when all is over.

    began_at: the moment of time.monotonic() from which arrivals count; without it, now.
    `send` raises Refused, Failed or an ExchangeError. Only one loop a recorder.
    """
    pace, flights = Pace(), Flights(send, recorder)
    patience = Patience(pool_s=timeout_s * SEND_SHARE)
    began_at = time.monotonic() if began_at is None else began_at
    try:
        for offset in arrivals:
            due_at, second = began_at + offset, int(offset)
            flights.check()
            recorder.arrive(second)
            waited = await pace.until(due_at)
            if not waited and recorder.due % YIELD_EVERY == 0:
                await asyncio.sleep(0)
            late_s = time.monotonic() - due_at
            recorder.behind(late_s)
            if late_s > BEHIND_LIMIT_S or flights.under_way >= IN_FLIGHT_LIMIT:
                recorder.leave_out(second)
                continue
            flights.begin(Start(due_at, Deadline(due_at + timeout_s), patience, second))
        await flights.ended()
    finally:
        pace.close()
        flights.cancel()


class Flights:
    """The requests of one open loop that are under way: tasks, and exchanges without one."""

    def __init__(self, send: Send, recorder: Recorder) -> None:
        self._loop = asyncio.get_running_loop()
        self._send = send
        self._one = send if isinstance(send, OneRequest) else None
        self.recorder = recorder
        self._tasks: set[asyncio.Task[None]] = set()
        self._without_task = 0
        self._last: asyncio.Future[None] | None = None
        self._mistake: BaseException | None = None

    @property
    def under_way(self) -> int:
        return len(self._tasks) + self._without_task

    def begin(self, start: Start) -> None:
        if self._one is None:
            self._in_task(self._send(start), start)
            return
        asked = self._one.ask()
        flight = _Flight(self, self._one, asked, start)
        self._without_task += 1
        if not self._one.pool.begin(
            *asked[:4], own=asked.own, deadline=start.deadline, caller=flight
        ):
            self._without_task -= 1
            self._in_task(self._one.send(asked, start), start)

    def over(self) -> None:
        """An exchange without a task has ended."""
        self._without_task -= 1
        self._wake()

    def again(self, work: OneRequest, asked: Asked, start: Start) -> None:
        """Its connection had been closed while it was idle: the pool sends it on another one."""
        self._in_task(work.send(asked, start), start)

    def break_off(self, mistake: BaseException) -> None:
        """A mistake of the generator's own ends the run: its figures would be none."""
        self._mistake = self._mistake or mistake

    def check(self) -> None:
        if self._mistake is not None:
            raise self._mistake

    async def ended(self) -> None:
        """Return when nothing is under way."""
        while self.under_way:
            self._last = self._loop.create_future()
            await self._last
        self.check()

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _in_task(self, sending: Awaitable[None], start: Start) -> None:
        task = self._loop.create_task(_record(sending, start, self.recorder))
        self._tasks.add(task)
        task.add_done_callback(self._task_over)

    def _task_over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.break_off(error)
        self._wake()

    def _wake(self) -> None:
        if not self.under_way and self._last is not None and not self._last.done():
            self._last.set_result(None)


class _Flight:
    """Whom a connection of the pool calls when the exchange of an arrival is over."""

    __slots__ = ("_asked", "_flights", "_start", "_work")

    def __init__(self, flights: Flights, work: OneRequest, asked: Asked, start: Start) -> None:
        self._flights, self._work, self._asked, self._start = flights, work, asked, start

    def set_result(self, result: Response, /) -> None:
        recorder, start = self._flights.recorder, self._start
        try:
            self._work.judge(result)
        except Refused as refusal:
            recorder.refuse(str(refusal), start.waited_s(), start.second)
        except Failed as failure:
            recorder.error(str(failure), second=start.second)
        except Exception as mistake:
            self._flights.break_off(mistake)
        else:
            recorder.answer(start.waited_s(), start.second)
        finally:
            self._flights.over()

    def set_exception(self, error: ExchangeError, /) -> None:
        if isinstance(error, Repeatable):
            self._flights.again(self._work, self._asked, self._start)
        else:
            record_failure(error, self._start, self._flights.recorder)
        self._flights.over()

    def done(self) -> bool:
        return False


async def _record(sending: Awaitable[None], start: Start, recorder: Recorder) -> None:
    try:
        await sending
    except ExchangeError as error:
        record_failure(error, start, recorder)
    except Refused as refusal:
        recorder.refuse(str(refusal), start.waited_s(), start.second)
    except Failed as failure:
        recorder.error(str(failure), second=start.second)
    else:
        recorder.answer(start.waited_s(), start.second)


def record_failure(error: ExchangeError, start: Start, recorder: Recorder) -> None:
    """A request without an answer. One that found no connection in time never left."""
    if isinstance(error, PoolTimedOut):
        recorder.leave_out(start.second)
        return
    waited_s = start.waited_s() if isinstance(error, AnswerTimedOut) else None
    recorder.error(KINDS.get(type(error), type(error).__name__), waited_s, start.second)
