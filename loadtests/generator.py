"""The open loop: starts each request when it is due, whatever became of those before it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

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
    Patience,
    PoolTimedOut,
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
    BadAnswer: "not HTTP",
}


@dataclass(frozen=True, slots=True)
class Start:
    """One arrival: when it is meant to start, by when it is over, how long to wait for what."""

    at: float
    deadline: Deadline
    patience: Patience

    def waited_s(self) -> float:
        """Seconds since it was meant to start."""
        return time.monotonic() - self.at


class Refused(Exception):
    """A whole answer that says no and is allowed to; the message is its kind."""


class Failed(Exception):
    """An answer that is not the one hoped for; the message is its kind."""


Send = Callable[[Start], Awaitable[None]]


async def open_loop(
    arrivals: Iterable[float], send: Send, recorder: Recorder, *, timeout_s: float
) -> None:
    """Call `send` for each arrival at its time and record how it went; returns when all is over.

    `send` raises Refused, Failed or an ExchangeError. Only one loop a recorder.
    """
    loop, pace = asyncio.get_running_loop(), Pace()
    tasks: set[asyncio.Task[None]] = set()
    patience = Patience(pool_s=timeout_s * SEND_SHARE)
    began_at = time.monotonic()
    try:
        for offset in arrivals:
            due_at = began_at + offset
            recorder.due += 1
            waited = await pace.until(due_at)
            if not waited and recorder.due % YIELD_EVERY == 0:
                await asyncio.sleep(0)
            late_s = time.monotonic() - due_at
            recorder.behind(late_s)
            if late_s > BEHIND_LIMIT_S or len(tasks) >= IN_FLIGHT_LIMIT:
                recorder.unsent += 1
                continue
            start = Start(due_at, Deadline(due_at + timeout_s), patience)
            task = loop.create_task(_record(send, start, recorder))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
    finally:
        pace.close()
        for task in tasks:
            task.cancel()


async def _record(send: Send, start: Start, recorder: Recorder) -> None:
    try:
        await send(start)
    except PoolTimedOut:  # no connection was free in time: it never left
        recorder.unsent += 1
    except AnswerTimedOut:
        recorder.error(KINDS[AnswerTimedOut], start.waited_s())
    except ExchangeError as error:
        recorder.error(KINDS.get(type(error), type(error).__name__))
    except Refused as refusal:
        recorder.refuse(str(refusal), start.waited_s())
    except Failed as failure:
        recorder.error(str(failure))
    else:
        recorder.answer(start.waited_s())
