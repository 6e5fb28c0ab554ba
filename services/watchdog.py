"""The watchdog: a thread that sees when the event loop does not turn, and what holds it up.

Nothing on the loop can say so: while it is blocked, no task of it runs. What is measured is what
every request waits for in addition to its own work.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from contextvars import copy_context
from types import FrameType
from typing import Final, Protocol

from services.families import Family, counter, histogram, one
from services.histogram import Histogram
from services.telemetry import logger

log = logger(__name__)

BEAT_S: Final = 0.05  # twenty looks a second: 0.1 % of a core
LATE_S: Final = 0.1  # a page takes 1 to 5 ms: so many of them are late at once
LOG_EVERY_S: Final = 10.0  # blocked again and again is one fact, not a thousand lines
FRAMES: Final = 12  # of the stack, the innermost: above them are only uvicorn and the loop


class Watchdog:
    """Watches the event loop that runs where it is started.

    lag: by how much each beat of the loop came too late. blocked_total: how often by LATE_S.
    """

    def __init__(self, *, log_every_s: float = LOG_EVERY_S) -> None:
        self.lag = Histogram()
        self.blocked_total = 0
        self._log_every_s = log_every_s
        self._logged_at = -log_every_s
        self._unlogged = 0
        self._beat_at = 0.0
        self._cpu_s = 0.0  # of the process, at the last beat
        self._seen = False  # the thread has seen that the beat after the last one is late
        self._stopped = threading.Event()
        self._handle: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Within the loop that is to be watched."""
        self._loop = asyncio.get_running_loop()
        self._beat_at, self._cpu_s = time.monotonic(), time.process_time()
        self._handle = self._loop.call_later(BEAT_S, self._beat)
        ident = threading.get_ident()
        # In the context of who starts it: its lines in the log name the process, as all do.
        run = copy_context().run
        self._thread = threading.Thread(
            target=run, args=(self._watch, ident), name="watchdog", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Within the loop; the thread ends in its next look."""
        self._stopped.set()
        if self._handle is not None:
            self._handle.cancel()

    def _beat(self) -> None:
        """On the loop."""
        now = time.monotonic()
        late_s = max(0.0, now - self._beat_at - BEAT_S)
        self.lag.add(late_s)
        if late_s >= LATE_S:
            self.blocked_total += 1
        if self._seen:
            log.warning("event loop turns again", blocked_ms=round(late_s * 1000))
        self._beat_at, self._cpu_s, self._seen = now, time.process_time(), False
        self._handle = self._loop.call_later(BEAT_S, self._beat)

    def _watch(self, loop_thread: int) -> None:
        """In the thread of its own."""
        looked_at, reported = time.monotonic(), 0.0
        while not self._stopped.wait(BEAT_S):
            now = time.monotonic()
            beat_at, cpu_s = self._beat_at, time.process_time() - self._cpu_s
            late_s = now - beat_at - BEAT_S
            # A thread that is late itself, where no work was done, was paused with its process.
            paused = now - looked_at > BEAT_S + LATE_S and cpu_s < LATE_S / 2
            looked_at = now
            frame = sys._current_frames().get(loop_thread)
            if late_s >= LATE_S and beat_at != reported and not paused and frame is not None:
                reported = beat_at
                self._report(frame, late_s, cpu_s, now)

    def _report(self, frame: FrameType, late_s: float, cpu_s: float, now: float) -> None:
        if now - self._logged_at < self._log_every_s:
            self._unlogged += 1
            return
        # cpu_ms tells work that belongs in a thread from a call that waits for something.
        log.warning(
            "event loop is blocked",
            late_ms=round(late_s * 1000),
            cpu_ms=round(cpu_s * 1000),
            unlogged=self._unlogged,
            stack="".join(traceback.format_list(traceback.extract_stack(frame)[-FRAMES:])),
        )
        self._logged_at, self._unlogged, self._seen = now, 0, True


class Watched(Protocol):
    """A process whose loop is watched."""

    @property
    def watchdog(self) -> Watchdog: ...


# Part of the table of every tier.
LOOP: Final[tuple[Family[Watched], ...]] = (
    histogram(
        "loop_lag_seconds",
        "By how much the event loop came too late to what was due, looked at 20 times a second",
        one(lambda watched: watched.watchdog.lag.numbers()),
    ),
    counter(
        "loop_blocked",
        "Times that it was late by 100 ms or more; the log has the stack",
        one(lambda watched: watched.watchdog.blocked_total),
    ),
)
