"""Time limits of many connections by one timer: a wheel of slots of a tenth of a second.

A timer of the event loop costs a connection 1.5 microseconds each time it is set, and 400 bytes
while it waits. Here a limit that moves away, as every answered request moves it, is one assignment.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol

from services.telemetry import logger

log = logger(__name__)

TICK_S: Final = 0.1
NO_SLOT: Final = -1


class Timed(Protocol):
    """What a wheel watches. due: the moment (monotonic, seconds) of its limit, inf for none.

    slot belongs to the wheel and begins as NO_SLOT.
    """

    due: float
    slot: int

    def on_due(self) -> None: ...


class Wheel:
    """Calls on_due() of what it watches at most TICK_S and a turn of the loop after its `due`."""

    def __init__(self) -> None:
        self.now = time.monotonic()  # of the last tick: cheap, up to TICK_S old while anything runs
        self._slots: dict[int, set[Timed]] = {}
        self._next = 0
        self._handle: asyncio.TimerHandle | None = None

    def watch(self, timed: Timed) -> None:
        """Have its on_due() called; again after `due` has moved to an earlier moment."""
        slot = int(timed.due / TICK_S) + 1
        if timed.slot != NO_SLOT:
            if timed.slot <= slot:
                return  # it is looked at before that, and then watched again
            self.forget(timed)
        if self._handle is None:
            self._start()
        slot = max(slot, self._next)
        timed.slot = slot
        waiting = self._slots.get(slot)
        if waiting is None:
            self._slots[slot] = {timed}
        else:
            waiting.add(timed)

    def forget(self, timed: Timed) -> None:
        waiting = self._slots.get(timed.slot)
        if waiting is not None:
            waiting.discard(timed)
        timed.slot = NO_SLOT

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._slots.clear()

    def _start(self) -> None:
        self.now = time.monotonic()
        self._next = int(self.now / TICK_S) + 1
        self._handle = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self.now = now = time.monotonic()
        first, self._next = self._next, int(now / TICK_S) + 1
        for slot in range(first, self._next):
            for timed in self._slots.pop(slot, ()):
                timed.slot = NO_SLOT
                if timed.due <= now:
                    _tell(timed)
                elif timed.due != float("inf"):
                    self.watch(timed)
        # A process without connections does not wake up ten times a second.
        loop = asyncio.get_running_loop()
        self._handle = loop.call_later(TICK_S, self._tick) if self._slots else None


def _tell(timed: Timed) -> None:
    try:
        timed.on_due()
    except Exception:  # of one connection: the wheel turns for all of them
        log.exception("bug")
