"""An event loop in virtual time that chooses by a seed which ready task runs next.

Nothing here waits: when nobody is ready the clock jumps to the next timer. What belongs to a
simulated process carries it in its context, so that a process can die or stand still at any await,
as it would by SIGKILL or SIGSTOP: its callbacks are not run any more, or later.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from random import Random
from typing import Any, Final, TypeVar
from unittest.mock import patch

T = TypeVar("T")

CLOSES_MAX: Final = 100  # a coroutine that awaits while it is closed is closed again


class Process:
    """What lives and dies together. steps: how many of its callbacks have run.

    fates: what becomes of it before a step: it dies, or stands still for so many seconds.
    """

    def __init__(self, name: str, fates: dict[int, float | None] | None = None) -> None:
        self.name = name
        self.fates = fates or {}
        self.steps = 0
        self.dead = False
        self.still_until = 0.0
        self.context = Context()
        self.context.run(current_process.set, self)


current_process: ContextVar[Process | None] = ContextVar("current_process", default=None)


class SimulatedLoop(asyncio.BaseEventLoop):
    """faulty: whether the fates of processes come true."""

    def __init__(self, chance: Random) -> None:
        self._now = 0.0
        super().__init__()
        self.chance = chance
        self.faulty = True
        self.deaths = 0
        self.stands = 0
        self.unheard: list[BaseException] = []  # raised in tasks that nobody waited for
        self._tasks: list[asyncio.Task[Any]] = []  # kept: those of the dead are not collected
        self._ended = False
        self.set_task_factory(self._make_task)
        self.set_exception_handler(self._heard)

    def _make_task(self, _: Any, work: Any, **named: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=self, **named)
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # nobody misses the dead
        self._tasks.append(task)
        return task

    def _heard(self, _: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not self._ended:
            self.unheard.append(error)

    def _asyncgen_firstiter_hook(self, _: Any) -> None:
        """Generators of the dead are not finished, as nothing of theirs is."""

    _asyncgen_finalizer_hook = _asyncgen_firstiter_hook

    def time(self) -> float:
        return self._now

    def call_soon(  # type: ignore[override]  # what asyncio hands on, whatever it is
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        if self._ended:  # what is closed at the end tells others, who are not there any more
            return asyncio.Handle(callback, args, self, context)
        return super().call_soon(callback, *args, context=context)

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]  # asyncio's own
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not ready:
            assert scheduled, "everybody waits, and for nothing"
            self._now = max(self._now, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self._now:
            due = heapq.heappop(scheduled)
            due._scheduled = False
            ready.append(due)
        ready.rotate(-int(self.chance.random() * len(ready)))
        handle = ready.popleft()
        if not handle._cancelled and self._lives(handle):
            handle._run()

    def _lives(self, handle: Any) -> bool:
        process = handle._context.get(current_process)
        if process is None:
            return True
        if process.dead:
            return False
        process.steps += 1
        if self.faulty and process.steps in process.fates:
            self._befall(process, process.fates[process.steps])
        if process.still_until > self._now:
            self.call_at(
                process.still_until, handle._callback, *handle._args, context=handle._context
            )
        return not process.dead and process.still_until <= self._now

    def _befall(self, process: Process, still_s: float | None) -> None:
        if still_s is None:
            process.dead = True
            self.deaths += 1
        else:
            process.still_until = self._now + still_s
            self.stands += 1

    def _timer_handle_cancelled(self, handle: Any) -> None:
        """A cancelled timer is passed over when its time comes."""

    def end(self) -> None:
        """Close what is still going on, dead or alive, without running any of it."""
        self._ended = True
        for task in self._tasks:
            if not task.done():
                _close(task.get_coro())
        self.close()


def _close(coroutine: Any) -> None:
    """A coroutine that catches its end and awaits something is closed again until it is over."""
    for _ in range(CLOSES_MAX):
        try:
            coroutine.close()
        except BaseException:  # noqa: S112 - it is as dead as its process
            continue
        return


@contextmanager
def virtual_time(loop: SimulatedLoop) -> Iterator[None]:
    """The monotonic clock is that of the loop."""
    with patch.object(time, "monotonic", loop.time):
        yield


def run(loop: SimulatedLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end of the coroutine; what is still going on then is closed."""
    with virtual_time(loop):
        try:
            return loop.run_until_complete(coroutine)
        finally:
            loop.end()
